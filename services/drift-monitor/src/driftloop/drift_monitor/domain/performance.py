"""Realised performance from per-class score histograms: mergeable, and exact where it matters.

Scores are canonical (six decimals), so a histogram of 10⁶ + 1 would lose nothing; ours has 1,000 bins for the ranking
and the calibration, and keeps what must be exact beside it as integers: the confusion matrix, and Σs, Σs² in 10⁻⁶ and
10⁻¹² units.
"""

from collections.abc import Iterable

import msgspec
import numpy as np

from driftloop.common.statistics.cells import Counts

BINS = 1000
SCALE = 10**6
CALIBRATION_BINS = 10
# Layout of a count vector: a histogram a class, the confusion matrix (TN, FP, FN, TP), and a class's Σs and Σs².
_NEGATIVE, _POSITIVE = slice(0, BINS), slice(BINS, 2 * BINS)
_CONFUSION = slice(2 * BINS, 2 * BINS + 4)
_SUMS = slice(2 * BINS + 4, 2 * BINS + 8)
SIZE = 2 * BINS + 8
# A log loss that a certain and wrong score would make infinite is cut here, as scikit-learn cuts it in float64.
_LOG_FLOOR = 1e-6


class Performance(msgspec.Struct, frozen=True, kw_only=True):
    """Figures on `n` labelled rows; None where a class is absent. ROC AUC, log loss and ECE are from the histograms."""

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
    counts[label * BINS + min(int(score * BINS), BINS - 1)] += sign
    counts[_CONFUSION.start + 2 * label + prediction] += sign
    scaled = round(score * SCALE)
    counts[_SUMS.start + 2 * label] += sign * scaled
    counts[_SUMS.start + 2 * label + 1] += sign * scaled * scaled


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
        log_loss=_log_loss(negatives, positives, n),
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
    sum_0, square_0, sum_1, square_1 = (int(count) for count in counts[_SUMS])
    positives = int(counts[_POSITIVE].sum())
    del sum_0
    return ((square_0 + square_1) / SCALE**2 - 2 * sum_1 / SCALE + positives) / n


def _roc_auc(negatives: np.ndarray, positives: np.ndarray) -> float | None:
    """P(score of a positive > score of a negative) + ½ P(equal), bins taken as ties (Mann–Whitney)."""
    if negatives.sum() == 0 or positives.sum() == 0:
        return None
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / (negatives.sum() * positives.sum()))


def _middles() -> np.ndarray:
    return (np.arange(BINS) + 0.5) / BINS


def _log_loss(negatives: np.ndarray, positives: np.ndarray, n: int) -> float:
    middles = np.clip(_middles(), _LOG_FLOOR, 1 - _LOG_FLOOR)
    return float(-(positives * np.log(middles) + negatives * np.log(1 - middles)).sum() / n)


def _calibration_error(negatives: np.ndarray, positives: np.ndarray, n: int) -> float:
    """Expected calibration error over ten equal bins: Σ n_b/n · |share of positives − mean score|."""
    shape = (CALIBRATION_BINS, BINS // CALIBRATION_BINS)
    total = (negatives + positives).reshape(shape)
    right = positives.reshape(shape).sum(axis=1)
    mean = (total * _middles().reshape(shape)).sum(axis=1)
    return float(np.abs(right - mean).sum() / n)
