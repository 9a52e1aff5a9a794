"""A window against a reference, from counts: Kolmogorov–Smirnov, chi-square, and the population stability index."""

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import msgspec
import numpy as np
from scipy import stats

from driftloop.common.statistics.cells import CategoricalCells, Cells, Counts, NumericCells
from driftloop.common.statistics.smirnov import Deviation, p_values

# A share of 0 would make PSI infinite; both sides are floored, and nothing is renormalised.
SHARE_FLOOR = 1e-4
# Below this expected count the chi-square approximation is poor (Cochran 1954): such categories are counted together.
LEAST_EXPECTED = 5.0
MOST_CATEGORIES = 10
PSI_LEVEL = 0.95
# What the bins are called that have neither an edge nor a category.
ABOVE, OTHER, MISSING = "above", "other", "missing"

BinCounts = tuple[tuple[float | str, int, int], ...]


class Comparison(msgspec.Struct, frozen=True):
    """One feature's window against its reference.

    `statistic` is D for a number and the total variation distance for a category (both 0 to 1); `p` is that of the
    two-sample KS or the chi-square test; `n` and `m` are the window's and the reference's non-missing rows.
    `psi_critical` is what PSI exceeds in one quiet window of twenty.

    The rest is for computing them again by hand. Of a number's n and m rows `window_at_most` and `reference_at_most`
    are at most `at`, and nowhere are their shares further apart: D = |window_at_most/n − reference_at_most/m| (None
    where D is 0). `bins` are PSI's: the greatest value, "above" for what is greater than all these, or the category or
    "other"; the reference's rows; the window's. Last and only where there are any come the "missing".
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
    at: float | None = None
    window_at_most: int | None = None
    reference_at_most: int | None = None
    bins: BinCounts = ()


def compare(cells: Cells, window: Counts, bins: int = 10, floor: float = SHARE_FLOOR) -> Comparison:
    """Compare a window's counts with the reference of `cells`.

    Where either has no row but missing ones, p is 1 and the statistic 0. `bins` are PSI's at most, `floor` is the least
    share that PSI takes a bin to have.
    """
    return compare_all([cells], [window], bins, floor)[0]


def compare_all(
    cells: Sequence[Cells], windows: Sequence[Counts], bins: int = 10, floor: float = SHARE_FLOOR
) -> list[Comparison]:
    """Compare several features at once, which takes less time than one by one and gives the same."""
    gaps = [
        _widest_gap(one, window) if isinstance(one, NumericCells) else _NOT_NUMERIC
        for one, window in zip(cells, windows, strict=True)
    ]
    p = p_values([gap.deviation for gap in gaps])
    return [
        _numeric(one, window, gap, p_value, bins, floor)
        if isinstance(one, NumericCells)
        else _categorical(one, window, floor)
        for one, window, gap, p_value in zip(cells, windows, gaps, p, strict=True)
    ]


# --- numbers


class _Gap(NamedTuple):
    """Where two cumulative distributions are furthest apart: D, the cell, and how many rows lie in or before it."""

    deviation: Deviation
    cell: int
    window: int
    reference: int


_NOT_NUMERIC = _Gap(Deviation(0, 0, 0), 0, 0, 0)


def _widest_gap(cells: NumericCells, window: Counts) -> _Gap:
    """In whole numbers, so that nothing is rounded."""
    reference, seen = cells.at_most, np.cumsum(window[:-1])
    n, m = int(seen[-1]), int(reference[-1])
    if n == 0 or m == 0:
        return _Gap(Deviation(n, m, 0), 0, 0, 0)
    divisor = math.gcd(n, m)
    apart = np.abs(seen * (m // divisor) - reference * (n // divisor))
    cell = int(apart.argmax())
    return _Gap(Deviation(n, m, int(apart[cell])), cell, int(seen[cell]), int(reference[cell]))


def _numeric(cells: NumericCells, window: Counts, gap: _Gap, p: float, bins: int, floor: float) -> Comparison:
    plan, (n, m, steps) = cells.bins(bins), gap.deviation
    counts = np.add.reduceat(window, plan.starts)
    was, now = int(cells.reference[-1]), int(window[-1])
    labels: tuple[float | str, ...] = (*plan.edges, ABOVE, MISSING)
    used = len(labels) if was or now else len(labels) - 1
    reference, counts = plan.reference[:used], counts[:used]
    return Comparison(
        name=cells.name,
        kind="numeric",
        statistic=gap.deviation.statistic,
        p=p,
        psi=_stability_index(reference, counts, m + was, n + now, floor),
        psi_critical=critical_index(used, m + was, n + now),
        n=n,
        m=m,
        missing=now,
        error_bound=cells.error_bound,
        at=float(cells.ends[gap.cell]) if steps else None,
        window_at_most=gap.window if steps else None,
        reference_at_most=gap.reference if steps else None,
        bins=tuple(zip(labels[:used], reference.tolist(), counts.tolist(), strict=True)),
    )


# --- categories


def _categorical(cells: CategoricalCells, window: Counts, floor: float) -> Comparison:
    distance, p = chi_square(cells, window)
    bins = _grouped(cells, window)
    was, now = int(cells.reference[-1]), int(window[-1])
    if was or now:
        bins = (*bins, (MISSING, was, now))
    reference, counts = np.array([bin_[1:] for bin_ in bins], dtype=np.int64).reshape(-1, 2).T
    n, m = int(window.sum()), int(cells.reference.sum())
    return Comparison(
        name=cells.name,
        kind="categorical",
        statistic=distance,
        p=p,
        psi=stability_index(reference, counts, floor),
        psi_critical=critical_index(len(bins), m, n),
        n=n - now,
        m=m - was,
        missing=now,
        bins=bins,
    )


def chi_square(cells: CategoricalCells, window: Counts) -> tuple[float, float]:
    """The total variation distance of the shares, and p of the chi-square test of homogeneity without correction.

    Missing rows are left out; rare categories are counted together, and columns without a row are dropped.
    """
    present, reference = window[:-1], cells.reference[:-1]
    n, m = int(present.sum()), int(reference.sum())
    if n == 0 or m == 0:
        return 0.0, 1.0
    distance = float(np.abs(present / n - reference / m).sum() / 2)
    table = np.array([bin_[1:] for bin_ in _grouped(cells, window)]).T
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2:
        return distance, 1.0
    return distance, float(stats.chi2_contingency(table, correction=False).pvalue)


def _grouped(cells: CategoricalCells, window: Counts) -> BinCounts:
    """The categories that can be expected often enough, in their order, and the others together."""
    reference, present = cells.reference[:-1], window[:-1]
    n, m = int(present.sum()), max(1, int(reference.sum()))
    order = np.argsort(-reference, kind="stable")
    keep = [int(cell) for cell in order if reference[cell] * n / m >= LEAST_EXPECTED][: MOST_CATEGORIES - 1]
    rest = np.setdiff1d(np.arange(len(reference)), keep)
    groups = [(cells.categories[cell], int(reference[cell]), int(present[cell])) for cell in sorted(keep)]
    other = (OTHER, int(reference[rest].sum()), int(present[rest].sum()))
    return (*groups, other) if any(other[1:]) else tuple(groups)


# --- the population stability index


def stability_index(reference: Counts, window: Counts, floor: float = SHARE_FLOOR) -> float:
    """PSI = Σ (qᵢ − pᵢ) · ln(qᵢ / pᵢ) of the bins' counts [b]; 0 where either side is empty."""
    return _stability_index(reference, window, int(reference.sum()), int(window.sum()), floor)


def _stability_index(reference: Counts, window: Counts, m: int, n: int, floor: float) -> float:
    if m == 0 or n == 0:
        return 0.0
    p, q = np.maximum(reference / m, floor), np.maximum(window / n, floor)
    return float(np.add.reduce((q - p) * np.log(q / p)))


def critical_index(bins: int, m: int, n: int) -> float:
    """The PSI that unchanged data exceed once in twenty: about χ²₀.₉₅(bins − 1) · (1/n + 1/m) (Yurdakul 2018)."""
    if bins < 2 or n == 0 or m == 0:
        return math.inf
    return _chi_square_limit(bins - 1) * (1 / n + 1 / m)


@cache
def _chi_square_limit(degrees: int) -> float:
    return float(stats.chi2.ppf(PSI_LEVEL, degrees))
