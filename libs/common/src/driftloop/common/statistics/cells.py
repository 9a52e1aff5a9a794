"""Cells: the cuts of one feature's line (or its categories), into which rows are counted without losing a statistic.

A reference sample's sorted distinct values r₀ < … < r_k cut the line into 2k + 3 cells, each value itself and each gap
between, before and after. F_ref is constant inside a gap and the window's F is monotone there, so that the supremum of
their difference is reached at a cell's end: counting into cells loses nothing of the two-sample KS statistic.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftloop.common.profile import CategoricalReference, FeatureReference

Counts = NDArray[np.int64]
MAX_DISTINCT = 1024
MOST_BUCKETS = 4096


@dataclass(frozen=True, eq=False)
class NumericCells:
    """A number's cells: gap, value, gap, value, …, gap, and last the missing. `cuts` float64 [k] ascending."""

    name: str
    cuts: NDArray[np.float64]
    reference: Counts
    exact: bool

    @property
    def size(self) -> int:
        """How many cells there are, the missing one included."""
        return 2 * len(self.cuts) + 2

    def index(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """The cell of each value [n]; NaN is missing."""
        lookup = self._lookup
        if lookup is None:
            return np.searchsorted(self._starts, values, side="right")
        bucket = ((np.maximum(np.fmin(values, lookup.top), lookup.low) - lookup.low) * lookup.scale).astype(np.int64)
        cut, found = lookup.cut[bucket], lookup.cell[bucket]
        if lookup.crowded:
            crowded = np.flatnonzero(found < 0)
            exact = np.searchsorted(self._starts, values[crowded], side="right")
        found += values >= cut
        found += values > cut
        # NaN was put where the values above all cuts are: the cell after theirs is the missing.
        found += values != values
        if lookup.crowded:
            found[crowded] = exact
        return found

    @cached_property
    def _lookup(self) -> "_Lookup | None":
        return _lookup_of(self.cuts)

    @cached_property
    def _starts(self) -> NDArray[np.float64]:
        """The least value of each cell but the first. The missing begin with NaN: that sorts behind everything."""
        return np.append(np.column_stack((self.cuts, np.nextafter(self.cuts, math.inf))).ravel(), math.nan)

    @cached_property
    def ends(self) -> NDArray[np.float64]:
        """The greatest value of each cell [2k + 1] but the missing; the last has no end."""
        found = np.full(self.size - 1, math.inf)
        found[1::2] = self.cuts
        found[:-1:2] = np.nextafter(self.cuts, -math.inf)
        return found

    @cached_property
    def at_most(self) -> Counts:
        """How many rows of the reference lie in each cell or before it [2k + 1], the missing left out."""
        return np.cumsum(self.reference[:-1])

    @cached_property
    def representatives(self) -> NDArray[np.float64]:
        """One value of each cell [2k + 1]. Between adjacent floats there is no gap, so its entry never counts."""
        found = np.zeros(self.size - 1)
        if len(self.cuts) == 0:
            return found
        found[1::2] = self.cuts
        # Halves first: the sum of two huge cuts would overflow.
        found[2:-1:2] = self.cuts[:-1] / 2 + self.cuts[1:] / 2
        found[0] = np.nextafter(self.cuts[0], -math.inf)
        found[-1] = np.nextafter(self.cuts[-1], math.inf)
        return found

    def bins(self, count: int) -> "Bins":
        """The PSI bins (a, b], at most `count`, cut at the reference's distinct quantiles.

        Each cell lies in one bin whole: a cut is a reference value, and a gap belongs to the value after it.
        """
        if count not in self._bins:
            self._bins[count] = self._cut_into(count)
        return self._bins[count]

    @cached_property
    def _bins(self) -> dict[int, "Bins"]:
        return {}

    def _cut_into(self, count: int) -> "Bins":
        reference = self.reference[:-1]
        place = np.zeros(len(reference), dtype=np.int64)
        if reference.any():
            inner = quantiles(self.representatives, reference, np.arange(1, count) / count)
            place = np.searchsorted(inner, self.representatives, side="left")
        starts = np.flatnonzero(np.diff(place, prepend=-1))
        edges = tuple(self.ends[starts[1:] - 1].tolist())
        starts = np.append(starts, self.size - 1)
        return Bins(place, starts, edges, np.add.reduceat(self.reference, starts))

    @cached_property
    def error_bound(self) -> float:
        """How far D may be off: 0 when exact, else the largest share of the reference inside one open gap."""
        present = self.reference[:-1]
        total = int(present.sum())
        return 0.0 if self.exact or total == 0 else float(present[::2].max() / total)


class _Lookup(NamedTuple):
    """Equal buckets from the least cut on: about four times as fast as a binary search, whose branches nobody predicts.

    The one `cut` of each bucket, NaN where there is none, and the `cell` before it; −1 where a bucket has several. The
    last bucket is for all from `top` on.
    """

    low: float
    top: float
    scale: float
    cut: NDArray[np.float64]
    cell: Counts
    crowded: bool


def _lookup_of(cuts: NDArray[np.float64]) -> _Lookup | None:
    """The buckets of ascending cuts; None where they are one, or floats cannot divide their range."""
    if len(cuts) < 2 or not math.isfinite(span := float(cuts[-1]) - float(cuts[0])):
        return None
    low = float(cuts[0])
    # More buckets than there are between the two nearest cuts have one cut each.
    scale = min(1.5 / float(np.diff(cuts).min()), MOST_BUCKETS / span)
    if not math.isfinite(scale):
        return None
    bucket = ((cuts - low) * scale).astype(np.int64)
    last = int(bucket[-1]) + 1
    top = low + (last + 0.5) / scale
    if not (cuts[-1] < top and int((top - low) * scale) == last):
        return None
    many = np.bincount(bucket, minlength=last + 1)
    cut = np.full(last + 1, math.nan)
    cut[bucket] = cuts
    cell = 2 * (np.cumsum(many) - many)
    cut[many > 1], cell[many > 1] = math.nan, -1
    return _Lookup(low, top, scale, cut, cell, bool((many > 1).any()))


class Bins(NamedTuple):
    """Neighbouring cells taken together, and last the missing.

    The bin of each non-missing cell [2k + 1], the first cell of each bin [b + 1], the greatest value of each but the
    last two (the one has no end, the other no value) [b − 1], and the reference's rows in each [b + 1].
    """

    place: NDArray[np.int64]
    starts: NDArray[np.int64]
    edges: tuple[float, ...]
    reference: Counts


@dataclass(frozen=True, eq=False)
class CategoricalCells:
    """A category's cells: one each in the contract's order, then the unseen, and last the missing."""

    name: str
    categories: tuple[str, ...]
    reference: Counts

    @property
    def size(self) -> int:
        """How many cells there are, the unseen and the missing one included."""
        return len(self.categories) + 2

    def index(self, values: Sequence[object]) -> NDArray[np.int64]:
        """The cell of each value [n]; None is missing."""
        codes, unseen = self._codes, len(self.categories)
        return np.array([codes.get(v if v is None else str(v), unseen) for v in values], dtype=np.int64)

    @cached_property
    def _codes(self) -> dict[str | None, int]:
        codes: dict[str | None, int] = {category: code for code, category in enumerate(self.categories)}
        return codes | {None: self.size - 1}


Cells = NumericCells | CategoricalCells


def cells_of(reference: FeatureReference, max_distinct: int = MAX_DISTINCT) -> Cells:
    """The cells that a reference cuts; above `max_distinct` values the cuts are quantiles, and D has an error bound.

    A number's reference without any value cuts nothing: one cell for every value, and one for the missing.
    """
    if isinstance(reference, CategoricalReference):
        counts = np.array([*reference.counts, 0, reference.missing], dtype=np.int64)
        return CategoricalCells(reference.name, reference.categories, counts)
    values = np.array(reference.values, dtype=np.float64)
    weights = np.array(reference.counts, dtype=np.int64)
    exact = len(values) <= max_distinct
    cuts = values if exact else quantiles(values, weights, np.arange(1, max_distinct) / max_distinct)
    empty = NumericCells(reference.name, cuts, np.zeros(0, dtype=np.int64), exact)
    counts = np.zeros(empty.size, dtype=np.int64)
    np.add.at(counts, empty.index(values), weights)
    counts[-1] = reference.missing
    return NumericCells(reference.name, cuts, counts, exact)


def quantiles(values: NDArray[np.float64], counts: Counts, levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """The distinct inverted-CDF quantiles: the smallest value whose cumulative share reaches each level.

    Hyndman and Fan (1996), definition 1: NumPy's `inverted_cdf`.
    """
    cumulative = np.cumsum(counts)
    # The level times n may miss an integer by one float: what is that near counts as reached.
    wanted = np.ceil(levels * cumulative[-1] - 1e-9)
    return np.unique(values[np.searchsorted(cumulative, np.maximum(wanted, 1), side="left")])
