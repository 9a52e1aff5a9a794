"""Topic ↔ key ↔ event: which topics there are, what they carry and how they are configured."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from driftloop.common.events import (
    DriftDetected,
    Event,
    LabelRetracted,
    ModelStatus,
    ModelUpdated,
    OutcomeReported,
    PredictionLabeled,
    PredictionMade,
    SubjectErased,
)
from driftloop.common.settings import SettingsError

DAY_MS = 24 * 60 * 60 * 1000
DLQ_SUFFIX = ".dlq"


@dataclass(frozen=True)
class Topic:
    """A topic by its logical name; `own` is False where others than Driftloop's services may produce."""

    name: str
    events: tuple[type[Event], ...]
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)
    own: bool = True
    dead_letters: bool = True


def _deleted(days: int, max_bytes: int = 1_048_588) -> dict[str, str]:
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(days * DAY_MS),
        "max.message.bytes": str(max_bytes),
    }


COMPACTED = {"cleanup.policy": "compact", "max.message.bytes": "1048588"}

PREDICTIONS = Topic("predictions", (PredictionMade,), 6, _deleted(30))
# The only topic that may hold identifiers: kept no longer than it takes to join.
OUTCOMES = Topic("outcomes", (OutcomeReported,), 3, _deleted(3), own=False)
LABELED_PREDICTIONS = Topic("labeled-predictions", (PredictionLabeled, LabelRetracted, SubjectErased), 6, _deleted(30))
DRIFT_EVENTS = Topic("drift-events", (DriftDetected,), 1, _deleted(30))
# Serving state is one ordered story a model; every replica reads it whole.
MODEL_UPDATES = Topic("model-updates", (ModelUpdated,), 1, COMPACTED)
MODEL_STATUS = Topic("model-status", (ModelStatus,), 1, COMPACTED)

TOPICS: tuple[Topic, ...] = (
    PREDICTIONS,
    OUTCOMES,
    LABELED_PREDICTIONS,
    DRIFT_EVENTS,
    MODEL_UPDATES,
    MODEL_STATUS,
)


def dead_letter_topic(topic: Topic) -> Topic:
    """The topic that keeps what could not be read from `topic`; its limit leaves room for the headers that say why."""
    days = 3 if topic is OUTCOMES else 30
    return Topic(
        topic.name + DLQ_SUFFIX, (), 1, _deleted(days, max_bytes=2 * 1_048_588), own=topic.own, dead_letters=False
    )


def all_topics() -> tuple[Topic, ...]:
    """Every topic of an installation, dead-letter topics included."""
    return TOPICS + tuple(dead_letter_topic(topic) for topic in TOPICS if topic.dead_letters)


def partition_for(key: str, partitions: int) -> int:
    """The partition of a key: chosen here, not by the client library, because sequence numbers count per partition."""
    return zlib.crc32(key.encode()) % partitions


@dataclass(frozen=True)
class Namespace:
    """Prefixes everything that several installations on one broker and one database must not share.

    >>> Namespace("blue").topic(PREDICTIONS), Namespace("blue").schema("label_ingest"), Namespace("").group("trainer")
    ('blue.predictions', 'blue_label_ingest', 'driftloop.trainer')
    """

    prefix: str = ""

    def __post_init__(self) -> None:
        """Refuse, by SettingsError, a prefix that could not be part of a topic's and a schema's name."""
        allowed = all(char.isascii() and (char.islower() or char.isdigit() or char == "_") for char in self.prefix)
        if not allowed or len(self.prefix) > 30 or self.prefix[:1].isdigit():
            raise SettingsError(
                f"namespace {self.prefix!r}: use at most 30 lower-case letters, digits and _, not starting with a digit"
            )

    def topic(self, topic: Topic) -> str:
        """The name of a topic on the broker."""
        return f"{self.prefix}.{topic.name}" if self.prefix else topic.name

    def group(self, service: str) -> str:
        """The consumer group of a service."""
        return f"{self.prefix or 'driftloop'}.{service}"

    def schema(self, service: str) -> str:
        """The Postgres schema of a service (its import name)."""
        return f"{self.prefix}_{service}" if self.prefix else service

    def role(self, service: str) -> str:
        """The Postgres role of a service."""
        return f"{self.prefix or 'driftloop'}_{service}"
