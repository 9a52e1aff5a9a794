"""CloudEvents 1.0 in the Kafka binary binding: the value is the event's JSON, everything else is a header."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from functools import lru_cache
from itertools import repeat
from typing import Any, NamedTuple

import msgspec

from driftloop.common.events import EVENT_TYPES, Event, type_name
from driftloop.common.tracing import is_traceparent

CONTENT_TYPE = "application/json"
# What an id or a source may hold: both become keys in databases.
MAX_TEXT = 500
MAX_DIGITS = 18
_SPECVERSION = ("ce_specversion", b"1.0")
_JSON = ("content-type", CONTENT_TYPE.encode())
# What our own producers write, in this order; the last one only where there is a trace.
OUR_HEADERS = (
    "ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "content-type", "ce_sequence", "traceparent"
)  # fmt: skip

_SEQUENCE = re.compile(rf"[0-9]{{1,{MAX_DIGITS}}}")
_QUOTES_VALUE = "Invalid enum value"
_encoder = msgspec.json.Encoder()
_decoders = {name: msgspec.json.Decoder(event) for name, event in EVENT_TYPES.items()}
_instants = {
    name: [field.name for field in msgspec.structs.fields(event) if "datetime" in str(field.type)]
    for name, event in EVENT_TYPES.items()
}


class UndecodableMessage(ValueError):
    """A record that can never be understood. `stage` says which step failed; the text holds no value of the record."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = reason


# No cycle can lead through it, so that the collector need not look.
class Envelope(msgspec.Struct, frozen=True, gc=False):
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
        return _headers(self.id, self.source, self.type, self.time, self.sequence, self.traceparent)


def _headers(
    id_: str, source: str, kind: str, time: datetime, sequence: int | None, traceparent: str | None
) -> list[tuple[str, bytes]]:
    source_header, type_header = _origin(source, kind)
    pairs = [_SPECVERSION, ("ce_id", id_.encode()), source_header, type_header, _timed(time), _JSON]
    if sequence is not None:
        pairs.append(("ce_sequence", b"%d" % sequence))
    if traceparent is not None:
        pairs.append(("traceparent", traceparent.encode()))
    return pairs


@lru_cache(maxsize=64)
def _origin(source: str, kind: str) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    return ("ce_source", source.encode()), ("ce_type", kind.encode())


@lru_cache(maxsize=64)
def _timed(time: datetime) -> tuple[str, bytes]:
    """A time as RFC 3339 writes it. The events of one batch have one."""
    return "ce_time", time.astimezone(UTC).isoformat().replace("+00:00", "Z").encode()


class Outgoing(NamedTuple):
    """An event on its way out: which topic (by logical name), key, event, deterministic id, and whose trace it is in.

    `event` is None for a tombstone. `alone` says that no other record ever has this key: any partition will do.
    """

    topic: str
    key: str
    event: Event | None
    id: str
    time: datetime
    traceparent: str | None = None
    alone: bool = False

    @property
    def kind(self) -> str:
        """The type of the event, as its envelope says it."""
        return "driftloop.Tombstone" if self.event is None else type_name(type(self.event))

    def headers(self, source: str, sequence: int) -> list[tuple[str, bytes]]:
        """The record headers from a producer that calls itself `source`: those of the envelope, without making it."""
        return _headers(self.id, source, self.kind, self.time, sequence, self.traceparent)


def encode_event(event: Event | None) -> bytes | None:
    """The value of a record: UTF-8 JSON, or None for a tombstone."""
    return None if event is None else _encoder.encode(event)


def decode_envelope(headers: Mapping[str, bytes], accepted: Sequence[type[Event]]) -> Envelope:
    """Read the headers of a record on a topic that carries `accepted` events.

    A bare record without a type is taken as the topic's first event, so that a laboratory can produce plain JSON; what
    it lacks is empty. A sequence number counts only beside a source. Raises UndecodableMessage.
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
    id_, source = (_plain(name, text.get(name, "")) for name in ("ce_id", "ce_source"))
    time = _time(text["ce_time"]) if "ce_time" in text else datetime.fromtimestamp(0, UTC)
    sequence = _sequence(text["ce_sequence"]) if "ce_sequence" in text and source else None
    traceparent = text.get("traceparent")
    return Envelope(id_, source, kind, time, sequence, traceparent if is_traceparent(traceparent) else None)


def numbered(headers: Mapping[str, bytes]) -> tuple[str, int]:
    """By whom a record was numbered, and how; of one that says neither, also a tombstone, "" and 0. See Envelope."""
    try:
        return headers["ce_source"].decode(), _sequence(headers["ce_sequence"].decode())
    except (KeyError, AttributeError, UnicodeDecodeError, UndecodableMessage):
        return "", 0


def _plain(name: str, text: str) -> str:
    """Text that a database can keep and index."""
    if len(text) > MAX_TEXT or "\0" in text:
        raise UndecodableMessage("headers", f"{name} is longer than {MAX_TEXT} characters or holds a NUL")
    return text


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise UndecodableMessage("headers", "ce_time is not an RFC 3339 time") from error
    if time.tzinfo is None or not _speakable(time):
        raise UndecodableMessage("headers", "ce_time has no offset from UTC, or a year that has no neighbours")
    return time.astimezone(UTC)


def _sequence(text: str) -> int:
    if not _SEQUENCE.fullmatch(text):
        raise UndecodableMessage("headers", "ce_sequence is not a whole number from 0 to 999999999999999999")
    return int(text)


def _speakable(time: datetime) -> bool:
    """Whether every time zone can say it: the first and the last year cannot be shifted."""
    return MINYEAR < time.year < MAXYEAR


def decode_event(kind: str, value: bytes | None) -> Event:
    """Read a record's value as the event type `kind`. Raises UndecodableMessage; its text names fields, not values."""
    if value is None:
        raise UndecodableMessage("value", "the value is empty")
    try:
        event = _decoders[kind].decode(value)
    except msgspec.ValidationError as error:
        raise UndecodableMessage("schema", without_value(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UndecodableMessage("value", "the value is not JSON") from error
    for name in _instants[kind]:
        time = getattr(event, name)
        if time is not None and not _speakable(time):
            raise UndecodableMessage("schema", f"a year that no time zone can shift - at `$.{name}`")
    return event


def decode_all(
    headers: Sequence[tuple[bytes | None, ...]], values: Sequence[bytes | None], accepted: Sequence[type[Event]]
) -> tuple[list[Envelope], list[Event]] | None:
    """What `decode_envelope` and `decode_event` make of many records; `headers` are the values of `OUR_HEADERS`.

    It reads them column by column, which is twice as fast. None where it is in doubt about any of them, which says
    nothing against that one: then each is to be read by itself.
    """
    try:
        envelopes = _envelopes(headers, accepted)
        kinds = [one.type for one in envelopes]
        events: list[Event] = [
            _decoders[kind].decode(value) for kind, value in zip(kinds, values, strict=True) if value is not None
        ]
        times = [getattr(event, name) for kind, event in zip(kinds, events, strict=True) for name in _instants[kind]]
        _unless(_all_speakable(time for time in times if time is not None))
    except (_Unusual, msgspec.DecodeError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return envelopes, events


class _Unusual(Exception):
    """Something of a record is not as our own producers write it."""


def _unless(usual: bool) -> None:
    if not usual:
        raise _Unusual


def _envelopes(rows: Sequence[tuple[Any, ...]], accepted: Sequence[type[Event]]) -> list[Envelope]:
    """Raises _Unusual, or what is raised where something is of another kind, unless all are as we write them."""
    versions, ids, sources, kinds, times, _, numbers, *traces = zip(*rows, strict=True)
    _unless(set(versions) == {b"1.0"} and all(map(bytes.isdigit, numbers)) and max(map(len, numbers)) <= MAX_DIGITS)
    texts = list(map(bytes.decode, ids))
    _unless(max(map(len, texts)) <= MAX_TEXT and "\0" not in "".join(texts))
    instants = list(map(datetime.fromisoformat, map(bytes.decode, times)))
    _unless(all(time.tzinfo is UTC for time in instants) and _all_speakable(instants))
    named = {source: _plain("ce_source", source.decode()) for source in set(sources)}
    types = {type_name(event).encode(): type_name(event) for event in accepted}
    contexts: Iterable[str | None] = repeat(None)
    if traces:
        contexts = [text if is_traceparent(text) else None for text in map(bytes.decode, traces[0])]
    _unless(b"" not in named)
    who, what, nth = map(named.__getitem__, sources), map(types.__getitem__, kinds), map(int, numbers)
    return list(map(Envelope, texts, who, what, instants, nth, contexts))


def _all_speakable(times: Iterable[datetime]) -> bool:
    years = {time.year for time in times}
    return MINYEAR not in years and MAXYEAR not in years


def without_value(text: str) -> str:
    """msgspec's sentence without what was read: it quotes the value where that had to be one of a few."""
    if not text.startswith(_QUOTES_VALUE):
        return text
    # The place comes last, where there is one: the value may hold anything.
    _, at, place = text.rpartition(" - at `$")
    return f"{_QUOTES_VALUE}{at}{place}"
