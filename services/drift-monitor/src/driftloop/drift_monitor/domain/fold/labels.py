"""Labelled rows: per-class score histograms by answer, exact sums, the sets' coverage, and how long labels took."""

import numpy as np
from numpy.typing import NDArray

from driftloop.common.conformal import Conformal, covered, set_sizes, uniform
from driftloop.common.statistics.cells import Counts
from driftloop.common.statistics.scores import BINS, SCALE, scaled, score_bins
from driftloop.drift_monitor.domain.fold.base import Accumulator, numbers
from driftloop.drift_monitor.domain.fold.rows import LabelRows

# A log loss that a certain and wrong score would make infinite is cut here, where scikit-learn cuts it in float64.
_LOG_FLOOR = float(np.finfo(np.float64).eps)
_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86_400.0
# Upper edges of the delays' bins, in seconds; the last bin is open.
DELAY_EDGES = (
    1.0, 10.0, _MINUTE, 10 * _MINUTE, _HOUR, 6 * _HOUR, _DAY, 2 * _DAY, 4 * _DAY, 7 * _DAY, 10 * _DAY, 14 * _DAY,
    21 * _DAY, 30 * _DAY, 45 * _DAY, 60 * _DAY, 90 * _DAY, 180 * _DAY,
)  # fmt: skip
COVERED, EMPTY_SETS, SINGLE_SETS, BOTH_SETS = range(4)


class LabelledScores(Accumulator[LabelRows]):
    """Score histograms by answer and label [2 · 2 · BINS], and what must be exact beside them.

    The latter: each label's Σs, Σs² and log loss in units of 10⁻⁶, 10⁻¹² and 10⁻⁶; Σs² in two words, of 10⁻⁶ and 10⁻¹²,
    for in one nine million rows would overflow it. Integers, so that what is taken away again leaves nothing behind.
    """

    name = "labelled"
    size = 4 * BINS + 8

    @property
    def meaning(self) -> bytes:
        """The number of bins."""
        return numbers((BINS,))

    def add(self, counts: Counts, rows: LabelRows) -> None:
        """Add each change of a label."""
        if not len(rows):
            return
        place = (rows.predictions.astype(np.int64) * 2 + rows.labels) * BINS + score_bins(rows.scores)
        np.add.at(counts, place, rows.signs)
        units = scaled(rows.scores)
        high, low = np.divmod(units * units, SCALE)
        likelihood = np.maximum(np.where(rows.labels == 1, rows.scores, 1 - rows.scores), _LOG_FLOOR)
        loss = np.rint(-np.log(likelihood) * SCALE).astype(np.int64)
        for label in (0, 1):
            signs = np.where(rows.labels == label, rows.signs, 0)
            start = 4 * BINS + 4 * label
            counts[start : start + 4] += [int((signs * column).sum()) for column in (units, high, low, loss)]


class SetCoverage(Accumulator[LabelRows]):
    """Of the labelled rows' prediction sets: how many held the label; how many were empty, of one, of both labels."""

    name = "coverage"
    size = 4

    def __init__(self, conformal: Conformal) -> None:
        self._conformal = conformal

    @property
    def meaning(self) -> bytes:
        """The conformal thresholds."""
        return self._conformal.meaning

    def add(self, counts: Counts, rows: LabelRows) -> None:
        """Add each change of a label."""
        if not len(rows):
            return
        uniforms = np.array([uniform(identity) for identity in rows.identities])
        hit = covered(self._conformal, rows.scores, rows.labels, uniforms)
        sizes = set_sizes(self._conformal, rows.scores, uniforms)
        counts[COVERED] += int(rows.signs[hit].sum())
        for size, place in ((0, EMPTY_SETS), (1, SINGLE_SETS), (2, BOTH_SETS)):
            counts[place] += int(rows.signs[sizes == size].sum())


class LabelDelays(Accumulator[LabelRows]):
    """How many first labels came within each of `DELAY_EDGES`; arrivals, so that a retraction takes nothing away."""

    name = "delays"
    size = len(DELAY_EDGES) + 1

    @property
    def meaning(self) -> bytes:
        """The edges."""
        return numbers(DELAY_EDGES)

    def add(self, counts: Counts, rows: LabelRows) -> None:
        """Count each first label's delay; one before its prediction is none."""
        delays = rows.delays[~np.isnan(rows.delays)]
        place = np.searchsorted(DELAY_EDGES, delays, side="left")
        counts += np.bincount(place, minlength=self.size)


def joint_histogram(counts: Counts) -> NDArray[np.int64]:
    """The histograms of `LabelledScores` as [answer, label, bin]."""
    return counts[: 4 * BINS].reshape(2, 2, BINS)


def delay_quantile(counts: Counts, level: float) -> float | None:
    """The edge, in seconds, within which a share `level` of the first labels came; None beyond the last, or of none."""
    total = int(counts.sum())
    if total == 0:
        return None
    place = int(np.searchsorted(np.cumsum(counts), level * total, side="left"))
    return DELAY_EDGES[place] if place < len(DELAY_EDGES) else None
