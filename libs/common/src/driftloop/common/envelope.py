"""CloudEvents 1.0 in the Kafka binary binding: the value is the event's JSON, everything else is a header."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from driftloop.common.events import EVENT_TYPES, Event, type_name

CONTENT_TYPE = "application/json"

_encoder = msgspec.json.Encoder()
_decoders = {name: msgspec.json.Decoder(event) for name, event in EVENT_TYPES.items()}


class UndecodableMessage(ValueError):
    """A record that can never be understood. `stage` says which step failed; the text holds no value of the record."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = reason


@dataclass(frozen=True)
class Envelope:
    """What CloudEvents says about an event.

    `sequence` is dense for each (source, partition): consumers recognise by it what was produced twice. A producer that
    is not ours may leave it out.
    """

    id: str
    source: str
    type: str
    time: datetime
    sequence: int | None = None
    traceparent: str | None = None

    def headers(self) -> list[tuple[str, bytes]]:
        """The record headers of the binary binding."""
        pairs = [
            ("ce_specversion", "1.0"),
            ("ce_id", self.id),
            ("ce_source", self.source),
            ("ce_type", self.type),
            ("ce_time", self.time.astimezone(UTC).isoformat().replace("+00:00", "Z")),
            ("content-type", CONTENT_TYPE),
        ]
        if self.sequence is not None:
            pairs.append(("ce_sequence", str(self.sequence)))
        if self.traceparent is not None:
            pairs.append(("traceparent", self.traceparent))
        return [(name, value.encode()) for name, value in pairs]


@dataclass(frozen=True)
class Outgoing:
    """An event on its way out: which topic (by logical name), key, event, deterministic id, and whose trace it is in.

    `event` is None for a tombstone.
    """

    topic: str
    key: str
    event: Event | None
    id: str
    time: datetime
    traceparent: str | None = None

    def envelope(self, source: str, sequence: int) -> Envelope:
        """The envelope for a producer that calls itself `source`."""
        kind = "driftloop.Tombstone" if self.event is None else type_name(type(self.event))
        return Envelope(self.id, source, kind, self.time, sequence, self.traceparent)


def encode_event(event: Event | None) -> bytes | None:
    """The value of a record: UTF-8 JSON, or None for a tombstone."""
    return None if event is None else _encoder.encode(event)


def decode_envelope(headers: Mapping[str, bytes], accepted: Sequence[type[Event]]) -> Envelope:
    """Read the headers of a record on a topic that carries `accepted` events.

    A bare record without a type is taken as the topic's first event, so that a laboratory can produce plain JSON; what
    it lacks is empty. Raises UndecodableMessage.
    """
    try:
        text = {
            name: value.decode() for name, value in headers.items() if name.startswith("ce_") or name == "traceparent"
        }
    except (UnicodeDecodeError, AttributeError) as error:
        raise UndecodableMessage("headers", "a header is not UTF-8 text") from error
    kind = text.get("ce_type", type_name(accepted[0]))
    if kind not in {type_name(event) for event in accepted}:
        raise UndecodableMessage("headers", f"ce_type is not one of {[type_name(event) for event in accepted]}")
    if text.get("ce_specversion", "1.0") != "1.0":
        raise UndecodableMessage("headers", "ce_specversion is not 1.0")
    try:
        time = datetime.fromisoformat(text["ce_time"]) if "ce_time" in text else datetime.fromtimestamp(0, UTC)
        sequence = int(text["ce_sequence"]) if "ce_sequence" in text else None
    except ValueError as error:
        raise UndecodableMessage("headers", "ce_time or ce_sequence is malformed") from error
    if sequence is not None and not 0 <= sequence < 2**62:
        raise UndecodableMessage("headers", "ce_sequence is out of range")
    return Envelope(text.get("ce_id", ""), text.get("ce_source", ""), kind, time, sequence, text.get("traceparent"))


def decode_event(kind: str, value: bytes | None) -> Event:
    """Read a record's value as the event type `kind`. Raises UndecodableMessage; its text names fields, not values."""
    if value is None:
        raise UndecodableMessage("value", "the value is empty")
    try:
        return _decoders[kind].decode(value)
    except msgspec.ValidationError as error:
        raise UndecodableMessage("schema", str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UndecodableMessage("value", "the value is not JSON") from error
