"""A record as it was read, before anything was believed of it."""

from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka import Message


@dataclass(frozen=True)
class Record:
    """Where a record was read, and its raw key, value and headers."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes]


def record_of(message: Message) -> Record:
    """Take a message of the client apart; of a header that is repeated the last one counts."""
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    found = message.headers() or []
    pairs = list(found.items()) if isinstance(found, dict) else list(found)
    headers = {name: value for name, value in pairs if isinstance(value, bytes)}
    return Record(topic, partition, offset, _bytes(message.key()), _bytes(message.value()), headers)


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
