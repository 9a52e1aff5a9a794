"""How often prediction sets hold the true label, and how far a small sample lets that be from the level.

On average over calibration samples the coverage is the level exactly. That of one sample of n rows is distributed as
Beta(n + 1 − a, a) with a = (1 − level)(n + 1) (Vovk 2012, "Conditional validity of inductive conformal predictors").
"""

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, betabinom

from driftloop.common.conformal import conformal_of, covered
from driftloop.common.profile import ScoredRows, scored_rows
from driftloop.trainer.domain.intervals import LEVEL, Interval


class PredictionSets(msgspec.Struct, frozen=True, kw_only=True):
    """What a version's prediction sets promise, made from `rows` rows that it never trained on.

    In 95 of 100 samples of so many rows the coverage of rows to come is in `band`. `coverage` is seen, on the half of
    the rows that is `checked_rows` by sets made from the other half, and in 95 of 100 cases in `coverage_band`.
    """

    level: float
    rows: int
    band: Interval
    checked_rows: int
    coverage: float
    coverage_band: Interval


def prediction_sets(heldout: ScoredRows | None, level: float, seed: int) -> PredictionSets | None:
    """What `heldout` rows give at `level`; None where there are fewer than two of them."""
    if heldout is None or heldout.rows < 2:
        return None
    scores, labels = _listed(heldout)
    order = np.random.default_rng(seed).permutation(len(labels))
    known, checked = order[: len(order) // 2], order[len(order) // 2 :]
    half = scored_rows(scores[known], labels[known])
    assert half is not None
    uniforms = np.random.default_rng(seed + 1).random(len(checked))
    return PredictionSets(
        level=level,
        rows=len(labels),
        band=coverage_band(len(labels), level),
        checked_rows=len(checked),
        coverage=float(covered(conformal_of(half, level), scores[checked], labels[checked], uniforms).mean()),
        coverage_band=_seen_band(len(known), len(checked), level),
    )


def coverage_band(rows: int, level: float, share: float = LEVEL) -> Interval:
    """Between which bounds the coverage of sets made from `rows` rows is, in a `share` of all samples."""
    shape = _shape(rows, level)
    return float(beta.ppf((1 - share) / 2, *shape)), float(beta.ppf((1 + share) / 2, *shape))


def _seen_band(known: int, checked: int, level: float) -> Interval:
    """The same of the coverage that is counted on `checked` other rows."""
    found = betabinom(checked, *_shape(known, level))
    return float(found.ppf((1 - LEVEL) / 2)) / checked, float(found.ppf((1 + LEVEL) / 2)) / checked


def _shape(rows: int, level: float) -> tuple[float, float]:
    outside = (1 - level) * (rows + 1)
    return rows + 1 - outside, outside


def _listed(rows: ScoredRows) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Scores [n] and labels [n] of counted rows."""
    scores = np.concatenate((np.repeat(rows.scores, rows.negatives), np.repeat(rows.scores, rows.positives)))
    labels = np.repeat(np.array([0, 1], dtype=np.int64), [sum(rows.negatives), sum(rows.positives)])
    return scores, labels
