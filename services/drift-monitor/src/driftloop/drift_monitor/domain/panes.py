"""Panes: tumbling slices of event time that hold mergeable counts, and windows that tile them."""

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import numpy as np

from driftloop.common.statistics.cells import Counts, Layout, NumericCells

FORMAT = 2
# Version, length, digest of the layout, checksum.
_HEADER = struct.Struct("<BIQI")


class UnreadableCounts(ValueError):
    """Stored counts are of another format, length or layout than what reads them: they must not be added."""


def pane_start(time: datetime, seconds: float) -> datetime:
    """The start of the pane that `time` falls into; panes are aligned to the epoch."""
    length = timedelta(seconds=seconds)
    return time - (time - datetime.fromtimestamp(0, UTC)) % length


@lru_cache(maxsize=256)
def layout_digest(layout: Layout) -> int:
    """What tells two layouts apart whose count vectors are equally long: 64 bits of each cell's meaning."""
    digest = hashlib.blake2b(digest_size=8)
    for cells in layout.cells:
        if isinstance(cells, NumericCells):
            meaning = np.ascontiguousarray(cells.cuts, dtype="<f8").tobytes()
        else:
            meaning = b"".join(_framed(category.encode()) for category in cells.categories)
        digest.update(_framed(type(cells).__name__.encode()) + _framed(cells.name.encode()) + _framed(meaning))
    return int.from_bytes(digest.digest(), "little")


def encode_counts(counts: Counts, digest: int = 0) -> bytes:
    """Counts [k] as bytes: a header, and the zlib-compressed little-endian int64s.

    `digest` is `layout_digest` of the layout that the counts belong to; 0 where the length alone says it.
    """
    raw = np.ascontiguousarray(counts, dtype="<i8").tobytes()
    return _HEADER.pack(FORMAT, len(counts), digest, zlib.crc32(raw)) + zlib.compress(raw, 1)


def decode_counts(data: bytes, size: int, digest: int = 0) -> Counts:
    """The counts [size]. Raises UnreadableCounts where format, length, layout or checksum differ."""
    if len(data) < _HEADER.size:
        raise UnreadableCounts(f"{len(data)} bytes are too few for counts: the header alone has {_HEADER.size}")
    version, length, of, checksum = _HEADER.unpack_from(data)
    if version != FORMAT:
        raise UnreadableCounts(f"counts of format {version}, wanted {FORMAT}: count these panes again from the topic")
    if (length, of) != (size, digest):
        raise UnreadableCounts(
            f"counts of length {length} and layout {of:016x}, wanted {size} and {digest:016x}: "
            "the profile or `max_distinct` has changed; count these panes again from the topic"
        )
    try:
        raw = zlib.decompress(data[_HEADER.size :])
    except zlib.error as error:
        raise UnreadableCounts("counts cannot be decompressed: count this pane again from the topic") from error
    if zlib.crc32(raw) != checksum or len(raw) != 8 * size:
        raise UnreadableCounts("counts do not fit their checksum: count this pane again from the topic")
    return np.frombuffer(raw, dtype="<i8").astype(np.int64)


@dataclass(frozen=True)
class Pane:
    """One pane of a version, all partitions merged: its start, rows and counts."""

    starts: datetime
    n: int
    counts: Counts


@dataclass(frozen=True)
class Window:
    """Consecutive panes together: [starts, ends) in event time."""

    starts: datetime
    ends: datetime
    n: int
    counts: Counts


def tile(panes: Sequence[Pane], watermark: datetime, seconds: float, min_samples: int, max_age: float) -> list[Window]:
    """Close every window that can be closed.

    `panes` ascend in time and begin where the last closed window ended. Only panes wholly behind the `watermark` take
    part, so that the same panes give the same windows in whatever order they filled. A window closes at the first pane
    boundary where it has `min_samples` rows, or at the first that is `max_age` seconds or more after its start; the
    next starts with the next pane that has rows.
    """
    length = timedelta(seconds=seconds)
    # In whole panes: a window that ended inside one would leave the pane's rows to no window at all.
    oldest = -(-timedelta(seconds=max_age) // length) * length
    windows: list[Window] = []
    pending: list[Pane] = []
    rows = 0
    for pane in panes:
        if pane.starts + length > watermark:
            break
        if pending and pane.starts >= pending[0].starts + oldest:
            windows.append(_close(pending, pending[0].starts + oldest))
            pending, rows = [], 0
        pending.append(pane)
        rows += pane.n
        if rows >= min_samples:
            windows.append(_close(pending, pane.starts + length))
            pending, rows = [], 0
    if pending and pending[0].starts + oldest <= watermark:
        windows.append(_close(pending, pending[0].starts + oldest))
    return windows


def _close(panes: Sequence[Pane], ends: datetime) -> Window:
    # One running sum: a day of minute panes at once would be tens of megabytes.
    counts = panes[0].counts.astype(np.int64)
    for pane in panes[1:]:
        counts += pane.counts
    return Window(panes[0].starts, ends, sum(pane.n for pane in panes), counts)


def _framed(data: bytes) -> bytes:
    """Bytes with their length before them, so that what follows one another cannot be read as another split."""
    return struct.pack("<I", len(data)) + data
