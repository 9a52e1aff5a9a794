"""The population stability index from cell counts."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats

from driftloop.common.statistics.comparison import (
    ABOVE,
    MISSING,
    compare,
    critical_index,
    stability_index,
)
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
    place = cells.bins(10).place
    assert np.all(np.diff(place) >= 0), "bins follow the line"
    # Between neighbouring floats there is no gap: that cell never counts, wherever it is.
    real = np.append(True, np.nextafter(cells.cuts[:-1], np.inf) < cells.cuts[1:])
    assert np.array_equal(place[:-1:2][real], place[1::2][real]), "the gap below a value lies in the value's own bin"


@given(SAMPLES.filter(lambda sample: not np.isnan(sample).all()), SAMPLES)
def test_psi_can_be_computed_again_by_hand_from_the_bins(reference: Sample, window: Sample) -> None:
    cells = numeric(reference)
    found = compare(cells, counted(cells, window))
    low = -math.inf
    for label, was, now in found.bins:
        if label == MISSING:
            inside = (np.isnan(reference), np.isnan(window))
        else:
            high = math.inf if label == ABOVE else float(label)
            inside = ((reference > low) & (reference <= high), (window > low) & (window <= high))
            low = high
        assert (was, now) == (int(inside[0].sum()), int(inside[1].sum()))
    _, were, are = zip(*found.bins, strict=True)
    assert found.psi == stability_index(np.array(were), np.array(are))


def test_the_last_bin_has_no_edge_and_the_missing_come_after_it() -> None:
    cells = numeric([1.0, 2.0, 3.0, 4.0, math.nan])
    found = compare(cells, counted(cells, [0.0, 1.5, 9.0, math.nan]), bins=2)
    assert found.bins == ((2.0, 2, 2), (ABOVE, 2, 1), (MISSING, 1, 1))


def test_the_floor_of_the_shares_is_a_parameter() -> None:
    cells = numeric([1.0] * 5 + [2.0] * 5)
    window = counted(cells, [1.0] * 10)
    psi = {floor: compare(cells, window, 2, floor).psi for floor in (1e-4, 1e-2)}
    assert psi[1e-2] == pytest.approx(0.5 * math.log(2) + (0.01 - 0.5) * math.log(0.01 / 0.5))
    assert psi[1e-4] > psi[1e-2]


def test_a_reference_without_a_value_is_compared_by_what_is_missing() -> None:
    cells = numeric([math.nan] * 10)
    assert compare(cells, counted(cells, [math.nan] * 5)).psi == 0.0
    appeared = compare(cells, counted(cells, [1.0, math.nan]))
    assert appeared.bins == ((ABOVE, 0, 1), (MISSING, 10, 1))
    assert appeared.psi == pytest.approx((0.5 - 1e-4) * math.log(0.5 / 1e-4) + (0.5 - 1) * math.log(0.5))


@pytest.mark.parametrize("window", [[4.0], [5.0], [], [math.nan]], ids=["one", "another", "no row", "missing"])
def test_a_constant_reference_has_a_finite_psi(window: list[float]) -> None:
    cells = numeric([4.0] * 100)
    assert math.isfinite(compare(cells, counted(cells, window)).psi)


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
