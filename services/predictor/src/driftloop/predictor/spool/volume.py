"""What lies in a spool's folder beside its segments' content: their names, the lock, the note of the progress."""

import fcntl
import os
import re
import zlib
from pathlib import Path
from typing import NamedTuple

from driftloop.common.folders import sync_folder
from driftloop.predictor.spool.errors import SpoolInUse, failure
from driftloop.predictor.spool.segments import write

_LOCK = "lock"
_PROGRESS = "progress"
_DAMAGED = ".damaged"
_SEGMENT = re.compile(r"([0-9]{12})\.spool")
_COPY = re.compile(r"[0-9]{12}\.damaged")
_WORKER = re.compile(r"worker-(0|[1-9][0-9]{0,8})")
# Always as long, so that the next one covers it: segment, offset, CRC-32 of both.
_NOTE = "{:012d} {:016d}"
_NOTE_LENGTH = len(_NOTE.format(0, 0))
PROGRESS_BYTES = _NOTE_LENGTH + 10


class Position(NamedTuple):
    """Where a record ends: its segment's number, and the offset behind it."""

    segment: int
    end: int


START = Position(0, 0)


def take(folder: Path) -> int:
    """Make the folder if there is none, and lock it; returns the lock's file. Raises SpoolInUse, SpoolFailed."""
    try:
        _make(folder)
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise
    except BlockingIOError as error:
        raise SpoolInUse(
            f"{folder} belongs to another live process: give each replica and worker a folder of its own, or end the "
            "other one"
        ) from error
    except OSError as error:
        raise failure(error, folder) from error
    return lock


def segment_path(folder: Path, number: int) -> Path:
    """The file of a segment."""
    return folder / f"{number:012d}.spool"


def copy_path(segment: Path) -> Path:
    """What a damaged segment's file is called when it is not replayed any more."""
    return segment.with_suffix(_DAMAGED)


def segments(folder: Path) -> dict[int, Path]:
    """The segments' files by number, in order. Raises OSError."""
    return {int(match[1]): folder / match[0] for match in map(_SEGMENT.fullmatch, _files(folder)) if match}


def copies(folder: Path) -> list[int]:
    """The sizes of the damaged segments that are kept, in bytes. Raises OSError."""
    return [(folder / name).stat().st_size for name in _files(folder) if _COPY.fullmatch(name)]


def read_progress(folder: Path) -> Position:
    """How far a predecessor was. Where the note is missing or torn more is replayed than need be. Raises OSError."""
    try:
        note, _, told = (folder / _PROGRESS).read_bytes().strip().rpartition(b" ")
    except FileNotFoundError:
        return START
    if told != _sum(note) or len(note) != _NOTE_LENGTH:
        return START
    segment, end = note.split()
    return Position(int(segment), int(end))


def write_progress(folder: Path, position: Position) -> None:
    """Note how far the replay is, without waiting for the disk. Raises OSError."""
    note = _NOTE.format(*position).encode()
    file = os.open(folder / _PROGRESS, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        write(file, note + b" " + _sum(note) + b"\n", 0)
    finally:
        os.close(file)


def leftovers(root: Path, workers: int) -> list[Path]:
    """The folders `worker-<n>` below `root` with n >= `workers` that hold segments: those of a larger deployment.

    Raises OSError.
    """
    numbers = sorted(int(match[1]) for one in root.glob("worker-*") if (match := _WORKER.fullmatch(one.name)))
    folders = [root / f"worker-{number}" for number in numbers if number >= workers]
    return [folder for folder in folders if folder.is_dir() and segments(folder)]


def _make(folder: Path) -> None:
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for one in missing:
        sync_folder(one.parent)


def _files(folder: Path) -> list[str]:
    with os.scandir(folder) as found:
        return sorted(one.name for one in found if one.is_file(follow_symlinks=False))


def _sum(note: bytes) -> bytes:
    return f"{zlib.crc32(note):08x}".encode()
