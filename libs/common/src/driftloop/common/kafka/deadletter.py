"""What can never be handled: the raw key and bytes, with headers that say why. Values of patients stay out of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException

from driftloop.common import metrics
from driftloop.common.kafka.producer import DeliveryProducer, Fates
from driftloop.common.kafka.records import Record
from driftloop.common.topics import DLQ_SUFFIX

# Kafka Connect's names, so that the tools that know them read ours.
HEADER_PREFIX = "__connect.errors."
ACK_SECONDS = 15.0
# What can fail: reading headers, value or schema, and the handler or the database that takes it.
STAGES = ("headers", "value", "schema", "handler", "database")


@dataclass(frozen=True)
class DeadLetter:
    """A record and why it can never be handled: the stage that failed, the kind of error, and its text."""

    record: Record
    stage: str
    error: str
    reason: str

    def headers(self) -> list[tuple[str, bytes | None]]:
        """The record's own headers, then where it was read and why it is here."""
        why = {
            "topic": self.record.topic,
            "partition": str(self.record.partition),
            "offset": str(self.record.offset),
            "stage": self.stage,
            "exception.class.name": self.error,
            "exception.message": self.reason[:500],
        }
        own: list[tuple[str, bytes | None]] = [
            (name, value) for name, value in self.record.headers.items() if not name.startswith(HEADER_PREFIX)
        ]
        return own + [(HEADER_PREFIX + name, text.encode()) for name, text in why.items()]


def send_dead_letters(producer: DeliveryProducer, letters: Sequence[DeadLetter]) -> None:
    """Make dead letters durable. Raises KafkaException, ProducerFull; then some of them may be durable all the same."""
    fates = Fates()
    for number, letter in enumerate(letters):
        record = letter.record
        producer.produce(record.topic + DLQ_SUFFIX, 0, record.key, record.value, letter.headers(), fates.expect(number))
    if not fates.wait(ACK_SECONDS):
        raise KafkaException(KafkaError(KafkaError._MSG_TIMED_OUT))
    for error in fates.failed.values():
        raise KafkaException(error)
    for letter in letters:
        metrics.DEAD_LETTERS.labels(letter.record.topic, letter.stage).inc()
