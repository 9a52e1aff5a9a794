"""Realised performance, from the counts of labelled rows."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftloop.common.statistics.cells import Counts
from driftloop.common.statistics.scores import BINS, SCALE, calibration_error
from driftloop.drift_monitor.domain.fold.labels import joint_histogram

_SUMS = 4 * BINS


class Performance(msgspec.Struct, frozen=True, kw_only=True):
    """Figures on `n` labelled rows; None where a class is absent. ROC AUC and ECE are binned, the rest is exact."""

    n: int
    accuracy: float | None = None
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    roc_auc: float | None = None
    brier: float | None = None
    log_loss: float | None = None
    calibration_error: float | None = None
    true_negatives: int = 0
    false_positives: int = 0
    false_negatives: int = 0
    true_positives: int = 0


def performance(counts: Counts | None) -> Performance:
    """The figures of the merged counts of `LabelledScores`; None: of no row."""
    if counts is None:
        return Performance(n=0)
    histogram = joint_histogram(counts)
    (tn, fn), (fp, tp) = histogram.sum(axis=2).tolist()
    n = tn + fp + fn + tp
    if n <= 0:
        return Performance(n=0)
    negatives, positives = histogram[:, 0].sum(axis=0).astype(float), histogram[:, 1].sum(axis=0).astype(float)
    return Performance(
        n=n,
        accuracy=(tn + tp) / n,
        precision=_share(tp, tp + fp),
        recall=_share(tp, tp + fn),
        f1=_share(2 * tp, 2 * tp + fp + fn),
        roc_auc=_roc_auc(negatives, positives),
        brier=_brier(counts, n, int(positives.sum())),
        log_loss=_log_loss(counts, n),
        calibration_error=calibration_error(negatives, positives),
        true_negatives=tn,
        false_positives=fp,
        false_negatives=fn,
        true_positives=tp,
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _brier(counts: Counts, n: int, positives: int) -> float:
    """Σ(s − y)²/n = (Σs² − 2 Σ_{y=1} s + n₁)/n, exact in the canonical scores."""
    # Python's integers: the numerator in 10⁻¹² does not fit into 64 bits.
    _, high_0, low_0, _, sum_1, high_1, low_1, _ = (int(count) for count in counts[_SUMS : _SUMS + 8])
    squares = (high_0 + high_1) * SCALE + low_0 + low_1
    return (squares - 2 * sum_1 * SCALE + positives * SCALE**2) / (SCALE**2 * n)


def _roc_auc(negatives: NDArray[np.float64], positives: NDArray[np.float64]) -> float | None:
    """P(score of a positive > score of a negative) + ½ P(equal), bins taken as ties (Mann–Whitney)."""
    if negatives.sum() == 0 or positives.sum() == 0:
        return None
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / (negatives.sum() * positives.sum()))


def _log_loss(counts: Counts, n: int) -> float:
    """−Σ ln p(y)/n, each row's to six decimals: off by 5·10⁻⁷ at most."""
    return int(counts[_SUMS + 3] + counts[_SUMS + 7]) / (SCALE * n)
