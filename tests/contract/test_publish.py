"""The log in memory that unit tests use does what the real one does."""

import threading
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import KafkaError

from driftloop.common.envelope import Outgoing
from driftloop.common.kafka.config import producer_config
from driftloop.common.kafka.producer import DeliveryProducer, ProducerFull
from driftloop.common.kafka.publisher import Publish, Publisher
from driftloop.common.topics import PREDICTIONS
from tests.support.house import House
from tests.support.memory_log import MemoryLog
from tests.support.predictions import START, prediction
from tests.support.predictors import DIABETES
from tests.support.waiting import wait_until

Log = tuple[Publish, list[str]]


def event(number: int) -> Outgoing:
    made = prediction(DIABETES, {"Age": number}, prediction_id=str(number))
    return Outgoing(PREDICTIONS.name, made.prediction_id, made, made.prediction_id, START)


@pytest.fixture(params=["memory", "broker"])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    """A publish function, and what its thread has called so far: `word` for each record, then `batch`."""
    calls: list[str] = []
    if request.param == "memory":
        yield MemoryLog(lambda: calls.append("batch")).publish, calls
        return
    house: House = request.getfixturevalue("house")
    config = producer_config(house.stack.bootstrap_servers, "tests")
    producer = DeliveryProducer(config, lambda: calls.append("batch"))
    publisher = Publisher(producer, house.namespace, "tests/1")
    publisher.learn(PREDICTIONS.name)
    yield publisher.publish, calls
    producer.close(5)


@pytest.fixture(params=["memory", "broker"])
def full(request: pytest.FixtureRequest) -> Iterator[Publish]:
    """A publish function that takes no more records."""
    if request.param == "memory":
        yield MemoryLog(full=True).publish
        return
    house: House = request.getfixturevalue("house")
    slow = {"queue.buffering.max.messages": 1, "linger.ms": 2000}
    producer = DeliveryProducer(producer_config(house.stack.bootstrap_servers, "tests") | slow)
    publisher = Publisher(producer, house.namespace, "tests/1")
    publisher.learn(PREDICTIONS.name)
    publisher.publish(event(0), lambda _error: None)
    yield publisher.publish
    producer.close(5)


def word(calls: list[str]) -> Callable[[KafkaError | None], None]:
    return lambda error: calls.append("word" if error is None else "error")


def test_each_record_gets_one_word_and_after_the_last_one_comes_a_batch(log: Log) -> None:
    publish, calls = log
    for number in range(20):
        publish(event(number), word(calls))
    wait_until(lambda: calls.count("word") == 20 and calls[-1] == "batch", "the last batch")
    assert set(calls) == {"word", "batch"}


def test_a_log_that_is_full_says_so_and_gives_no_word(full: Publish) -> None:
    called = threading.Event()
    with pytest.raises(ProducerFull):
        full(event(1), lambda _error: called.set())
    assert not called.is_set()
