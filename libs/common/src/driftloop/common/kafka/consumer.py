"""The only consumer loop. Results and offsets commit together in Postgres; Kafka's own offsets only feed lag metrics.

One batch: decode → one transaction (advance the offsets by compare-and-set, drop what was counted before, handle, make
dead letters durable, commit). Errors have three fates: invalid → dead letter; transient → pause, retry; bug → crash.

A dead letter may come twice, with the same `__connect.errors.offset`: where its transaction fails after it was sent and
another process, or this one after a restart, reads the record again.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as RawMessage
from confluent_kafka.admin import AdminClient
from psycopg import Connection

from driftloop.common import metrics
from driftloop.common.envelope import Envelope, UndecodableMessage, decode_envelope, decode_event
from driftloop.common.events import Event
from driftloop.common.kafka.admin import TopicIdentity, TopicWatch
from driftloop.common.kafka.assignment import Assignment, Halted, Owned, remade
from driftloop.common.kafka.config import admin_part
from driftloop.common.kafka.deadletter import DeadLetter, send_dead_letters
from driftloop.common.kafka.producer import DeliveryProducer, ProducerFull
from driftloop.common.kafka.records import Record, record_of
from driftloop.common.postgres import offsets
from driftloop.common.postgres.pool import Pool, is_permanent, is_transient
from driftloop.common.topics import Topic

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
# What comes within this time of a first record is handled with it, in one transaction.
LINGER_SECONDS = 0.02
WATCH_SECONDS = 5.0
BACKOFF_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
# So many bad records in a row on a topic that only we write mean that the code is wrong, not the records.
BAD_RUN = 100


class NotYet(RuntimeError):
    """Something outside that a handler needs is away for a while: the batch is tried again, whole."""


class InvalidEvent(ValueError):
    """A handler found that one event can never be applied; it becomes a dead letter. The text holds no value of it."""


@dataclass(frozen=True)
class Delivery:
    """An event as a handler gets it: with its envelope and its place in the log."""

    event: Event
    envelope: Envelope
    record: Record


Handler = Callable[[Connection, Sequence[Delivery]], None]
# Partition → its position before a batch, and the one after.
Moves = Mapping[offsets.TopicPartition, tuple[int, int]]


@dataclass(frozen=True)
class Subscription:
    """What to do with a topic's events. The handler gets each batch once, inside the transaction of its offsets.

    Topics with the same handler share its call; within a topic's partition the order is the log's.
    """

    topic: Topic
    handler: Handler


@dataclass
class ConsumerState:
    """What readiness asks: which partitions are held, and why the loop stands still, if it does."""

    assigned: set[offsets.TopicPartition] = field(default_factory=set)
    joined: bool = False
    halted: str | None = None
    retrying: str | None = None

    def problem(self) -> str | None:
        """Why this consumer is not doing its work, or None."""
        if self.halted or self.retrying:
            return self.halted or self.retrying
        return None if self.joined else "the consumer group has not been joined yet"


class ConsumerLoop:
    """Runs one consumer of a service. Build it in `main`, run it in a thread of its own."""

    def __init__(
        self,
        *,
        config: Mapping[str, Any],
        name: str,
        subscriptions: Mapping[str, Subscription],
        identities: Mapping[str, TopicIdentity],
        pool: Pool,
        producer: DeliveryProducer,
        after_commit: Callable[[], None] = lambda: None,
        batch_size: int = 500,
    ) -> None:
        self.name = name
        self.state = ConsumerState()
        self._config = dict(config)
        self._subscriptions = subscriptions
        self._known = {topic: identities[topic] for topic in subscriptions}
        self._pool = pool
        self._producer = producer
        self._after_commit = after_commit
        self._batch_size = batch_size
        self._bad_run: dict[str, int] = {}
        self._sent: set[tuple[str, int, int]] = set()
        self._stop: threading.Event
        self._consumer: Consumer
        self._assignment: Assignment

    def run(self, stop: threading.Event) -> None:
        """Consume until told to stop. Raises on a bug; a gap or a run of bad records halts it, unready."""
        admin = AdminClient(admin_part(self._config))
        watch = TopicWatch(admin, self._known, WATCH_SECONDS)
        self._stop = stop
        self._assignment = Assignment(self.name, self._pool, self._known, admin, stop)
        self._consumer = Consumer(self._config)
        try:
            self._consumer.subscribe(
                list(self._subscriptions),
                on_assign=self._assignment.on_assign,
                on_revoke=self._assignment.on_revoke,
                on_lost=self._assignment.on_lost,
            )
            while not stop.is_set():
                records = self._assignment.take(self._read(POLL_SECONDS))
                for topic in watch.remade():
                    raise Halted(f"under this consumer {remade(topic, self.name)}")
                if records:
                    self._handle_all(records)
        except Halted as halted:
            self.state.halted = str(halted)
            logger.critical("the consumer stands still until someone decides", extra={"reason": str(halted)})
            self._stand_still()
        finally:
            self._consumer.close()

    # --- reading

    def _read(self, timeout: float) -> list[Record]:
        first = self._consumer.poll(timeout)
        messages = [] if first is None else [first, *self._consumer.consume(self._batch_size - 1, LINGER_SECONDS)]
        self.state.assigned = set(self._assignment.held)
        self.state.joined = self._assignment.joined
        if self._assignment.failure is not None and not self._stop.is_set():
            raise self._assignment.failure
        records = []
        for message in messages:
            error = message.error()
            if error is None:
                records.append(record_of(message))
            else:
                self._reading_error(message, error)
        return records

    def _reading_error(self, message: RawMessage, error: KafkaError) -> None:
        where = f"{message.topic()}/{message.partition()}"
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise Halted(
                f"offset {message.offset()} of {where} is not in the log any more: records may be lost. Decide, then "
                f"set `next` of consumer {self.name!r} in table offsets to where reading shall go on, and restart"
            )
        if error.fatal():
            raise KafkaException(error)
        logger.warning("reading from the broker", extra={"error": error.str(), "where": where})

    def _stand_still(self) -> None:
        while not self._stop.is_set():
            self._consumer.pause(self._consumer.assignment())
            self._consumer.poll(POLL_SECONDS)

    # --- handling

    def _handle_all(self, records: Sequence[Record]) -> None:
        self._sent.clear()
        partitions = {_partition(record) for record in records}
        owned = self._assignment.owned(partitions)
        with metrics.BATCH_SECONDS.labels(self.name).time():
            if not self._handle(records, owned):
                # What follows a part that was dropped must be read again after it, or the offset would jump.
                self._reposition(partitions)
        self.state.retrying = None

    def _handle(self, records: Sequence[Record], owned: Owned) -> bool:
        """Handle records, all or nothing; on data that Postgres or the handler refuses, halve to find the one.

        False: a part was not committed, and all must be read again from where the database says.
        """
        try:
            return self._retry_transient(records, owned)
        except _Permanent as refused:
            if len(records) == 1:
                return self._retry_transient(records, owned, refused)
        middle = len(records) // 2
        return self._handle(records[:middle], owned) and self._handle(records[middle:], owned)

    def _retry_transient(self, records: Sequence[Record], owned: Owned, refused: "_Permanent | None" = None) -> bool:
        partitions = {_partition(record) for record in records}
        attempt = 0
        while self._assignment.still(owned, partitions) and not self._stop.is_set():
            try:
                self._attempt(records, owned, refused)
                return True
            except offsets.Fenced as fenced:
                for topic, _number in fenced.partitions:
                    metrics.CONSUMER_FENCED.labels(topic).inc()
                logger.warning("another consumer was ahead", extra={"partitions": fenced.partitions})
                return False
            except (psycopg.Error, KafkaException, ProducerFull, NotYet) as error:
                self._back_off(error, attempt)
                attempt += 1
        return False

    def _attempt(self, records: Sequence[Record], owned: Owned, refused: "_Permanent | None") -> None:
        deliveries: list[Delivery] = []
        letters: list[DeadLetter] = []
        for record in records:
            one = _decode(record, self._subscriptions[record.topic].topic)
            if one is None:
                continue
            if refused is not None:
                letters.append(DeadLetter(record, refused.stage, refused.error, refused.reason))
            elif isinstance(one, DeadLetter):
                letters.append(one)
            else:
                deliveries.append(one)
        moves = {}
        for record in records:
            moves[_partition(record)] = (owned[_partition(record)].position, record.offset + 1)
        duplicates = self._commit(moves, deliveries, letters)
        for partition, (_position, new) in moves.items():
            owned[partition].position = new
        self.state.retrying = None
        self._after_commit()
        self._report(records, duplicates, moves)
        self._count_bad_run(records, letters)

    def _commit(self, moves: Moves, deliveries: Sequence[Delivery], letters: Sequence[DeadLetter]) -> list[Delivery]:
        """One transaction, dead letters last. Returns the deliveries that had been counted before."""
        try:
            with self._pool.connection() as connection:
                offsets.advance_offsets(connection, self.name, moves)
                fresh, duplicates = self._sift(connection, deliveries)
                for handler, batch in self._by_handler(fresh).items():
                    handler(connection, batch)
                self._send(letters)
        except InvalidEvent as error:
            raise _Permanent("handler", type(error).__name__, str(error)) from error
        except psycopg.Error as error:
            if is_permanent(error):
                # Postgres quotes the value that it refuses: keep the class of the error only.
                reason = f"SQLSTATE {error.sqlstate}" if error.sqlstate else "the database's client cannot write it"
                raise _Permanent("database", type(error).__name__, reason) from error
            raise
        return duplicates

    def _sift(self, connection: Connection, deliveries: Sequence[Delivery]) -> tuple[list[Delivery], list[Delivery]]:
        """Those that were never counted, and those that were: by (partition, source, sequence)."""
        numbered: dict[tuple[offsets.TopicPartition, str], list[int]] = {}
        for one in deliveries:
            if one.envelope.sequence is not None:
                numbered.setdefault(_identity(one), []).append(one.envelope.sequence)
        new = offsets.unseen(connection, self.name, numbered)
        fresh, duplicates = [], []
        for one in deliveries:
            if one.envelope.sequence is None:
                fresh.append(one)
            elif one.envelope.sequence in new[_identity(one)]:
                new[_identity(one)].discard(one.envelope.sequence)
                fresh.append(one)
            else:
                duplicates.append(one)
        return fresh, duplicates

    def _by_handler(self, deliveries: Sequence[Delivery]) -> dict[Handler, list[Delivery]]:
        """Topics that share a handler come to it in one call, so that it can lock what they touch in one order."""
        batches: dict[Handler, list[Delivery]] = {}
        for one in sorted(deliveries, key=_topic):
            batches.setdefault(self._subscriptions[one.record.topic].handler, []).append(one)
        return batches

    def _send(self, letters: Sequence[DeadLetter]) -> None:
        """Make dead letters durable, each once however often its batch is tried."""
        new = [letter for letter in letters if _place(letter.record) not in self._sent]
        if new:
            send_dead_letters(self._producer, new)
            self._sent.update(_place(letter.record) for letter in new)

    def _report(self, records: Sequence[Record], duplicates: Sequence[Delivery], moves: Moves) -> None:
        for record in records:
            metrics.CONSUMED.labels(record.topic).inc()
        for one in duplicates:
            metrics.DUPLICATES.labels(one.record.topic).inc()
        try:
            self._consumer.commit(
                offsets=[TopicPartition(*partition, new) for partition, (_old, new) in moves.items()], asynchronous=True
            )
        except KafkaException as error:
            logger.debug("lag not reported", extra={"error": str(error)})

    def _count_bad_run(self, records: Sequence[Record], letters: Sequence[DeadLetter]) -> None:
        bad = {_place(letter.record) for letter in letters}
        for record in records:
            if not self._subscriptions[record.topic].topic.own:
                continue
            self._bad_run[record.topic] = self._bad_run.get(record.topic, 0) + 1 if _place(record) in bad else 0
            if self._bad_run[record.topic] >= BAD_RUN:
                raise Halted(
                    f"{BAD_RUN} records in a row on {record.topic} could not be handled; they are in its dead-letter "
                    "topic. Deploy a version that understands them, then restart"
                )

    # --- recovering

    def _back_off(self, error: Exception, attempt: int) -> None:
        """Wait for what is away, and keep polling, so that the group keeps its member. Raises a bug's error again."""
        if isinstance(error, psycopg.Error) and not is_transient(error):
            raise error
        self.state.retrying = f"retrying after {type(error).__name__}"
        metrics.CONSUMER_RETRIES.labels(self.name).inc()
        logger.warning("a batch is tried again", extra={"error": type(error).__name__, "attempt": attempt})
        deadline = time.monotonic() + BACKOFF_SECONDS[min(attempt, len(BACKOFF_SECONDS) - 1)]
        while (left := deadline - time.monotonic()) > 0 and not self._stop.is_set():
            self._consumer.pause(self._consumer.assignment())
            # What is handed over between assignment and pause is not taken, and therefore read again.
            self._read(min(POLL_SECONDS, left))
        # In this order: a partition that is sought while it is paused stays silent for a second.
        self._consumer.resume(self._consumer.assignment())
        self._assignment.seek(self._consumer, self._assignment.held)

    def _reposition(self, partitions: Iterable[offsets.TopicPartition]) -> None:
        """Forget what was read of these partitions, and go on from what the database says."""
        attempt = 0
        while not self._stop.is_set():
            try:
                return self._assignment.reposition(self._consumer, partitions)
            except psycopg.Error as error:
                self._back_off(error, attempt)
                attempt += 1


class _Permanent(Exception):
    """The data is to blame."""

    def __init__(self, stage: str, error: str, reason: str) -> None:
        super().__init__(reason)
        self.stage, self.error, self.reason = stage, error, reason


def _decode(record: Record, topic: Topic) -> Delivery | DeadLetter | None:
    """The event of a record, or why there is none to be had; None for a tombstone, which tells a consumer nothing."""
    if record.value is None and topic.config["cleanup.policy"] == "compact":
        return None
    try:
        if record.unreadable_headers:
            raise UndecodableMessage("headers", "the name of a header is not UTF-8 text")
        envelope = decode_envelope(record.headers, topic.events)
        return Delivery(decode_event(envelope.type, record.value), envelope, record)
    except UndecodableMessage as error:
        return DeadLetter(record, error.stage, type(error).__name__, error.reason)


def _partition(record: Record) -> offsets.TopicPartition:
    return record.topic, record.partition


def _place(record: Record) -> tuple[str, int, int]:
    return record.topic, record.partition, record.offset


def _topic(delivery: Delivery) -> str:
    return delivery.record.topic


def _identity(delivery: Delivery) -> tuple[offsets.TopicPartition, str]:
    return _partition(delivery.record), delivery.envelope.source
