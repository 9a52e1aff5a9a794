"""The transactional outbox: what is committed is published, in order, and recognisably the same if sent twice."""

import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import psycopg
from confluent_kafka import KafkaError, KafkaException
from psycopg import Connection

from driftloop.common import metrics
from driftloop.common.envelope import Envelope, Outgoing, encode_event
from driftloop.common.events import type_name
from driftloop.common.kafka.producer import DeliveryProducer, ProducerFull
from driftloop.common.postgres.pool import Pool, is_transient
from driftloop.common.topics import TOPICS, Namespace, partition_for

logger = logging.getLogger(__name__)

BATCH = 500
IDLE_SECONDS = 0.5
RETRY_SECONDS = 1.0
ACK_SECONDS = 15.0
_LOCK_CLASS = 0x4F757462

Emit = Callable[[Iterable[Outgoing]], None]


def emit(connection: Connection, events: Iterable[Outgoing], shard: int = 0) -> None:
    """Write events into the outbox of this transaction.

    Call it after locking the row that an event tells of: then the order of ids is the order of that row's changes.
    """
    rows = [
        (
            shard,
            event.topic,
            event.key,
            event.id,
            "driftloop.Tombstone" if event.event is None else type_name(type(event.event)),
            event.time,
            encode_event(event.event),
            event.traceparent,
        )
        for event in events
    ]
    if rows:
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO outbox (shard, topic, key, event_id, event_type, event_time, value, traceparent) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
                rows,
            )


@dataclass(frozen=True)
class _Row:
    id: int
    topic: str
    key: str
    event_id: str
    event_type: str
    event_time: datetime
    value: bytes | None
    traceparent: str | None
    partition: int | None
    sequence: int | None


class OutboxDrainer:
    """Publishes one shard. Only one process drains a shard at a time: it holds a session's advisory lock."""

    def __init__(
        self, pool: Pool, producer: DeliveryProducer, namespace: Namespace, service: str, shard: int = 0
    ) -> None:
        self._pool = pool
        self._producer = producer
        self._namespace = namespace
        self._service = service
        self._shard = shard
        self._topics = {topic.name: namespace.topic(topic) for topic in TOPICS}
        self._partitions: dict[str, int] = {}
        self._wake = threading.Event()
        self.name = f"outbox-{shard}"

    def wake(self) -> None:
        """Say that a transaction with new rows has just committed."""
        self._wake.set()

    def run(self, stop: threading.Event) -> None:
        """Drain until told to stop; a database or broker that is away is waited for."""
        while not stop.is_set():
            try:
                with self._pool.connection() as connection:
                    if self._owns_shard(connection):
                        self._drain(connection, stop)
                    else:
                        connection.rollback()
                        stop.wait(RETRY_SECONDS)
            except psycopg.OperationalError as error:
                if not is_transient(error):
                    raise
                logger.warning("the outbox waits for the database", extra={"error": type(error).__name__})
                stop.wait(RETRY_SECONDS)
            except KafkaException as error:
                logger.warning("the outbox waits for the broker", extra={"error": str(error)})
                stop.wait(RETRY_SECONDS)

    def _owns_shard(self, connection: Connection) -> bool:
        row = connection.execute(
            "SELECT pg_try_advisory_lock(%s, hashtext(current_schema() || %s))", [_LOCK_CLASS, f":{self._shard}"]
        ).fetchone()
        connection.commit()
        return bool(row and row[0])

    def _drain(self, connection: Connection, stop: threading.Event) -> None:
        source = self._source(connection)
        try:
            while not stop.is_set():
                rows = self._numbered(connection)
                if rows:
                    self._publish(connection, rows, source, stop)
                else:
                    self._wake.wait(IDLE_SECONDS)
                    self._wake.clear()
        finally:
            # The pool keeps the session: a lock left on it would bar every other drainer.
            if not connection.closed:
                connection.rollback()
                connection.execute("SELECT pg_advisory_unlock_all()")
                connection.commit()

    def _source(self, connection: Connection) -> str:
        name = f"{self._service}/outbox-{self._shard}/{uuid.uuid4().hex[:12]}"
        connection.execute("INSERT INTO outbox_shards VALUES (%s, %s) ON CONFLICT DO NOTHING", [self._shard, name])
        row = connection.execute("SELECT source FROM outbox_shards WHERE shard = %s", [self._shard]).fetchone()
        connection.commit()
        assert row is not None
        return str(row[0])

    def _numbered(self, connection: Connection) -> list[_Row]:
        """The oldest rows, each with partition and sequence; these are committed before anything is sent."""
        rows = [
            _Row(*row)
            for row in connection.execute(
                "SELECT id, topic, key, event_id, event_type, event_time, value, traceparent, partition, sequence "
                "FROM outbox WHERE shard = %s ORDER BY id LIMIT %s",
                [self._shard, BATCH],
            ).fetchall()
        ]
        metrics.OUTBOX_ROWS.labels(str(self._shard)).set(len(rows))
        numbered = self._number(connection, rows)
        connection.commit()
        return numbered

    def _number(self, connection: Connection, rows: Sequence[_Row]) -> list[_Row]:
        """Give each row that has none its partition and its number, dense for each (topic, partition)."""
        waiting: dict[tuple[str, int], list[_Row]] = {}
        for row in rows:
            if row.sequence is None:
                waiting.setdefault((row.topic, partition_for(row.key, self._count(row.topic))), []).append(row)
        numbers: dict[int, tuple[int, int]] = {}
        for (topic, partition), group in waiting.items():
            after = connection.execute(
                "INSERT INTO outbox_sequences AS s VALUES (%s, %s, %s, %s) "
                "ON CONFLICT (shard, topic, partition) DO UPDATE SET next = s.next + excluded.next RETURNING next",
                [self._shard, topic, partition, len(group)],
            ).fetchone()
            assert after is not None
            first = after[0] - len(group)
            numbers |= {row.id: (partition, first + place) for place, row in enumerate(group)}
        if numbers:
            connection.execute(
                "UPDATE outbox SET partition = n.partition, sequence = n.sequence "
                "FROM unnest(%s::bigint[], %s::int[], %s::bigint[]) AS n(id, partition, sequence) "
                "WHERE outbox.id = n.id",
                [list(numbers), [place[0] for place in numbers.values()], [place[1] for place in numbers.values()]],
            )
        return [
            replace(row, partition=numbers[row.id][0], sequence=numbers[row.id][1]) if row.id in numbers else row
            for row in rows
        ]

    def _count(self, topic: str) -> int:
        if topic not in self._partitions:
            self._partitions[topic] = self._producer.partitions(self._topics[topic])
        return self._partitions[topic]

    def _publish(self, connection: Connection, rows: Sequence[_Row], source: str, stop: threading.Event) -> None:
        acknowledged = _Acknowledged(len(rows))
        for row in rows:
            envelope = Envelope(row.event_id, source, row.event_type, row.event_time, row.sequence, row.traceparent)
            try:
                self._producer.produce(
                    self._topics[row.topic], row.partition or 0, row.key.encode(), row.value,
                    envelope.headers(), acknowledged.reporter(row.id),
                )  # fmt: skip
            except ProducerFull:
                acknowledged.failed(row.id)
        done = acknowledged.wait(ACK_SECONDS)
        if done:
            connection.execute("DELETE FROM outbox WHERE id = ANY(%s)", [done])
            connection.commit()
        if len(done) < len(rows):
            logger.warning("the outbox waits for the broker", extra={"rows": len(rows) - len(done)})
            stop.wait(RETRY_SECONDS)


class _Acknowledged:
    """Collects the fates of one batch."""

    def __init__(self, expected: int) -> None:
        self._left = expected
        self._done: list[int] = []
        self._condition = threading.Condition()

    def reporter(self, row: int) -> Callable[[KafkaError | None], None]:
        def report(error: KafkaError | None) -> None:
            with self._condition:
                self._left -= 1
                if error is None:
                    self._done.append(row)
                self._condition.notify()

        return report

    def failed(self, _row: int) -> None:
        with self._condition:
            self._left -= 1

    def wait(self, timeout: float) -> list[int]:
        with self._condition:
            self._condition.wait_for(lambda: self._left <= 0, timeout)
            return list(self._done)
