"""Cells: the cuts of one feature's line (or its categories), into which rows are counted without losing a statistic.

A reference sample's sorted distinct values r₀ < … < r_k cut the line into 2k + 3 cells, each value itself and each gap
between, before and after. F_ref is constant inside a gap and the window's F is monotone there, so that the supremum of
their difference is reached at a cell's end: counting into cells loses nothing of the two-sample KS statistic.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from driftloop.common.profile import CategoricalReference, FeatureReference, ReferenceProfile

Counts = NDArray[np.int64]
MAX_DISTINCT = 1024


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
        place = np.searchsorted(self.cuts, values, side="left")
        hit = self.cuts[np.minimum(place, len(self.cuts) - 1)] == values
        cells = 2 * place + hit
        return np.where(np.isnan(values), self.size - 1, cells).astype(np.int64)

    @cached_property
    def representatives(self) -> NDArray[np.float64]:
        """One value of each cell [2k + 1]. Between adjacent floats there is no gap, so its entry never counts."""
        found = np.empty(2 * len(self.cuts) + 1)
        found[1::2] = self.cuts
        # Halves first: the sum of two huge cuts would overflow.
        found[2:-1:2] = self.cuts[:-1] / 2 + self.cuts[1:] / 2
        found[0] = np.nextafter(self.cuts[0], -math.inf)
        found[-1] = np.nextafter(self.cuts[-1], math.inf)
        return found

    @cached_property
    def error_bound(self) -> float:
        """How far D may be off: 0 when exact, else the largest share of the reference inside one open gap."""
        present = self.reference[:-1]
        total = int(present.sum())
        return 0.0 if self.exact or total == 0 else float(present[::2].max() / total)


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
        codes = {category: code for code, category in enumerate(self.categories)}
        unseen, missing = len(self.categories), len(self.categories) + 1
        return np.array([missing if v is None else codes.get(str(v), unseen) for v in values], dtype=np.int64)


Cells = NumericCells | CategoricalCells


def cells_of(reference: FeatureReference, max_distinct: int = MAX_DISTINCT) -> Cells:
    """The cells that a reference cuts; above `max_distinct` values the cuts are quantiles, and D has an error bound.

    Raises ValueError where a number's reference has no value at all.
    """
    if isinstance(reference, CategoricalReference):
        counts = np.array([*reference.counts, 0, reference.missing], dtype=np.int64)
        return CategoricalCells(reference.name, reference.categories, counts)
    values = np.array(reference.values, dtype=np.float64)
    if len(values) == 0:
        raise ValueError(f"feature {reference.name!r} has no value in its reference: nothing can be compared with it")
    weights = np.array(reference.counts, dtype=np.int64)
    exact = len(values) <= max_distinct
    cuts = values if exact else quantiles(values, weights, np.arange(1, max_distinct) / max_distinct)
    empty = NumericCells(reference.name, cuts, np.zeros(0, dtype=np.int64), exact)
    counts = np.bincount(empty.index(values), weights=weights, minlength=empty.size).astype(np.int64)
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


@dataclass(frozen=True, eq=False)
class Layout:
    """All features' cells side by side in one vector, the score's last; so that merging panes is one addition."""

    cells: tuple[Cells, ...]

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where each feature's cells begin; the last entry is the whole size."""
        return np.concatenate(([0], np.cumsum([cells.size for cells in self.cells]))).astype(np.int64)

    @property
    def size(self) -> int:
        """The length of a count vector."""
        return int(self.offsets[-1])

    def part(self, counts: Counts, feature: int) -> Counts:
        """One feature's counts out of a whole vector."""
        return counts[self.offsets[feature] : self.offsets[feature + 1]]

    def count(self, columns: Sequence[Sequence[object]]) -> Counts:
        """Count rows, given by column in the order of the cells; None is missing."""
        counts = np.zeros(self.size, dtype=np.int64)
        for feature, (cells, column) in enumerate(zip(self.cells, columns, strict=True)):
            if isinstance(cells, NumericCells):
                index = cells.index(np.array([_number(value) for value in column], dtype=np.float64))
            else:
                index = cells.index(column)
            counts[self.offsets[feature] : self.offsets[feature + 1]] += np.bincount(index, minlength=cells.size)
        return counts


def layout_of(profile: ReferenceProfile, max_distinct: int = MAX_DISTINCT) -> Layout:
    """The layout of a version's profile: its features in order, then its score."""
    references: tuple[FeatureReference, ...] = (*profile.features, profile.scores)
    return Layout(tuple(cells_of(reference, max_distinct) for reference in references))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
