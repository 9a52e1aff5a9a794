"""Data quality: how many values were missing, invalid, out of range, unseen, or foreign to the reference."""

import numpy as np
from numpy.typing import NDArray

from driftloop.common.contract import Feature
from driftloop.common.profile import CategoricalReference, FeatureReference
from driftloop.common.statistics.cells import Counts, quantiles
from driftloop.drift_monitor.domain.fold.base import Accumulator, framed, numbers
from driftloop.drift_monitor.domain.fold.rows import PredictionRows

ROWS, MISSING, INVALID, OUT_OF_RANGE, UNSEEN, FOREIGN, OUTLYING = range(7)
NAMES = ("rows", "missing", "invalid", "out_of_range", "unseen", "foreign", "outlying")
# One wild value of the reference must not hide a changed unit: its outermost hundredths say nothing of where it lies.
_TAILS = (0.01, 0.99)


class QualityCounts(Accumulator[PredictionRows]):
    """Seven counts of one feature, by `NAMES`.

    *Invalid* is a value of the wrong kind; *missing* counts only rows without any. *Out of range* is outside the
    contract's limits, *unseen* a category that the contract does not list, *foreign* a number below or above everything
    that the reference has, *outlying* one outside the middle 98 % of it.
    """

    size = len(NAMES)

    def __init__(self, feature: Feature, reference: FeatureReference) -> None:
        self.feature = feature.name
        self.name = f"quality:{feature.name}"
        self._feature = feature
        self._categories = frozenset(feature.categories)
        self._range = feature.minimum, feature.maximum
        self._support = support(reference)
        self._middle = middle(reference)
        # In the order of the counts; no number is an unseen category.
        limits = (self._range, (None, None), self._support, self._middle)
        self._lows = np.array([-np.inf if low is None else low for low, _ in limits])
        self._highs = np.array([np.inf if high is None else high for _, high in limits])
        self._inner = float(self._lows.max()), float(self._highs.min())

    @property
    def meaning(self) -> bytes:
        """The limits, the reference's support, the categories."""
        categories = b"".join(framed(category.encode()) for category in sorted(self._categories))
        return numbers((*self._range, *self._support, *self._middle)) + categories

    def add(self, counts: Counts, rows: PredictionRows) -> None:
        """Count each row's faults."""
        column = rows.columns[self.feature]
        invalid = 0 if column.invalid is None else int(column.invalid.sum())
        counts[ROWS] += len(rows)
        counts[INVALID] += invalid
        if self._feature.type == "category":
            values = column.values.tolist()
            counts[MISSING] += sum(value is None for value in values) - invalid
            counts[UNSEEN] += sum(value is not None and value not in self._categories for value in values)
            return
        values = column.values
        counts[MISSING] += int(np.count_nonzero(np.isnan(values))) - invalid
        # Few values are outside of any limit: only these are held against each.
        far = column.outside(*self._inner)
        if len(far):
            outside = far.searchsorted(self._lows, side="left") + len(far) - far.searchsorted(self._highs, side="right")
            counts[OUT_OF_RANGE:] += outside


def support(reference: FeatureReference) -> tuple[float | None, float | None]:
    """The least and the greatest value of a number's reference; None where it has none."""
    if isinstance(reference, CategoricalReference) or not reference.values:
        return None, None
    return reference.values[0], reference.values[-1]


def middle(reference: FeatureReference) -> tuple[float | None, float | None]:
    """The 1 % and 99 % quantiles of a number's reference; None where it has none."""
    if isinstance(reference, CategoricalReference) or not reference.values:
        return None, None
    values, counts = np.array(reference.values, dtype=np.float64), np.array(reference.counts, dtype=np.int64)
    low, high = (float(quantiles(values, counts, np.array([level]))[0]) for level in _TAILS)
    return low, high


def of_reference(feature: Feature, reference: FeatureReference) -> Counts:
    """The first four of these counts, of the reference itself [7]."""
    counts = np.zeros(len(NAMES), dtype=np.int64)
    counts[ROWS] = sum(reference.counts) + reference.missing
    counts[MISSING] = reference.missing
    if not isinstance(reference, CategoricalReference):
        weights = np.array(reference.counts, dtype=np.int64)
        values = np.array(reference.values, dtype=np.float64)
        counts[OUT_OF_RANGE] = int(weights[_outside(values, feature.minimum, feature.maximum)].sum())
    return counts


def _outside(values: np.ndarray, low: float | None, high: float | None) -> NDArray[np.bool_]:
    """Which values are below `low` or above `high`, None for no limit; NaN is neither."""
    below, above = -np.inf if low is None else low, np.inf if high is None else high
    outside: NDArray[np.bool_] = (values < below) | (values > above)
    return outside
