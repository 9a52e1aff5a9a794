"""Upkeep: old panes are rolled up and then forgotten, and so are ids that nobody may repeat any more.

What waited too long for a profile becomes a dead letter.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from confluent_kafka import KafkaException

from driftloop.common import metrics
from driftloop.common.clock import Clock
from driftloop.common.kafka.deadletter import DeadLetter
from driftloop.common.kafka.producer import ProducerFull
from driftloop.common.postgres.pool import Pool, repeat
from driftloop.drift_monitor.pane_store import LABELS, PREDICTIONS, ParkedRecord, Version
from driftloop.drift_monitor.store import Store

logger = logging.getLogger(__name__)

HOUR, DAY = 3600.0, 86_400.0
BATCH = 500

SendLetters = Callable[[Sequence[DeadLetter]], None]


@dataclass(frozen=True)
class Ages:
    """When panes become hours, when days, when nothing; and how long a record waits for its profile."""

    hours_after: timedelta
    days_after: timedelta
    keep: timedelta
    parked: timedelta


class Upkeep:
    """Looks after what is stored. Several replicas may do it at once: each row is taken by one of them."""

    name = "upkeep"

    def __init__(self, *, pool: Pool, ages: Ages, clock: Clock, send: SendLetters, every_seconds: float = 30.0) -> None:
        self._pool = pool
        self._ages = ages
        self._clock = clock
        self._send = send
        self._every = every_seconds

    def run(self, stop: threading.Event) -> None:
        """Do it every now and then until told to stop; a broker or database that is away is waited for."""
        repeat(self.round, stop, self._every, self.name, (KafkaException, ProducerFull))

    def round(self, stop: threading.Event) -> None:
        """Roll up and forget, version by version, expire what is parked, and forget ids and erasures."""
        with self._pool.connection() as connection:
            versions = Store(connection).known_versions()
        for version in versions:
            self._roll_up(version, stop)
            self._forget(version)
        for work in (self._expire, self._forget_remembered):
            while work() == BATCH and not stop.is_set():
                pass
        with self._pool.connection() as connection:
            Store(connection).panes.forget_erased(self._clock() - self._ages.keep)

    def _roll_up(self, version: Version, stop: threading.Event) -> None:
        now = self._clock()
        for length, after in ((HOUR, self._ages.hours_after), (DAY, self._ages.days_after)):
            for kind in (PREDICTIONS, LABELS):
                written = 1
                while written and not stop.is_set():
                    with self._pool.connection() as connection:
                        store = Store(connection)
                        judged = self._judged(store, version, kind)
                        if judged is None:
                            break
                        written = store.panes.roll_up(version, kind, length, min(now - after, judged))

    def _judged(self, store: Store, version: Version, kind: int) -> datetime | None:
        """Until when panes belong to windows that were judged: only these may lose their minutes."""
        evaluation = store.evaluation(version)
        if evaluation is None:
            return None
        return evaluation.tiled_until if kind == PREDICTIONS else evaluation.labelled_until

    def _forget(self, version: Version) -> None:
        before = self._clock() - self._ages.keep
        with self._pool.connection() as connection:
            store = Store(connection)
            evaluation = store.evaluation(version)
            store.panes.forget(version, before, None if evaluation is None else evaluation.tiled_until)
            store.forget_windows(version, before)

    def _forget_remembered(self) -> int:
        with self._pool.connection() as connection:
            return Store(connection).panes.forget_remembered(self._clock(), BATCH)

    def _expire(self) -> int:
        """Make dead letters of what was parked too long; they are durable before the rows are gone."""
        with self._pool.connection() as connection:
            expired = Store(connection).panes.take_expired(self._clock() - self._ages.parked, BATCH)
            if expired:
                self._send([_letter(one, self._ages.parked) for one in expired])
                logger.warning(
                    "records waited too long for their version's profile and are in the dead-letter topic",
                    extra={"records": len(expired), "version": expired[0].version},
                )
                metrics.EXPIRED_PREDICTIONS.inc(len(expired))
        return len(expired)


def _letter(one: ParkedRecord, waited: timedelta) -> DeadLetter:
    days = waited / timedelta(days=1)
    reason = f"version {one.version[1]} of {one.version[0]} did not become known within {days:g} days"
    return DeadLetter(one.record, "handler", "UnknownVersion", reason)
