"""The producer tells each record's fate, whatever becomes of the broker; here, there is none."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from driftloop.common.envelope import Outgoing
from driftloop.common.kafka.config import producer_config
from driftloop.common.kafka.producer import DeliveryProducer, Fates, ProducerFailed, ProducerFull
from driftloop.common.kafka.publisher import Publisher
from driftloop.common.topics import PREDICTIONS, Namespace, partition_for
from driftloop.devstack.ports import free_port
from tests.support.predictions import prediction_of_nothing
from tests.support.waiting import wait_until


def config(timeout_ms: int = 300, **rest: Any) -> dict[str, Any]:
    """A producer's configuration with an address where nothing listens; names in `rest` have _ for a dot."""
    dotted = {name.replace("_", "."): value for name, value in rest.items()}
    return producer_config(f"127.0.0.1:{free_port()}", "tests", timeout_ms) | dotted


@pytest.fixture
def producer() -> Iterator[DeliveryProducer]:
    """A producer without a broker."""
    producer = DeliveryProducer(config())
    yield producer
    producer.close(0)


def test_a_record_that_no_broker_takes_is_reported_within_its_time(producer: DeliveryProducer) -> None:
    fates, started = Fates(), time.monotonic()
    producer.produce("t", 0, b"k", b"v", [], fates.expect(1))
    assert fates.wait(60)
    assert fates.failed[1].code() == KafkaError._MSG_TIMED_OUT
    # Librdkafka by itself would try for five minutes.
    assert time.monotonic() - started < 30


def test_waiting_for_an_ack_ends_with_its_time(producer: DeliveryProducer) -> None:
    with pytest.raises(KafkaException, match="_MSG_TIMED_OUT"):
        producer.produce_and_wait("t", 0, None, b"v", [], timeout=0.05)


def test_a_full_queue_is_an_error_and_keeps_no_call_back(producer: DeliveryProducer) -> None:
    full = DeliveryProducer(config(10_000, queue_buffering_max_messages=3))
    fates = Fates()
    for number in range(3):
        full.produce("t", 0, None, b"v", [], fates.expect(number))
    with pytest.raises(ProducerFull, match="3 records wait"):
        full.produce("t", 0, None, b"v", [], fates.expect(3))
    assert full.close(0) == 3
    assert set(fates.failed) == {0, 1, 2}


def test_a_record_that_is_too_large_is_refused_at_once(producer: DeliveryProducer) -> None:
    with pytest.raises(KafkaException, match="MSG_SIZE_TOO_LARGE"):
        producer.produce("t", 0, None, b"x" * 3_000_000, [], Fates().expect(0))


def test_closing_without_a_broker_comes_back_in_time_and_tells_every_sender() -> None:
    producer, fates = DeliveryProducer(config(60_000)), Fates()
    for number in range(100):
        producer.produce("t", number % 3, None, b"v", [], fates.expect(number))
    started = time.monotonic()
    assert producer.close(0.3) == 100
    assert time.monotonic() - started < 30
    assert len(fates.failed) == 100


def test_nothing_is_taken_after_closing(producer: DeliveryProducer) -> None:
    producer.close(0)
    with pytest.raises(ProducerFailed, match="closed"):
        producer.produce("t", 0, None, b"v", [], Fates().expect(0))


def test_nothing_is_taken_after_a_fatal_error(producer: DeliveryProducer) -> None:
    fatal = KafkaError(KafkaError._FATAL, "fenced by a newer one", fatal=True)
    producer._on_error(fatal)
    assert producer.fatal is fatal
    with pytest.raises(ProducerFailed, match="fenced by a newer one"):
        producer.produce("t", 0, None, b"v", [], Fates().expect(0))


def test_an_error_that_may_pass_is_not_fatal(producer: DeliveryProducer) -> None:
    producer._on_error(KafkaError(KafkaError._ALL_BROKERS_DOWN))
    assert producer.fatal is None


def test_a_call_back_that_fails_does_not_cost_the_others_theirs(producer: DeliveryProducer) -> None:
    def broken(_error: KafkaError | None) -> None:
        raise RuntimeError("the event loop is closed")

    fates = Fates()
    producer.produce("t", 0, None, b"v", [], broken)
    producer.produce("t", 0, None, b"v", [], fates.expect(1))
    assert fates.wait(60)
    # The thread lives on, too.
    producer.produce("t", 0, None, b"v", [], fates.expect(2))
    assert fates.wait(60)


def test_the_caller_is_woken_once_a_batch_even_if_waking_fails() -> None:
    woken: list[int] = []

    def wake() -> None:
        woken.append(1)
        raise RuntimeError("the event loop is closed")

    producer, fates = DeliveryProducer(config(), wake), Fates()
    for number in range(50):
        producer.produce("t", 0, None, b"v", [], fates.expect(number))
    assert fates.wait(60)
    wait_until(lambda: bool(woken), "it is woken")
    assert len(woken) < 50
    producer.close(0)


def test_without_a_broker_it_knows_no_partitions(producer: DeliveryProducer) -> None:
    with pytest.raises(KafkaException):
        producer.partitions("t", 0.1)


def test_waiting_for_fates_ends_when_it_is_told_to_stop() -> None:
    fates, stop = Fates(), threading.Event()
    fates.expect(0)
    threading.Timer(0.1, stop.set).start()
    started = time.monotonic()
    assert not fates.wait(60, stop)
    assert time.monotonic() - started < 30


def test_a_record_that_was_not_handed_over_is_not_waited_for() -> None:
    fates = Fates()
    fates.expect(0)(None)
    fates.expect(1)
    fates.forget()
    assert fates.wait(1)
    assert fates.delivered == {0}


def test_a_key_has_one_partition_for_every_process() -> None:
    assert [partition_for(key, 6) for key in ("a", "b", "diabetes/1", "ä")] == [3, 5, 1, 5]


class Partitions:
    """A client that only knows how many partitions there are."""

    def partitions(self, _topic: str) -> int:
        return 6


def test_records_that_may_go_anywhere_go_together_for_a_moment() -> None:
    publisher = Publisher(Partitions(), Namespace(""), "predictor/1")  # type: ignore[arg-type]
    made = prediction_of_nothing()
    alone = [Outgoing(PREDICTIONS.name, str(key), made, str(key), made.predicted_at, alone=True) for key in range(20)]
    first = {one.partition for one in publisher.stamp(alone)}
    assert len(first) <= 2
    wait_until(lambda: {publisher.stamp(alone[:1])[0].partition} | first != first, "another moment's partition")


def test_a_record_with_a_key_that_others_have_goes_where_they_go() -> None:
    publisher = Publisher(Partitions(), Namespace(""), "predictor/1")  # type: ignore[arg-type]
    made = prediction_of_nothing()
    [stamped] = publisher.stamp([Outgoing(PREDICTIONS.name, "a", made, "a", made.predicted_at)])
    assert stamped.partition == partition_for("a", 6)
