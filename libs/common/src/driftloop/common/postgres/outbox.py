"""The transactional outbox: what is committed is published, in order, and recognisably the same if sent twice.

A row is deleted after its ack. Where one was not acknowledged, it and all later rows of its key are sent again, so that
the last record of a key is its last event. What is sent again has the source and the sequence that it had before. Only
a process that was paused in the middle of a batch can put old records behind newer ones: readers of state compare
revisions, not arrival.
"""

import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

import msgspec
import psycopg
from confluent_kafka import KafkaException
from psycopg import Connection

from driftloop.common import metrics
from driftloop.common.clock import utc_now
from driftloop.common.envelope import Envelope, Outgoing, encode_event, numbered
from driftloop.common.kafka.config import Brokers
from driftloop.common.kafka.producer import DeliveryProducer, Fates, ProducerFull
from driftloop.common.kafka.reader import ReadTimeout, last_records
from driftloop.common.postgres.pool import Pool, is_transient
from driftloop.common.topics import TOPICS, Namespace, partition_for
from driftloop.common.tracing import created, current_traceparent

logger = logging.getLogger(__name__)

BATCH = 500
IDLE_SECONDS = 0.5
RETRY_SECONDS = 1.0
BEHIND_SECONDS = 10.0
ACK_SECONDS = 15.0
# The metric tells no more than this: counting a long backlog after every batch would cost more than draining it.
COUNTED_ROWS = 10_000
_LOCK_CLASS = 0x4F757462

# One statement a batch: a statement an event costs three times as much. Ids are given in the order of the events.
_EMIT = """
INSERT INTO outbox (shard, topic, key, event_id, event_type, event_time, value, traceparent)
SELECT %s, topic, key, event_id, event_type, event_time, convert_to(value, 'UTF8'), traceparent
FROM ROWS FROM (json_to_recordset(%s::json) AS (topic text, key text, event_id text, event_type text,
    event_time timestamptz, value text, traceparent text))
    WITH ORDINALITY AS n (topic, key, event_id, event_type, event_time, value, traceparent, place)
ORDER BY place
"""

Emit = Callable[[Iterable[Outgoing]], None]


class BehindTheLog(Exception):
    """The log ends with events that this database does not know of: numbers would be given twice."""


def emit(connection: Connection, events: Iterable[Outgoing], shard: int = 0) -> None:
    """Write events into the outbox of this transaction.

    Each is a span of its own in the trace of its `traceparent`, or else of what is being done.
    Call it after locking the row that an event tells of: then the order of ids is the order of that row's changes.
    """
    rows = [
        {
            "topic": event.topic,
            "key": event.key,
            "event_id": event.id,
            "event_type": event.kind,
            "event_time": event.time,
            "value": None if (value := encode_event(event.event)) is None else value.decode(),
            "traceparent": created(event.topic, event.id, event.traceparent or current_traceparent()),
        }
        for event in events
    ]
    if rows:
        connection.execute(_EMIT, [shard, msgspec.json.encode(rows).decode()])


def shard_lock(connection: Connection, shard: int, until: Literal["session", "transaction"] = "session") -> bool:
    """Take the lock of whoever drains a shard of the schema that is first in the search path, unless another has it."""
    function = "pg_try_advisory_lock" if until == "session" else "pg_try_advisory_xact_lock"
    row = connection.execute(
        f"SELECT {function}(%s, hashtext(current_schema() || %s))".encode(), [_LOCK_CLASS, f":{shard}"]
    ).fetchone()
    return bool(row and row[0])


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
    source: str | None


class OutboxDrainer:
    """Publishes one shard. Only one process drains a shard at a time: it holds a session's advisory lock."""

    def __init__(
        self,
        pool: Pool,
        producer: DeliveryProducer,
        namespace: Namespace,
        service: str,
        brokers: Brokers | str,
        shard: int = 0,
    ) -> None:
        self._pool = pool
        self._producer = producer
        self._brokers = brokers
        self._service = service
        self._shard = shard
        self._topics = {topic.name: namespace.topic(topic) for topic in TOPICS}
        self._partitions: dict[str, int] = {}
        # Topics whose end was looked at since this process drains.
        self._compared: set[str] = set()
        self._behind: str | None = None
        self._wake = threading.Event()
        self.name = f"outbox-{shard}"

    def wake(self) -> None:
        """Say that a transaction with new rows has just committed."""
        self._wake.set()

    def problem(self) -> str | None:
        """Why nothing may be published, or None."""
        return self._behind

    def run(self, stop: threading.Event) -> None:
        """Drain until told to stop; a database or broker that is away is waited for."""
        while not stop.is_set():
            try:
                with self._pool.connection() as connection:
                    self._drain_if_ours(connection, stop)
            except psycopg.Error as error:
                self._show_nothing()
                if not is_transient(error):
                    raise
                logger.warning("the outbox waits for the database", extra={"error": type(error).__name__})
            except (KafkaException, ReadTimeout) as error:
                logger.warning("the outbox waits for the broker", extra={"error": str(error)})
            except BehindTheLog as error:
                self._behind = str(error)
                logger.error("the outbox must not be published", extra={"error": self._behind})
                stop.wait(BEHIND_SECONDS)
            # Another drains, or something is away.
            stop.wait(RETRY_SECONDS)
        self._show_nothing()

    def _drain_if_ours(self, connection: Connection, stop: threading.Event) -> None:
        try:
            self._compared.clear()
            # If the connection dies the lock goes with it, and the next statement fails.
            owned = shard_lock(connection, self._shard)
            connection.commit()
            if owned:
                source = self._source(connection)
                while not stop.is_set():
                    self._drain(connection, source, stop)
            else:
                self._behind = None
                self._show_nothing()
        finally:
            # The pool keeps the session: a lock left on it would bar every other drainer.
            if not connection.closed:
                connection.rollback()
                connection.execute("SELECT pg_advisory_unlock_all()")
                connection.commit()

    def _drain(self, connection: Connection, source: str, stop: threading.Event) -> None:
        rows = self._numbered(connection, source)
        if not rows:
            self._wake.wait(IDLE_SECONDS)
            self._wake.clear()
            return
        done, problem = self._publish(rows, source, stop)
        if done:
            connection.execute("DELETE FROM outbox WHERE id = ANY(%s)", [done])
            connection.commit()
        if len(done) < len(rows):
            waiting = {"rows": len(rows) - len(done), "error": problem}
            logger.warning("the outbox waits for the broker", extra=waiting)
            stop.wait(RETRY_SECONDS)

    def _source(self, connection: Connection) -> str:
        name = f"{self._service}/outbox-{self._shard}/{uuid.uuid4().hex[:12]}"
        connection.execute("INSERT INTO outbox_shards VALUES (%s, %s) ON CONFLICT DO NOTHING", [self._shard, name])
        row = connection.execute("SELECT source FROM outbox_shards WHERE shard = %s", [self._shard]).fetchone()
        connection.commit()
        assert row is not None
        return str(row[0])

    def _numbered(self, connection: Connection, source: str) -> list[_Row]:
        """The oldest rows, each with partition and sequence; these are committed before anything is sent."""
        rows = [
            _Row(*row)
            for row in connection.execute(
                "SELECT id, topic, key, event_id, event_type, event_time, value, traceparent, partition, sequence, "
                "source FROM outbox WHERE shard = %s ORDER BY id LIMIT %s",
                [self._shard, BATCH],
            ).fetchall()
        ]
        self._measure(connection, rows)
        for topic in {row.topic for row in rows if row.sequence is None} - self._compared:
            self._compare(connection, source, topic)
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

    def _compare(self, connection: Connection, source: str, topic: str) -> None:
        """Look whether the log goes on where this database ends, before the first number is given.

        A number is committed before its event is sent. So an event of this shard that the database has not numbered
        was sent after the backup from which it was restored. Raises BehindTheLog.
        """
        query = "SELECT partition, next FROM outbox_sequences WHERE shard = %s AND topic = %s"
        given: dict[int, int] = dict(connection.execute(query, [self._shard, topic]).fetchall())
        retired = {name for (name,) in connection.execute("SELECT source FROM outbox_retired").fetchall()}
        for partition, record in last_records(self._brokers, f"driftloop-{self._service}", self._topics[topic]).items():
            name, number = numbered(record.headers)
            ours = name.startswith(f"{self._service}/outbox-{self._shard}/") and name not in retired
            if ours and (name != source or number >= given.get(partition, 0)):
                raise BehindTheLog(
                    f"topic {self._topics[topic]!r}, partition {partition}: the log ends with number {number} of "
                    f"{name!r}, which this database has not given: it is older than the log, as one that was restored "
                    "from a backup. Stop all services but the predictors, restore it once more, and run `driftloop "
                    "restored` before they start"
                )
        self._compared.add(topic)
        self._behind = None

    def _count(self, topic: str) -> int:
        if topic not in self._partitions:
            self._partitions[topic] = self._producer.partitions(self._topics[topic])
        return self._partitions[topic]

    def _measure(self, connection: Connection, oldest: Sequence[_Row]) -> None:
        """Tell how many rows wait; only a full batch says that there may be more than it holds."""
        rows = len(oldest)
        if rows == BATCH:
            counted = connection.execute(
                "SELECT count(*) FROM (SELECT 1 FROM outbox WHERE shard = %s LIMIT %s) AS waiting",
                [self._shard, COUNTED_ROWS],
            ).fetchone()
            assert counted is not None
            rows = counted[0]
        metrics.OUTBOX_ROWS.labels(str(self._shard)).set(rows)
        # The time of what is published through an outbox is when it was written there.
        age = (utc_now() - oldest[0].event_time).total_seconds() if oldest else 0.0
        metrics.OUTBOX_OLDEST.labels(str(self._shard)).set(max(0.0, age))

    def _show_nothing(self) -> None:
        """Take down what whoever drains the shard shows, or nobody knows."""
        for gauge in (metrics.OUTBOX_ROWS, metrics.OUTBOX_OLDEST):
            gauge.remove(str(self._shard))

    def _publish(self, rows: Sequence[_Row], source: str, stop: threading.Event) -> tuple[list[int], str | None]:
        """Send rows in order. Returns the ids of those that need not be sent again, and why the others must be."""
        fates, problem = Fates(), None
        for row in rows:
            envelope = Envelope(
                row.event_id, row.source or source, row.event_type, row.event_time, row.sequence, row.traceparent
            )
            try:
                self._producer.produce(
                    self._topics[row.topic], row.partition or 0, row.key.encode(), row.value,
                    envelope.headers(), fates.expect(row.id),
                )  # fmt: skip
            except (ProducerFull, KafkaException) as error:
                # Nothing after it either, or it would come behind what follows it.
                fates.forget()
                problem = f"row {row.id}: {error}"
                break
        if not fates.wait(ACK_SECONDS, stop):
            problem = problem or "no acknowledgement came in time"
        for id_, failure in fates.failed.items():
            problem = problem or f"row {id_}: {failure.str()}"
        return _finished(rows, fates.delivered), problem


def _finished(rows: Sequence[_Row], delivered: set[int]) -> list[int]:
    """The delivered rows before the first one of their key that was not."""
    waiting: set[tuple[str, str]] = set()
    finished = []
    for row in rows:
        if row.id not in delivered:
            waiting.add((row.topic, row.key))
        elif (row.topic, row.key) not in waiting:
            finished.append(row.id)
    return finished
