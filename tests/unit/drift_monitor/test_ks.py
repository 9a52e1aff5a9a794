"""Kolmogorov–Smirnov from cell counts is SciPy's: D within 1e-12, p within 1e-9."""

import math
import warnings
from itertools import combinations

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats

from driftloop.common.contract import Grid
from driftloop.common.statistics.cells import Counts, NumericCells
from driftloop.common.statistics.comparison import compare, compare_all
from driftloop.common.statistics.smirnov import Deviation, p_values
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


def d_and_p(cells: NumericCells, window: Counts) -> tuple[float, float]:
    found = compare(cells, window)
    return found.statistic, found.p


def assert_scipys(reference: Sample, window: Sample) -> None:
    cells = numeric(reference)
    with warnings.catch_warnings():
        # SciPy says so where its exact p fails and it takes the asymptotic one: both sides then do.
        warnings.simplefilter("ignore", RuntimeWarning)
        expected = stats.ks_2samp(reference, window)
    d, p = d_and_p(cells, counted(cells, window))
    assert d == pytest.approx(expected.statistic, rel=0, abs=1e-12)
    assert p == pytest.approx(expected.pvalue, rel=0, abs=1e-9)


@given(SAMPLES, SAMPLES)
@example(np.array([5.0]), np.array([5.0]))
@example(np.array([5.0]), np.array([6.0]))
@example(np.full(50, 3.0), np.full(20, 3.0))
@example(np.full(50, 3.0), np.array([2.0, 3.0, 4.0]))
@example(np.arange(20.0), np.arange(100.0, 130.0))
@example(np.array([-1.7e308, 1.7e308]), np.array([0.0, 1.7e308]))
@example(np.array([5e-324, 1.5e-323]), np.array([1e-323]))
@example(np.array([0.0]), np.array([-0.0]))
def test_d_and_p_equal_scipys(reference: Sample, window: Sample) -> None:
    assert_scipys(reference, window)


SIZES = [
    (768, 500), (768, 5_000), (2_000, 499), (500, 500), (1_000, 2_000), (1, 9_000), (9_000, 1), (7, 4_000), (40, 3_000),
    (10_000, 300), (10_001, 300), (768, 20_000),
]  # fmt: skip


@pytest.mark.parametrize(("m", "n"), SIZES)
@pytest.mark.parametrize("shift", [0.05, 1.0])
def test_d_and_p_equal_scipys_where_its_exact_and_its_asymptotic_p_apply(m: int, n: int, shift: float) -> None:
    rng = np.random.default_rng(m + n)
    assert_scipys(rng.normal(size=m).round(1), rng.normal(shift, 1, size=n).round(1))


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 6), (6, 1), (3, 4), (4, 4), (4, 6), (5, 7)])
def test_p_is_the_share_of_all_orders_of_the_rows_that_have_so_large_a_d(n: int, m: int) -> None:
    steps: list[int] = []
    for chosen in combinations(range(n + m), n):
        seen = np.cumsum(np.isin(np.arange(n + m), chosen))
        others = np.arange(1, n + m + 1) - seen
        steps.append(int(np.abs(seen * m - others * n).max()) // math.gcd(n, m))
    possible = sorted(set(steps))
    shares = [np.mean(np.array(steps) >= least) for least in possible]
    assert p_values([Deviation(n, m, least) for least in possible]) == pytest.approx(shares, abs=1e-12)


@pytest.mark.parametrize("shift", [0.3, 0.35, 0.4, 0.8, 2.0])
def test_a_p_that_is_nearly_nought_has_its_digits_too(shift: float) -> None:
    rng = np.random.default_rng(7)
    reference, window = rng.normal(size=768), rng.normal(shift, 1, size=500)
    cells = numeric(reference)
    _, p = d_and_p(cells, counted(cells, window))
    assert 0 < p == pytest.approx(stats.ks_2samp(reference, window).pvalue, rel=1e-5)


def test_p_of_samples_of_equal_size_is_scipys_where_its_exact_p_fails() -> None:
    # 2 · Σ comes to 1 + 2⁻⁵² for the smallest possible D of seven against seven.
    reference, window = np.arange(7.0), np.arange(7.0) + 0.5
    assert_scipys(reference, window)


def test_features_compared_together_come_out_as_one_by_one() -> None:
    rng = np.random.default_rng(1)
    # More than walk in one vector, of sizes that do and do not go together.
    cells = [numeric(rng.normal(size=size)) for size in [*range(700, 718), 5, 1, 9_000]]
    windows = [counted(one, rng.normal(place / 20, 1, size=500)) for place, one in enumerate(cells)]
    together, alone = compare_all(cells, windows), [compare(*pair) for pair in zip(cells, windows, strict=True)]
    for both, single in zip(together, alone, strict=True):
        assert both.p == pytest.approx(single.p, rel=1e-9, abs=1e-13)
        assert msgspec.structs.replace(both, p=0) == msgspec.structs.replace(single, p=0)


@given(SAMPLES, SAMPLES)
def test_d_can_be_computed_again_by_hand(reference: Sample, window: Sample) -> None:
    cells = numeric(reference)
    found = compare(cells, counted(cells, window))
    if found.at is None:
        assert found.statistic == 0
        return
    seen, known = int((window <= found.at).sum()), int((reference <= found.at).sum())
    assert (found.window_at_most, found.reference_at_most) == (seen, known)
    assert found.statistic == pytest.approx(abs(seen / found.n - known / found.m))


@pytest.mark.parametrize(
    ("reference", "window", "d"),
    [
        ([4.0] * 50, [4.0] * 20, 0.0),
        ([4.0] * 50, [5.0] * 20, 1.0),
        ([1.0, 2.0, 3.0], [7.0, 8.0], 1.0),
        ([1.0, 2.0, 3.0, 4.0], [2.0], 0.5),
        ([4.0], [4.0], 0.0),
    ],
    ids=["the same constant", "another constant", "disjoint", "a window of one row", "one row each"],
)
def test_poor_samples_have_the_statistics_that_they_have(reference: list[float], window: list[float], d: float) -> None:
    assert_scipys(np.array(reference), np.array(window))
    cells = numeric(reference)
    assert compare(cells, counted(cells, window)).statistic == d


@pytest.mark.parametrize("window", [[], [math.nan], [1.0, 2.0]], ids=["empty", "missing", "values"])
def test_a_reference_without_a_value_has_no_d(window: list[float]) -> None:
    cells = numeric([math.nan] * 10)
    found = compare(cells, counted(cells, window))
    assert (found.statistic, found.p, found.m, found.at) == (0.0, 1.0, 0, None)
    assert (found.n, found.missing) == (sum(not math.isnan(v) for v in window), sum(math.isnan(v) for v in window))


def test_the_worked_example() -> None:
    reference = np.arange(80.0, 151, 10)
    window = np.array([100.0, 110, 130, 140, 150, 160, 170, 180])
    cells = numeric(reference)
    d, p = d_and_p(cells, counted(cells, window))
    assert d == 0.375
    assert p == pytest.approx(0.660, abs=5e-4)


@given(st.lists(st.integers(-5_000, 5_000), min_size=1, max_size=200), st.sampled_from([0.1, 0.01, 0.5]))
def test_a_reference_that_went_through_float32_is_the_same_population(multiples: list[int], step: float) -> None:
    grid = Grid(step)
    reference = [grid.round(multiple * step) for multiple in multiples]
    returned = [grid.round(float(value)) for value in np.array(reference, dtype=np.float32)]
    cells = numeric(reference)
    assert d_and_p(cells, counted(cells, returned)) == (0.0, 1.0)


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
    d, _ = d_and_p(cells, counted(cells, window))
    exact = stats.ks_2samp(reference, window).statistic
    assert 0 < cells.error_bound <= 1 / 32
    assert exact - cells.error_bound - 1e-12 <= d <= exact + 1e-12


def test_at_the_limit_of_distinct_values_d_is_exact_and_says_so() -> None:
    assert numeric(np.arange(32.0), max_distinct=32).error_bound == 0.0
