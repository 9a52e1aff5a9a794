"""What an accumulator is, and the state of many of them: counted in one vector, merged by adding, kept as bytes.

Every count in a state stands in a frame that names its accumulator and the digest of all that gives it a meaning (cuts,
categories, a calibrator, a range). Where a reference or a parameter changes, the digest does: counts of the one are
never added to, nor read as, counts of the other. Both live side by side until the older are forgotten.
"""

import hashlib
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import msgspec
import numpy as np

from driftloop.common.statistics.cells import Counts

FORMAT = 3
# Format, checksum of all that follows; length of the directory, and of the counts as they are before compression.
_HEADER, _LENGTHS = struct.Struct("<BI"), struct.Struct("<II")
RowsT = TypeVar("RowsT", contravariant=True)


class UnreadableState(ValueError):
    """Stored counts are damaged, or of another format than what reads them: they must not be added."""


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """The place of one accumulator in a state: its name, the digest of its meaning, and how many counts it has."""

    name: str
    digest: int
    size: int


class Accumulator(ABC, Generic[RowsT]):
    """Counts one aspect of rows into `size` int64 numbers that add up.

    `meaning` is everything that the numbers depend on: two accumulators with one name and one meaning count the same.
    Whoever changes how `add` counts changes `revision`.
    """

    name: str
    size: int
    revision: int = 1

    @property
    @abstractmethod
    def meaning(self) -> bytes:
        """The parameters, as bytes."""

    @abstractmethod
    def add(self, counts: Counts, rows: RowsT) -> None:
        """Add a batch of rows to `counts` [size], in place."""

    @cached_property
    def frame(self) -> Frame:
        """Its frame in a state; the digest has 63 bits."""
        parts = (type(self).__name__.encode(), str(self.revision).encode(), self.meaning)
        digest = hashlib.blake2b(b"".join(framed(part) for part in parts), digest_size=8).digest()
        return Frame(self.name, int.from_bytes(digest, "little") >> 1, self.size)


@dataclass(frozen=True, eq=False)
class State:
    """The counts of several accumulators, side by side in one vector [k] in the order of their frames."""

    frames: tuple[Frame, ...]
    counts: Counts

    def merge(self, other: "State") -> "State":
        """The sum. Frames that only one side has are kept as they are."""
        if self.frames == other.frames:
            return State(self.frames, self.counts + other.counts)
        frames = self.frames + tuple(frame for frame in other.frames if frame not in self.frames)
        parts = []
        for frame in frames:
            found = [part for part in (self.part(frame), other.part(frame)) if part is not None]
            parts.append(np.sum(found, axis=0, dtype=np.int64))
        return State(frames, np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64))

    def part(self, frame: Frame) -> Counts | None:
        """One accumulator's counts, None where these rows were not counted by it with this meaning."""
        start = self._places.get(frame)
        return None if start is None else self.counts[start : start + frame.size]

    @cached_property
    def _places(self) -> dict[Frame, int]:
        places, start = {}, 0
        for frame in self.frames:
            places[frame] = start
            start += frame.size
        return places

    def to_bytes(self) -> bytes:
        """Header, directory of frames, and the counts, little-endian and compressed."""
        directory = msgspec.msgpack.encode(self.frames)
        raw = np.ascontiguousarray(self.counts, dtype="<i8").tobytes()
        body = _LENGTHS.pack(len(directory), len(raw)) + directory + zlib.compress(raw, 1)
        return _HEADER.pack(FORMAT, zlib.crc32(body)) + body

    @classmethod
    def from_bytes(cls, data: bytes) -> "State":
        """Raises UnreadableState where format, checksum or lengths do not fit."""
        least = _HEADER.size + _LENGTHS.size
        if len(data) < least:
            raise UnreadableState(f"{len(data)} bytes are too few for counts: the header alone has {least}")
        version, checksum = _HEADER.unpack_from(data)
        if version != FORMAT:
            raise UnreadableState(f"counts of format {version}, wanted {FORMAT}: count these panes anew from the topic")
        body = data[_HEADER.size :]
        if zlib.crc32(body) != checksum:
            raise UnreadableState("counts do not fit their checksum: count this pane anew from the topic")
        directory_size, size = _LENGTHS.unpack_from(body)
        start = _LENGTHS.size + directory_size
        frames = _directory(bytes(body[_LENGTHS.size : start]))
        counts = np.frombuffer(zlib.decompress(body[start:], bufsize=size), dtype="<i8").astype(np.int64)
        if len(counts) != sum(frame.size for frame in frames):
            raise UnreadableState("counts do not fill their frames: count this pane anew from the topic")
        return cls(frames, counts)


EMPTY = State((), np.zeros(0, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class Fold(Generic[RowsT]):
    """Several accumulators that are given the same rows."""

    accumulators: tuple[Accumulator[RowsT], ...]

    @cached_property
    def frames(self) -> tuple[Frame, ...]:
        """The frames of its states, in order."""
        return tuple(accumulator.frame for accumulator in self.accumulators)

    def add(self, rows: RowsT) -> State:
        """The state of a batch of rows."""
        counts = np.zeros(sum(frame.size for frame in self.frames), dtype=np.int64)
        start = 0
        for accumulator in self.accumulators:
            accumulator.add(counts[start : start + accumulator.size], rows)
            start += accumulator.size
        return State(self.frames, counts)

    def counted_by(self, kind: type[Accumulator[RowsT]], state: State) -> Counts | None:
        """What this fold's accumulator of a kind counted in a state; None where there is none, or no such frame."""
        found = next((one for one in self.accumulators if isinstance(one, kind)), None)
        return None if found is None else state.part(found.frame)


def merged(states: Iterable[State]) -> State:
    """The sum of states; one running sum, for a day of minutes at once would be tens of megabytes."""
    total: State | None = None
    for state in states:
        if total is None:
            total = State(state.frames, state.counts.copy())
        elif total.frames == state.frames:
            np.add(total.counts, state.counts, out=total.counts)
        else:
            total = total.merge(state)
    return EMPTY if total is None else total


def framed(data: bytes) -> bytes:
    """Bytes with their length before them, so that what follows one another cannot be read as another split."""
    return struct.pack("<I", len(data)) + data


def numbers(values: Sequence[float | None]) -> bytes:
    """Numbers as the bytes of a meaning; None is told apart from every number."""
    return b"".join(b"-" if value is None else b"+" + struct.pack("<d", value) for value in values)


_known_directories: dict[bytes, tuple[Frame, ...]] = {}


def _directory(data: bytes) -> tuple[Frame, ...]:
    """Nearly all panes of a version have one directory: it is decoded once, and then compared by identity."""
    if data not in _known_directories:
        if len(_known_directories) > 1000:
            _known_directories.clear()
        _known_directories[data] = msgspec.msgpack.decode(data, type=tuple[Frame, ...])
    return _known_directories[data]
