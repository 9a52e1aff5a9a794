"""The evaluator: closes windows behind the watermark, moves the alarms, and says so on `drift-events`."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from psycopg import Connection

from driftloop.common.clock import Clock
from driftloop.common.contract import Contract
from driftloop.common.kafka.batches import Delivery, decode
from driftloop.common.postgres.offsets import StoredOffset, read_offsets
from driftloop.common.postgres.pool import Pool, is_transient
from driftloop.common.topics import LABELED_PREDICTIONS
from driftloop.common.topics import PREDICTIONS as PREDICTIONS_TOPIC
from driftloop.drift_monitor.domain.evaluation import Watch
from driftloop.drift_monitor.exporting import Exporter
from driftloop.drift_monitor.handlers import Watches, unpark
from driftloop.drift_monitor.judging import Judge
from driftloop.drift_monitor.pane_store import PREDICTIONS, ParkedRecord, Version
from driftloop.drift_monitor.store import Evaluation, Seen, Store

logger = logging.getLogger(__name__)

BROKER_SECONDS = 5.0
LEASE = "evaluator"
LEASE_SECONDS = 5.0
UNPARK_BATCH = 2000

# Partition → the offset that its next record will get.
EndOffsets = Callable[[], dict[int, int]]


@dataclass(frozen=True)
class Topics:
    """The names on the broker of what is consumed, the consumer that does, and where the predictions end."""

    consumer: str
    predictions: str
    labels: str
    end_offsets: EndOffsets


@dataclass(frozen=True)
class Pace:
    """How often to look, how much out of order events may be, how old a record may be and still find a pane."""

    every_seconds: float
    lateness: timedelta
    keep: timedelta
    label_wait: timedelta


class Evaluator:
    """Looks at every champion once a round, on the replica that has the lease; the evaluation's row is the fence."""

    name = "evaluator"

    def __init__(
        self,
        *,
        pool: Pool,
        contracts: Mapping[str, Contract],
        watches: Watches,
        topics: Topics,
        pace: Pace,
        replica: str,
        clock: Clock,
        published: Callable[[], None],
        exporter: Exporter,
    ) -> None:
        self._pool = pool
        self._contracts = contracts
        self._watches = watches
        self._topics = topics
        self._pace = pace
        self._replica = replica
        self._clock = clock
        self._published = published
        self._exporter = exporter
        self._judge = Judge(clock, pace.label_wait)

    def run(self, stop: threading.Event) -> None:
        """Evaluate until told to stop; a broker or database that is away is waited for."""
        while not stop.is_set():
            try:
                if self._leads():
                    self.round()
                else:
                    self._exporter.clear()
            except (psycopg.OperationalError, KafkaException) as error:
                if isinstance(error, psycopg.Error) and not is_transient(error):
                    raise
                # Whoever cannot look must not go on showing what was.
                self._exporter.clear()
                logger.warning("the evaluator waits", extra={"error": type(error).__name__})
            stop.wait(self._pace.every_seconds)
        self._give_back()

    def round(self) -> None:
        """Evaluate every champion whose profile is known, each in a transaction of its own."""
        # Asked before the offsets are read: what is in the log by now was predicted before now.
        now, ends = self._clock(), self._topics.end_offsets()
        with self._pool.connection() as connection:
            store = Store(connection)
            champions, parked = store.champions(), store.panes.parked_versions()
            self._exporter.keep(champions)
            self._exporter.parked(store.panes.parked())
        for version in parked:
            # Also those of a version that serves no more: what was predicted must be counted.
            self._unpark(version, now)
        for version in champions:
            if version[0] in self._contracts:
                self._evaluate(version, now, ends)
        self._published()

    def _leads(self) -> bool:
        with self._pool.connection() as connection:
            return Store(connection).take_lease(LEASE, self._replica, max(LEASE_SECONDS, 3 * self._pace.every_seconds))

    def _give_back(self) -> None:
        self._exporter.clear()
        try:
            with self._pool.connection(timeout=1) as connection:
                Store(connection).give_lease_back(LEASE, self._replica)
        except psycopg.Error:
            logger.debug("the lease was not given back: it runs out by itself")

    def _unpark(self, version: Version, now: datetime) -> None:
        left = version[0] in self._contracts
        while left:
            with self._pool.connection() as connection:
                store = Store(connection)
                watch = self._watches(store, version)
                records = [] if watch is None else store.panes.take_parked(version, UNPARK_BATCH)
                left = bool(records)
                if watch is not None and records:
                    placed = [found for one in records if (found := _delivery(one)) is not None]
                    unpark(store, watch, version, placed, now - self._pace.keep)

    def _evaluate(self, version: Version, now: datetime, ends: Mapping[int, int]) -> None:
        with self._pool.connection() as connection:
            if self._watches(Store(connection), version) is None:
                return
            Store(connection).open_evaluation(version)
        try:
            with self._pool.connection() as connection:
                # One instant for all that is read: panes, offsets and watermarks fit together, or it is tried again.
                Store(connection).repeatable_read()
                self._evaluate_in(connection, version, now, ends)
        except psycopg.errors.SerializationFailure:
            logger.info("another replica evaluated this version meanwhile", extra={"version": version})

    def _evaluate_in(self, connection: Connection, version: Version, now: datetime, ends: Mapping[int, int]) -> None:
        store = Store(connection)
        evaluation = store.lock_evaluation(version)
        watch = self._watches(store, version)
        if evaluation is None or watch is None or evaluation.superseded:
            return
        stored = self._stored(connection, ends)
        watermark = self._watermark(store, stored, now, ends)
        # What is parked lies before the stored offsets and is in no pane yet: a window without it would be wrong.
        if watermark is not None and not store.panes.is_parked(version):
            seen, labels_seen = _seen(stored, self._topics.predictions), _seen(stored, self._topics.labels)
            after = evaluation
            if self._may_close(store, watch, version, evaluation, watermark):
                panes = store.panes.panes(version, PREDICTIONS, evaluation.tiled_until, watermark)
                after = self._judge.windows(connection, watch, version, evaluation, panes, watermark, seen)
            after = self._judge.labels(connection, watch, version, after, labels_seen)
            if after != evaluation:
                store.save_evaluation(version, after)
            evaluation = after
        self._exporter.export(store, watch, version, evaluation, watermark, now)

    def _may_close(
        self, store: Store, watch: Watch, version: Version, evaluation: Evaluation, watermark: datetime
    ) -> bool:
        """Whether a window may be ripe: nearly always none is, and then no counts need be read."""
        drift = watch.contract.drift
        rows, first = store.panes.waiting(version, evaluation.tiled_until, watermark)
        aged = first is not None and first + timedelta(seconds=drift.max_age_seconds) <= watermark
        return rows >= drift.min_samples or aged

    def _stored(self, connection: Connection, ends: Mapping[int, int]) -> dict[tuple[str, int], StoredOffset]:
        wanted = [(topic, partition) for topic in (self._topics.predictions, self._topics.labels) for partition in ends]
        return read_offsets(connection, self._topics.consumer, wanted)

    def _watermark(
        self, store: Store, stored: Mapping[tuple[str, int], StoredOffset], now: datetime, ends: Mapping[int, int]
    ) -> datetime | None:
        """The instant before which every prediction has been counted, as far as can be known; None: not known.

        A partition that was read to its end holds nothing back. One with a backlog may still hold what came after the
        latest time that it has shown.
        """
        topic = self._topics.predictions
        behind = [
            partition
            for partition, end in ends.items()
            if end > (stored[topic, partition].next if (topic, partition) in stored else 0)
        ]
        if not behind:
            return now - self._pace.lateness
        shown = store.panes.watermarks(topic)
        if any(partition not in shown for partition in behind):
            return None
        return min(now, *(shown[partition] for partition in behind)) - self._pace.lateness


def broker_end_offsets(admin: AdminClient, topic: str, partitions: int) -> EndOffsets:
    """A function that asks the brokers where each partition ends now."""

    def ends() -> dict[int, int]:
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = {TopicPartition(topic, number): latest for number in range(partitions)}
        futures = admin.list_offsets(asked, request_timeout=BROKER_SECONDS)
        return {one.partition: future.result(BROKER_SECONDS).offset for one, future in futures.items()}

    return ends


def _seen(stored: Mapping[tuple[str, int], StoredOffset], topic: str) -> Seen:
    """How far each partition of a topic had been counted; where a window's records begin, its panes say."""
    bounds = {partition: (0, offset.next) for (name, partition), offset in sorted(stored.items()) if name == topic}
    topic_id = next((offset.topic_id for (name, _), offset in stored.items() if name == topic), "")
    return Seen(topic_id, bounds)


def _delivery(one: ParkedRecord) -> Delivery | None:
    """A parked record as an event again; it was one when it was parked."""
    (found,) = decode([one.record], PREDICTIONS_TOPIC if one.kind == PREDICTIONS else LABELED_PREDICTIONS)
    if isinstance(found, Delivery):
        return found
    logger.error("a parked record cannot be read any more", extra={"offset": one.record.offset})
    return None
