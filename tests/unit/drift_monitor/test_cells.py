"""Cells: where a value is counted."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from driftloop.common.profile import categorical_reference
from driftloop.common.statistics.cells import CategoricalCells, cells_of, quantiles
from tests.unit.drift_monitor.builders import numeric


def test_each_value_and_each_gap_is_a_cell_and_the_missing_are_the_last() -> None:
    cells = numeric([20.0, 10.0, 20.0])
    values = np.array([5.0, 10.0, 15.0, 20.0, 25.0, math.nan])
    assert cells.index(values).tolist() == [0, 1, 2, 3, 4, 5]
    assert cells.reference.tolist() == [0, 1, 0, 2, 0, 0]


def test_distinct_values_r0_to_rk_make_2k_plus_3_cells_and_the_missing() -> None:
    k = 7
    assert numeric(np.arange(k + 1.0)).size == 2 * k + 3 + 1


def test_a_category_is_a_cell_then_the_unseen_then_the_missing() -> None:
    cells = cells_of(categorical_reference("colour", ("red", "blue"), ["red", "red", None]))
    assert isinstance(cells, CategoricalCells)
    assert cells.index(["red", "blue", "green", None]).tolist() == [0, 1, 2, 3]
    assert cells.reference.tolist() == [2, 0, 0, 1]


def test_a_reference_without_a_value_has_a_cell_for_every_value_and_one_for_the_missing() -> None:
    cells = numeric([math.nan, math.nan])
    assert cells.index(np.array([-1.0, 0.0, 1e300, math.nan])).tolist() == [0, 0, 0, 1]
    assert cells.reference.tolist() == [0, 2]
    assert cells.error_bound == 0.0


FINITE = st.floats(-1e308, 1e308)
ADJACENT = st.sampled_from([1.0, math.nextafter(1, 2), math.nextafter(1, 0), 0.0, -0.0, 5e-324])


@given(
    st.lists(st.one_of(FINITE, ADJACENT), min_size=1, max_size=30),
    st.lists(st.one_of(FINITE, ADJACENT, st.sampled_from([math.inf, -math.inf, math.nan])), max_size=30),
)
def test_a_cell_is_twice_the_cuts_below_and_one_more_on_a_cut(reference: list[float], values: list[float]) -> None:
    cells = numeric(reference)
    cuts = set(reference)
    expected = [
        cells.size - 1 if math.isnan(value) else 2 * sum(cut < value for cut in cuts) + (value in cuts)
        for value in [*values, *reference]
    ]
    assert cells.index(np.array([*values, *reference])).tolist() == expected


@given(st.lists(st.one_of(FINITE, ADJACENT), min_size=1, max_size=30), FINITE)
def test_no_value_of_a_cell_is_above_its_end(reference: list[float], value: float) -> None:
    cells = numeric(reference)
    cell = int(cells.index(np.array([value]))[0])
    assert value <= cells.ends[cell]
    assert cell == 0 or value > cells.ends[cell - 1]


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=60), st.sampled_from([2, 3, 7, 10, 100]))
def test_quantiles_are_numpys_inverted_cdf(values: list[int], bins: int) -> None:
    distinct, counts = np.unique(np.array(values, dtype=np.float64), return_counts=True)
    # A level times n that is whole may miss it by a float: NumPy then takes the next value, which no table would.
    levels = np.array([level for level in range(1, bins) if level * len(values) % bins]) / bins
    expected = np.unique(np.quantile(np.array(values, dtype=np.float64), levels, method="inverted_cdf"))
    assert quantiles(distinct, counts, levels).tolist() == expected.tolist()


@given(st.integers(0, 2**32 - 1), st.sampled_from([None, 1.0, 0.1, 1e-6]), st.sampled_from([2, 100, 1_000]))
def test_buckets_find_the_cell_that_a_search_finds(seed: int, step: float | None, size: int) -> None:
    rng = np.random.default_rng(seed)
    # Heavy tails put many cuts into few buckets.
    reference, values = rng.standard_cauchy(size) * 10, rng.standard_cauchy(500) * 20
    if step is not None:
        reference, values = (reference / step).round() * step, (values / step).round() * step
    cells = numeric(reference)
    values = np.concatenate(
        (values, cells.cuts, np.nextafter(cells.cuts, math.inf), np.nextafter(cells.cuts, -math.inf))
    )
    below, upto = (np.searchsorted(cells.cuts, values, side=side) for side in ("left", "right"))
    assert np.array_equal(cells.index(values), below + upto)
