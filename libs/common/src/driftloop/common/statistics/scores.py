"""Scores in equal bins, and how far they are from the shares that they promise."""

import numpy as np
from numpy.typing import NDArray

BINS = 1000
SCALE = 10**6
CALIBRATION_BINS = 10


def score_bins(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each canonical score (six decimals): BINS equal ones, the last closed on both sides."""
    return np.minimum(scaled(scores) // (SCALE // BINS), BINS - 1)


def scaled(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Scores in units of 10⁻⁶, exact because they are canonical."""
    return np.rint(scores * SCALE).astype(np.int64)


def calibration_error(negatives: NDArray[np.float64], positives: NDArray[np.float64]) -> float:
    """Expected calibration error over ten equal bins: Σ n_b/n · |share of positives − mean score|.

    `negatives` and `positives` [BINS] count the rows of each label by the bin of their score, at least one; a score
    stands for the middle of its bin.
    """
    shape = (CALIBRATION_BINS, BINS // CALIBRATION_BINS)
    middles = ((np.arange(BINS) + 0.5) / BINS).reshape(shape)
    total = (negatives + positives).reshape(shape)
    right = positives.reshape(shape).sum(axis=1)
    mean = (total * middles).sum(axis=1)
    return float(np.abs(right - mean).sum() / total.sum())
