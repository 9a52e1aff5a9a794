"""The spool: segments in a folder that are only appended to, with one fsync for each group of records.

What was kept is never lost: a process that is killed leaves at most an unfinished write behind, and nobody was told
that it is kept. The folder belongs to one process at a time, and is bounded in bytes.
"""

import logging
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from errno import EFBIG
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from driftloop.common.folders import sync_folder
from driftloop.predictor.spool import volume
from driftloop.predictor.spool.errors import SpoolFailed, failure
from driftloop.predictor.spool.records import FILE_HEADER, Damage, SpooledRecord, frame
from driftloop.predictor.spool.segments import Segment, load, recover, write
from driftloop.predictor.spool.volume import START, Position

logger = logging.getLogger(__name__)

SEGMENT_BYTES = 4 * 1024 * 1024
# Of damaged segments so many are kept for whoever wants to know why, in at most this part of the bound.
COPIES = 3
COPIES_SHARE = 4


class _Place(NamedTuple):
    segment: Segment
    start: int
    end: int


class _Open(NamedTuple):
    segment: Segment
    file: int


class Spool:
    """Records in the order in which they were appended, until each is done.

    One thread appends, one reads and says what is done, and any may ask for the figures. Nobody but who appends waits
    for the disk's fsync.
    """

    def __init__(self, folder: Path, max_bytes: int, segment_bytes: int, lock: int) -> None:
        self.damaged = 0
        self._folder = folder
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._lock_file = lock
        self._closed = False
        # Taken in this order. The last one is for the bookkeeping, and never held while the disk works.
        self._tidying = threading.Lock()
        self._writing = threading.Lock()
        self._lock = threading.Lock()
        # By number, and so the oldest first.
        self._segments: dict[int, Segment] = {}
        self._open: _Open | None = None
        self._next_number = 1
        self._copies: list[int] = []
        self._read_until = self._done_until = START
        self._trouble = ""

    @classmethod
    def open(cls, folder: Path, max_bytes: int, segment_bytes: int = SEGMENT_BYTES) -> "Spool":
        """Take a folder and all that a predecessor left in it. Raises SpoolInUse, SpoolFailed."""
        lock = volume.take(folder)
        spool = cls(folder, max_bytes, segment_bytes, lock)
        try:
            spool._recover()
        except SpoolFailed:
            os.close(lock)
            raise
        return spool

    @property
    def name(self) -> str:
        """What its folder is called."""
        return self._folder.name

    @property
    def capacity(self) -> int:
        """The most that it may take on the volume, in bytes."""
        return self._max_bytes

    @property
    def size(self) -> int:
        """What the segments, and the copies of damaged ones, take on the volume, in bytes."""
        with self._lock:
            return sum(segment.size for segment in self._segments.values()) + sum(self._copies)

    @property
    def records(self) -> int:
        """How many records are not done."""
        with self._lock:
            return sum(map(len, self._segments.values()))

    @property
    def oldest(self) -> float | None:
        """When the oldest that is not done came, in seconds of the Unix clock; None if there is none."""
        with self._lock:
            return next((segment.oldest for segment in self._segments.values() if len(segment)), None)

    # --- for the thread that appends

    def append(self, records: Sequence[SpooledRecord]) -> list[Position]:
        """Keep records, with one write and one fsync for all of them.

        Returns the positions of those, from the first, that are durable now: fewer than were given means that the spool
        is full. Raises SpoolFailed if the disk refuses; then none of them counts as kept.
        """
        frames = [frame(record) for record in records]
        # What is done must not take the room of these.
        self._tidy()
        with self._writing:
            if self._closed:
                raise SpoolFailed(f"{self._folder}: the spool is closed: open it again")
            try:
                segment, fitting = self._write(frames)
            except OSError as error:
                raise failure(error, self._folder) from error
            if segment is None:
                return []
            positions = []
            with self._lock:
                for one, record in zip(fitting, records, strict=False):
                    segment.add(segment.end, segment.end + len(one), record.spooled_at)
                    positions.append(Position(segment.number, segment.end))
        return positions

    def _write(self, frames: Sequence[bytes]) -> tuple[Segment | None, Sequence[bytes]]:
        """Write those that fit, from the first, into one segment. Raises OSError; then none of them counts."""
        if self._open is not None and self._open.segment.end >= self._segment_bytes:
            self._seal()
        fitting = self._fitting(frames)
        if not fitting:
            return None, fitting
        segment, file = self._open or self._begin()
        data = b"".join(fitting)
        try:
            write(file, data, segment.end)
        except OSError as error:
            if not self._cut(segment, file, len(data)) or error.errno == EFBIG:
                self._seal()
            raise
        try:
            os.fdatasync(file)
        except OSError:
            # From now on nobody knows what of this file is on the disk: the next record goes into another one.
            self._cut(segment, file, len(data))
            self._seal()
            raise
        return segment, fitting

    def _fitting(self, frames: Sequence[bytes]) -> Sequence[bytes]:
        room = self._max_bytes - self.size - volume.PROGRESS_BYTES - (len(FILE_HEADER) if self._open is None else 0)
        for count, one in enumerate(frames):
            room -= len(one)
            if room < 0:
                return frames[:count]
        return frames

    def _begin(self) -> _Open:
        number = self._next_number
        self._next_number += 1
        path = volume.segment_path(self._folder, number)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        begun = _Open(Segment(number, path), file)
        with self._lock:
            self._segments[number] = begun.segment
            self._open = begun
        try:
            write(file, FILE_HEADER, 0)
            sync_folder(self._folder)
        except OSError:
            self._seal()
            raise
        return begun

    def _cut(self, segment: Segment, file: int, written: int) -> bool:
        """Leave nothing in a file but what was kept; returns whether the disk has done so.

        If it has not, records that were refused may be replayed: a refused request may be in the log.
        """
        try:
            os.ftruncate(file, segment.end)
        except OSError:
            segment.size = max(segment.size, segment.end + written)
            return False
        return True

    def _seal(self) -> None:
        with self._lock:
            sealed, self._open = self._open, None
        if sealed is not None:
            with suppress(OSError):
                os.close(sealed.file)

    # --- for the thread that replays

    def read(self, limit: int) -> list[tuple[Position, SpooledRecord]]:
        """The oldest that were not read yet, at most `limit`, in order. Raises SpoolFailed; then none counts as read.

        What the disk does not give back as it was written is told, counted and left out.
        """
        found: list[tuple[Position, SpooledRecord]] = []
        while not found and not self._closed and (places := self._unread(limit)):
            for segment, own in groupby(places, key=attrgetter("segment")):
                found += self._load(segment, [(place.start, place.end) for place in own])
            self._read_until = Position(places[-1].segment.number, places[-1].end)
        return found

    def _unread(self, limit: int) -> list[_Place]:
        places: list[_Place] = []
        with self._lock:
            for number, segment in self._segments.items():
                if number >= self._read_until.segment and len(places) < limit:
                    behind = self._read_until.end if number == self._read_until.segment else 0
                    own = segment.places(behind, limit - len(places))
                    places += [_Place(segment, start, end) for start, end in own]
        return places

    def _load(self, segment: Segment, places: Sequence[tuple[int, int]]) -> list[tuple[Position, SpooledRecord]]:
        try:
            found, damages = load(segment.path, places)
        except OSError as error:
            raise failure(error, segment.path) from error
        for damage in damages:
            self._tell(segment, damage)
            with self._lock:
                segment.lose(damage)
        return [(Position(segment.number, end), record) for end, record in found]

    def rewind(self) -> None:
        """Read again from the oldest that is not done."""
        self._read_until = START

    def done(self, position: Position) -> None:
        """All up to and including this one are in the log: they are forgotten, and segments without others deleted.

        How far it is inside a segment is noted without waiting for the disk: after a power cut some are replayed twice,
        which consumers recognise. So they are where the disk refuses the note, which is no error.
        """
        with self._lock:
            for number, segment in self._segments.items():
                if number <= position.segment:
                    segment.finish(position.end if number == position.segment else segment.end)
        with self._tidying:
            # It may be another's folder by now.
            if not self._closed:
                self._note(position)
                self._delete_finished()

    def _note(self, position: Position) -> None:
        self._done_until = max(self._done_until, position)
        try:
            volume.write_progress(self._folder, self._done_until)
        except OSError as error:
            self._complain(error, self._folder)

    # --- for both

    def _tidy(self) -> None:
        """Delete the segments in which nothing is left, but for one that is being written to."""
        with self._tidying:
            if not self._closed:
                self._delete_finished()

    def _delete_finished(self) -> None:
        if self._writing.acquire(blocking=False):
            try:
                if self._open is not None and not len(self._open.segment):
                    self._seal()
            finally:
                self._writing.release()
        with self._lock:
            writing = self._open.segment if self._open is not None else None
            finished = [one for one in self._segments.values() if not len(one) and one is not writing]
        for segment in finished:
            try:
                copied = self._remove(segment)
            except OSError as error:
                # It counts until it is gone: the next time.
                self._complain(error, segment.path)
                continue
            with self._lock:
                del self._segments[segment.number]
                self._copies += [segment.size] if copied else []

    def _remove(self, segment: Segment) -> bool:
        """Delete a segment's file; a damaged one is kept under another name while there are few. Raises OSError."""
        bytes_kept = sum(self._copies) + segment.size
        copied = segment.damaged and len(self._copies) < COPIES and bytes_kept <= self._max_bytes // COPIES_SHARE
        try:
            if copied:
                segment.path.rename(volume.copy_path(segment.path))
            else:
                segment.path.unlink()
        except FileNotFoundError:
            # Somebody else has deleted it.
            return False
        return copied

    def _tell(self, segment: Segment, damage: Damage) -> None:
        self.damaged += 1
        logger.error(
            "the spool is damaged: what is left of it is replayed",
            extra={"file": str(segment.path), "start": damage.start, "end": damage.end},
        )

    def _complain(self, error: OSError, path: Path) -> None:
        text = str(failure(error, path))
        if text != self._trouble:
            logger.warning("the spool's volume refuses", extra={"error": text})
            self._trouble = text

    def close(self) -> None:
        """Give the folder back; closing it twice is no error."""
        with self._tidying, self._writing:
            if self._closed:
                return
            self._seal()
            self._closed = True
            os.close(self._lock_file)

    # --- after a restart

    def _recover(self) -> None:
        """Raises SpoolFailed."""
        try:
            self._done_until = volume.read_progress(self._folder)
            self._copies = volume.copies(self._folder)
            found = volume.segments(self._folder)
        except OSError as error:
            raise failure(error, self._folder) from error
        for number, path in found.items():
            try:
                self._adopt(number, path)
            except OSError as error:
                raise failure(error, path) from error
        self._next_number = max(self._done_until.segment, *found, 0) + 1
        self._tidy()

    def _adopt(self, number: int, path: Path) -> None:
        if number < self._done_until.segment:
            # It was to be deleted.
            self._segments[number] = Segment(number, path, path.stat().st_size)
            return
        segment, damages = recover(number, path, self._done_until.end if number == self._done_until.segment else 0)
        self._segments[number] = segment
        for damage in damages:
            self._tell(segment, damage)
