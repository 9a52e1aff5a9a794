"""Follows `model-updates` from its beginning, in no group: every replica reads all of it."""

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from driftloop.common import metrics
from driftloop.common.clock import Clock
from driftloop.common.envelope import UndecodableMessage, decode_envelope, decode_event
from driftloop.common.events import ModelUpdated
from driftloop.common.kafka.admin import TopicsError
from driftloop.common.kafka.records import Record, record_of
from driftloop.common.registry import DigestMismatch, SignatureInvalid
from driftloop.common.topics import MODEL_UPDATES
from driftloop.predictor.domain.revisions import Revisions
from driftloop.predictor.handlers import Load, apply_newest
from driftloop.predictor.serving import Replica

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
RETRY_SECONDS = 1.0
BATCH = 100
METADATA_SECONDS = 5.0
SPREAD_SECONDS = 0.25


class RefusedRecord(ValueError):
    """A record of this model that is no serving state. `reason` is a code for metrics."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


def read_state(record: Record, model: str) -> ModelUpdated | None:
    """The serving state in a record; None for a tombstone and for what is another model's.

    The key decides whose a record is: it must be `model/revision` and say the same as the event. Raises RefusedRecord.
    """
    owner, _, revision = (record.key or b"").rpartition(b"/")
    if owner != model.encode() or record.value is None:
        return None
    if record.unreadable_headers:
        raise RefusedRecord("headers", "a header's name is not UTF-8")
    try:
        envelope = decode_envelope(record.headers, MODEL_UPDATES.events)
        event = decode_event(envelope.type, record.value)
    except UndecodableMessage as error:
        raise RefusedRecord(error.stage, error.reason) from error
    assert isinstance(event, ModelUpdated)
    if event.model_name != model or revision != b"%d" % event.revision:
        raise RefusedRecord("key", "the key is not the event's model and revision")
    return event


@dataclass
class ModelFollower:
    """A worker: keeps the highest valid revision serving, and says so through `changed`.

    `prepare` checks the topics and learns their partitions; what it raises while no broker answers is waited out.
    """

    config: dict[str, Any]
    topic: str
    replica: Replica
    load: Load
    clock: Clock
    prepare: Callable[[], None]
    changed: Callable[[], None]
    name: str = "model-updates"

    def run(self, stop: threading.Event) -> None:
        """Follow the topic until told to stop. Raises KafkaException after a fatal error of the client."""
        # Those that wake somebody.
        metrics.begin(metrics.MODEL_REFUSED, [self.replica.model], [SignatureInvalid.reason, DigestMismatch.reason])
        consumer = Consumer(self.config)
        try:
            partitions = self._begin(consumer, stop)
            revisions = Revisions()
            while not stop.is_set():
                first = consumer.poll(POLL_SECONDS)
                # What else has come is taken with it; a batch that waits to be full would make each reload late.
                for message in [] if first is None else [first, *consumer.consume(BATCH, 0)]:
                    self._read(message, revisions, partitions)
                if partitions:
                    continue
                # Only now: what serves is decided by the whole topic, not by its first half.
                at_last = self.replica.unread is not None
                if first is not None and not at_last:
                    # Replicas that share a machine, or an artifact store, do not all load at the same moment.
                    stop.wait(random.uniform(0, SPREAD_SECONDS))
                if apply_newest(self.replica, revisions, self.load, self.clock) or at_last:
                    self.replica.unread = None
                    self.changed()
        finally:
            consumer.close()

    def _begin(self, consumer: Consumer, stop: threading.Event) -> set[int]:
        """Wait for the broker and begin to read. Returns the partitions whose end has not been seen yet."""
        while not stop.is_set():
            try:
                self.prepare()
                found = consumer.list_topics(self.topic, timeout=METADATA_SECONDS).topics[self.topic].partitions
            except (KafkaException, TopicsError, TimeoutError, LookupError) as error:
                self.replica.unread = f"the broker or its topics are not ready: {error}"
                logger.warning("waiting", extra={"for": "the broker", "because": str(error)})
                stop.wait(RETRY_SECONDS)
                continue
            self.replica.unread = f"topic {self.topic!r} has not been read to its end yet"
            consumer.assign([TopicPartition(self.topic, number, OFFSET_BEGINNING) for number in found])
            return set(found)
        return {0}

    def _read(self, message: Message, revisions: Revisions, partitions: set[int]) -> None:
        error = message.error()
        if error is None:
            self._offer(record_of(message), revisions)
        elif error.code() == KafkaError._PARTITION_EOF:
            partitions.discard(message.partition() or 0)
        elif error.fatal():
            raise KafkaException(error)
        else:
            logger.warning("reading from the broker", extra={"error": error.str(), "topic": self.topic})

    def _offer(self, record: Record, revisions: Revisions) -> None:
        try:
            state = read_state(record, self.replica.model)
        except RefusedRecord as refused:
            metrics.MODEL_REFUSED.labels(self.replica.model, refused.reason).inc()
            logger.warning("a record is ignored", extra={"reason": str(refused), "offset": record.offset})
            return
        if state is not None:
            revisions.offer(state, record.headers.get("traceparent", b"").decode("ascii", "replace"))
