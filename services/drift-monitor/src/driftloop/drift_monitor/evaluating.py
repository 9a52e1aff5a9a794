"""The evaluator: closes windows behind the watermark, moves the alarms, and says so on `drift-events`."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

import psycopg
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from psycopg import Connection

from driftloop.common import metrics
from driftloop.common.clock import Clock
from driftloop.common.contract import Contract
from driftloop.common.envelope import Outgoing
from driftloop.common.events import DriftDetected, DriftedFeature
from driftloop.common.postgres.offsets import read_offsets
from driftloop.common.postgres.outbox import emit
from driftloop.common.postgres.pool import Pool, is_transient
from driftloop.common.topics import DRIFT_EVENTS
from driftloop.drift_monitor.domain.evaluation import WindowResult, changed_since, evaluate, verdict
from driftloop.drift_monitor.domain.panes import tile
from driftloop.drift_monitor.domain.performance import performance
from driftloop.drift_monitor.domain.severity import Severity
from driftloop.drift_monitor.handlers import Layouts, unpark
from driftloop.drift_monitor.store import Evaluation, Store, Version

logger = logging.getLogger(__name__)

BROKER_SECONDS = 5.0

# Partition → the offset that its next record will get.
EndOffsets = Callable[[], dict[int, int]]


class Evaluator:
    """Looks at every champion once a round. Several replicas may run it: the evaluation's row lock is the fence."""

    name = "evaluator"

    def __init__(
        self,
        *,
        pool: Pool,
        contracts: Mapping[str, Contract],
        layouts: Layouts,
        end_offsets: EndOffsets,
        topic: str,
        consumer: str,
        clock: Clock,
        published: Callable[[], None],
        every_seconds: float,
        lateness_seconds: float,
    ) -> None:
        self._pool = pool
        self._contracts = contracts
        self._layouts = layouts
        self._end_offsets = end_offsets
        self._topic = topic
        self._consumer = consumer
        self._clock = clock
        self._published = published
        self._every = every_seconds
        self._lateness = timedelta(seconds=lateness_seconds)

    def run(self, stop: threading.Event) -> None:
        """Evaluate until told to stop; a broker or database that is away is waited for."""
        while not stop.is_set():
            try:
                self.round()
            except (psycopg.OperationalError, KafkaException) as error:
                if isinstance(error, psycopg.Error) and not is_transient(error):
                    raise
                logger.warning("the evaluator waits", extra={"error": type(error).__name__})
            stop.wait(self._every)

    def round(self) -> None:
        """Evaluate every champion whose profile is known, each in a transaction of its own."""
        # Asked before the offsets are read: what is in the log by now was predicted before now.
        now, ends = self._clock(), self._end_offsets()
        with self._pool.connection() as connection:
            champions, parked = Store(connection).champions(), Store(connection).parked_versions()
            metrics.PARKED_PREDICTIONS.set(Store(connection).parked())
        for version in parked:
            # Also those of a version that serves no more: what was predicted must be counted.
            self._unpark(version)
        for version in champions:
            if version[0] in self._contracts:
                with self._pool.connection() as connection:
                    self._evaluate(connection, version, now, ends)
        self._published()

    def _unpark(self, version: Version) -> None:
        left = version[0] in self._contracts
        while left:
            with self._pool.connection() as connection:
                store = Store(connection)
                layout = self._layouts(store, version)
                left = layout is not None and unpark(store, self._contracts[version[0]], layout, version) > 0

    def _evaluate(self, connection: Connection, version: Version, now: datetime, ends: Mapping[int, int]) -> None:
        store, contract = Store(connection), self._contracts[version[0]]
        layout = self._layouts(store, version)
        if layout is None:
            return
        # Read committed: the statements after this lock see what every consumer that held it has counted.
        evaluation = store.lock_evaluation(version)
        if evaluation.superseded:
            return
        watermark = self._watermark(connection, now, ends)
        if watermark is None:
            return
        drift = contract.drift
        panes = store.open_panes(version, evaluation.tiled_until, layout)
        for window in tile(panes, watermark, drift.pane_seconds, drift.min_samples, drift.max_age_seconds):
            result, alarms = evaluate(layout, drift, evaluation.alarms, window)
            after = replace(
                evaluation,
                tiled_until=window.ends,
                alarms=alarms,
                verdict=verdict(alarms).name,
                windows=evaluation.windows + 1,
            )
            store.add_window(version, after.windows, result, self._clock())
            emit(connection, drift_events(version, evaluation, after, result, self._clock()))
            evaluation = after
            _export(version, result, performance(store.label_counts(*version)).accuracy)
            logger.info(
                "a window was closed",
                extra={"model": version[0], "version": version[1], "n": window.n, "raw": result.raw_severity,
                       "verdict": after.verdict},
            )  # fmt: skip
        store.save_evaluation(version, evaluation)

    def _watermark(self, connection: Connection, now: datetime, ends: Mapping[int, int]) -> datetime | None:
        """The instant before which every prediction has been counted, as far as can be known; None: not known.

        A partition that was read to its end holds nothing back. One with a backlog may still hold what came after the
        latest time that it has shown.
        """
        stored = read_offsets(connection, self._consumer, [(self._topic, partition) for partition in ends])
        behind = [
            partition
            for partition, end in ends.items()
            if end > (stored[self._topic, partition].next if (self._topic, partition) in stored else 0)
        ]
        if not behind:
            return now - self._lateness
        shown = Store(connection).watermarks(self._topic)
        if any(partition not in shown for partition in behind):
            return None
        return min(shown[partition] for partition in behind) - self._lateness


def drift_events(
    version: Version, before: Evaluation, after: Evaluation, result: WindowResult, now: datetime
) -> list[Outgoing]:
    """The event of a verdict that changed with this window, if it did."""
    was, is_now = Severity[before.verdict], Severity[after.verdict]
    if was == is_now:
        return []
    change = "opened" if is_now > was else "cleared"
    event = DriftDetected(
        model_name=version[0],
        model_version=version[1],
        change="opened" if is_now > was else "cleared",
        severity=(is_now if is_now > was else was).word,
        verdict=is_now.word,
        window_start=result.starts,
        window_end=result.ends,
        detected_at=now,
        features=tuple(
            DriftedFeature(
                name=one.name,
                severity=Severity[one.severity].word,
                raw_severity=Severity[one.raw_severity].word,
                statistic=one.statistic,
                p=one.p,
                psi=one.psi,
                n=one.n,
            )
            for one in result.features
        ),
        changed_since=changed_since(after.alarms) if is_now is Severity.CRITICAL else None,
    )
    identity = f"drift:{version[0]}:{version[1]}:{after.windows}:{change}"
    return [Outgoing(DRIFT_EVENTS.name, version[0], event, identity, now)]


def supersede(connection: Connection, version: Version, champion: int, now: datetime) -> None:
    """Stop evaluating a version that another has followed; its open alarm is cleared, for it tells of no one now."""
    store = Store(connection)
    evaluation = store.lock_evaluation(version)
    if evaluation.superseded:
        return
    store.save_evaluation(version, replace(evaluation, alarms={}, verdict=Severity.GOOD.name, superseded=True))
    metrics.DRIFT_VERDICT.labels(version[0], str(version[1])).set(Severity.GOOD)
    if evaluation.verdict != Severity.GOOD.name:
        event = DriftDetected(
            model_name=version[0],
            model_version=version[1],
            change="cleared",
            severity=Severity[evaluation.verdict].word,
            verdict=Severity.GOOD.word,
            window_start=evaluation.tiled_until or now,
            window_end=evaluation.tiled_until or now,
            detected_at=now,
            features=(),
            reason=f"version {champion} serves",
        )
        emit(connection, [Outgoing(DRIFT_EVENTS.name, version[0], event, f"superseded:{version[0]}:{version[1]}", now)])


def broker_end_offsets(admin: AdminClient, topic: str, partitions: int) -> EndOffsets:
    """A function that asks the brokers where each partition ends now."""

    def ends() -> dict[int, int]:
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = {TopicPartition(topic, number): latest for number in range(partitions)}
        futures = admin.list_offsets(asked, request_timeout=BROKER_SECONDS)
        return {one.partition: future.result(BROKER_SECONDS).offset for one, future in futures.items()}

    return ends


def _export(version: Version, result: WindowResult, accuracy: float | None) -> None:
    labels = (version[0], str(version[1]))
    metrics.DRIFT_VERDICT.labels(*labels).set(Severity[result.severity])
    for one in result.features:
        metrics.FEATURE_D.labels(*labels, one.name).set(one.statistic)
        metrics.FEATURE_PSI.labels(*labels, one.name).set(one.psi)
    if accuracy is not None:
        metrics.REALISED_ACCURACY.labels(*labels).set(accuracy)
