"""A record as it was read, before anything was believed of it."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka import Message

# Where a header's name is not UTF-8, and anyone who may produce can send one, the client answers with a broken list and
# an exception at once. A call through `operator` always sees the exception; a plain call, once the interpreter has
# specialised it, goes on with the broken list and crashes the process.
_ask_for_headers = operator.methodcaller("headers")


@dataclass(frozen=True)
class Record:
    """Where a record was read, and its raw key, value and headers.

    `unreadable_headers`: a header's name is not UTF-8, so that the client cannot tell any of them.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes]
    unreadable_headers: bool = False


def record_of(message: Message) -> Record:
    """Take a message of the client apart; of a header that is repeated the last one counts."""
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    headers = _headers(message)
    key, value = _bytes(message.key()), _bytes(message.value())
    return Record(topic, partition, offset, key, value, headers or {}, unreadable_headers=headers is None)


def _headers(message: Message) -> dict[str, bytes] | None:
    try:
        found = _ask_for_headers(message) or []
    except (SystemError, UnicodeDecodeError):
        return None
    pairs = found.items() if isinstance(found, dict) else found
    return {name: value for name, value in pairs if isinstance(value, bytes)}


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
