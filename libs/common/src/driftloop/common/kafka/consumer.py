"""The only consumer loop. Results and offsets commit together in Postgres; Kafka's own offsets only feed lag metrics.

One batch: decode → dead letters made durable → one transaction (advance the offsets by compare-and-set, drop what was
counted before, handle, commit). Errors have three fates: invalid → dead letter; transient → pause, retry; bug → crash.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as RawMessage
from psycopg import Connection

from driftloop.common import metrics
from driftloop.common.envelope import Envelope, UndecodableMessage, decode_envelope, decode_event
from driftloop.common.events import Event
from driftloop.common.kafka.admin import TopicIdentity
from driftloop.common.kafka.deadletter import DeadLetter, send_dead_letter
from driftloop.common.kafka.producer import DeliveryProducer, ProducerFull
from driftloop.common.kafka.records import Record, record_of
from driftloop.common.postgres import offsets
from driftloop.common.postgres.pool import Pool, is_permanent, is_transient
from driftloop.common.topics import Topic

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
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


@dataclass(frozen=True)
class Subscription:
    """What to do with a topic's events. The handler gets each batch once, inside the transaction of its offsets."""

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
        self._identities = identities
        self._pool = pool
        self._producer = producer
        self._after_commit = after_commit
        self._batch_size = batch_size
        self._positions: dict[offsets.TopicPartition, int] = {}
        self._failure: BaseException | None = None
        self._bad_run = 0
        self._consumer: Consumer

    def run(self, stop: threading.Event) -> None:
        """Consume until told to stop. Raises on a bug; a gap or a run of bad records halts it, unready."""
        self._consumer = Consumer(self._config)
        try:
            self._consumer.subscribe(
                list(self._subscriptions), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
            )
            while not stop.is_set():
                messages = self._read(POLL_SECONDS)
                if messages:
                    self._handle_all(messages, stop)
        except _Halted as halted:
            self.state.halted = str(halted)
            logger.critical("the consumer stands still until someone decides", extra={"reason": str(halted)})
            self._stand_still(stop)
        finally:
            self._consumer.close()

    # --- reading

    def _read(self, timeout: float) -> list[RawMessage]:
        messages = self._consumer.consume(self._batch_size, timeout)
        if self._failure is not None:
            raise self._failure
        good = []
        for message in messages:
            error = message.error()
            if error is None:
                good.append(message)
            else:
                self._reading_error(message, error)
        return good

    def _reading_error(self, message: RawMessage, error: KafkaError) -> None:
        where = f"{message.topic()}/{message.partition()}"
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise _Halted(
                f"offsets of {where} are no longer in the log: records may be lost. Decide, then set the offset of "
                f"consumer {self.name!r} in table offsets to where reading shall go on"
            )
        if error.fatal():
            raise KafkaException(error)
        logger.warning("reading from the broker", extra={"error": error.str(), "where": where})

    def _stand_still(self, stop: threading.Event) -> None:
        self._consumer.pause(self._consumer.assignment())
        while not stop.is_set():
            self._consumer.consume(1, POLL_SECONDS)
            self._consumer.pause(self._consumer.assignment())

    # --- assignment

    def _on_assign(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # An exception here would be lost in the client's callback: keep it, and raise it where the loop reads.
        try:
            starts = self._retry_database(lambda: self._starts(partitions))
            for partition in partitions:
                partition.offset = starts[partition.topic, partition.partition]
            self._consumer.incremental_assign(partitions)
            self._positions.update(starts)
            self.state.assigned.update(starts)
            self.state.joined = True
        except Exception as error:  # noqa: BLE001 - kept for the loop, which raises it
            self._failure = error

    def _on_revoke(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        held = [one for one in partitions if (one.topic, one.partition) in self._positions]
        if held:
            self._consumer.incremental_unassign(held)
        for one in held:
            del self._positions[one.topic, one.partition]
            self.state.assigned.discard((one.topic, one.partition))

    def _starts(self, partitions: Sequence[TopicPartition]) -> dict[offsets.TopicPartition, int]:
        names = [(one.topic, one.partition) for one in partitions]
        with self._pool.connection() as connection:
            stored = offsets.read_offsets(connection, self.name, names)
            for topic, partition in names:
                if (topic, partition) not in stored:
                    low, _high = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=5.0)
                    identity = self._identities[topic]
                    first = offsets.StoredOffset(low, identity.cluster_id, identity.topic_id)
                    offsets.insert_offset(connection, self.name, (topic, partition), first)
            stored = offsets.read_offsets(connection, self.name, names)
        for (topic, partition), offset in stored.items():
            identity = self._identities[topic]
            if (offset.cluster_id, offset.topic_id) != (identity.cluster_id, identity.topic_id):
                raise _Halted(
                    f"the stored offset of {topic}/{partition} counts in another log (the topic or cluster was made "
                    f"anew). Decide, then delete the rows of consumer {self.name!r} and topic from offsets and seen"
                )
        return {partition: offset.next for partition, offset in stored.items()}

    def _retry_database(
        self, work: Callable[[], dict[offsets.TopicPartition, int]]
    ) -> dict[offsets.TopicPartition, int]:
        for delay in (*BACKOFF_SECONDS, None):
            try:
                return work()
            except psycopg.Error as error:
                if delay is None or not is_transient(error):
                    raise
                time.sleep(delay)  # inside a rebalance there is nothing to poll for; heartbeats go on
        raise AssertionError("unreachable")

    # --- handling

    def _handle_all(self, messages: Sequence[RawMessage], stop: threading.Event) -> None:
        with metrics.BATCH_SECONDS.labels(self.name).time():
            records = [record_of(message) for message in messages]
            # A partition that was taken away meanwhile is someone else's now.
            records = [record for record in records if (record.topic, record.partition) in self._positions]
            if records:
                self._handle(records, stop)

    def _handle(self, records: Sequence[Record], stop: threading.Event) -> bool:
        """Handle records, all or nothing; on data that Postgres or the handler refuses, halve to find the one.

        False: they were not committed, and reading goes on from the stored offsets.
        """
        try:
            return self._retry_transient(records, stop)
        except _Permanent as refused:
            if len(records) == 1:
                return self._retry_transient(records, stop, refused)
        middle = len(records) // 2
        rest = records[middle:]
        if not self._handle(records[:middle], stop):
            # What follows a batch that was dropped must be read again after it, or the offset would jump.
            self._rewind({(record.topic, record.partition) for record in rest})
            return False
        return self._handle(rest, stop)

    def _retry_transient(
        self, records: Sequence[Record], stop: threading.Event, refused: "_Permanent | None" = None
    ) -> bool:
        attempt = 0
        while True:
            try:
                self._attempt(records, refused)
            except offsets.Fenced as fenced:
                self._reposition(records, fenced)
                return False
            except (psycopg.OperationalError, psycopg.InterfaceError, KafkaException, ProducerFull, NotYet) as error:
                if isinstance(error, psycopg.Error) and not is_transient(error) and error.sqlstate is not None:
                    raise
                self.state.retrying = f"retrying after {type(error).__name__}"
                metrics.CONSUMER_RETRIES.labels(self.name).inc()
                logger.warning("a batch is tried again", extra={"error": type(error).__name__, "attempt": attempt})
                delay = BACKOFF_SECONDS[min(attempt, len(BACKOFF_SECONDS) - 1)]
                attempt += 1
                if not self._still_ours(records, delay, stop):
                    self.state.retrying = None
                    return False
            else:
                self.state.retrying = None
                return True

    def _attempt(self, records: Sequence[Record], refused: "_Permanent | None") -> None:
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
        for letter in letters:
            send_dead_letter(self._producer, letter)
        self._commit(records, deliveries)
        self._count_bad_run(records, letters)

    def _commit(self, records: Sequence[Record], deliveries: Sequence[Delivery]) -> None:
        moves = {}
        for record in records:
            partition = (record.topic, record.partition)
            moves[partition] = (self._positions[partition], record.offset + 1)
        try:
            with self._pool.connection() as connection:
                offsets.advance_offsets(connection, self.name, moves)
                fresh = self._fresh(connection, deliveries)
                for topic, batch in groupby(sorted(fresh, key=_topic), key=_topic):
                    self._subscriptions[topic].handler(connection, list(batch))
        except InvalidEvent as error:
            raise _Permanent("handler", type(error).__name__, str(error)) from error
        except psycopg.Error as error:
            if is_permanent(error):
                # Postgres quotes the value that it refuses: keep the class of the error only.
                raise _Permanent("database", type(error).__name__, f"SQLSTATE {error.sqlstate}") from error
            raise
        for partition, (_position, new) in moves.items():
            self._positions[partition] = new
        for record in records:
            metrics.CONSUMED.labels(record.topic).inc()
        self._after_commit()
        self._report_lag(moves)

    def _fresh(self, connection: Connection, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Those that were never counted: by (partition, source, sequence), within the batch and before it."""
        numbered: dict[tuple[offsets.TopicPartition, str], list[int]] = {}
        for one in deliveries:
            if one.envelope.sequence is not None:
                numbered.setdefault(_identity(one), []).append(one.envelope.sequence)
        new = offsets.unseen(connection, self.name, numbered)
        fresh = []
        for one in deliveries:
            if one.envelope.sequence is None:
                fresh.append(one)
            elif one.envelope.sequence in new[_identity(one)]:
                new[_identity(one)].discard(one.envelope.sequence)
                fresh.append(one)
            else:
                metrics.DUPLICATES.labels(one.record.topic).inc()
        return fresh

    def _count_bad_run(self, records: Sequence[Record], letters: Sequence[DeadLetter]) -> None:
        bad = {id(letter.record) for letter in letters}
        for record in records:
            if not self._subscriptions[record.topic].topic.own:
                continue
            self._bad_run = self._bad_run + 1 if id(record) in bad else 0
            if self._bad_run >= BAD_RUN:
                raise _Halted(
                    f"{self._bad_run} records in a row on {record.topic} could not be handled; they are in its "
                    "dead-letter topic. Deploy a version that understands them, then restart"
                )

    # --- recovering

    def _reposition(self, records: Sequence[Record], fenced: offsets.Fenced) -> None:
        """Drop the batch, and go on from what the database says."""
        for topic, _partition in fenced.partitions:
            metrics.CONSUMER_FENCED.labels(topic).inc()
        held = {(record.topic, record.partition) for record in records} & set(self._positions)
        with self._pool.connection() as connection:
            stored = offsets.read_offsets(connection, self.name, held)
        for partition, offset in stored.items():
            self._positions[partition] = offset.next
            self._consumer.seek(TopicPartition(*partition, offset.next))
        logger.warning("another consumer was ahead", extra={"partitions": fenced.partitions})

    def _still_ours(self, records: Sequence[Record], seconds: float, stop: threading.Event) -> bool:
        """Pause and keep polling, so that the group keeps its member. False: the batch is not ours to try again."""
        wanted = {(record.topic, record.partition) for record in records}
        early: dict[offsets.TopicPartition, int] = {}
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not stop.is_set():
            self._consumer.pause(self._consumer.assignment())
            for message in self._read(min(0.1, seconds)):
                # Handed over between assignment and pause: to be read again.
                record = record_of(message)
                early.setdefault((record.topic, record.partition), record.offset)
        ours = wanted <= set(self._positions) and not stop.is_set()
        if not ours:
            self._rewind(wanted)
        for partition, offset in early.items():
            if partition in self._positions and (ours or partition not in wanted):
                self._consumer.seek(TopicPartition(*partition, offset))
        self._consumer.resume(self._consumer.assignment())
        return ours

    def _rewind(self, partitions: set[offsets.TopicPartition]) -> None:
        """Read those partitions that are still held again from where the last commit left them."""
        for partition in partitions & set(self._positions):
            self._consumer.seek(TopicPartition(*partition, self._positions[partition]))

    def _report_lag(self, moves: Mapping[offsets.TopicPartition, tuple[int, int]]) -> None:
        try:
            self._consumer.commit(
                offsets=[TopicPartition(*partition, new) for partition, (_old, new) in moves.items()], asynchronous=True
            )
        except KafkaException as error:
            logger.debug("lag not reported", extra={"error": str(error)})


class _Halted(RuntimeError):
    """Going on would lose or ruin something; a person must decide."""


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
        envelope = decode_envelope(record.headers, topic.events)
        return Delivery(decode_event(envelope.type, record.value), envelope, record)
    except UndecodableMessage as error:
        return DeadLetter(record, error.stage, type(error).__name__, error.reason)


def _topic(delivery: Delivery) -> str:
    return delivery.record.topic


def _identity(delivery: Delivery) -> tuple[offsets.TopicPartition, str]:
    return (delivery.record.topic, delivery.record.partition), delivery.envelope.source
