"""How records lie in a segment, and how they are found again in one that a crash or a bad disk has left.

A segment is a header (magic, format version, CRC-32 of these) and then records: magic, length of the payload, CRC-32 of
the payload, CRC-32 of these three, and the payload. The last sum says whether the length can be believed: with it,
reading goes on behind a damaged payload.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

VERSION = 1
_NAME = b"DLSPOOL"
_TITLE = struct.Struct("<7sB")
_MAGIC = b"\xd1\xf7RC"
_HEAD = struct.Struct("<4sII")
_SUM = struct.Struct("<I")
OVERHEAD = _HEAD.size + _SUM.size
# A record may end with eight: more were never written, a file system has put them there.
_ZEROS = 9


class SpooledRecord(msgspec.Struct, frozen=True):
    """A record as it goes into the log, and when it came here, in seconds of the Unix clock."""

    topic: str
    partition: int
    key: bytes
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    spooled_at: float


class Found(NamedTuple):
    """A readable record, from its offset up to that behind it."""

    start: int
    end: int
    record: SpooledRecord


class Damage(NamedTuple):
    """Bytes from `start` up to `end` that hold nothing readable."""

    start: int
    end: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(SpooledRecord)


def file_header(version: int = VERSION) -> bytes:
    """What a segment of this format version begins with."""
    title = _TITLE.pack(_NAME, version)
    return title + _SUM.pack(zlib.crc32(title))


FILE_HEADER = file_header()


def version_of(data: bytes) -> int | None:
    """The format version that a segment's header tells; None if there is no header, or a damaged one."""
    version = data[len(_NAME)] if len(data) >= len(FILE_HEADER) else 0
    return version if data.startswith(file_header(version)) else None


def frame(record: SpooledRecord) -> bytes:
    """A record's bytes in a segment."""
    payload = _encoder.encode(record)
    head = _HEAD.pack(_MAGIC, len(payload), zlib.crc32(payload))
    return head + _SUM.pack(zlib.crc32(head)) + payload


def scan(data: bytes) -> Iterator[Found | Damage]:
    """What a segment's bytes hold, in order. An unfinished write at the end is no damage, and left out."""
    start = len(FILE_HEADER)
    if version_of(data) is None and not _unfinished(data, 0):
        yield Damage(0, min(start, len(data)))
    while start < len(data):
        found = _record_at(data, start)
        if isinstance(found, Found):
            yield found
            start = found.end
            continue
        behind = _next_record(data, found if found is not None else start + 1)
        if behind < len(data) or not _unfinished(data, start):
            yield Damage(start, behind)
        start = behind


def record_of(data: bytes) -> SpooledRecord | None:
    """The record of these bytes, which `frame` made; None if they are damaged."""
    found = _record_at(data, 0)
    return found.record if isinstance(found, Found) else None


def _unfinished(data: bytes, start: int) -> bool:
    """Whether from here on there is but the beginning of a record, or of a header, and perhaps zeros behind it.

    That is what a crash in the middle of a write leaves. A whole record that is not readable was damaged later.
    """
    rest = data[start:]
    written = rest.rstrip(b"\0")
    if len(rest) - len(written) < _ZEROS:
        written = rest
    if len(written) < (OVERHEAD if start else len(FILE_HEADER)):
        return True
    head = _head_at(data, start)
    return head is not None and OVERHEAD + head[0] > len(written)


def _head_at(data: bytes, start: int) -> tuple[int, int] | None:
    """The length and the sum of the payload of the record that begins here, if they can be believed."""
    head, behind = data[start : start + _HEAD.size], data[start + _HEAD.size : start + OVERHEAD]
    if len(behind) < _SUM.size or not head.startswith(_MAGIC) or _SUM.pack(zlib.crc32(head)) != behind:
        return None
    _, length, payload_sum = _HEAD.unpack(head)
    return length, payload_sum


def _record_at(data: bytes, start: int) -> Found | int | None:
    """The record that begins here; where its length can be believed but not its payload, the offset behind it."""
    head = _head_at(data, start)
    if head is None or start + OVERHEAD + head[0] > len(data):
        return None
    end = start + OVERHEAD + head[0]
    payload = data[start + OVERHEAD : end]
    if zlib.crc32(payload) != head[1]:
        return end
    try:
        return Found(start, end, _decoder.decode(payload))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return end


def _next_record(data: bytes, start: int) -> int:
    """The offset of the first readable record from `start` on, the end of the data if there is none."""
    while (at := data.find(_MAGIC, start)) >= 0:
        if isinstance(_record_at(data, at), Found):
            return at
        start = at + 1
    return len(data)
