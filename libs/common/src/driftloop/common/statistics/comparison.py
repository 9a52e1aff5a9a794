"""A window against a reference, from counts: Kolmogorov–Smirnov, chi-square, and the population stability index."""

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from driftloop.common.statistics.cells import CategoricalCells, Cells, Counts, NumericCells, quantiles

# A share of 0 would make PSI infinite; both sides are floored, and nothing is renormalised.
SHARE_FLOOR = 1e-4
# Below this expected count the chi-square approximation is poor (Cochran 1954): such categories are counted together.
LEAST_EXPECTED = 5.0
MOST_CATEGORIES = 10
PSI_LEVEL = 0.95


@dataclass(frozen=True)
class Comparison:
    """One feature's window against its reference.

    `statistic` is D for a number and the total variation distance for a category (both 0 to 1); `p` is that of the
    two-sample KS or the chi-square test; `n` and `m` are the window's and the reference's non-missing rows.
    `psi_critical` is what PSI exceeds in one quiet window of twenty.
    """

    name: str
    kind: str
    statistic: float
    p: float
    psi: float
    psi_critical: float
    n: int
    m: int
    missing: int
    error_bound: float = 0.0


def compare(cells: Cells, window: Counts, bins: int = 10) -> Comparison:
    """Compare a window's counts with the reference of `cells`; without a non-missing row p is 1, the statistic 0."""
    if isinstance(cells, NumericCells):
        statistic, p = kolmogorov_smirnov(cells, window)
        shares = _binned(cells, window, bins)
        kind, error = "numeric", cells.error_bound
    else:
        statistic, p = chi_square(cells, window)
        shares = _grouped(cells, window)
        kind, error = "categorical", 0.0
    return Comparison(
        name=cells.name,
        kind=kind,
        statistic=statistic,
        p=p,
        psi=stability_index(*shares),
        psi_critical=critical_index(len(shares[0]), int(cells.reference.sum()), int(window.sum())),
        n=int(window[:-1].sum()),
        m=int(cells.reference[:-1].sum()),
        missing=int(window[-1]),
        error_bound=error,
    )


def kolmogorov_smirnov(cells: NumericCells, window: Counts) -> tuple[float, float]:
    """The two-sided two-sample D and p, as `scipy.stats.ks_2samp` gives them for the rows themselves.

    SciPy sees a surrogate: every row replaced by its cell's representative, which leaves each comparison as it was.
    """
    present = window[:-1]
    if present.sum() == 0:
        return 0.0, 1.0
    reference = np.repeat(cells.representatives, cells.reference[:-1])
    sample = np.repeat(cells.representatives, present)
    with warnings.catch_warnings():
        # SciPy says when an exact p is out of reach and it takes the asymptotic one: which is what is wanted then.
        warnings.simplefilter("ignore", RuntimeWarning)
        result = stats.ks_2samp(reference, sample)
    return float(result.statistic), float(result.pvalue)


def chi_square(cells: CategoricalCells, window: Counts) -> tuple[float, float]:
    """The total variation distance of the shares, and p of the chi-square test of homogeneity without correction.

    Missing rows are left out; rare categories are counted together, and columns without a row are dropped.
    """
    present, reference = window[:-1], cells.reference[:-1]
    n, m = int(present.sum()), int(reference.sum())
    if n == 0 or m == 0:
        return 0.0, 1.0
    distance = float(np.abs(present / n - reference / m).sum() / 2)
    table = np.array(_grouped(cells, np.append(present, 0), missing=False))
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2:
        return distance, 1.0
    return distance, float(stats.chi2_contingency(table, correction=False).pvalue)


def stability_index(reference: Counts, window: Counts) -> float:
    """PSI = Σ (qᵢ − pᵢ) · ln(qᵢ / pᵢ) of the bins' counts [b]; 0 where either side is empty."""
    if reference.sum() == 0 or window.sum() == 0:
        return 0.0
    p = np.maximum(reference / reference.sum(), SHARE_FLOOR)
    q = np.maximum(window / window.sum(), SHARE_FLOOR)
    return float(np.sum((q - p) * np.log(q / p)))


def critical_index(bins: int, m: int, n: int) -> float:
    """The PSI that unchanged data exceed once in twenty: about χ²₀.₉₅(bins − 1) · (1/n + 1/m) (Yurdakul 2018)."""
    if bins < 2 or n == 0 or m == 0:
        return math.inf
    return float(stats.chi2.ppf(PSI_LEVEL, bins - 1) * (1 / n + 1 / m))


def psi_bins(cells: NumericCells, bins: int) -> NDArray[np.int64]:
    """The bin of each non-missing cell. Bins are (a, b], cut at the reference's distinct quantiles.

    A cut is a reference value, so that each cell lies in one bin whole: a gap in that of the value after it.
    """
    reference = cells.reference[:-1]
    inner = quantiles(cells.representatives, reference, np.arange(1, bins) / bins)
    return np.searchsorted(inner, cells.representatives, side="left").astype(np.int64)


def _binned(cells: NumericCells, window: Counts, bins: int) -> tuple[Counts, Counts]:
    place = psi_bins(cells, bins)
    size = int(place.max()) + 1
    both = tuple(
        np.bincount(place, weights=counts[:-1], minlength=size).astype(np.int64) for counts in (cells.reference, window)
    )
    return _with_missing(both[0], both[1], int(cells.reference[-1]), int(window[-1]))


def _grouped(cells: CategoricalCells, window: Counts, *, missing: bool = True) -> tuple[Counts, Counts]:
    reference, present = cells.reference[:-1], window[:-1]
    n, m = int(present.sum()), max(1, int(reference.sum()))
    order = np.argsort(-reference, kind="stable")
    keep = [int(cell) for cell in order if reference[cell] * n / m >= LEAST_EXPECTED][: MOST_CATEGORIES - 1]
    rest = np.setdiff1d(np.arange(len(reference)), keep)
    groups = [(reference[cell], present[cell]) for cell in sorted(keep)]
    other = (int(reference[rest].sum()), int(present[rest].sum()))
    if any(other):
        groups.append(other)
    table = np.array(groups, dtype=np.int64).reshape(-1, 2)
    if not missing:
        return table[:, 0], table[:, 1]
    return _with_missing(table[:, 0], table[:, 1], int(cells.reference[-1]), int(window[-1]))


def _with_missing(reference: Counts, window: Counts, was: int, now: int) -> tuple[Counts, Counts]:
    """The bins, and one for the missing where either side has any."""
    if was == 0 and now == 0:
        return reference, window
    return np.append(reference, was), np.append(window, now)
