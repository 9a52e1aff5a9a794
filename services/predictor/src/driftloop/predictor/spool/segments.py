"""One file of a spool: what lies in it, and how it is written and read."""

import os
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from errno import EIO
from pathlib import Path

from driftloop.predictor.spool.errors import SpoolFailed
from driftloop.predictor.spool.records import (
    FILE_HEADER,
    VERSION,
    Damage,
    SpooledRecord,
    record_of,
    scan,
    version_of,
)

_BLOCK = 4096


class Segment:
    """A file, and where in it the records lie that are not done: 24 bytes of memory a record.

    `end`: behind the last record that is durable. `size`: what the file takes at most, in bytes. Not thread-safe.
    """

    def __init__(self, number: int, path: Path, size: int = len(FILE_HEADER)) -> None:
        self.number = number
        self.path = path
        self.end = self.size = size
        self.damaged = False
        self._starts = array("Q")
        self._ends = array("Q")
        self._times = array("d")

    def __len__(self) -> int:
        """How many records are not done."""
        return len(self._ends)

    @property
    def oldest(self) -> float:
        """When the oldest record that is not done came."""
        return self._times[0]

    def add(self, start: int, end: int, spooled_at: float) -> None:
        """A record is durable."""
        self._starts.append(start)
        self._ends.append(end)
        self._times.append(spooled_at)
        self.end = end
        self.size = max(self.size, end)

    def places(self, behind: int, limit: int) -> list[tuple[int, int]]:
        """From where to where the first `limit` records lie that end behind this offset."""
        first = bisect_right(self._ends, behind)
        these = slice(first, first + limit)
        return list(zip(self._starts[these], self._ends[these], strict=True))

    def finish(self, until: int) -> None:
        """The records that end at or before this offset are done."""
        self._remove(slice(0, bisect_right(self._ends, until)))

    def lose(self, damage: Damage) -> None:
        """The records in this range are not there any more."""
        self.damaged = True
        self._remove(slice(bisect_right(self._ends, damage.start), bisect_right(self._ends, damage.end)))

    def _remove(self, these: slice) -> None:
        del self._starts[these], self._ends[these], self._times[these]


def recover(number: int, path: Path, done: int) -> tuple[Segment, list[Damage]]:
    """A predecessor's segment without what ends at or before `done`, and what is damaged behind that.

    What the predecessor had not finished to write is cut off. Raises OSError, SpoolFailed (another format version).
    """
    data = _contents(path)
    version = version_of(data)
    if version is not None and version != VERSION:
        raise SpoolFailed(
            f"{path} has format version {version}, this release reads {VERSION}: start the release that wrote it until "
            "its spool is empty, or move the file away to go on without its records"
        )
    segment, damages, end = Segment(number, path, 0), [], 0
    for found in scan(data):
        end = found.end
        if end <= done:
            continue
        if isinstance(found, Damage):
            damages.append(found)
        else:
            segment.add(found.start, found.end, found.record.spooled_at)
    if end < len(data):
        os.truncate(path, end)
    segment.end = segment.size = end
    segment.damaged = bool(damages)
    return segment, damages


def load(path: Path, places: Sequence[tuple[int, int]]) -> tuple[list[tuple[int, SpooledRecord]], list[Damage]]:
    """The records at these places, each with the offset behind it, and what the disk does not give back as written.

    Raises OSError.
    """
    found: list[tuple[int, SpooledRecord]] = []
    damages: list[Damage] = []
    for (start, end), data in zip(places, _pieces(path, places), strict=True):
        record = record_of(data)
        if record is not None:
            found.append((end, record))
        elif damages and damages[-1].end == start:
            damages[-1] = Damage(damages[-1].start, end)
        else:
            damages.append(Damage(start, end))
    return found, damages


def write(file: int, data: bytes, offset: int) -> None:
    """Write all of it. Raises OSError; then some of it may be there."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def _pieces(path: Path, places: Sequence[tuple[int, int]]) -> list[bytes]:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return [b""] * len(places)
    try:
        return [_read(file, start, end - start) for start, end in places]
    finally:
        os.close(file)


def _contents(path: Path) -> bytes:
    """All of a file. A block that the disk does not give back is filled, and so is damage, and costs no more."""
    data = bytearray()
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while len(data) < size:
            part = _read(file.fileno(), len(data), size - len(data)) or _read(file.fileno(), len(data), _BLOCK)
            # Not with zeros, which are what an unfinished write leaves.
            data += part or b"\xff" * min(_BLOCK - len(data) % _BLOCK, size - len(data))
    return bytes(data)


def _read(file: int, offset: int, count: int) -> bytes:
    """At most so many bytes; none where the disk cannot read its own."""
    try:
        return os.pread(file, count, offset)
    except OSError as error:
        if error.errno != EIO:
            raise
        return b""
