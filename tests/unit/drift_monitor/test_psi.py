"""The population stability index from cell counts."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats

from driftloop.common.statistics.comparison import compare, critical_index, psi_bins, stability_index
from tests.unit.drift_monitor.builders import counted, numeric

Sample = NDArray[np.float64]
SAMPLES = st.integers(1, 80).flatmap(
    lambda n: arrays(
        np.float64, n, elements=st.one_of(st.integers(-4, 4).map(float), st.floats(-1e6, 1e6), st.just(math.nan))
    )
)


def binned(values: Sample, cuts: Sample) -> NDArray[np.float64]:
    """Shares of the bins (a, b] and, last, of the missing."""
    present = values[~np.isnan(values)]
    inside = np.bincount(np.searchsorted(cuts, present, side="left"), minlength=len(cuts) + 1)
    return np.append(inside, len(values) - len(present)) / len(values)


def psi_of_rows(reference: Sample, window: Sample, bins: int) -> float:
    """PSI as one would do it by hand, from the rows."""
    levels = np.arange(1, bins) / bins
    cuts = np.unique(np.quantile(reference[~np.isnan(reference)], levels, method="inverted_cdf"))
    p, q = np.maximum(binned(reference, cuts), 1e-4), np.maximum(binned(window, cuts), 1e-4)
    return float(np.sum((q - p) * np.log(q / p)))


def test_the_worked_example() -> None:
    assert stability_index(np.array([40, 35, 15, 10]), np.array([10, 15, 25, 50])) == pytest.approx(1.2802, abs=5e-5)


def test_an_empty_share_is_floored_and_nothing_is_renormalised() -> None:
    floored = stability_index(np.array([100, 0]), np.array([50, 50]))
    assert floored == pytest.approx((0.5 - 1) * math.log(0.5) + (0.5 - 1e-4) * math.log(0.5 / 1e-4))


@given(SAMPLES.filter(lambda sample: not np.isnan(sample).all()), SAMPLES, st.sampled_from([2, 4, 10]))
def test_psi_of_counts_is_psi_of_the_rows(reference: Sample, window: Sample, bins: int) -> None:
    cells = numeric(reference)
    assert compare(cells, counted(cells, window), bins).psi == pytest.approx(psi_of_rows(reference, window, bins))


@given(SAMPLES.filter(lambda sample: not np.isnan(sample).all()))
def test_a_bin_is_open_below_and_closed_above(reference: Sample) -> None:
    cells = numeric(reference)
    place = psi_bins(cells, 10)
    assert np.all(np.diff(place) >= 0), "bins follow the line"
    # Between neighbouring floats there is no gap: that cell never counts, wherever it is.
    real = np.append(True, np.nextafter(cells.cuts[:-1], np.inf) < cells.cuts[1:])
    assert np.array_equal(place[:-1:2][real], place[1::2][real]), "the gap below a value lies in the value's own bin"


def test_values_that_went_missing_are_a_bin_of_their_own() -> None:
    cells = numeric(np.arange(100.0))
    window = np.append(np.arange(50.0) * 2, np.full(50, math.nan))
    compared = compare(cells, counted(cells, window))
    assert compared.statistic <= 0.01
    assert compared.psi > 0.2


def test_the_critical_value_has_the_bins_that_there_are() -> None:
    # Deciles of 0 and 1 are 0 and 1: three bins, the last of them empty in the reference; four with the missing one.
    cells = numeric([0.0] * 50 + [1.0] * 50)
    without = compare(cells, counted(cells, [0.0, 1.0]))
    assert without.psi_critical == pytest.approx(stats.chi2.ppf(0.95, 2) * (1 / 2 + 1 / 100))
    beside = compare(cells, counted(cells, [0.0, math.nan]))
    assert beside.psi_critical == pytest.approx(stats.chi2.ppf(0.95, 3) * (1 / 2 + 1 / 100))


def test_one_quiet_window_in_twenty_exceeds_the_critical_value() -> None:
    rng = np.random.default_rng(4)
    bins, m, n = 10, 5_000, 1_000
    psi = [
        stability_index(rng.multinomial(m, np.full(bins, 0.1)), rng.multinomial(n, np.full(bins, 0.1)))
        for _ in range(2_000)
    ]
    assert np.mean(np.array(psi) > critical_index(bins, m, n)) == pytest.approx(0.05, abs=0.015)
