"""Panes and the windows that tile them."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.drift_monitor.domain.fold.base import Frame, State
from driftloop.drift_monitor.domain.panes import (
    EPOCH,
    FOREVER,
    MICROSECONDS,
    Pane,
    Window,
    instant,
    pane_starts,
    tile,
)
from tests.unit.drift_monitor.builders import START, at, parts_of, state_of, watch_of

MINUTE = 60.0
DAY = 86_400.0
FRAME = Frame("rows and minutes", 0, 2)
TIMES = st.datetimes(datetime(1960, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
LENGTHS = st.sampled_from([0.000001, 0.1, 0.25, 1, 7, 60, 90, 3600])
# Minute number → rows: gaps between panes are allowed.
STREAMS = st.dictionaries(st.integers(0, 300), st.integers(1, 200), max_size=60)
# (first minute, length in minutes) → rows: what is left where panes were of other lengths before.
MIXED = st.dictionaries(
    st.sampled_from([1, 2, 3, 5]).flatmap(
        lambda length: st.tuples(st.integers(0, 60 // length).map(lambda place: place * length), st.just(length))
    ),
    st.integers(1, 200),
    max_size=40,
)
AGES = st.sampled_from([1.0, 90.0, 1_000.0, DAY])


def pane(minute: int, rows: int, length: int = 1, offsets: dict[int, int] | None = None) -> Pane:
    state = State((FRAME,), np.array([rows, minute]))
    return Pane(at(MINUTE * minute), at(MINUTE * (minute + length)), rows, state, offsets or {})


def panes(rows: dict[int, int]) -> list[Pane]:
    return [pane(minute, n) for minute, n in sorted(rows.items())]


def mixed(rows: dict[tuple[int, int], int]) -> list[Pane]:
    return [pane(minute, n, length) for (minute, length), n in sorted(rows.items())]


def spans(windows: list[Window]) -> list[tuple[float, float, int]]:
    """Start and end in minutes, and rows."""
    minute = timedelta(minutes=1)
    return [((one.starts - START) / minute, (one.ends - START) / minute, one.n) for one in windows]


def told(windows: list[Window]) -> list[tuple[datetime, datetime, int, list[int]]]:
    return [(one.starts, one.ends, one.n, one.state.counts.tolist()) for one in windows]


def looked(stream: list[Pane], looks: list[int], max_age: float) -> list[Window]:
    """The windows that are found in several looks, each at what the windows before it have left."""
    found: list[Window] = []
    for look in [*(at(seconds) for seconds in sorted(looks)), at(200_000)]:
        still_open = [pane for pane in stream if not found or pane.starts >= found[-1].ends]
        found += tile(still_open, look, 300, max_age)
    return found


# --- panes


def pane_start(time: datetime, seconds: float) -> datetime:
    (start,) = pane_starts([time], round(seconds * MICROSECONDS)).tolist()
    return instant(start)


@given(TIMES, LENGTHS)
def test_a_time_lies_in_its_pane_and_panes_are_aligned_to_the_epoch(time: datetime, seconds: float) -> None:
    length = timedelta(seconds=seconds)
    starts = pane_start(time, seconds)
    assert starts <= time < starts + length
    assert (starts - EPOCH) % length == timedelta(0)


@given(st.lists(TIMES, max_size=20), LENGTHS)
def test_many_times_at_once_lie_in_the_panes_of_each(times: list[datetime], seconds: float) -> None:
    starts = pane_starts(times, round(seconds * MICROSECONDS))
    assert [instant(start) for start in starts.tolist()] == [pane_start(time, seconds) for time in times]


def test_a_pane_is_the_same_in_every_time_zone() -> None:
    there = datetime(2026, 3, 1, 9, 17, 42, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    assert pane_start(there, 3600) == pane_start(there.astimezone(UTC), 3600)


# --- windows


def test_no_pane_makes_no_window() -> None:
    assert tile([], FOREVER, 500, DAY) == []


def test_a_window_closes_at_the_first_pane_boundary_with_enough_rows_and_the_next_pane_starts_the_next() -> None:
    windows = tile(panes({0: 300, 1: 250, 2: 499, 3: 1, 4: 10}), at(MINUTE * 10), 500, DAY)
    assert spans(windows) == [(0, 2, 550), (2, 4, 500)]


@pytest.mark.parametrize(("rows", "closed"), [(499, []), (500, [(0, 1, 500)])])
def test_fewer_rows_than_asked_for_are_too_few(rows: int, closed: list[tuple[float, float, int]]) -> None:
    assert spans(tile(panes({0: rows}), at(MINUTE * 10), 500, DAY)) == closed


def test_rows_of_a_window_that_closed_by_age_count_for_no_other() -> None:
    assert spans(tile(panes({0: 10, 5: 499, 6: 1}), at(MINUTE * 7), 500, 300)) == [(0, 5, 10), (5, 7, 500)]


def test_a_window_holds_the_sum_of_its_panes() -> None:
    (window,) = tile(panes({0: 300, 5: 250}), at(MINUTE * 10), 500, DAY)
    assert window.state.counts.tolist() == [550, 5]


def test_a_window_begins_at_the_least_offset_of_each_partition() -> None:
    stream = [pane(0, 200, offsets={0: 7, 1: 4}), pane(1, 200, offsets={0: 3, 2: 9}), pane(2, 500, offsets={0: 1})]
    assert tile(stream, at(MINUTE * 10), 400, DAY)[0].first_offsets == {0: 3, 1: 4, 2: 9}


def test_a_pane_takes_part_only_when_it_is_wholly_behind_the_watermark() -> None:
    stream = panes({0: 500})
    assert tile(stream, at(59.999), 500, DAY) == []
    assert spans(tile(stream, at(60), 500, DAY)) == [(0, 1, 500)]


def test_a_window_with_few_rows_closes_by_age() -> None:
    stream = panes({0: 10, 4: 20, 5: 30})
    assert tile(stream, at(299), 500, 300) == []
    assert spans(tile(stream, at(300), 500, 300)) == [(0, 5, 30)]
    assert spans(tile(stream, at(600), 500, 300)) == [(0, 5, 30), (5, 10, 30)]


@pytest.mark.parametrize("watermark", [120, 130, 400])
def test_an_age_that_is_no_whole_number_of_panes_is_rounded_up_to_one(watermark: float) -> None:
    windows = tile(panes({0: 10, 1: 20}), at(watermark), 500, max_age=90)
    assert spans(windows) == [(0, 2, 30)]


def test_an_age_below_a_pane_is_one_pane() -> None:
    assert spans(tile(panes({0: 10, 1: 20}), at(120), 500, max_age=1)) == [(0, 1, 10), (1, 2, 20)]


@given(STREAMS, st.lists(st.integers(0, 25_000), max_size=6), AGES)
def test_windows_do_not_depend_on_when_one_looked(rows: dict[int, int], looks: list[int], max_age: float) -> None:
    stream = panes(rows)
    assert told(looked(stream, looks, max_age)) == told(tile(stream, at(200_000), 300, max_age))


@given(STREAMS, AGES)
def test_windows_are_disjoint_in_order_and_lose_no_row(rows: dict[int, int], max_age: float) -> None:
    windows = tile(panes(rows), at(200_000), 300, max_age)
    assert all(one.ends <= following.starts for one, following in pairwise(windows))
    assert sum(window.n for window in windows) == sum(rows.values())
    assert all(window.state.counts[0] == window.n for window in windows)


def test_a_window_of_counted_rows_has_their_counts() -> None:
    watch = watch_of(np.array([[1.0], [2.0]]))
    first, second = np.array([[1.0], [3.0]]), np.array([[2.0], [2.0]])
    stream = [
        Pane(at(60 * place), at(60 * place + 60), 2, state_of(watch, rows), {})
        for place, rows in enumerate((first, second))
    ]
    (window,) = tile(stream, at(120), 4, DAY)
    assert parts_of(window.state) == parts_of(state_of(watch, np.concatenate([first, second])))


# --- panes of several lengths


def test_where_the_length_was_changed_a_window_does_not_close_inside_a_pane() -> None:
    stream = [pane(0, 200), pane(1, 200), pane(1, 200, 2), pane(3, 500, 3)]
    assert spans(tile(stream, at(MINUTE * 10), 300, DAY)) == [(0, 3, 600), (3, 6, 500)]


def test_nor_does_it_close_inside_one_that_the_watermark_has_not_passed() -> None:
    stream = [pane(0, 400), pane(0, 200, 3)]
    assert tile(stream, at(MINUTE * 2), 300, DAY) == []
    assert spans(tile(stream, at(MINUTE * 3), 300, DAY)) == [(0, 3, 600)]


def test_a_window_that_is_old_waits_for_the_pane_that_straddles_its_end() -> None:
    stream = [pane(0, 10), pane(1, 20, 3), pane(3, 30), pane(4, 40)]
    assert tile(stream, at(MINUTE * 3), 500, max_age=120) == []
    assert spans(tile(stream, at(MINUTE * 9), 500, max_age=120)) == [(0, 4, 60), (4, 6, 40)]


@given(MIXED, AGES)
def test_windows_of_mixed_panes_are_disjoint_in_order_and_hold_each_pane_whole(
    rows: dict[tuple[int, int], int], max_age: float
) -> None:
    stream = mixed(rows)
    windows = tile(stream, at(200_000), 300, max_age)
    assert all(one.ends <= following.starts for one, following in pairwise(windows))
    assert sum(window.n for window in windows) == sum(rows.values())
    assert all(sum(one.starts <= part.starts and part.ends <= one.ends for one in windows) == 1 for part in stream)


@given(MIXED, st.lists(st.integers(0, 4_000), max_size=6), AGES)
def test_windows_of_mixed_panes_do_not_depend_on_when_one_looked(
    rows: dict[tuple[int, int], int], looks: list[int], max_age: float
) -> None:
    stream = mixed(rows)
    assert told(looked(stream, looks, max_age)) == told(tile(stream, at(200_000), 300, max_age))
