"""The log in memory that unit tests use does what the real one does."""

import threading
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import KafkaError

from driftloop.common.envelope import Outgoing
from driftloop.common.kafka.config import producer_config
from driftloop.common.kafka.producer import DeliveryProducer, ProducerFull
from driftloop.common.kafka.publisher import Publisher
from driftloop.common.topics import PREDICTIONS
from tests.support.house import House
from tests.support.memory_log import MemoryLog
from tests.support.predictions import START, prediction
from tests.support.predictors import DIABETES
from tests.support.waiting import wait_until

Log = tuple[MemoryLog | Publisher, list[str]]


def event(number: int) -> Outgoing:
    made = prediction(DIABETES, {"Age": number}, prediction_id=str(number))
    return Outgoing(PREDICTIONS.name, made.prediction_id, made, made.prediction_id, START)


@pytest.fixture(params=["memory", "broker"])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    """A log, and what its thread has called so far: `word` for each record, then `batch`."""
    calls: list[str] = []
    if request.param == "memory":
        yield MemoryLog(lambda: calls.append("batch")), calls
        return
    house: House = request.getfixturevalue("house")
    config = producer_config(house.stack.bootstrap_servers, "tests")
    producer = DeliveryProducer(config, lambda: calls.append("batch"))
    publisher = Publisher(producer, house.namespace, "tests/1")
    publisher.learn(PREDICTIONS.name)
    yield publisher, calls
    producer.close(5)


@pytest.fixture(params=["memory", "broker"])
def full(request: pytest.FixtureRequest) -> Iterator[MemoryLog | Publisher]:
    """A log that takes no more records."""
    if request.param == "memory":
        yield MemoryLog(full=True)
        return
    house: House = request.getfixturevalue("house")
    # The one record that it holds goes nowhere before the test has ended.
    config = producer_config(house.stack.bootstrap_servers, "tests", 240_000, linger_ms=120_000)
    producer = DeliveryProducer(config | {"queue.buffering.max.messages": 1})
    publisher = Publisher(producer, house.namespace, "tests/1")
    publisher.learn(PREDICTIONS.name)
    publisher.publish(event(0), lambda _error: None)
    yield publisher
    producer.close(5)


def word(calls: list[str]) -> Callable[[KafkaError | None], None]:
    return lambda error: calls.append("word" if error is None else "error")


def test_each_record_gets_one_word_and_after_the_last_one_comes_a_batch(log: Log) -> None:
    one, calls = log
    for number in range(20):
        one.publish(event(number), word(calls))
    wait_until(lambda: calls.count("word") == 20 and calls[-1] == "batch", "the last batch")
    assert set(calls) == {"word", "batch"}


def test_each_of_many_records_gets_a_word_that_says_which_it_is(log: Log) -> None:
    one, calls = log
    told: dict[int, object] = {}
    records = one.stamp([event(number) for number in range(20)])
    assert [record.key for record in records] == [str(number).encode() for number in range(20)]
    one.send_all(records, told.__setitem__)
    wait_until(lambda: len(told) == 20 and calls[-1:] == ["batch"], "every word")
    assert told == dict.fromkeys(range(20))


def test_of_many_records_a_log_that_is_full_says_of_each_that_it_is_not_taken(full: MemoryLog | Publisher) -> None:
    told: dict[int, object] = {}
    full.send_all(full.stamp([event(1), event(2)]), told.__setitem__)
    assert [type(told[place]) for place in range(2)] == [ProducerFull, ProducerFull]


def test_a_log_that_is_full_says_so_and_gives_no_word(full: MemoryLog | Publisher) -> None:
    called = threading.Event()
    with pytest.raises(ProducerFull):
        full.publish(event(1), lambda _error: called.set())
    assert not called.is_set()
