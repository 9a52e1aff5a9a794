"""An inference is durable before it is answered: in the log, or in the spool, or its request is refused in time."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError

from driftloop.common.envelope import Outgoing
from driftloop.common.kafka.producer import OnDelivery, ProducerFailed, ProducerFull
from driftloop.predictor import inference_log
from driftloop.predictor.inference_log import InferenceLog, Unavailable
from driftloop.predictor.replaying import Replayer
from driftloop.predictor.spool import Spool
from tests.support.memory_log import MemoryLog
from tests.support.waiting import wait_until
from tests.unit.predictor.builders import NOW

SPOOL_BYTES = 1024 * 1024


def event(number: int = 1) -> Outgoing:
    return Outgoing("predictions", str(number), None, str(number), NOW)


class Rig:
    """An inference log on a real spool, with a log in memory behind it."""

    def __init__(self, folder: Path, max_bytes: int = SPOOL_BYTES, max_in_flight: int = 10_000) -> None:
        self.spool = Spool.open(folder, max_bytes)
        self.memory = MemoryLog(lambda: self.log.wake())
        self.log = InferenceLog(self.memory, self.spool, max_in_flight)

    def run(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run a coroutine on a loop that the log is open on."""

        async def opened() -> Any:
            self.log.open(asyncio.get_running_loop())
            try:
                return await work()
            finally:
                self.log.close()

        return asyncio.run(opened())

    def keep(self, *numbers: int) -> None:
        """Keep events, each of a request of its own, at once."""

        async def work() -> None:
            await asyncio.gather(*(self.log.keep([event(number)]) for number in numbers))

        self.run(work)

    def spooled(self) -> list[str]:
        """The keys of what is in the spool, in order."""
        found = [record.key.decode() for _position, record in self.spool.read(10_000)]
        self.spool.rewind()
        return found

    def replay(self) -> None:
        """Replay until the spool is empty."""
        replayer = Replayer("spool", self.spool, self.memory, self.log.uncertain, self.log.confirm)
        stop = threading.Event()
        thread = threading.Thread(target=replayer.run, args=[stop])
        thread.start()
        try:
            wait_until(lambda: self.spool.records == 0, "an empty spool")
        finally:
            stop.set()
            thread.join(60)

    def sent(self) -> list[str]:
        """The keys of what the log took, in order."""
        return [record.key.decode() for record in self.memory.records]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "spool")
    yield rig
    rig.spool.close()


def test_what_the_broker_confirms_is_not_spooled(rig: Rig) -> None:
    rig.keep(1, 2, 3)
    assert rig.sent() == ["1", "2", "3"]
    assert rig.spooled() == []


def test_the_word_may_come_from_another_thread(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    # A word that comes later is one that did not come.
    monkeypatch.setattr(inference_log, "ACK_SECONDS", 60.0)

    def deliver(on_delivery: OnDelivery) -> None:
        on_delivery(None)
        rig.log.wake()

    rig.memory.send = lambda stamped, on_delivery: threading.Thread(  # type: ignore[method-assign]
        target=deliver, args=[on_delivery]
    ).start()
    rig.keep(*range(100))
    assert rig.log.in_flight == 0
    assert rig.spooled() == []


def test_what_is_not_confirmed_in_time_is_in_the_spool_before_it_is_answered(rig: Rig) -> None:
    rig.memory.silent = True
    rig.keep(1, 2, 3)
    assert rig.spooled() == ["1", "2", "3"]


def test_what_the_broker_refuses_is_spooled_at_once(rig: Rig) -> None:
    rig.memory.failure = KafkaError(KafkaError._MSG_TIMED_OUT)
    rig.keep(1)
    assert rig.spooled() == ["1"]


def refusing(error: Exception) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        raise error

    return refuse


@pytest.mark.parametrize("error", [ProducerFull("full"), ProducerFailed("fatal")])
def test_what_the_producer_does_not_take_is_spooled(rig: Rig, error: Exception) -> None:
    rig.memory.send = refusing(error)  # type: ignore[method-assign]
    rig.keep(1)
    assert rig.spooled() == ["1"]


def test_while_the_broker_does_not_confirm_nobody_waits_for_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference_log, "ACK_SECONDS", 2.0)
    rig.memory.silent = True

    async def work() -> float:
        await rig.log.keep([event(1)])
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await rig.log.keep([event(2)])
        return loop.time() - begun

    assert rig.run(work) < 1.5
    assert rig.sent() == ["1"]
    assert rig.spooled() == ["1", "2"]


def test_once_the_broker_confirms_again_it_is_asked_first(rig: Rig) -> None:
    rig.memory.silent = True

    async def work() -> None:
        await rig.log.keep([event(1)])
        await rig.log.keep([event(2)])
        rig.memory.silent = False
        rig.memory.speak()
        await asyncio.to_thread(rig.replay)
        await rig.log.keep([event(3)])

    rig.run(work)
    assert rig.sent() == ["1", "2", "3"]


def test_what_got_into_the_log_after_all_is_not_replayed(rig: Rig) -> None:
    rig.memory.silent = True

    async def work() -> None:
        await rig.log.keep([event(1)])
        rig.memory.silent = False
        rig.memory.speak()
        await asyncio.to_thread(rig.replay)

    rig.run(work)
    assert rig.sent() == ["1"]


def test_what_may_still_get_into_the_log_is_not_replayed_before_that_is_known(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.memory.silent = True
    looked: list[None] = []
    rewind = rig.spool.rewind

    def counted() -> None:
        looked.append(None)
        rewind()

    monkeypatch.setattr(rig.spool, "rewind", counted)

    async def work() -> None:
        await rig.log.keep([event(1)])
        rig.memory.silent = False
        replaying = asyncio.create_task(asyncio.to_thread(rig.replay))
        await asyncio.to_thread(wait_until, lambda: len(looked) > 1, "two vain looks of who replays")
        assert rig.sent() == ["1"]
        rig.memory.failure = KafkaError(KafkaError._MSG_TIMED_OUT)
        rig.memory.speak()
        rig.memory.failure = None
        await replaying

    rig.run(work)
    assert rig.sent() == ["1", "1"]
    first, again = rig.memory.records
    assert first == again


def test_a_restart_replays_in_order_what_the_predecessor_left(rig: Rig, tmp_path: Path) -> None:
    rig.memory.failure = KafkaError(KafkaError._MSG_TIMED_OUT)

    async def work() -> None:
        for number in range(50):
            await rig.log.keep([event(number)])

    rig.run(work)
    rig.spool.close()
    successor = Rig(tmp_path / "spool")
    successor.replay()
    successor.spool.close()
    assert successor.sent() == [str(number) for number in range(50)]
    # With the numbers that they had.
    numbers = [dict(record.headers)["ce_sequence"] for record in successor.memory.records]
    assert numbers == [b"%d" % number for number in range(50)]


def test_of_a_request_with_many_rows_only_what_is_not_in_the_log_is_spooled(rig: Rig) -> None:
    fates = iter([None, KafkaError(KafkaError._MSG_TIMED_OUT), None])
    taken: list[OnDelivery] = []
    rig.memory.send = lambda stamped, on_delivery: taken.append(on_delivery)  # type: ignore[method-assign]

    async def work() -> None:
        keeping = asyncio.create_task(rig.log.keep([event(1), event(2), event(3)]))
        await asyncio.sleep(0)
        for on_delivery in taken:
            on_delivery(next(fates))
        rig.log.wake()
        await keeping

    rig.run(work)
    assert rig.spooled() == ["2"]


def test_a_spool_that_is_full_refuses_and_says_so(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "spool", max_bytes=4096)
    rig.memory.failure = KafkaError(KafkaError._MSG_TIMED_OUT)
    kept = 0

    async def work() -> None:
        nonlocal kept
        for number in range(1000):
            await rig.log.keep([event(number)])
            kept += 1

    with pytest.raises(Unavailable, match=r"the spool is full .* and the broker does not confirm"):
        rig.run(work)
    assert rig.spooled() == [str(number) for number in range(kept)]
    assert "the spool is full" in (rig.log.problem() or "")
    rig.memory.failure = None
    rig.replay()
    rig.keep(1000)
    assert rig.log.problem() is None
    rig.spool.close()


def test_above_the_limit_nothing_is_sent(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "spool", max_in_flight=3)
    rig.memory.silent = True
    with pytest.raises(Unavailable, match="3 inferences wait"):
        rig.keep(1, 2, 3, 4)
    assert rig.sent() == ["1", "2", "3"]
    rig.spool.close()


def test_a_request_that_is_cancelled_leaves_nothing_behind(rig: Rig) -> None:
    rig.memory.silent = True

    async def work() -> None:
        request = asyncio.create_task(rig.log.keep([event(1)]))
        await asyncio.sleep(0)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        assert rig.log.in_flight == 0
        # The broker's word on it comes all the same.
        rig.memory.speak()
        await asyncio.sleep(0)

    rig.run(work)
    assert rig.spooled() == []


def test_before_it_is_opened_and_after_it_is_closed_it_takes_nothing(rig: Rig) -> None:
    with pytest.raises(Unavailable, match="shutting down"):
        asyncio.run(rig.log.keep([event(1)]))
    assert rig.sent() == []


def test_a_word_that_comes_when_the_loop_has_ended_is_dropped(rig: Rig) -> None:
    rig.memory.silent = True
    rig.keep(1)
    rig.memory.speak()


def test_what_waits_in_the_spool_is_said(rig: Rig) -> None:
    assert rig.log.note() is None
    rig.memory.failure = KafkaError(KafkaError._MSG_TIMED_OUT)
    rig.keep(1, 2)
    assert (rig.log.note() or "").startswith("2 inferences wait in the spool for the broker")
