"""Whether values are the reference's in another unit: their logarithms' histogram, moved."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.common.profile import categorical_reference, numeric_reference
from driftloop.common.statistics.cells import NumericCells
from driftloop.drift_monitor.domain.fold.base import Fold
from driftloop.drift_monitor.domain.fold.cells import CellCounts
from driftloop.drift_monitor.domain.fold.quality import middle
from driftloop.drift_monitor.domain.fold.rows import Column, PredictionRows
from driftloop.drift_monitor.domain.fold.scale import (
    BINS,
    OCTAVES,
    PER_OCTAVE,
    ScaleCounts,
    distance_when_rescaled,
    of_reference,
)
from driftloop.drift_monitor.domain.quality import SAME_SHAPE
from tests.unit.drift_monitor.builders import Rows, numeric

RNG = np.random.default_rng(17)
POSITIVE = st.floats(1e-9, 1e9, allow_nan=False)
ONE = PER_OCTAVE * OCTAVES


def rows(values: Rows) -> PredictionRows:
    return PredictionRows({"x": Column(values)}, np.full(len(values), 0.5), np.ones(len(values), dtype=np.bool_))


def accumulator(cells: NumericCells) -> ScaleCounts:
    low, high = middle(numeric_reference("x", np.repeat(cells.representatives, cells.reference[:-1]).tolist()))
    assert low is not None
    assert high is not None
    return ScaleCounts(cells, low, high)


def scale(reference: Rows, values: Rows, max_distinct: int = 1024) -> np.ndarray:
    """The histogram of values that were counted as the fold counts them."""
    cells = numeric(reference, max_distinct)
    scales = accumulator(cells)
    outside = Fold((scales,)).add(rows(values)).counts
    inside = Fold((CellCounts(cells),)).add(rows(values)).counts
    return scales.of_all(outside, inside)


def distance(reference: Rows, values: Rows, max_distinct: int = 1024) -> float:
    known = of_reference(numeric_reference("x", reference.tolist()))
    return distance_when_rescaled(known, scale(reference, values, max_distinct))


# --- the histogram


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (1.0, ONE),
        (2.0, ONE + PER_OCTAVE),
        (0.5, ONE - PER_OCTAVE),
        (1.99, ONE + PER_OCTAVE - 1),
        (1e-300, 0),
        (5e-324, 0),
        (1e300, BINS - 1),
    ],
)
def test_an_octave_has_sixteen_bins_and_the_outermost_are_open(value: float, place: int) -> None:
    assert np.flatnonzero(of_reference(numeric_reference("x", [value]))).tolist() == [place]


def test_what_is_not_positive_or_no_number_has_no_place() -> None:
    assert of_reference(numeric_reference("x", [0.0, -1.0, None])).sum() == 0
    assert of_reference(categorical_reference("c", ("a",), ["a"])).sum() == 0
    assert scale(np.array([5.0, 6.0]), np.array([0.0, -1.0, np.nan])).sum() == 0


@given(st.lists(POSITIVE, min_size=1, max_size=30), st.lists(POSITIVE, max_size=30), st.sampled_from([2, 5, 1024]))
def test_each_positive_value_is_counted_once_by_itself_or_by_its_cell(
    reference: list[float], values: list[float], max_distinct: int
) -> None:
    assert scale(np.array(reference), np.array(values), max_distinct).sum() == len(values)


@given(st.lists(POSITIVE, min_size=1, max_size=30))
def test_the_references_own_values_have_the_references_histogram(values: list[float]) -> None:
    found = scale(np.array(values), np.array(values))
    assert found.tolist() == of_reference(numeric_reference("x", values)).tolist()


def test_values_in_the_middle_are_left_to_the_cells() -> None:
    reference = np.arange(1.0, 101.0)
    outside = Fold((accumulator(numeric(reference)),)).add(rows(np.array([1.0, 2.5, 50.0, 99.0, 99.5, 200.0]))).counts
    assert (
        np.flatnonzero(outside).tolist() == np.flatnonzero(of_reference(numeric_reference("x", [99.5, 200.0]))).tolist()
    )


# --- the distance


@pytest.mark.parametrize("factor", [1 / 38.67, 1 / 18.016, 0.1, 1 / 2.54, 2.2046, 7.0, 18.016, 1000.0])
@pytest.mark.parametrize("max_distinct", [64, 1024])
def test_another_unit_has_the_same_shape_whatever_the_factor(factor: float, max_distinct: int) -> None:
    reference, values = (RNG.normal(105, 15, rows).round(1) for rows in (768, 500))
    assert distance(reference, values * factor, max_distinct) <= SAME_SHAPE


def test_patients_who_are_older_than_all_others_are_no_multiple_of_these() -> None:
    young, old = RNG.integers(21, 31, 768).astype(float), RNG.integers(42, 82, 500).astype(float)
    assert distance(young, old) > SAME_SHAPE


def test_without_a_positive_value_on_both_sides_there_is_no_same_shape() -> None:
    some, none = of_reference(numeric_reference("x", [1.0])), np.zeros(BINS, dtype=np.int64)
    assert [distance_when_rescaled(*both) for both in ((some, none), (none, some), (none, none))] == [1.0] * 3
    assert distance_when_rescaled(some, some) == 0.0


def test_one_value_is_a_multiple_of_any_other() -> None:
    one, other = (of_reference(numeric_reference("x", [value])) for value in (3.0, 700.0))
    assert distance_when_rescaled(one, other) == 0.0
