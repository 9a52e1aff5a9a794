"""A request waits for the broker's word: no longer than it may, no more of them than may, and none is forgotten."""

import asyncio
import threading

import pytest
from confluent_kafka import KafkaError

from driftloop.common.envelope import Outgoing
from driftloop.common.kafka.producer import OnDelivery, ProducerFailed
from driftloop.predictor.acknowledging import Acknowledgements, Unavailable
from tests.support.memory_log import MemoryLog
from tests.unit.predictor.builders import NOW

EVENT = Outgoing("predictions", "1", None, "1", NOW)


async def log(acknowledgements: Acknowledgements, memory: MemoryLog, times: int = 1) -> None:
    """Log an event so many times at once."""
    acknowledgements.open(asyncio.get_running_loop())
    try:
        await asyncio.gather(*(acknowledgements.log(memory.publish, EVENT) for _ in range(times)))
    finally:
        acknowledgements.close()


def test_it_returns_once_the_record_is_durable() -> None:
    acknowledgements = Acknowledgements(10)
    memory = MemoryLog(acknowledgements.wake)
    asyncio.run(log(acknowledgements, memory))
    assert len(memory.taken) == 1


def test_the_word_may_come_from_another_thread() -> None:
    acknowledgements = Acknowledgements(1000)

    def deliver(on_delivery: OnDelivery) -> None:
        on_delivery(None)
        acknowledgements.wake()

    def publish(_outgoing: Outgoing, on_delivery: OnDelivery) -> None:
        threading.Thread(target=deliver, args=[on_delivery]).start()

    async def run() -> None:
        acknowledgements.open(asyncio.get_running_loop())
        await asyncio.gather(*(acknowledgements.log(publish, EVENT) for _ in range(100)))
        acknowledgements.close()

    asyncio.run(run())
    assert acknowledgements.in_flight == 0


def test_an_error_of_the_broker_makes_it_unavailable() -> None:
    acknowledgements = Acknowledgements(10)
    memory = MemoryLog(acknowledgements.wake, failure=KafkaError(KafkaError._MSG_TIMED_OUT))
    with pytest.raises(Unavailable, match="_MSG_TIMED_OUT"):
        asyncio.run(log(acknowledgements, memory))


def test_a_producer_that_failed_makes_it_unavailable() -> None:
    def publish(_outgoing: Outgoing, _on_delivery: OnDelivery) -> None:
        raise ProducerFailed("fatal")

    async def run() -> None:
        acknowledgements = Acknowledgements(10)
        acknowledgements.open(asyncio.get_running_loop())
        try:
            await acknowledgements.log(publish, EVENT)
        finally:
            acknowledgements.close()

    with pytest.raises(Unavailable, match="ProducerFailed"):
        asyncio.run(run())


def test_silence_is_waited_out_and_leaves_nothing_behind() -> None:
    acknowledgements = Acknowledgements(10, wait_seconds=0.1)
    with pytest.raises(Unavailable, match=r"did not confirm it in 0\.1 s"):
        asyncio.run(log(acknowledgements, MemoryLog(silent=True), times=5))
    assert acknowledgements.in_flight == 0


def test_above_the_limit_nothing_is_published() -> None:
    acknowledgements = Acknowledgements(3, wait_seconds=0.1)
    memory = MemoryLog(silent=True)
    with pytest.raises(Unavailable, match="3 requests wait"):
        asyncio.run(log(acknowledgements, memory, times=4))
    assert len(memory.taken) == 3


def test_a_request_that_is_cancelled_leaves_nothing_behind() -> None:
    acknowledgements = Acknowledgements(10)
    words: list[OnDelivery] = []

    async def run() -> None:
        acknowledgements.open(asyncio.get_running_loop())
        request = asyncio.create_task(acknowledgements.log(lambda _event, word: words.append(word), EVENT))
        await asyncio.sleep(0)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        assert acknowledgements.in_flight == 0
        # The broker's word on it comes all the same.
        words[0](None)
        acknowledgements.wake()
        await asyncio.sleep(0)
        acknowledgements.close()

    asyncio.run(run())


def test_a_word_that_comes_after_the_waiting_was_given_up_is_no_error() -> None:
    acknowledgements = Acknowledgements(10, wait_seconds=0.05)
    words: list[OnDelivery] = []

    async def run() -> None:
        acknowledgements.open(asyncio.get_running_loop())
        with pytest.raises(Unavailable):
            await acknowledgements.log(lambda _event, word: words.append(word), EVENT)
        words[0](None)
        acknowledgements.wake()
        await asyncio.sleep(0)
        acknowledgements.close()

    asyncio.run(run())


def test_before_it_is_opened_and_after_it_is_closed_it_takes_nothing() -> None:
    acknowledgements = Acknowledgements(10)
    memory = MemoryLog()
    with pytest.raises(Unavailable, match="shutting down"):
        asyncio.run(acknowledgements.log(memory.publish, EVENT))
    assert memory.taken == []


def test_a_word_that_comes_when_the_loop_has_ended_is_dropped() -> None:
    acknowledgements = Acknowledgements(10, wait_seconds=0.05)
    words: list[OnDelivery] = []

    async def run() -> None:
        acknowledgements.open(asyncio.get_running_loop())
        with pytest.raises(Unavailable):
            await acknowledgements.log(lambda _event, word: words.append(word), EVENT)

    asyncio.run(run())
    words[0](None)
    acknowledgements.wake()
