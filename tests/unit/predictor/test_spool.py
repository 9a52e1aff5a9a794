"""The spool keeps what it took, in order, until it is done, within its bound."""

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from driftloop.predictor.spool import Position, Spool, SpooledRecord, SpoolFailed, SpoolInUse, leftovers
from tests.support.waiting import wait_until
from tests.unit.predictor.spools import append, numbers, opened, record, segments, taken


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = opened(tmp_path / "spool")
    yield spool
    spool.close()


def reopened(spool: Spool, folder: Path) -> Spool:
    spool.close()
    return opened(folder)


# --- in order, each once


def test_what_was_appended_is_read_in_order_and_once(spool: Spool) -> None:
    append(spool, range(40))
    assert numbers(spool, 25) == list(range(25))
    append(spool, range(40, 50))
    assert numbers(spool, 100) == list(range(25, 50))
    assert numbers(spool, 100) == []


def test_a_record_comes_back_as_it_was_given(spool: Spool) -> None:
    given = [
        SpooledRecord("predictions", 5, b"\x00\xff", b"", (("traceparent", b"00-\xfe"), ("ce_id", b"")), 1772366400.25),
        SpooledRecord("Vorhersagen.ä", 0, b"", None, (), 0.0),
    ]
    spool.append(given)
    assert [one for _position, one in spool.read(2)] == given


def test_positions_are_ordered_as_the_records_are_and_those_that_are_read_are_those_of_the_append(spool: Spool) -> None:
    given = append(spool, range(20)) + spool.append([record(number) for number in range(20, 30)])
    assert given == sorted(set(given))
    assert [position for position, _record in spool.read(100)] == given


def test_after_a_rewind_it_reads_again_from_the_oldest_that_is_not_done(spool: Spool) -> None:
    positions = append(spool, range(20))
    numbers(spool, 15)
    spool.done(positions[6])
    spool.rewind()
    assert numbers(spool) == list(range(7, 20))


def test_a_group_is_written_together_even_where_it_is_larger_than_a_segment(spool: Spool, tmp_path: Path) -> None:
    positions = spool.append([record(number) for number in range(100)])
    assert len({position.segment for position in positions}) == 1
    append(spool, [100])
    assert len(segments(tmp_path / "spool")) == 2
    assert numbers(spool) == list(range(101))


def test_of_no_records_none_is_kept_and_no_file_made(spool: Spool, tmp_path: Path) -> None:
    assert spool.append([]) == []
    assert segments(tmp_path / "spool") == []


# --- across restarts


def test_a_successor_reads_all_that_is_not_done_in_order_and_then_what_it_takes_itself(tmp_path: Path) -> None:
    first = opened(tmp_path)
    append(first, range(20))
    second = reopened(first, tmp_path)
    append(second, range(20, 40))
    third = reopened(second, tmp_path)
    append(third, range(40, 45))
    assert numbers(third) == list(range(45))
    third.close()


@pytest.mark.parametrize("count", [1, 4, 5, 19, 20])
def test_what_is_done_is_never_read_again(tmp_path: Path, count: int) -> None:
    spool = opened(tmp_path)
    positions = append(spool, range(20))
    spool.done(positions[count - 1])
    spool = reopened(spool, tmp_path)
    assert numbers(spool) == list(range(count, 20))
    spool.close()


def test_done_may_be_said_of_records_that_this_process_has_not_read(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    positions = append(spool, range(20))
    spool = reopened(spool, tmp_path)
    spool.done(positions[11])
    assert numbers(spool) == list(range(12, 20))
    spool.close()


def test_an_older_position_takes_nothing_back(tmp_path: Path) -> None:
    spool = opened(tmp_path, segment_bytes=100_000)
    positions = append(spool, range(20))
    spool.done(positions[11])
    spool.done(positions[3])
    spool = reopened(spool, tmp_path)
    assert numbers(spool) == list(range(12, 20))
    spool.close()


def test_a_number_is_never_given_to_two_segments(tmp_path: Path) -> None:
    """Else the note of the progress in the first would hide what the second holds."""
    spool = opened(tmp_path)
    [last] = spool.append([record(1)])
    spool.done(last)
    spool = reopened(spool, tmp_path)
    [next_one] = spool.append([record(2)])
    assert next_one.segment > last.segment
    spool = reopened(spool, tmp_path)
    assert numbers(spool) == [2]
    spool.close()


def test_under_a_smaller_bound_nothing_is_lost_and_nothing_taken(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    positions = append(spool, range(20))
    spool.close()
    spool = opened(tmp_path, max_bytes=400)
    assert spool.append([record(20)]) == []
    assert numbers(spool) == list(range(20))
    spool.done(positions[-1])
    assert len(spool.append([record(20)])) == 1
    spool.close()


# --- the figures and the bound


def test_the_figures_are_those_of_what_is_not_done(spool: Spool) -> None:
    assert (spool.records, spool.oldest, spool.size) == (0, None, 0)
    positions = append(spool, range(7, 27))
    assert (spool.records, spool.oldest) == (20, 7.0)
    numbers(spool)
    assert (spool.records, spool.oldest) == (20, 7.0)
    spool.done(positions[9])
    assert (spool.records, spool.oldest) == (10, 17.0)
    spool.done(positions[-1])
    assert (spool.records, spool.oldest, spool.size) == (0, None, 0)


def test_the_size_is_that_of_the_files(spool: Spool, tmp_path: Path) -> None:
    positions = append(spool, range(20))
    assert spool.size == taken(tmp_path / "spool")
    spool.done(positions[9])
    assert spool.size == sum(one.stat().st_size for one in segments(tmp_path / "spool"))


def test_segments_without_a_record_that_is_not_done_are_deleted(spool: Spool, tmp_path: Path) -> None:
    positions = append(spool, range(20))
    spool.done(positions[9])
    names = [one.name for one in segments(tmp_path / "spool")]
    assert names == [f"{number:012d}.spool" for number in sorted({one.segment for one in positions[10:]})]
    spool.done(positions[-1])
    assert segments(tmp_path / "spool") == []


def test_of_a_group_that_does_not_fit_the_first_are_kept(tmp_path: Path) -> None:
    spool = opened(tmp_path, max_bytes=2000)
    kept = len(spool.append([record(number) for number in range(50)]))
    assert 0 < kept < 50
    assert spool.append([record(50)]) == []
    assert numbers(spool) == list(range(kept))
    spool.close()


@pytest.mark.parametrize("segment_bytes", [100, 500, 5000])
def test_its_files_never_take_more_than_the_bound(tmp_path: Path, segment_bytes: int) -> None:
    spool, bound, next_number, read = opened(tmp_path, 2000, segment_bytes), 2000, 0, []
    for turn in range(60):
        group = [record(number, 10 + 7 * turn) for number in range(next_number, next_number + 1 + turn % 5)]
        next_number += len(spool.append(group))
        assert taken(tmp_path) <= bound
        if turn % 3 == 0 and (found := spool.read(2)):
            spool.done(found[-1][0])
            read += [int(one.key) for _position, one in found]
    assert read + numbers(spool) == list(range(next_number))
    spool.close()


def test_what_is_done_makes_room_also_where_all_of_it_is_in_one_segment(tmp_path: Path) -> None:
    spool = opened(tmp_path, max_bytes=2000, segment_bytes=1024 * 1024)
    for _ in range(10):
        kept = spool.append([record(number) for number in range(50)])
        assert len(kept) > 5
        spool.done(kept[-1])
    spool.close()


def test_a_record_that_is_larger_than_the_bound_is_refused_as_if_the_spool_were_full(tmp_path: Path) -> None:
    spool = opened(tmp_path, max_bytes=2000)
    assert spool.append([record(1, 3000)]) == []
    assert spool.append([record(2), record(3, 3000), record(4)]) == [Position(1, spool.size)]
    assert numbers(spool) == [2]
    spool.close()


def test_a_record_may_be_larger_than_a_segment(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append([record(1), record(2, 5000), record(3)])
    spool.append([record(4, 5000)])
    spool = reopened(spool, tmp_path)
    assert numbers(spool) == [1, 2, 3, 4]
    spool.close()


# --- the folder


def test_only_its_own_user_may_look_into_it(tmp_path: Path) -> None:
    folder = tmp_path / "spool" / "worker-0"
    spool = opened(folder)
    spool.done(append(spool, range(3))[0])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(one.stat().st_mode) for one in folder.iterdir()} == {0o600}
    assert len(list(folder.iterdir())) == 3
    spool.close()


def test_a_folder_belongs_to_one_spool_at_a_time(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    with pytest.raises(SpoolInUse, match=rf"{tmp_path} .* give each replica and worker a folder of its own"):
        opened(tmp_path)
    spool.close()
    opened(tmp_path).close()


def test_a_refused_second_does_not_free_the_folder_for_a_third_and_leaves_no_file_open(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    before = os.listdir("/proc/self/fd")
    for _ in range(2):
        with pytest.raises(SpoolInUse):
            opened(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == len(before)
    spool.close()


def test_a_file_where_the_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("")
    with pytest.raises(SpoolFailed, match=r"spool: EEXIST: give a folder"):
        opened(tmp_path / "spool")


def test_files_that_are_not_its_own_are_left_alone(tmp_path: Path) -> None:
    others = [
        "notes.txt",
        "1.spool",
        "00000000000x.spool",
        "٠٠٠٠٠٠٠٠٠٠٠٠.spool",
        "lost+found/x",
        "000000000009.spool/x",
    ]
    for name in others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("not ours")
    spool = opened(tmp_path)
    spool.done(append(spool, range(20))[-1])
    spool = reopened(spool, tmp_path)
    assert [name for name in others if (tmp_path / name).read_text() != "not ours"] == []
    assert spool.damaged == 0
    spool.close()


def test_closing_twice_is_no_error_and_a_closed_one_touches_nothing(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    positions = append(spool, range(20))
    spool.close()
    spool.close()
    before = {one: one.read_bytes() for one in tmp_path.iterdir()}
    with pytest.raises(SpoolFailed, match="closed"):
        spool.append([record(20)])
    spool.done(positions[-1])
    assert spool.read(10) == []
    assert {one: one.read_bytes() for one in tmp_path.iterdir()} == before


def test_leftovers_are_the_folders_of_workers_that_there_are_no_more_and_that_hold_segments(tmp_path: Path) -> None:
    for number in (0, 1, 2, 10, 11):
        spool = opened(tmp_path / f"worker-{number}")
        append(spool, [number])
        spool.close()
    opened(tmp_path / "worker-3").close()
    for name in ("worker-x", "worker-04", "worker-", "other-5"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "000000000001.spool").write_text("")
    (tmp_path / "worker-12").write_text("")
    assert leftovers(tmp_path, 2) == [tmp_path / "worker-2", tmp_path / "worker-10", tmp_path / "worker-11"]
    assert leftovers(tmp_path, 12) == []
    assert leftovers(tmp_path / "none", 0) == []


# --- by several threads


def test_one_appends_while_another_replays_and_a_third_looks(tmp_path: Path) -> None:
    spool, count = opened(tmp_path, segment_bytes=2000), 500
    ended, replayed, sizes = threading.Event(), list[int](), list[int]()

    def take() -> None:
        for number in range(0, count, 5):
            assert len(spool.append([record(one) for one in range(number, number + 5)])) == 5

    def replay() -> None:
        while len(replayed) < count and not ended.is_set():
            if found := spool.read(7):
                replayed.extend(int(one.key) for _position, one in found)
                spool.done(found[-1][0])

    def look() -> None:
        while not ended.is_set():
            sizes.append(spool.size + spool.records + int(spool.oldest or 0))

    threads = [threading.Thread(target=work) for work in (take, replay, look)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(replayed) >= count and sizes, "all records, and a look")
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert replayed == list(range(count))
    # The last append's end and the last done may have met: the next one of either deletes the segment.
    spool.append([])
    assert (spool.records, spool.size, segments(tmp_path)) == (0, 0, [])
    spool.close()
