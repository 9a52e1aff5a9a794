"""Scale: a feature's values by their logarithm, so that another unit is the same histogram, moved.

Only values outside the middle of the reference are counted here: where the others lie, the cells tell. In the tails
they do not, for there gaps are wide: one wild value makes a gap that can hold a whole window.
"""

import numpy as np
from numpy.typing import NDArray

from driftloop.common.profile import CategoricalReference, FeatureReference
from driftloop.common.statistics.cells import Counts, NumericCells
from driftloop.drift_monitor.domain.fold.base import Accumulator, numbers
from driftloop.drift_monitor.domain.fold.rows import PredictionRows

PER_OCTAVE, OCTAVES = 16, 20
BINS = 2 * PER_OCTAVE * OCTAVES + 1


class ScaleCounts(Accumulator[PredictionRows]):
    """Positive values outside [`low`, `high`] by log₂, in sixteenths of an octave; the outermost bins are open.

    These two become the outermost cuts of `cells` between them, so that no cell lies on both sides.
    """

    size = BINS

    def __init__(self, cells: NumericCells, low: float, high: float) -> None:
        self.feature = cells.name
        self.name = f"scale:{cells.name}"
        self._cells = cells
        inner = cells.cuts[(cells.cuts >= low) & (cells.cuts <= high)]
        self._low, self._high = float(inner[0]), float(inner[-1])

    @property
    def meaning(self) -> bytes:
        """How the line of logarithms is cut, and which values are left out."""
        return numbers((PER_OCTAVE, OCTAVES, self._low, self._high))

    def add(self, counts: Counts, rows: PredictionRows) -> None:
        """Count each positive value outside the middle."""
        values = rows.columns[self.feature].values
        outside = np.asarray(values[(values < self._low) | (values > self._high)], dtype=np.float64)
        if len(outside):
            np.add.at(counts, _bins(outside[outside > 0]), 1)

    def of_all(self, outside: Counts, cells: Counts) -> Counts:
        """The same counts [BINS] of all values: those outside, and those of the `cells` inside, at their middles."""
        inside = (self._cells.representatives >= self._low) & (self._cells.representatives <= self._high)
        return outside + _counted(self._cells.representatives[inside], cells[:-1][inside])


def of_reference(reference: FeatureReference) -> Counts:
    """The same counts of the reference itself [BINS]; a category has none."""
    if isinstance(reference, CategoricalReference):
        return np.zeros(BINS, dtype=np.int64)
    return _counted(np.array(reference.values, dtype=np.float64), np.array(reference.counts, dtype=np.int64))


def distance_when_rescaled(reference: Counts, window: Counts) -> float:
    """The least D between the window and the reference in another unit; 1 where either has no positive value.

    The reference is moved by the difference of the medians, and by up to two bins more or less, for a bin is coarse.
    """
    m, n = int(reference.sum()), int(window.sum())
    if m == 0 or n == 0:
        return 1.0
    known, now = np.cumsum(reference) / m, np.cumsum(window) / n
    middle = int(np.searchsorted(now, 0.5)) - int(np.searchsorted(known, 0.5))
    return min(float(np.abs(_moved(known, step) - now).max()) for step in range(middle - 2, middle + 3))


def _counted(values: NDArray[np.float64], weights: Counts) -> Counts:
    positive = values > 0
    return np.bincount(_bins(values[positive]), weights=weights[positive], minlength=BINS).astype(np.int64)


def _bins(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each positive value."""
    place = np.floor(np.log2(values) * PER_OCTAVE) + PER_OCTAVE * OCTAVES
    bins: NDArray[np.int64] = np.minimum(np.maximum(place, 0), BINS - 1).astype(np.int64)
    return bins


def _moved(cumulative: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """A cumulative distribution moved to the right by so many bins."""
    places = np.arange(len(cumulative)) - bins
    inside = cumulative[np.clip(places, 0, len(cumulative) - 1)]
    return np.where(places < 0, 0.0, inside)
