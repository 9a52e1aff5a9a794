"""From the producer's poll thread to the event loop: a request waits here until its inference is in the log."""

import asyncio
from collections import deque
from functools import partial
from itertools import takewhile

from confluent_kafka import KafkaError, KafkaException

from driftloop.common.envelope import Outgoing
from driftloop.common.kafka.producer import ProducerFailed, ProducerFull
from driftloop.common.kafka.publisher import Publish

# librdkafka looks for records that timed out once a second, so its word on one may come a second late.
WAIT_SECONDS = 4.5
SWEEP_SECONDS = 0.1

_Waiting = asyncio.Future[str | None]


class Unavailable(RuntimeError):
    """An answer cannot be made durable now; the same request may succeed later."""


class Acknowledgements:
    """Requests that wait for the broker's word: bounded in number and in time, and woken once a batch.

    Used from one event loop, between `open` and `close`, except for `wake`, which the producer's thread calls.
    """

    def __init__(self, max_in_flight: int, wait_seconds: float = WAIT_SECONDS) -> None:
        self._max_in_flight = max_in_flight
        self._wait_seconds = wait_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._delivered: deque[tuple[_Waiting, str | None]] = deque()
        # In the order of arrival, and all wait equally long: the first is the first to be given up.
        self._waiting: dict[_Waiting, float] = {}

    @property
    def in_flight(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to take requests on this loop."""
        self._loop = loop
        self._sweep(loop)

    def close(self) -> None:
        """Take no more requests."""
        self._loop = None
        if self._timer is not None:
            self._timer.cancel()

    def wake(self) -> None:
        """Tell the loop what has been delivered; the producer's thread calls it after each round of polls."""
        loop = self._loop
        if self._delivered and loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._resolve)

    async def log(self, publish: Publish, outgoing: Outgoing) -> None:
        """Publish an event and return once it is durable. Raises Unavailable."""
        loop = self._loop
        if loop is None:
            raise Unavailable("this replica is shutting down")
        if len(self._waiting) >= self._max_in_flight:
            raise Unavailable(f"{len(self._waiting)} requests wait for the log already")
        waiting: _Waiting = loop.create_future()
        try:
            publish(outgoing, partial(self._deliver, waiting))
        except (ProducerFull, ProducerFailed, KafkaException) as error:
            raise Unavailable(f"the log takes no records ({type(error).__name__})") from error
        self._waiting[waiting] = loop.time() + self._wait_seconds
        try:
            failure = await waiting
        finally:
            # Also when the request was cancelled meanwhile.
            self._waiting.pop(waiting, None)
        if failure is not None:
            raise Unavailable(failure)

    def _deliver(self, waiting: _Waiting, error: KafkaError | None) -> None:
        self._delivered.append((waiting, None if error is None else f"the log did not confirm it ({error.name()})"))

    def _resolve(self) -> None:
        while self._delivered:
            waiting, failure = self._delivered.popleft()
            if not waiting.done():
                waiting.set_result(failure)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for waiting, _deadline in list(takewhile(lambda one: one[1] <= now, self._waiting.items())):
            if not waiting.done():
                waiting.set_result(f"the log did not confirm it in {self._wait_seconds:g} s")
        self._timer = loop.call_later(SWEEP_SECONDS, self._sweep, loop)
