"""Scale: a feature's values by their logarithm, so that another unit is the same histogram, moved.

Only values outside the reference's support are counted here: where the others lie, the cells tell.
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
    """Positive values outside [`low`, `high`] by log₂, in sixteenths of an octave; the outermost bins are open."""

    size = BINS

    def __init__(self, feature: str, low: float, high: float) -> None:
        self.feature = feature
        self.name = f"scale:{feature}"
        self._low, self._high = low, high

    @property
    def meaning(self) -> bytes:
        """How the line of logarithms is cut, and which values are left out."""
        return numbers((PER_OCTAVE, OCTAVES, self._low, self._high))

    def add(self, counts: Counts, rows: PredictionRows) -> None:
        """Count each positive value that the reference's support does not hold."""
        values = rows.columns[self.feature].values
        outside = values[(values < self._low) | (values > self._high)].astype(np.float64)
        if len(outside):
            counts += _counted(outside, None)


def of_reference(reference: FeatureReference) -> Counts:
    """The same counts of the reference itself [BINS]; a category has none."""
    if isinstance(reference, CategoricalReference):
        return np.zeros(BINS, dtype=np.int64)
    return _counted(np.array(reference.values, dtype=np.float64), np.array(reference.counts, dtype=np.int64))


def of_cells(cells: NumericCells, counts: Counts) -> Counts:
    """The same counts [BINS] of the values inside the support, from their cells: each as its cell's representative."""
    return _counted(cells.representatives[1:-1], counts[1:-2])


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


def _counted(values: NDArray[np.float64], weights: Counts | None) -> Counts:
    positive = values > 0
    place = np.floor(np.log2(values[positive]) * PER_OCTAVE) + PER_OCTAVE * OCTAVES
    bins = np.clip(place, 0, BINS - 1).astype(np.int64)
    chosen = None if weights is None else weights[positive]
    return np.bincount(bins, weights=chosen, minlength=BINS).astype(np.int64)


def _moved(cumulative: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """A cumulative distribution moved to the right by so many bins."""
    places = np.arange(len(cumulative)) - bins
    inside = cumulative[np.clip(places, 0, len(cumulative) - 1)]
    return np.where(places < 0, 0.0, inside)
