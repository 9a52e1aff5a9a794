"""Scores: the histogram that the estimate is made from, and the calibrated sums themselves."""

import numpy as np
from numpy.typing import NDArray

from driftloop.common.statistics.cells import Counts
from driftloop.common.statistics.scores import BINS, SCALE, score_bins
from driftloop.drift_monitor.domain.calibration import Calibrator
from driftloop.drift_monitor.domain.fold.base import Accumulator, RowsT, numbers
from driftloop.drift_monitor.domain.fold.rows import LabelRows, PredictionRows


class ScoreHistogram(Accumulator[PredictionRows]):
    """How many predictions had each answer and score: counts [2 · BINS], first those that said 0."""

    name = "scores"
    size = 2 * BINS

    @property
    def meaning(self) -> bytes:
        """The number of bins."""
        return numbers((BINS,))

    def add(self, counts: Counts, rows: PredictionRows) -> None:
        """Count each row's answer and bin."""
        place = rows.predictions.astype(np.int64) * BINS + score_bins(rows.scores)
        counts += np.bincount(place, minlength=self.size)


class _Calibrated(Accumulator[RowsT]):
    """For each answer (0, 1): rows, Σp̂ and Σp̂(1 − p̂), the latter two in units of 10⁻⁶; counts [6].

    p̂ is the calibrated probability of label 1. Integers, so that sums are the same in whatever order they were made.
    """

    name = "calibrated"
    size = 6
    revision = 2

    def __init__(self, calibrator: Calibrator) -> None:
        self._calibrator = calibrator

    @property
    def meaning(self) -> bytes:
        """The calibrator's curve."""
        return self._calibrator.meaning


class CalibratedSums(_Calibrated[PredictionRows]):
    """The calibrated sums of all predictions."""

    def add(self, counts: Counts, rows: PredictionRows) -> None:
        """Add each row's calibrated probability."""
        add_calibrated(counts, self._calibrator, rows.scores, rows.predictions, None)


class LabelledCalibratedSums(_Calibrated[LabelRows]):
    """Those of the labelled rows alone: what was estimated for the rows whose truth is known."""

    def add(self, counts: Counts, rows: LabelRows) -> None:
        """Add each change; the sum over an amendment's two is nothing."""
        add_calibrated(counts, self._calibrator, rows.scores, rows.predictions, rows.signs)


def add_calibrated(
    counts: Counts,
    calibrator: Calibrator,
    scores: NDArray[np.float64],
    predictions: NDArray[np.bool_],
    signs: NDArray[np.int64] | None,
) -> None:
    """Add rows, Σp̂ and Σp̂(1 − p̂) by answer to `counts` [6]."""
    calibrated = calibrator(scores)
    # Whole numbers as floats: their sums are exact below 2⁵³, nine thousand million rows, and fast.
    columns = np.ones((3, len(scores)))
    np.rint(calibrated * SCALE, out=columns[1])
    np.rint(calibrated * (1 - calibrated) * SCALE, out=columns[2])
    if signs is not None:
        columns *= signs
    everyone, said_yes = columns.sum(axis=1), columns @ predictions.astype(np.float64)
    counts[:3] += (everyone - said_yes).astype(np.int64)
    counts[3:] += said_yes.astype(np.int64)
