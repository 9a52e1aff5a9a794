"""How well a model does before labels exist, and, once they do, whether scores still mean what they meant.

Confidence-based estimation: where scores are calibrated, each row is positive with probability p̂ of its score, so that
the expected confusion matrix needs no label. It follows any change of the inputs, and is blind to a change of the law
that makes labels of inputs, by construction. That is what makes its gap to the realised matrix a test of that law.
"""

import math
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from driftloop.common.statistics.cells import Counts
from driftloop.common.statistics.scores import SCALE
from driftloop.drift_monitor.domain.calibration import Calibrators, bin_middles

# Two-sided, of a normal distribution.
_BAND = float(stats.norm.ppf(0.975))


class Estimated(msgspec.Struct, frozen=True, kw_only=True):
    """Expected figures of `n` rows without labels; None where a figure has no expected row to be of.

    `false_positives` and the like are expected shares of the rows. `accuracy_error` is the standard error of the
    realised accuracy about the estimate: `sampling_error` from the labels that these rows will get, and
    `calibration_error` from the rows that calibrated the scores; `accuracy_low` and `accuracy_high` bound 95 %.
    Precision, recall and F1 are ratios of expectations. ROC AUC and Brier take the rows of a score bin as equal.
    """

    n: int
    true_negatives: float
    false_positives: float
    false_negatives: float
    true_positives: float
    accuracy: float
    accuracy_error: float
    sampling_error: float
    calibration_error: float
    accuracy_low: float
    accuracy_high: float
    precision: float | None
    recall: float | None
    f1: float | None
    roc_auc: float | None
    brier: float
    calibration_rows: int


class ConceptTest(msgspec.Struct, frozen=True, kw_only=True):
    """Realised against estimated shares of false positives and false negatives on the same `n` labelled rows.

    `gap` g is realised less estimated. V = diag(`sampling_variance`) + Cov of the calibration, whose entries are
    `calibration_variance` and `calibration_covariance`, + `margin`² I. `statistic` gᵀV⁻¹g is compared with `limit`, the
    1 − `alpha` quantile of χ² with two degrees of freedom. Pairs are (false positives, false negatives).
    """

    n: int
    realised: tuple[float, float]
    estimated: tuple[float, float]
    gap: tuple[float, float]
    sampling_variance: tuple[float, float]
    calibration_variance: tuple[float, float]
    calibration_covariance: float
    margin: float
    statistic: float
    limit: float
    alpha: float
    p: float
    concept: bool


def estimate(counts: Counts, calibrators: Calibrators, exact: Counts | None = None) -> Estimated | None:
    """The expected figures of rows counted by answer and score bin, int64 [2, bins]; None without a row.

    `exact` are the same rows' calibrated sums [6], as the fold keeps them; without them a score is its bin's middle.
    """
    n = int(counts.sum())
    if n <= 0:
        return None
    curve = calibrators.curve
    sums = _sums(counts, curve, exact)
    tn, fp = ((sums.rows - sums.positives) / n).tolist()
    fn, tp = (sums.positives / n).tolist()
    sampling = math.sqrt(float(sums.variances.sum())) / n
    calibration = float(np.std(_wrong(counts, calibrators.resampled).sum(axis=1) / n, ddof=1))
    error = math.hypot(sampling, calibration)
    return Estimated(
        n=n,
        true_negatives=tn,
        false_positives=fp,
        false_negatives=fn,
        true_positives=tp,
        accuracy=tn + tp,
        accuracy_error=error,
        sampling_error=sampling,
        calibration_error=calibration,
        accuracy_low=max(0.0, tn + tp - _BAND * error),
        accuracy_high=min(1.0, tn + tp + _BAND * error),
        precision=_share(tp, tp + fp),
        recall=_share(tp, tp + fn),
        f1=_share(2 * tp, 2 * tp + fp + fn),
        roc_auc=_roc_auc(counts.sum(axis=0), curve),
        brier=_brier(counts.sum(axis=0), curve),
        calibration_rows=calibrators.rows,
    )


def concept_test(
    counts: Counts,
    calibrators: Calibrators,
    exact: Counts | None = None,
    *,
    alpha: float = 0.01,
    margin: float = 0.015,
) -> ConceptTest | None:
    """Test labelled rows counted by answer, label and score bin, int64 [2, 2, bins]; None without a row.

    `exact` are the same rows' calibrated sums [6], as the fold keeps them; without them a score is its bin's middle.
    `margin` is what the shares may be wrong by, as a standard deviation, however many rows there are: no calibration is
    perfect, and without it every large window would be significant.
    """
    n = int(counts.sum())
    if n <= 0:
        return None
    rows = counts.sum(axis=1)
    realised = np.array([counts[1, 0].sum(), counts[0, 1].sum()]) / n
    sums = _sums(rows, calibrators.curve, exact)
    estimated = np.array([sums.rows[1] - sums.positives[1], sums.positives[0]]) / n
    # Those answered 1 vary in how many are false positives, those answered 0 in how many are false negatives.
    sampling = sums.variances[::-1] / n**2
    calibration = np.cov(_wrong(rows, calibrators.resampled) / n, rowvar=False)
    gap = realised - estimated
    variance = np.diag(sampling + margin**2) + calibration
    # Pseudo: without a margin, and where all rows were answered alike, one share neither varies nor has a gap.
    statistic = float(gap @ np.linalg.pinv(variance, hermitian=True) @ gap)
    p = float(stats.chi2.sf(statistic, 2))
    return ConceptTest(
        n=n,
        realised=_pair(realised),
        estimated=_pair(estimated),
        gap=_pair(gap),
        sampling_variance=_pair(sampling),
        calibration_variance=_pair(np.diag(calibration)),
        calibration_covariance=float(calibration[0, 1]),
        margin=margin,
        statistic=statistic,
        limit=float(stats.chi2.ppf(1 - alpha, 2)),
        alpha=alpha,
        p=p,
        concept=p < alpha,
    )


def _wrong(counts: Counts, curves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Expected false positives and false negatives [B, 2] of rows [2, bins], by each of the curves [B, bins]."""
    return np.stack([(1 - curves) @ counts[1], curves @ counts[0]], axis=1)


class _Sums(NamedTuple):
    """Rows, Σp̂ and Σp̂(1 − p̂) of those answered 0 and 1, each [2]."""

    rows: Counts
    positives: NDArray[np.float64]
    variances: NDArray[np.float64]


def _sums(counts: Counts, curve: NDArray[np.float64], exact: Counts | None) -> _Sums:
    """The sums of rows [2, bins]: the exact ones, if they are of all these rows."""
    rows = counts.sum(axis=1)
    if exact is not None:
        counted, positives, variances = exact.reshape(2, 3).T
        if np.array_equal(counted, rows):
            return _Sums(rows, positives / SCALE, variances / SCALE)
    return _Sums(rows, counts @ curve, counts @ (curve * (1 - curve)))


def _roc_auc(rows: Counts, curve: NDArray[np.float64]) -> float | None:
    """Expected pairs in the right order over expected pairs; a row is no pair with itself."""
    negatives, positives = rows * (1 - curve), rows * curve
    itself = float((rows * curve * (1 - curve)).sum())
    pairs = float(negatives.sum() * positives.sum()) - itself
    below = np.cumsum(negatives) - negatives
    right = float((positives * (below + negatives / 2)).sum()) - itself / 2
    # What rounding leaves of one row alone is no pair.
    return right / pairs if pairs > 1e-9 else None


def _brier(rows: Counts, curve: NDArray[np.float64]) -> float:
    middles = bin_middles(len(rows))
    return float((rows * (curve * (1 - middles) ** 2 + (1 - curve) * middles**2)).sum() / rows.sum())


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _pair(values: NDArray[np.float64]) -> tuple[float, float]:
    return float(values[0]), float(values[1])
