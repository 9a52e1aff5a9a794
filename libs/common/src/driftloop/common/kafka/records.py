"""A record as it was read, before anything was believed of it."""

import operator
from collections.abc import Mapping
from typing import Any

import msgspec
from confluent_kafka import Message

from driftloop.common.envelope import OUR_HEADERS

# With a trace, and without one.
_OURS = (OUR_HEADERS, OUR_HEADERS[:-1])
# Where a header's name is not UTF-8, and anyone who may produce can send one, the client answers with a broken list and
# an exception at once. A call through `operator` always sees the exception; a plain call, once the interpreter has
# specialised it, goes on with the broken list and crashes the process.
_ask_for_headers = operator.methodcaller("headers")


# No cycle can lead through it, so that the collector need not look.
class Record(msgspec.Struct, frozen=True, gc=False):
    """Where a record was read, and its raw key, value and headers.

    `raw_headers`: by name; or, where they are those of `OUR_HEADERS` in that order, only their values.
    `unreadable_headers`: a header's name is not UTF-8, so that the client cannot tell any of them.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    raw_headers: Mapping[str, bytes] | tuple[bytes | None, ...]
    unreadable_headers: bool = False

    @property
    def headers(self) -> Mapping[str, bytes]:
        """By name; of a header that is repeated the last one counts, one without a value does not."""
        if not isinstance(self.raw_headers, tuple):
            return self.raw_headers
        named = zip(OUR_HEADERS, self.raw_headers, strict=False)
        return {name: value for name, value in named if value is not None}


def record_of(message: Message) -> Record:
    """Take a message of the client apart."""
    # The client's types allow for more than a plain consumer gives: a topic, numbers and bytes are always there.
    of: Any = message
    try:
        found = _ask_for_headers(message)
    except (SystemError, UnicodeDecodeError):
        return Record(of.topic(), of.partition(), of.offset(), of.key(), of.value(), {}, unreadable_headers=True)
    names, values = zip(*found, strict=True) if found else ((), ())
    # Names by the thousand would take more memory than what they name.
    headers = values if names in _OURS else {name: value for name, value in found or () if value is not None}
    return Record(of.topic(), of.partition(), of.offset(), of.key(), of.value(), headers)
