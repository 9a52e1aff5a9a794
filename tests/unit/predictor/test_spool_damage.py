"""A bad disk costs what it has destroyed and nothing else, and is not passed over in silence; a crash costs nothing."""

import errno
import os
from pathlib import Path

import msgspec
import pytest

from driftloop.predictor.spool import SpoolFailed
from driftloop.predictor.spool.records import FILE_HEADER, file_header, frame
from tests.unit.predictor.spools import (
    append,
    left_by_a_predecessor,
    numbers,
    opened,
    record,
    segments,
    taken,
)

COUNT = 4


def starts(count: int = COUNT) -> list[int]:
    """Where the records of a segment begin, and where the last one ends."""
    found = [len(FILE_HEADER)]
    for number in range(count):
        found.append(found[-1] + len(frame(record(number))))
    return found


def replayed(folder: Path) -> tuple[list[int], int]:
    """What a spool opened now reads, and how many damaged places it has found."""
    spool = opened(folder)
    found = numbers(spool)
    spool.close()
    return found, spool.damaged


def copies(folder: Path) -> list[Path]:
    return list(folder.glob("*.damaged"))


# --- at rest

PLACES = starts()


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_a_flipped_byte_costs_the_record_that_it_is_in_and_is_told(tmp_path: Path, flip: int) -> None:
    file = left_by_a_predecessor(tmp_path, COUNT)
    good = file.read_bytes()
    for place in range(len(good)):
        file.write_bytes(good[:place] + bytes([good[place] ^ flip]) + good[place + 1 :])
        hit = next((index for index in range(COUNT) if PLACES[index] <= place < PLACES[index + 1]), None)
        left = [number for number in range(COUNT) if number != hit]
        assert (place, *replayed(tmp_path)) == (place, left, 1)


def test_what_is_destroyed_across_records_costs_those(tmp_path: Path) -> None:
    file = left_by_a_predecessor(tmp_path, 10)
    data = bytearray(file.read_bytes())
    at = starts(10)
    data[at[2] + 30 : at[5] + 3] = os.urandom(at[5] + 3 - at[2] - 30)
    file.write_bytes(data)
    assert replayed(tmp_path) == ([0, 1, 6, 7, 8, 9], 1)


def test_bytes_that_are_missing_cost_the_records_that_they_were_of(tmp_path: Path) -> None:
    file = left_by_a_predecessor(tmp_path, 10)
    data, at = file.read_bytes(), starts(10)
    file.write_bytes(data[: at[3] + 50] + data[at[4] + 10 :])
    assert replayed(tmp_path) == ([0, 1, 2, 5, 6, 7, 8, 9], 1)


def test_what_lies_inside_a_damaged_record_is_not_taken_for_one(tmp_path: Path) -> None:
    spool = opened(tmp_path, segment_bytes=1024 * 1024)
    outer = msgspec.structs.replace(record(1), value=frame(record(7)))
    spool.append([record(0), outer, record(2)])
    spool.close()
    [file] = segments(tmp_path)
    data = bytearray(file.read_bytes())
    data[PLACES[1] + 20] ^= 0xFF
    file.write_bytes(data)
    assert replayed(tmp_path) == ([0, 2], 1)


def test_damage_is_told_with_file_and_range_and_nothing_of_a_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = left_by_a_predecessor(tmp_path, COUNT)
    data = bytearray(file.read_bytes())
    data[PLACES[1] + 20] ^= 0xFF
    file.write_bytes(data)
    replayed(tmp_path)
    [line] = caplog.records
    told = line.__dict__
    assert line.levelname == "ERROR"
    assert (told["file"], told["start"], told["end"]) == (str(file), PLACES[1], PLACES[2])
    assert "vvv" not in str(told)


def test_of_a_damaged_segment_a_copy_is_kept_when_its_records_are_done(tmp_path: Path) -> None:
    file = left_by_a_predecessor(tmp_path, COUNT)
    data = bytearray(file.read_bytes())
    data[PLACES[1] + 20] ^= 0xFF
    file.write_bytes(data)
    spool = opened(tmp_path)
    found = spool.read(10)
    assert file.read_bytes() == data
    spool.done(found[-1][0])
    assert segments(tmp_path) == []
    [copy] = copies(tmp_path)
    assert copy.name == "000000000001.damaged"
    assert copy.read_bytes() == data
    assert spool.size == len(data)
    spool.close()
    assert replayed(tmp_path) == ([], 0)


def test_few_copies_are_kept_and_within_a_quarter_of_the_bound(tmp_path: Path) -> None:
    for bound, most in ((100_000, 3), (3000, 1), (1000, 0)):
        folder = tmp_path / str(bound)
        for _ in range(6):
            file = left_by_a_predecessor(folder, COUNT)
            data = bytearray(file.read_bytes())
            data[PLACES[1] + 20] ^= 0xFF
            file.write_bytes(data)
            spool = opened(folder, bound)
            spool.done(spool.read(10)[-1][0])
            spool.close()
        assert len(copies(folder)) == most
        assert taken(folder) <= bound
        assert segments(folder) == []


# --- after a crash


def test_a_segment_that_was_cut_anywhere_is_cut_back_to_its_last_whole_record_in_silence(tmp_path: Path) -> None:
    file = left_by_a_predecessor(tmp_path, COUNT)
    good = file.read_bytes()
    for size in range(len(good) + 1):
        file.write_bytes(good[:size])
        whole = sum(1 for end in PLACES[1:] if end <= size)
        assert (size, *replayed(tmp_path)) == (size, list(range(whole)), 0)
        if whole:
            assert file.stat().st_size == PLACES[whole]
        else:
            assert not file.exists()


@pytest.mark.parametrize("zeros", [9, 100, 5000])
def test_a_tail_of_zeros_is_no_damage(tmp_path: Path, zeros: int) -> None:
    file = left_by_a_predecessor(tmp_path, COUNT)
    good = file.read_bytes()
    for size in range(len(good) + 1):
        data = good[:size] + bytes(zeros)
        file.write_bytes(data)
        # A record may end with zeros.
        whole = sum(1 for end in PLACES[1:] if data[:end] == good[:end])
        assert (size, *replayed(tmp_path)) == (size, list(range(whole)), 0)


def test_what_was_kept_behind_a_torn_record_by_a_successor_is_read(tmp_path: Path) -> None:
    file = left_by_a_predecessor(tmp_path, COUNT)
    file.write_bytes(file.read_bytes()[:-5])
    spool = opened(tmp_path)
    append(spool, [10, 11])
    spool.close()
    assert replayed(tmp_path) == ([0, 1, 2, 10, 11], 0)


@pytest.mark.parametrize("content", [b"", b"\0" * 5, b"\0" * 4096, FILE_HEADER, FILE_HEADER[:7]])
def test_a_segment_in_which_nothing_was_kept_is_deleted_in_silence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "000000000003.spool").write_bytes(content)
    assert replayed(tmp_path) == ([], 0)
    assert segments(tmp_path) == []
    assert copies(tmp_path) == []


def test_a_segment_of_garbage_is_told_and_put_aside(tmp_path: Path) -> None:
    (tmp_path / "000000000003.spool").write_bytes(b"what is this?" * 20)
    spool = opened(tmp_path)
    append(spool, [1])
    assert (numbers(spool), spool.damaged > 0) == ([1], True)
    spool.close()
    assert [copy.read_bytes() for copy in copies(tmp_path)] == [b"what is this?" * 20]


@pytest.mark.parametrize(
    "note",
    [b"", b"00000000\n", b"\0" * 39, b"000000000001 0000000000000300 00000000\n", b"garbage", b"9 9 9", b"\xff" * 100],
)
def test_without_a_readable_note_of_the_progress_all_that_is_there_is_replayed(tmp_path: Path, note: bytes) -> None:
    left_by_a_predecessor(tmp_path, COUNT)
    (tmp_path / "progress").write_bytes(note)
    assert replayed(tmp_path) == (list(range(COUNT)), 0)


def test_a_note_of_the_progress_that_was_changed_is_not_believed(tmp_path: Path) -> None:
    spool = opened(tmp_path, segment_bytes=1024 * 1024)
    spool.done(append(spool, range(COUNT))[1])
    spool.close()
    note = (tmp_path / "progress").read_bytes()
    for place in range(len(note) - 1):
        (tmp_path / "progress").write_bytes(note[:place] + bytes([note[place] ^ 1]) + note[place + 1 :])
        assert replayed(tmp_path) == (list(range(COUNT)), 0)


def test_a_segment_of_another_format_version_is_left_alone_and_the_remedy_told(tmp_path: Path) -> None:
    file = tmp_path / "000000000001.spool"
    file.write_bytes(file_header(2) + b"a format of the future")
    for _ in range(2):
        with pytest.raises(SpoolFailed, match=rf"{file} has format version 2, this release reads 1: start the release"):
            opened(tmp_path)
    assert file.read_bytes() == file_header(2) + b"a format of the future"


# --- while it is open


def test_a_record_that_goes_bad_behind_its_back_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    spool = opened(tmp_path, segment_bytes=1024 * 1024)
    append(spool, range(COUNT))
    [file] = segments(tmp_path)
    with file.open("r+b") as opened_file:
        opened_file.seek(PLACES[1] + 20)
        opened_file.write(b"?" * (PLACES[2] - PLACES[1]))
    assert numbers(spool) == [0, 3]
    assert (spool.damaged, spool.records) == (1, 2)
    spool.rewind()
    found = spool.read(10)
    assert spool.damaged == 1
    spool.done(found[-1][0])
    assert len(copies(tmp_path)) == 1
    spool.close()


def test_nothing_readable_among_the_next_ones_does_not_mean_that_there_is_nothing(tmp_path: Path) -> None:
    spool = opened(tmp_path, segment_bytes=1024 * 1024)
    append(spool, range(COUNT))
    [file] = segments(tmp_path)
    with file.open("r+b") as opened_file:
        opened_file.write(b"?" * PLACES[2])
    assert numbers(spool, limit=1) == [2]
    spool.close()


def test_a_segment_that_somebody_deletes_costs_its_records_and_the_rest_goes_on(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    positions = append(spool, range(20))
    lost = segments(tmp_path)[1]
    lost.unlink()
    left = [number for number, at in enumerate(positions) if at.segment != int(lost.stem)]
    assert numbers(spool) == left
    assert (spool.damaged, spool.records) == (1, len(left))
    spool.done(positions[-1])
    assert spool.size == 0
    assert spool.append([record(20)]) != []
    spool.close()


@pytest.mark.parametrize("at_rest", [True, False])
@pytest.mark.parametrize("bad", [range(0, 4096), range(8192, 12288), range(24576, 32768)])
def test_a_block_that_the_disk_cannot_read_costs_the_records_in_it(
    tmp_path: Path, bad: range, at_rest: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No disk here has a bad block: the kernel's answer for one is put in the place of its answer."""
    spool = opened(tmp_path, segment_bytes=1024 * 1024)
    append(spool, range(200))
    if at_rest:
        spool.close()
    real = os.pread

    def pread(file: int, count: int, offset: int) -> bytes:
        if offset in bad:
            raise OSError(errno.EIO, "Input/output error")
        if offset < bad.start < offset + count:
            if not at_rest:
                raise OSError(errno.EIO, "Input/output error")
            count = bad.start - offset
        return real(file, count, offset)

    monkeypatch.setattr(os, "pread", pread)
    if at_rest:
        spool = opened(tmp_path)
    places = starts(200)
    hit = [n for n in range(200) if places[n] < bad.stop and places[n + 1] > bad.start]
    found = [int(one.key) for _position, one in spool.read(1000)]
    assert found == [number for number in range(200) if number not in hit]
    assert 0 < len(hit) < 200
    # The header is a place of its own.
    assert spool.damaged == (2 if at_rest and bad.start == 0 else 1)
    spool.close()
