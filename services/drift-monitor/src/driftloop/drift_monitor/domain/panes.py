"""Panes: tumbling slices of event time that hold mergeable counts, and windows that tile them."""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from driftloop.common.statistics.cells import Counts

FORMAT = 1
_HEADER = struct.Struct("<BII")


class UnreadableCounts(ValueError):
    """Stored counts are of another format or another length than the profile's: they must not be added."""


def pane_start(time: datetime, seconds: float) -> datetime:
    """The start of the pane that `time` falls into; panes are aligned to the epoch."""
    length = timedelta(seconds=seconds)
    return time - (time - datetime.fromtimestamp(0, UTC)) % length


def encode_counts(counts: Counts) -> bytes:
    """Counts [k] as bytes: a version, the length, a checksum, and the zlib-compressed little-endian int64s."""
    raw = np.ascontiguousarray(counts, dtype="<i8").tobytes()
    return _HEADER.pack(FORMAT, len(counts), zlib.crc32(raw)) + zlib.compress(raw, 1)


def decode_counts(data: bytes, size: int) -> Counts:
    """The counts [size]. Raises UnreadableCounts where format, length or checksum differ."""
    if len(data) < _HEADER.size:
        raise UnreadableCounts(f"{len(data)} bytes are too few for counts")
    version, length, checksum = _HEADER.unpack_from(data)
    if version != FORMAT or length != size:
        raise UnreadableCounts(f"counts of format {version} and length {length}, wanted {FORMAT} and {size}")
    try:
        raw = zlib.decompress(data[_HEADER.size :])
    except zlib.error as error:
        raise UnreadableCounts("counts cannot be decompressed") from error
    if zlib.crc32(raw) != checksum or len(raw) != 8 * size:
        raise UnreadableCounts("counts do not fit their checksum")
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
    boundary where it has `min_samples` rows, or `max_age` seconds after its start; the next starts with the next pane
    that has rows.
    """
    length, oldest = timedelta(seconds=seconds), timedelta(seconds=max_age)
    windows: list[Window] = []
    pending: list[Pane] = []
    for pane in panes:
        if pane.starts + length > watermark:
            break
        if pending and pane.starts >= pending[0].starts + oldest:
            windows.append(_close(pending, pending[0].starts + oldest))
            pending = []
        pending.append(pane)
        if sum(one.n for one in pending) >= min_samples:
            windows.append(_close(pending, pane.starts + length))
            pending = []
    if pending and pending[0].starts + oldest <= watermark:
        windows.append(_close(pending, pending[0].starts + oldest))
    return windows


def _close(panes: Sequence[Pane], ends: datetime) -> Window:
    counts = np.stack([pane.counts for pane in panes]).sum(axis=0)
    return Window(panes[0].starts, ends, sum(pane.n for pane in panes), counts)
