"""Kolmogorov–Smirnov from cell counts is SciPy's own, to the last digit."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats

from driftloop.common.contract import Grid
from driftloop.common.statistics.comparison import compare, kolmogorov_smirnov
from tests.unit.drift_monitor.builders import counted, numeric

Sample = NDArray[np.float64]
FINITE = st.floats(-1e308, 1e308)
ANY = st.integers(1, 40).flatmap(lambda n: arrays(np.float64, n, elements=FINITE))
TIED = st.integers(1, 60).flatmap(lambda n: arrays(np.float64, n, elements=st.integers(-3, 3).map(float)))
# Neighbouring floats leave no gap between two cells.
ADJACENT = st.integers(1, 30).flatmap(
    lambda n: arrays(np.float64, n, elements=st.sampled_from([1.0, math.nextafter(1, 2), math.nextafter(1, 0)]))
)
SAMPLES = st.one_of(ANY, TIED, ADJACENT)


def assert_scipys(reference: Sample, window: Sample) -> None:
    cells = numeric(reference)
    with warnings.catch_warnings():
        # SciPy says so where its exact p fails and it takes the asymptotic one: both sides then do.
        warnings.simplefilter("ignore", RuntimeWarning)
        expected = stats.ks_2samp(reference, window)
    assert kolmogorov_smirnov(cells, counted(cells, window)) == (expected.statistic, expected.pvalue)


@given(SAMPLES, SAMPLES)
@example(np.array([5.0]), np.array([5.0]))
@example(np.array([5.0]), np.array([6.0]))
@example(np.full(50, 3.0), np.full(20, 3.0))
@example(np.full(50, 3.0), np.array([2.0, 3.0, 4.0]))
@example(np.arange(20.0), np.arange(100.0, 130.0))
@example(np.array([-1.7e308, 1.7e308]), np.array([0.0, 1.7e308]))
@example(np.array([5e-324, 1.5e-323]), np.array([1e-323]))
@example(np.array([0.0]), np.array([-0.0]))
def test_d_and_p_equal_scipys_bit_for_bit(reference: Sample, window: Sample) -> None:
    assert_scipys(reference, window)


@pytest.mark.parametrize(("m", "n"), [(768, 500), (768, 5_000), (2_000, 499), (768, 20_000)])
def test_d_and_p_equal_scipys_where_its_exact_and_its_asymptotic_p_apply(m: int, n: int) -> None:
    rng = np.random.default_rng(m + n)
    assert_scipys(rng.normal(size=m).round(1), rng.normal(0.05, 1, size=n).round(1))


def test_the_worked_example() -> None:
    reference = np.arange(80.0, 151, 10)
    window = np.array([100.0, 110, 130, 140, 150, 160, 170, 180])
    cells = numeric(reference)
    d, p = kolmogorov_smirnov(cells, counted(cells, window))
    assert d == 0.375
    assert p == pytest.approx(0.660, abs=5e-4)


@given(st.lists(st.integers(-5_000, 5_000), min_size=1, max_size=200), st.sampled_from([0.1, 0.01, 0.5]))
def test_a_reference_that_went_through_float32_is_the_same_population(multiples: list[int], step: float) -> None:
    grid = Grid(step)
    reference = [grid.round(multiple * step) for multiple in multiples]
    returned = [grid.round(float(value)) for value in np.array(reference, dtype=np.float32)]
    cells = numeric(reference)
    assert kolmogorov_smirnov(cells, counted(cells, returned)) == (0.0, 1.0)


def test_missing_values_are_no_part_of_d_or_n() -> None:
    cells = numeric([1.0, 2.0, 3.0, math.nan])
    compared = compare(cells, counted(cells, [1.0, 2.0, 3.0, math.nan, math.nan]))
    assert (compared.statistic, compared.p, compared.n, compared.m, compared.missing) == (0.0, 1.0, 3, 3, 2)


@pytest.mark.parametrize("window", [[], [math.nan, math.nan]], ids=["empty", "all missing"])
def test_a_window_without_a_value_says_nothing_of_the_values(window: list[float]) -> None:
    cells = numeric([1.0, 2.0, 3.0])
    compared = compare(cells, counted(cells, window))
    assert (compared.statistic, compared.p, compared.n) == (0.0, 1.0, 0)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.2, 3.0]))
def test_above_the_limit_of_distinct_values_d_is_within_the_stated_bound(seed: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    reference, window = rng.normal(size=400), rng.normal(shift, 1, size=150)
    cells = numeric(reference, max_distinct=32)
    d, _ = kolmogorov_smirnov(cells, counted(cells, window))
    exact = stats.ks_2samp(reference, window).statistic
    assert 0 < cells.error_bound <= 1 / 32
    assert exact - cells.error_bound - 1e-12 <= d <= exact + 1e-12


def test_at_the_limit_of_distinct_values_d_is_exact_and_says_so() -> None:
    assert numeric(np.arange(32.0), max_distinct=32).error_bound == 0.0
