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
# The least value of each bin: of the first, the least positive float.
_STARTS = np.append(
    np.nextafter(0, 1), np.exp2(np.arange(1 - PER_OCTAVE * OCTAVES, BINS - PER_OCTAVE * OCTAVES) / PER_OCTAVE)
)


class ScaleCounts(Accumulator[PredictionRows]):
    """Positive values outside [`low`, `high`] by log₂, in sixteenths of an octave; the outermost bins are open.

    These two become the outermost cuts of `cells` between them, so that no cell lies on both sides.
    """

    size = BINS
    revision = 2

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
        outside = rows.columns[self.feature].outside(self._low, self._high)
        counts += np.bincount(_places(outside), minlength=BINS + 1)[1:]

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
    return np.bincount(_places(values), weights=weights, minlength=BINS + 1)[1:].astype(np.int64)


def _places(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """One more than the bin of each positive value; 0 of every other."""
    return _STARTS.searchsorted(values, side="right")


def _moved(cumulative: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """A cumulative distribution moved to the right by so many bins."""
    places = np.arange(len(cumulative)) - bins
    inside = cumulative[np.clip(places, 0, len(cumulative) - 1)]
    return np.where(places < 0, 0.0, inside)
