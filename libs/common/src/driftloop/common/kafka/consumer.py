"""The only consumer loop. Results and offsets commit together in Postgres; Kafka's own offsets only feed lag metrics.

One batch: decode → one transaction (advance the offsets by compare-and-set, drop what was counted before, handle, make
dead letters durable, commit). Errors have three fates: invalid → dead letter; transient → pause, retry; bug → crash.

A dead letter may come twice, with the same `__connect.errors.offset`: where its transaction fails after it was sent and
another process, or this one after a restart, reads the record again.
"""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as RawMessage
from psycopg import Connection

from driftloop.common import metrics
from driftloop.common.kafka.admin import TopicIdentity, TopicWatch, admin_client_of
from driftloop.common.kafka.assignment import Assignment, Halted, Owned, remade
from driftloop.common.kafka.batches import (
    Batch,
    Deliveries,
    Delivery,
    Item,
    dead_letters,
    decode,
    deliveries,
    halves,
    sequences,
    size,
    traceparents,
    without_duplicates,
)
from driftloop.common.kafka.deadletter import STAGES, DeadLetter, send_dead_letters
from driftloop.common.kafka.lag import LagWatch
from driftloop.common.kafka.producer import DeliveryProducer, ProducerFull
from driftloop.common.kafka.records import Record
from driftloop.common.postgres import offsets
from driftloop.common.postgres.pool import Pool, is_permanent, is_transient
from driftloop.common.topics import Topic
from driftloop.common.tracing import consuming

__all__ = ["ConsumerLoop", "ConsumerState", "Delivery", "Handler", "InvalidEvent", "NotYet", "Subscription"]

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
# What comes within this time of a first record is handled with it, in one transaction.
LINGER_SECONDS = 0.02
# A batch grows under load up to its limit as long as it is handled within this time: others wait for what it locks.
HANDLING_SECONDS = 0.1
SMALL_BATCH = 500
# So many records are decoded at once: no more than the processor's cache holds.
DECODED_AT_ONCE = 200
# Even the largest ones fit into the producer's queue.
LETTERS_AT_ONCE = 50
WATCH_SECONDS = 5.0
BACKOFF_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
# So many bad records in a row on a topic that only we write mean that the code is wrong, not the records.
BAD_RUN = 100


class NotYet(RuntimeError):
    """Something outside that a handler needs is away for a while: the batch is tried again, whole."""


class InvalidEvent(ValueError):
    """A handler found that one event can never be applied; it becomes a dead letter. The text holds no value of it."""


Handler = Callable[[Connection, Sequence[Delivery]], None]
# Partition → its position before a batch, and the one after.
Moves = Mapping[offsets.TopicPartition, tuple[int, int]]
Counts = Mapping[offsets.TopicPartition, int]


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
    trouble: str | None = None

    def problem(self) -> str | None:
        """Why this consumer is not doing its work, or None."""
        if self.halted or self.retrying:
            return self.halted or self.retrying
        if self.joined:
            return None
        return "the consumer group has not been joined yet" + (f": {self.trouble}" if self.trouble else "")


class ConsumerLoop:
    """Runs one consumer of a service. Build it in `main`, run it in a thread of its own.

    `batch_size` is how many records are handled in one transaction at most.
    """

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
        batch_size: int = 10_000,
    ) -> None:
        self.name = name
        self.state = ConsumerState()
        self._config = dict(config)
        self._subscriptions = subscriptions
        self._known = {topic: identities[topic] for topic in subscriptions}
        self._pool = pool
        self._producer = producer
        self._after_commit = after_commit
        self._max_batch = batch_size
        self._next_batch = min(SMALL_BATCH, batch_size)
        # What was read while there is a batch to be handled, and, once that is taken apart, the next batch.
        self._read_on: list[RawMessage] = []
        self._next: tuple[Batch, Owned] | None = None
        self._bad_run: dict[str, int] = {}
        self._sent: set[tuple[str, int, int]] = set()
        self._stop: threading.Event
        self._consumer: Consumer
        self._assignment: Assignment
        self._lag: LagWatch

    def run(self, stop: threading.Event) -> None:
        """Consume until told to stop. Raises on a bug; a gap or a run of bad records halts it, unready."""
        admin = admin_client_of(self._config)
        watch = TopicWatch(admin, self._known, WATCH_SECONDS)
        self._stop = stop
        self._assignment = Assignment(self.name, self._pool, self._known, admin, stop)
        self._lag = LagWatch(admin, self.name, self._known, WATCH_SECONDS)
        self._consumer = Consumer(self._config | {"error_cb": self._on_error})
        metrics.CONSUMER_STOPPED.labels(self.name).set(0)
        self._begin_counts()
        try:
            self._consumer.subscribe(
                list(self._subscriptions),
                on_assign=self._assignment.on_assign,
                on_revoke=self._assignment.on_revoke,
                on_lost=self._assignment.on_lost,
            )
            while not stop.is_set():
                self._turn(watch)
        except Halted as halted:
            self.state.halted = str(halted)
            metrics.CONSUMER_STOPPED.labels(self.name).set(1)
            logger.critical("the consumer stands still until someone decides", extra={"reason": str(halted)})
            self._stand_still()
        finally:
            self._assignment.closing = True
            self._consumer.close()
            self._lag.clear()

    def work_ahead(self) -> None:
        """Take apart what comes after the batch that is being handled.

        A handler may call this where it waits for the database anyway, in the loop's own thread: what it takes is not
        waited for later.
        """
        if self._read_on:
            self._next = self._taken(self._read_on)

    def _turn(self, watch: TopicWatch) -> None:
        batch, owned = self._batch()
        for topic in watch.remade():
            raise Halted(f"under this consumer {remade(topic, self.name)}")
        if batch:
            if size(batch) >= self._next_batch:
                # There is more, very likely: what has come by now is read, and waits for `work_ahead`.
                self._read_on = self._checked(self._consumer.consume(self._next_batch, 0))
            self._handle_all(batch, owned)

    # --- reading

    def _batch(self) -> tuple[Batch, Owned]:
        """The next batch, and what we held of its partitions when it was taken: what was lost since is left out."""
        self.work_ahead()
        if self._next is None:
            return self._taken(self._read(POLL_SECONDS))
        (batch, owned), self._next = self._next, None
        return {place: items for place, items in batch.items() if self._assignment.still(owned, [place])}, owned

    def _read(self, timeout: float) -> list[RawMessage]:
        first = self._consumer.poll(timeout)
        return self._checked(
            [] if first is None else [first, *self._consumer.consume(self._next_batch - 1, LINGER_SECONDS)]
        )

    def _checked(self, messages: list[RawMessage]) -> list[RawMessage]:
        """What was read without errors. Raises what went wrong in a call-back, Halted, KafkaException."""
        self.state.assigned = set(self._assignment.held)
        self.state.joined = self._assignment.joined
        if self.state.joined:
            # Why it was not is no reason for the next time.
            self.state.trouble = None
        self._show_lag()
        if self._assignment.failure is not None and not self._stop.is_set():
            raise self._assignment.failure
        failed = [message for message in messages if message.error() is not None]
        for message in failed:
            error = message.error()
            assert error is not None
            self._reading_error(message, error)
        return [message for message in messages if message.error() is None] if failed else messages

    def _taken(self, messages: list[RawMessage]) -> tuple[Batch, Owned]:
        """What is ours, decoded, and what we hold of it. Empties the list."""
        batch: defaultdict[offsets.TopicPartition, list[Item]] = defaultdict(list)
        messages.reverse()
        while messages:
            for place, records in self._assignment.take(messages, DECODED_AT_ONCE).items():
                batch[place] += decode(records, self._subscriptions[place[0]].topic)
        return batch, self._assignment.owned(batch)

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

    def _on_error(self, error: KafkaError) -> None:
        """What the client tells of its connections."""
        if error.fatal():
            self._assignment.failure = KafkaException(error)
        # That all brokers are down says nothing of why.
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self.state.trouble = error.str()
        logger.warning("the consumer's broker connection", extra={"error": str(error)})

    def _stand_still(self) -> None:
        while not self._stop.is_set():
            self._consumer.pause(self._consumer.assignment())
            self._consumer.poll(POLL_SECONDS)
            self._show_lag()

    def _begin_counts(self) -> None:
        for counter in (metrics.CONSUMED, metrics.DUPLICATES, metrics.CONSUMER_FENCED):
            metrics.begin(counter, list(self._known))
        metrics.begin(metrics.DEAD_LETTERS, list(self._known), STAGES)
        metrics.begin(metrics.CONSUMER_RETRIES, [self.name])

    def _show_lag(self) -> None:
        self._lag.look({place: held.position for place, held in self._assignment.held.items()})

    # --- handling

    def _handle_all(self, batch: Batch, owned: Owned) -> None:
        self._sent.clear()
        started = time.monotonic()
        topics = (self._subscriptions[topic].topic.name for topic, _number in batch)
        with consuming(topics, self.name, size(batch), traceparents(batch)):
            if not self._handle(batch, owned):
                # What follows a part that was dropped must be read again after it, or the offset would jump.
                self._reposition()
        self.state.retrying = None
        seconds = time.monotonic() - started
        metrics.BATCH_SECONDS.labels(self.name).observe(seconds)
        fitting = int(size(batch) * HANDLING_SECONDS / max(seconds, 1e-6))
        self._next_batch = min(self._max_batch, max(SMALL_BATCH, fitting))

    def _handle(self, batch: Batch, owned: Owned) -> bool:
        """Handle a batch, all or nothing; on data that Postgres or the handler refuses, halve to find the one.

        False: a part was not committed, and all must be read again from where the database says.
        """
        try:
            return self._retry_transient(batch, owned)
        except _Permanent as refused:
            if size(batch) == 1:
                ((place, (one,)),) = batch.items()
                letter = DeadLetter(one.record, refused.stage, refused.error, refused.reason)
                return self._retry_transient({place: [letter]}, owned)
        first, second = halves(batch)
        return self._handle(first, owned) and self._handle(second, owned)

    def _retry_transient(self, batch: Batch, owned: Owned) -> bool:
        attempt = 0
        while self._assignment.still(owned, batch) and not self._stop.is_set():
            try:
                self._attempt(batch, owned)
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

    def _attempt(self, batch: Batch, owned: Owned) -> None:
        letters = dead_letters(batch)
        moves = {place: (owned[place].position, items[-1].record.offset + 1) for place, items in batch.items()}
        duplicates = self._commit(moves, deliveries(batch), letters)
        for place, (_position, new) in moves.items():
            owned[place].position = new
        self.state.retrying = None
        self._after_commit()
        self._report(batch, duplicates, moves)
        self._count_bad_run(batch, letters)

    def _commit(self, moves: Moves, events: Deliveries, letters: Sequence[DeadLetter]) -> Counts:
        """One transaction, dead letters last. Returns how many events had been counted before."""
        try:
            with self._pool.connection() as connection:
                offsets.advance_offsets(connection, self.name, moves)
                fresh = without_duplicates(events, offsets.unseen(connection, self.name, sequences(events)))
                for handler, share in self._by_handler(fresh).items():
                    handler(connection, share)
                self._send(letters)
        except InvalidEvent as error:
            raise _Permanent("handler", type(error).__name__, str(error)) from error
        except psycopg.Error as error:
            if is_permanent(error):
                # Postgres quotes the value that it refuses: keep the class of the error only.
                reason = f"SQLSTATE {error.sqlstate}" if error.sqlstate else "the database's client cannot write it"
                raise _Permanent("database", type(error).__name__, reason) from error
            raise
        return {place: len(events[place]) - len(fresh[place]) for place in events}

    def _by_handler(self, events: Deliveries) -> dict[Handler, list[Delivery]]:
        """Topics that share a handler come to it in one call, so that it can lock what they touch in one order."""
        shares: dict[Handler, list[Delivery]] = {}
        for place in sorted(events):
            if events[place]:
                shares.setdefault(self._subscriptions[place[0]].handler, []).extend(events[place])
        return shares

    def _send(self, letters: Sequence[DeadLetter]) -> None:
        """Make dead letters durable, each once however often its batch is tried."""
        new = [letter for letter in letters if _place(letter.record) not in self._sent]
        for start in range(0, len(new), LETTERS_AT_ONCE):
            some = new[start : start + LETTERS_AT_ONCE]
            send_dead_letters(self._producer, some)
            self._sent.update(_place(letter.record) for letter in some)

    def _report(self, batch: Batch, duplicates: Counts, moves: Moves) -> None:
        for (topic, number), items in batch.items():
            metrics.CONSUMED.labels(topic).inc(len(items))
            metrics.DUPLICATES.labels(topic).inc(duplicates[topic, number])
        try:
            self._consumer.commit(
                offsets=[TopicPartition(*partition, new) for partition, (_old, new) in moves.items()], asynchronous=True
            )
        except KafkaException as error:
            logger.debug("lag not reported", extra={"error": str(error)})

    def _count_bad_run(self, batch: Batch, letters: Sequence[DeadLetter]) -> None:
        for (topic, _number), items in batch.items():
            if not self._subscriptions[topic].topic.own:
                continue
            if not letters:
                self._bad_run[topic] = 0
                continue
            for one in items:
                self._bad_run[topic] = self._bad_run.get(topic, 0) + 1 if isinstance(one, DeadLetter) else 0
                if self._bad_run[topic] >= BAD_RUN:
                    raise Halted(
                        f"{BAD_RUN} records in a row on {topic} could not be handled; they are in its dead-letter "
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
        self._assignment.seek(self._consumer)

    def _reposition(self) -> None:
        """Forget what was read of all partitions, and go on from what the database says."""
        self._read_on, self._next = [], None
        attempt = 0
        while not self._stop.is_set():
            try:
                return self._assignment.reposition(self._consumer)
            except psycopg.Error as error:
                self._back_off(error, attempt)
                attempt += 1


class _Permanent(Exception):
    """The data is to blame."""

    def __init__(self, stage: str, error: str, reason: str) -> None:
        super().__init__(reason)
        self.stage, self.error, self.reason = stage, error, reason


def _place(record: Record) -> tuple[str, int, int]:
    return record.topic, record.partition, record.offset
