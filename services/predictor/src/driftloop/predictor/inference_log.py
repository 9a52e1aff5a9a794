"""Makes an inference durable before it is answered: in the broker's log or, where no ack comes in time, in the spool.

Three threads meet here. The event loop's hands records over and waits. The producer's tells their fates, once a batch.
The writer's appends to the spool whatever has gathered while the disk was busy, with one fsync for all of it.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence, Set
from contextlib import suppress
from functools import partial
from itertools import takewhile
from typing import Protocol

from driftloop.common import metrics
from driftloop.common.envelope import Outgoing
from driftloop.common.kafka.producer import OnDelivery
from driftloop.common.kafka.publisher import Stamped
from driftloop.common.logs import Sparing
from driftloop.predictor.spool import Spool, SpooledRecord, SpoolFailed

logger = logging.getLogger(__name__)
logger.addFilter(Sparing(10))

# Longer than a healthy broker ever takes, shorter than a client's patience.
ACK_SECONDS = 0.3
SWEEP_SECONDS = 0.05
# How long a spool that took nothing is believed to take nothing.
REFUSING_SECONDS = 1.0
CLOSE_SECONDS = 5.0


class Unavailable(RuntimeError):
    """An answer cannot be made durable now; the same request may succeed later."""


class Log(Protocol):
    """Where records go: `Publisher`."""

    def stamp(self, events: Sequence[Outgoing]) -> Sequence[Stamped]:
        """The records of events, in order."""
        ...

    def send(self, stamped: Stamped, on_delivery: OnDelivery) -> None:
        """Hand a record over. Raises ProducerFull, ProducerFailed, KafkaException; then it is not sent."""
        ...

    def send_all(self, records: Sequence[Stamped], on_delivery: Callable[[int, object], None]) -> None:
        """Hand records over; each one's fate, told with its place among them, is also that it was not taken."""
        ...


class Waiting:
    """A request's records, and the fate of each: True is in the log, False is not, None nobody knows yet."""

    __slots__ = ("fates", "future", "records", "since", "spooled", "told")

    def __init__(self, records: Sequence[Stamped], future: "asyncio.Future[str | None]", now: float) -> None:
        self.records = records
        self.future = future
        self.since = now
        self.fates: list[bool | None] = [None] * len(records)
        # One entry a fate that was told, by whichever thread: appending is atomic, counting would not be.
        self.told: list[None] = []
        self.spooled = False


class Uncertain:
    """Records that are in the spool while the producer still holds them: who replays must wait for their fates.

    Written and read by several threads; each step is one of a dictionary's atomic ones.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[int, tuple[tuple[str, bytes], ...]], tuple[Waiting, int]] = {}

    def add(self, waiting: Waiting, index: int) -> None:
        """This record's fate is not known."""
        record = waiting.records[index]
        self._waiting[record.partition, record.headers] = (waiting, index)

    def fate(self, record: SpooledRecord) -> bool | None:
        """What is known of a record: False also where it was never handed over."""
        waiting, index = self._waiting.get((record.partition, record.headers), (None, 0))
        return False if waiting is None else waiting.fates[index]

    def forget(self, record: SpooledRecord) -> None:
        """It is in the log: nobody will ask again."""
        self._waiting.pop((record.partition, record.headers), None)


class InferenceLog:
    """Requests wait here until their inferences are durable: bounded in number and in time, woken once a batch.

    Used from one event loop between `open` and `close`, but for `wake`, which the producer's thread calls.
    """

    def __init__(self, log: Log, spool: Spool, max_in_flight: int) -> None:
        self.spool = spool
        self.uncertain = Uncertain()
        # Whether the broker confirms: while it does not, nobody waits for it in vain.
        self.confirming = True
        self._log = log
        self._max_in_flight = max_in_flight
        self._in_flight = 0
        self._refusing: tuple[float, str] = (0.0, "")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._settled: deque[Waiting] = deque()
        # In the order of arrival, and all wait equally long: the first is the first to be given up.
        self._waiting: dict[Waiting, None] = {}
        self._writer = _Writer(self)

    # --- for the event loop

    @property
    def in_flight(self) -> int:
        """How many inferences wait."""
        return self._in_flight

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to take requests on this loop."""
        self._loop = loop
        self._writer.start()
        self._sweep(loop)

    def close(self) -> None:
        """Take no more requests; what was given to the spool is written first."""
        self._loop = None
        if self._timer is not None:
            self._timer.cancel()
        self._writer.stop()

    async def keep(self, events: Sequence[Outgoing]) -> None:
        """Return once every event is durable. Raises Unavailable: then some of them may be in the log all the same."""
        waiting = self._begin(events)
        self._in_flight += len(events)
        try:
            failure = await waiting.future
        finally:
            # Also when the request was cancelled meanwhile.
            self._in_flight -= len(events)
            self._waiting.pop(waiting, None)
        if failure is not None:
            metrics.INFERENCES_REJECTED.inc(len(events))
            raise Unavailable(failure)
        metrics.INFERENCE_DELIVERY.observe(time.monotonic() - waiting.since)

    def confirm(self) -> None:
        """The broker has taken something: it is asked first again. Any thread may say so."""
        if not self.confirming:
            self.confirming = True
            logger.info("the broker confirms again")

    def problem(self) -> str | None:
        """Why no inference can be kept, or None."""
        until, reason = self._refusing
        return reason if not self.confirming and time.monotonic() < until else None

    def note(self) -> str | None:
        """What waits for the broker, or None."""
        oldest = self.spool.oldest
        if oldest is None:
            return None
        age = max(0.0, time.time() - oldest)
        return f"{self.spool.records} inferences wait in the spool for the broker, the oldest for {age:.0f} s"

    def _begin(self, events: Sequence[Outgoing]) -> Waiting:
        loop = self._loop
        if loop is None:
            raise self._refuse(events, "this replica is shutting down")
        if self._in_flight + len(events) > self._max_in_flight:
            raise self._refuse(events, f"{self._in_flight} inferences wait for the log already")
        # A spool that holds nothing is no reason to think that the broker is away.
        direct = self.confirming or not self.spool.records
        if not direct and (reason := self.problem()) is not None:
            raise self._refuse(events, reason)
        waiting = Waiting(self._log.stamp(events), loop.create_future(), time.monotonic())
        if direct:
            self._waiting[waiting] = None
            self._log.send_all(waiting.records, partial(self._deliver, waiting))
            # Of what was not taken nobody else tells the loop.
            self._resolve()
        else:
            waiting.fates = [False] * len(events)
            self._give_up(waiting)
        return waiting

    def _refuse(self, events: Sequence[Outgoing], reason: str) -> Unavailable:
        metrics.INFERENCES_REJECTED.inc(len(events))
        return Unavailable(reason)

    def _give_up(self, waiting: Waiting) -> None:
        """The broker's word has not come, or was no: the spool is to keep what is not in the log."""
        if self.confirming:
            self.confirming = False
            logger.warning("the broker does not confirm: inferences are spooled")
        if not waiting.spooled:
            waiting.spooled = True
            self._waiting.pop(waiting, None)
            self._writer.add(waiting)

    def _resolve(self) -> None:
        sent = 0
        while self._settled:
            waiting = self._settled.popleft()
            if all(waiting.fates):
                sent += len(waiting.fates)
                # It is, if it was spooled, or if whoever asked has hung up.
                if not waiting.future.done():
                    waiting.future.set_result(None)
            else:
                self._give_up(waiting)
        if sent:
            self.confirm()
            metrics.INFERENCES_SENT.inc(sent)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        begun = time.monotonic() - ACK_SECONDS
        late = list(takewhile(lambda waiting: waiting.since <= begun, self._waiting))
        for waiting in late:
            self._give_up(waiting)
        self._timer = loop.call_later(SWEEP_SECONDS, self._sweep, loop)

    # --- for the producer's thread

    def wake(self) -> None:
        """Tell the loop what has been delivered; the producer's thread calls it after each round of polls."""
        if self._settled:
            self._on_loop(self._resolve)

    def _deliver(self, waiting: Waiting, index: int, error: object) -> None:
        waiting.fates[index] = error is None
        waiting.told.append(None)
        if len(waiting.told) == len(waiting.fates):
            self._settled.append(waiting)

    # --- for the writer's thread

    def write(self, given: Iterable[Waiting]) -> None:
        """Append what is not in the log to the spool, durably, and let the requests go on."""
        given, now = list(given), time.time()
        places = [(one, index) for one in given for index, fate in enumerate(one.fates) if not fate]
        for one, index in places:
            if one.fates[index] is None:
                self.uncertain.add(one, index)
        records = [SpooledRecord(*one.records[index], spooled_at=now) for one, index in places]
        failure: str | None = None
        try:
            kept = len(self.spool.append(records))
            if kept < len(records):
                failure = f"the spool is full ({self.spool.size} bytes) and the broker does not confirm"
        except SpoolFailed as error:
            # Where the spool is concerns no client.
            kept, failure = 0, "the spool takes nothing and the broker does not confirm"
            logger.error("the spool failed", extra={"because": str(error)})
        if failure is not None:
            self._refusing = (time.monotonic() + REFUSING_SECONDS, failure)
            logger.error("inferences are refused", extra={"because": failure})
        metrics.INFERENCES_SPOOLED.inc(kept)
        for record in records[kept:]:
            self.uncertain.forget(record)
        lost = {one for one, _index in places[kept:]}
        self._on_loop(partial(self._release, given, lost, failure))

    def _release(self, given: Iterable[Waiting], lost: Set[Waiting], failure: str | None) -> None:
        for waiting in given:
            if not waiting.future.done():
                # One that is lost may have been delivered while the spool refused it.
                kept = waiting not in lost or all(waiting.fates)
                waiting.future.set_result(None if kept else failure)

    def _on_loop(self, call: Callable[[], None]) -> None:
        loop = self._loop
        # A loop that has ended has nobody who waits.
        if loop is not None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(call)


class _Writer:
    """The thread that writes to the spool: what comes while it waits for the disk is written together."""

    def __init__(self, log: InferenceLog) -> None:
        self._log = log
        self._given: deque[Waiting] = deque()
        self._some = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)
        self._thread.start()

    def add(self, waiting: Waiting) -> None:
        self._given.append(waiting)
        self._some.set()

    def stop(self) -> None:
        self._stopping = True
        self._some.set()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while not self._stopping or self._given:
            self._some.wait()
            self._some.clear()
            given = [self._given.popleft() for _ in range(len(self._given))]
            if given:
                self._log.write(given)
