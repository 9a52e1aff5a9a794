"""What a score means: the share of positives among rows that had it, from rows that the model did not learn from.

Isotonic regression of the labels on the scores (Zadrozny and Elkan 2002), linear between neighbouring scores and
constant beyond the first and the last, as scikit-learn's `IsotonicRegression(out_of_bounds="clip")`. Of m rows none can
prove a probability of 0 or 1: Laplace's rule of succession bounds it by 1/(m + 2) and 1 − 1/(m + 2).
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from driftloop.common.profile import ScoredRows
from driftloop.common.statistics.cells import Counts

RESAMPLES = 200
# A power of two: which bucket a score is in is never a matter of rounding.
_BUCKETS = 1024


@dataclass(frozen=True, eq=False)
class Calibrator:
    """A curve through `scores` float64 [k] ascending and `probabilities` float64 [k], which never fall."""

    scores: NDArray[np.float64]
    probabilities: NDArray[np.float64]

    def __call__(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """P(label = 1) of each score [n], from 0 to 1."""
        slope, intercept = self._lines
        buckets = (scores * _BUCKETS).astype(np.int64)
        found = slope[buckets] * scores + intercept[buckets]
        bent = np.flatnonzero(np.isnan(found))
        found[bent] = np.interp(scores[bent], self.scores, self.probabilities)
        return found

    @cached_property
    def _lines(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Slope and intercept in each bucket of scores, NaN where a knot bends the curve inside it.

        Most buckets have no knot: about three times as fast as a binary search, whose branches nobody predicts.
        """
        # One more than there are: the score 1 begins one.
        ends = np.arange(_BUCKETS + 2) / _BUCKETS
        at_ends = np.interp(ends, self.scores, self.probabilities)
        slope = np.diff(at_ends) * _BUCKETS
        slope[(self.scores * _BUCKETS).astype(np.int64)] = math.nan
        return slope, at_ends[:-1] - slope * ends[:-1]

    @cached_property
    def meaning(self) -> bytes:
        """The curve as bytes: two curves are the same if these are."""
        return np.concatenate((self.scores, self.probabilities)).astype("<f8").tobytes()


@dataclass(frozen=True, eq=False)
class Calibrators:
    """P(label = 1) at the middles of equal score bins: `curve` float64 [bins] from all `rows` calibration rows.

    `resampled` float64 [B, bins] are the curves of B bootstrap samples of these rows: what else it might have been.
    """

    curve: NDArray[np.float64]
    resampled: NDArray[np.float64]
    rows: int


def calibrator_of(scored: ScoredRows) -> Calibrator:
    """The curve of all rows."""
    scores, counts = _cells(scored)
    return _fit(scores, counts)


def calibrators_of(scored: ScoredRows, bins: int, resamples: int = RESAMPLES, seed: int = 0) -> Calibrators:
    """The curve and its bootstrap (Efron and Tibshirani 1993, ch. 6) at the middles of `bins` equal score bins.

    The same rows and seed give the same arrays.
    """
    scores, counts = _cells(scored)
    middles = bin_middles(bins)
    m, k = scored.rows, len(scores)
    # Each row by the number of its cell: negatives of each score first, then positives.
    rows = np.repeat(np.arange(2 * k), counts.ravel())
    rng = np.random.default_rng(seed)
    resampled = np.empty((resamples, bins))
    for curve in resampled:
        drawn = np.bincount(rows[rng.integers(0, m, m)], minlength=2 * k).reshape(2, k)
        curve[:] = _fit(scores, drawn)(middles)
    return Calibrators(_fit(scores, counts)(middles), resampled, m)


def bin_middles(bins: int) -> NDArray[np.float64]:
    """The middles [bins] of equal bins of scores from 0 to 1."""
    return (np.arange(bins) + 0.5) / bins


def _cells(scored: ScoredRows) -> tuple[NDArray[np.float64], Counts]:
    """The scores [k], and the counts [2, k] of both labels."""
    return np.array(scored.scores), np.array([scored.negatives, scored.positives], dtype=np.int64)


def _fit(scores: NDArray[np.float64], counts: Counts) -> Calibrator:
    """Fit to `counts` [2, k]; a score that a sample does not have is no knot."""
    weights = counts.sum(axis=0)
    present = weights > 0
    weights, positives = weights[present], counts[1, present]
    bound = 1 / (int(weights.sum()) + 2)
    shares = np.clip(isotonic_regression(positives / weights, weights=weights).x, bound, 1 - bound)
    # Inside a plateau no score changes the curve: without them it is found in half the time.
    knots = np.ones(len(shares), dtype=np.bool_)
    knots[1:-1] = (shares[1:-1] != shares[:-2]) | (shares[1:-1] != shares[2:])
    return Calibrator(scores[present][knots], shares[knots])
