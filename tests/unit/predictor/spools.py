"""Spools as the tests fill, drain and break them."""

from collections.abc import Iterable
from pathlib import Path

from driftloop.predictor.spool import Position, Spool, SpooledRecord

MAX_BYTES = 1024 * 1024
# A few records each.
SEGMENT_BYTES = 500


def record(number: int, size: int = 40) -> SpooledRecord:
    """The record that this number knows again, with so many bytes of value; spooled at second `number`."""
    value = f"{number}:".encode().ljust(size, b"v")
    headers = (("ce_id", b"%d" % number),)
    return SpooledRecord("predictions", number % 3, str(number).encode(), value, headers, float(number))


def opened(folder: Path, max_bytes: int = MAX_BYTES, segment_bytes: int = SEGMENT_BYTES) -> Spool:
    """A spool of small segments."""
    return Spool.open(folder, max_bytes, segment_bytes)


def append(spool: Spool, numbers: Iterable[int]) -> list[Position]:
    """Append records one by one; all must be kept."""
    positions = []
    for number in numbers:
        positions += spool.append([record(number)])
        assert positions[-1:] != []
    return positions


def numbers(spool: Spool, limit: int = 100_000) -> list[int]:
    """The numbers of the records that are read now, each of which must be as it was given."""
    found = [one for _position, one in spool.read(limit)]
    assert found == [record(int(one.key), len(one.value or b"")) for one in found]
    return [int(one.key) for one in found]


def segments(folder: Path) -> list[Path]:
    """The segments' files, the oldest first."""
    return sorted(folder.glob("*.spool"))


def taken(folder: Path) -> int:
    """The bytes of all files in a folder."""
    return sum(one.stat().st_size for one in folder.iterdir())


def left_by_a_predecessor(folder: Path, count: int, segment_bytes: int = 1024 * 1024) -> Path:
    """A folder with so many records in one segment; returns the segment's file."""
    spool = opened(folder, segment_bytes=segment_bytes)
    append(spool, range(count))
    spool.close()
    return segments(folder)[-1]
