"""What is published directly bears dense numbers in the order of the log, whoever publishes at once."""

import threading
from collections.abc import Iterator

import pytest

from driftloop.common.envelope import Outgoing, decode_envelope
from driftloop.common.kafka.config import producer_config
from driftloop.common.kafka.producer import DeliveryProducer, Fates, ProducerFull
from driftloop.common.kafka.publisher import Publisher
from driftloop.common.topics import PREDICTIONS
from tests.support.house import House
from tests.support.predictions import START, prediction_of_nothing


@pytest.fixture
def producer(house: House) -> Iterator[DeliveryProducer]:
    """A producer whose queue is soon full."""
    config = producer_config(house.stack.bootstrap_servers, "tests") | {"queue.buffering.max.messages": 40}
    producer = DeliveryProducer(config)
    yield producer
    producer.close(5)


def test_numbers_are_dense_and_in_order_however_many_publish_and_whatever_is_refused(
    house: House, producer: DeliveryProducer
) -> None:
    publisher, fates = Publisher(producer, house.namespace, "tests/1"), Fates()
    publisher.learn(PREDICTIONS.name)
    refused: list[int] = []

    def publish(worker: int) -> None:
        for number in range(400):
            id_ = worker * 1_000 + number
            try:
                outgoing = Outgoing(PREDICTIONS.name, f"{id_}", prediction_of_nothing(), f"{id_}", START)
                publisher.publish(outgoing, fates.expect(id_))
            except ProducerFull:
                fates.forget()
                refused.append(id_)

    threads = [threading.Thread(target=publish, args=[worker]) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fates.wait(60)
    assert fates.failed == {}
    assert refused, "the queue was never full"
    numbers: dict[int, list[int | None]] = {}
    for record in house.records(PREDICTIONS):
        envelope = decode_envelope(record.headers, PREDICTIONS.events)
        numbers.setdefault(record.partition, []).append(envelope.sequence)
    assert numbers == {partition: list(range(len(found))) for partition, found in numbers.items()}
    assert sum(map(len, numbers.values())) == len(fates.delivered) == 1_600 - len(refused)


def test_a_record_is_durable_when_its_sender_is_told(house: House, producer: DeliveryProducer) -> None:
    producer.produce_and_wait(house.namespace.topic(PREDICTIONS), 2, b"key", b"value", [("a", b"b"), ("none", None)])
    (record,) = house.records(PREDICTIONS)
    assert (record.partition, record.key, record.value, record.headers) == (2, b"key", b"value", {"a": b"b"})


def test_a_topic_that_does_not_exist_is_told_from_a_broker_that_does_not_answer(
    house: House, producer: DeliveryProducer
) -> None:
    assert producer.partitions(house.namespace.topic(PREDICTIONS)) == PREDICTIONS.partitions
    with pytest.raises(LookupError, match="does not exist: run `driftloop topics`"):
        producer.partitions(f"{house.namespace.prefix}.missing")
