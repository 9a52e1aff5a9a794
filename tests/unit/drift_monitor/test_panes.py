"""Panes and the windows that tile them."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.common.profile import ReferenceProfile, categorical_reference, numeric_reference
from driftloop.common.statistics.cells import Layout, layout_of
from driftloop.drift_monitor.domain.panes import (
    Pane,
    UnreadableCounts,
    Window,
    decode_counts,
    encode_counts,
    layout_digest,
    pane_start,
    tile,
)
from tests.unit.drift_monitor.builders import START, at, counted_rows, numeric_layout

MINUTE = 60.0
DAY = 86_400.0
COUNTS = st.lists(st.integers(0, 2**62), max_size=200).map(lambda counts: np.array(counts, dtype=np.int64))
# Minute number → rows: gaps between panes are allowed.
STREAMS = st.dictionaries(st.integers(0, 300), st.integers(1, 200), max_size=60)


def panes(rows: dict[int, int]) -> list[Pane]:
    return [Pane(at(MINUTE * minute), n, np.array([n, minute])) for minute, n in sorted(rows.items())]


def spans(windows: list[Window]) -> list[tuple[float, float, int]]:
    """Start and end in minutes, and rows."""
    minute = timedelta(minutes=1)
    return [((one.starts - START) / minute, (one.ends - START) / minute, one.n) for one in windows]


def told(windows: list[Window]) -> list[tuple[datetime, datetime, int, list[int]]]:
    return [(one.starts, one.ends, one.n, one.counts.tolist()) for one in windows]


# --- panes


@given(st.datetimes(datetime(1960, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)), st.sampled_from([0.25, 1, 60]))
def test_a_time_lies_in_its_pane_and_panes_are_aligned_to_the_epoch(time: datetime, seconds: float) -> None:
    length = timedelta(seconds=seconds)
    starts = pane_start(time, seconds)
    assert starts <= time < starts + length
    assert (starts - datetime.fromtimestamp(0, UTC)) % length == timedelta(0)


def test_a_pane_is_the_same_in_every_time_zone() -> None:
    there = datetime(2026, 3, 1, 9, 17, 42, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    assert pane_start(there, 3600) == pane_start(there.astimezone(UTC), 3600)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_merging_in_any_grouping_and_order_gives_the_same_counts(seed: int, groups: int) -> None:
    rng = np.random.default_rng(seed)
    layout = numeric_layout(rng.integers(0, 5, size=(20, 2)).astype(np.float64))
    rows = rng.integers(-1, 7, size=(50, 2)).astype(np.float64)
    scores = rng.choice([0.1, 0.25, 0.75], size=50)
    part_of = rng.integers(0, groups, size=50)
    parts = [
        layout.count([*rows[part_of == group].T.tolist(), scores[part_of == group].tolist()])
        for group in rng.permutation(groups)
    ]
    whole = layout.count([*rows.T.tolist(), scores.tolist()])
    assert np.array_equal(np.sum(parts, axis=0), whole)


# --- stored counts


@given(COUNTS, st.integers(0, 2**64 - 1))
def test_stored_counts_come_back(counts: np.ndarray, digest: int) -> None:
    assert np.array_equal(decode_counts(encode_counts(counts, digest), len(counts), digest), counts)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "too few"),
        (encode_counts(np.arange(3))[:-1], "decompressed"),
        (b"\x01" + encode_counts(np.arange(3))[1:], "format 1, wanted 2"),
        (encode_counts(np.arange(4)), "length 4"),
        (encode_counts(np.arange(3), digest=7), "layout 0000000000000007"),
        (encode_counts(np.arange(3))[:13] + b"\x00\x00\x00\x00" + encode_counts(np.arange(3))[17:], "checksum"),
    ],
    ids=["empty", "cut off", "other format", "other length", "other layout", "damaged"],
)
def test_counts_that_cannot_be_trusted_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(UnreadableCounts, match=says):
        decode_counts(data, 3)


def layout_with(values: list[float], categories: tuple[str, ...]) -> Layout:
    features = (numeric_reference("x", values), categorical_reference("c", categories, [categories[0]]))
    return layout_of(ReferenceProfile("m", 1, "training", 2, features, numeric_reference("score", [0.5])))


def test_layouts_of_one_length_have_different_digests() -> None:
    layouts = [
        layout_with([1.0, 2.0], ("a", "b")),
        layout_with([1.0, 3.0], ("a", "b")),
        layout_with([1.0, 2.0], ("b", "a")),
        layout_with([1.0, 2.0], ("ab", "")),
    ]
    assert len({layout.size for layout in layouts}) == 1
    assert len({layout_digest(layout) for layout in layouts}) == len(layouts)


def test_a_digest_does_not_depend_on_how_often_a_value_occurred() -> None:
    assert layout_digest(layout_with([1.0, 2.0], ("a",))) == layout_digest(layout_with([1.0, 2.0, 2.0], ("a",)))


# --- windows


def test_a_window_closes_at_the_first_pane_boundary_with_enough_rows_and_the_next_pane_starts_the_next() -> None:
    windows = tile(panes({0: 300, 1: 250, 2: 499, 3: 1, 4: 10}), at(MINUTE * 10), MINUTE, 500, DAY)
    assert spans(windows) == [(0, 2, 550), (2, 4, 500)]


def test_a_window_holds_the_sum_of_its_panes() -> None:
    (window,) = tile(panes({0: 300, 5: 250}), at(MINUTE * 10), MINUTE, 500, DAY)
    assert window.counts.tolist() == [550, 5]


def test_a_pane_takes_part_only_when_it_is_wholly_behind_the_watermark() -> None:
    stream = panes({0: 500})
    assert tile(stream, at(59.999), MINUTE, 500, DAY) == []
    assert spans(tile(stream, at(60), MINUTE, 500, DAY)) == [(0, 1, 500)]


def test_a_window_with_few_rows_closes_by_age() -> None:
    stream = panes({0: 10, 4: 20, 5: 30})
    assert tile(stream, at(299), MINUTE, 500, 300) == []
    assert spans(tile(stream, at(300), MINUTE, 500, 300)) == [(0, 5, 30)]
    assert spans(tile(stream, at(600), MINUTE, 500, 300)) == [(0, 5, 30), (5, 10, 30)]


@pytest.mark.parametrize("watermark", [120, 130, 400])
def test_an_age_that_is_no_whole_number_of_panes_is_rounded_up_to_one(watermark: float) -> None:
    windows = tile(panes({0: 10, 1: 20}), at(watermark), MINUTE, 500, max_age=90)
    assert spans(windows) == [(0, 2, 30)]


def test_an_age_below_a_pane_is_one_pane() -> None:
    assert spans(tile(panes({0: 10, 1: 20}), at(120), MINUTE, 500, max_age=1)) == [(0, 1, 10), (1, 2, 20)]


@given(STREAMS, st.lists(st.integers(0, 25_000), max_size=6), st.sampled_from([1.0, 90.0, 1_000.0, DAY]))
def test_windows_do_not_depend_on_when_one_looked(rows: dict[int, int], looks: list[int], max_age: float) -> None:
    stream, end = panes(rows), at(200_000)
    found: list[Window] = []
    for look in [*(at(seconds) for seconds in sorted(looks)), end]:
        still_open = [pane for pane in stream if not found or pane.starts >= found[-1].ends]
        found += tile(still_open, look, MINUTE, 300, max_age)
    assert told(found) == told(tile(stream, end, MINUTE, 300, max_age))


@given(STREAMS, st.sampled_from([1.0, 90.0, 1_000.0, DAY]))
def test_windows_are_disjoint_in_order_and_lose_no_row(rows: dict[int, int], max_age: float) -> None:
    windows = tile(panes(rows), at(200_000), MINUTE, 300, max_age)
    assert all(one.ends <= following.starts for one, following in pairwise(windows))
    assert sum(window.n for window in windows) == sum(rows.values())
    assert all(window.counts[0] == window.n for window in windows)


def test_a_window_of_counted_rows_has_their_counts() -> None:
    layout = numeric_layout(np.array([[1.0], [2.0]]))
    first, second = np.array([[1.0], [3.0]]), np.array([[2.0], [2.0]])
    stream = [Pane(at(0), 2, counted_rows(layout, first)), Pane(at(60), 2, counted_rows(layout, second))]
    (window,) = tile(stream, at(120), MINUTE, 4, DAY)
    assert np.array_equal(window.counts, counted_rows(layout, np.concatenate([first, second])))
