"""Realised performance from per-class score histograms: mergeable, and exact where it matters.

Scores are canonical (six decimals), so a histogram of 10⁶ + 1 would lose nothing; ours has 1,000 bins for the ranking
and the calibration, and keeps what must be exact beside it as integers: the confusion matrix, and Σs, Σs² and the log
loss in units of 10⁻⁶, 10⁻¹² and 10⁻⁶. Integers, so that what is taken away again leaves nothing behind.
"""

import math
from collections.abc import Iterable

import msgspec
import numpy as np

from driftloop.common.statistics.cells import Counts

BINS = 1000
SCALE = 10**6
CALIBRATION_BINS = 10
# Layout of a count vector: a histogram a class, the confusion matrix (TN, FP, FN, TP), and each class's Σs, Σs² and log
# loss. Σs² is in two words, of 10⁻⁶ and 10⁻¹²: in one, nine million rows would overflow it.
_NEGATIVE, _POSITIVE = slice(0, BINS), slice(BINS, 2 * BINS)
_CONFUSION = slice(2 * BINS, 2 * BINS + 4)
_PER_CLASS = 4
_SUMS = slice(2 * BINS + 4, 2 * BINS + 4 + 2 * _PER_CLASS)
SIZE = _SUMS.stop
# A log loss that a certain and wrong score would make infinite is cut here, where scikit-learn cuts it in float64.
_LOG_FLOOR = float(np.finfo(np.float64).eps)


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


def count_label(counts: Counts, score: float, prediction: bool, label: int, sign: int = 1) -> None:
    """Add one labelled row to `counts` [SIZE] in place, or take it away with `sign` −1."""
    scaled = round(score * SCALE)
    high, low = divmod(scaled * scaled, SCALE)
    likelihood = max(score if label else 1 - score, _LOG_FLOOR)
    counts[label * BINS + min(scaled * BINS // SCALE, BINS - 1)] += sign
    counts[_CONFUSION.start + 2 * label + prediction] += sign
    sums = _SUMS.start + _PER_CLASS * label
    counts[sums] += sign * scaled
    counts[sums + 1] += sign * high
    counts[sums + 2] += sign * low
    counts[sums + 3] += sign * round(-math.log(likelihood) * SCALE)


def merged(parts: Iterable[Counts]) -> Counts:
    """The sum of count vectors; zeros of none."""
    total = np.zeros(SIZE, dtype=np.int64)
    for part in parts:
        total += part
    return total


def performance(counts: Counts) -> Performance:
    """The figures of merged counts [SIZE]."""
    tn, fp, fn, tp = (int(count) for count in counts[_CONFUSION])
    n = tn + fp + fn + tp
    if n == 0:
        return Performance(n=0)
    negatives, positives = counts[_NEGATIVE].astype(np.float64), counts[_POSITIVE].astype(np.float64)
    return Performance(
        n=n,
        accuracy=(tn + tp) / n,
        precision=_share(tp, tp + fp),
        recall=_share(tp, tp + fn),
        f1=_share(2 * tp, 2 * tp + fp + fn),
        roc_auc=_roc_auc(negatives, positives),
        brier=_brier(counts, n),
        log_loss=_log_loss(counts, n),
        calibration_error=_calibration_error(negatives, positives, n),
        true_negatives=tn,
        false_positives=fp,
        false_negatives=fn,
        true_positives=tp,
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _brier(counts: Counts, n: int) -> float:
    """Σ(s − y)²/n = (Σs² − 2 Σ_{y=1} s + n₁)/n, exact in the canonical scores."""
    # Python's integers: the numerator in 10⁻¹² does not fit into 64 bits.
    _, high_0, low_0, _, sum_1, high_1, low_1, _ = (int(count) for count in counts[_SUMS])
    squares = (high_0 + high_1) * SCALE + low_0 + low_1
    positives = int(counts[_POSITIVE].sum())
    return (squares - 2 * sum_1 * SCALE + positives * SCALE**2) / (SCALE**2 * n)


def _roc_auc(negatives: np.ndarray, positives: np.ndarray) -> float | None:
    """P(score of a positive > score of a negative) + ½ P(equal), bins taken as ties (Mann–Whitney)."""
    if negatives.sum() == 0 or positives.sum() == 0:
        return None
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / (negatives.sum() * positives.sum()))


def _middles() -> np.ndarray:
    return (np.arange(BINS) + 0.5) / BINS


def _log_loss(counts: Counts, n: int) -> float:
    """−Σ ln p(y)/n, each row's to six decimals: off by 5·10⁻⁷ at most."""
    return int(counts[_SUMS][_PER_CLASS - 1 :: _PER_CLASS].sum()) / (SCALE * n)


def _calibration_error(negatives: np.ndarray, positives: np.ndarray, n: int) -> float:
    """Expected calibration error over ten equal bins: Σ n_b/n · |share of positives − mean score|."""
    shape = (CALIBRATION_BINS, BINS // CALIBRATION_BINS)
    total = (negatives + positives).reshape(shape)
    right = positives.reshape(shape).sum(axis=1)
    mean = (total * _middles().reshape(shape)).sum(axis=1)
    return float(np.abs(right - mean).sum() / n)
