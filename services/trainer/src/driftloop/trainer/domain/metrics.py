"""How good a model is on rows with known labels, and how sure that is."""

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss, log_loss, precision_recall_fscore_support, roc_auc_score

from driftloop.common.statistics.scores import BINS, CALIBRATION_BINS, calibration_error, score_bins
from driftloop.trainer.domain.intervals import Interval, bootstrap_interval, roc_auc_interval, share_interval

_BOOTSTRAPPED = ("f1", "brier", "log_loss", "calibration_error")


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one model on `rows` rows. `majority` is what always saying the commoner class scores.

    `mean_score` is to be compared with the share of positives; `calibration_error` is the expected one over ten equal
    bins, as the drift monitor reports it of the same rows. `intervals` are 95 % intervals by the figure's name; one
    that cannot be computed has none.
    """

    rows: int
    positives: int
    accuracy: float
    majority: float
    precision: float
    recall: float
    f1: float
    brier: float
    log_loss: float
    roc_auc: float | None
    mean_score: float | None = None
    calibration_error: float | None = None
    intervals: dict[str, Interval] = {}


def evaluate(labels: NDArray[np.int8], scores: NDArray[np.float64], threshold: float, seed: int = 0) -> Metrics:
    """Compare `scores` [n] = P(label = 1) with `labels` [n] of 0 and 1; a score of `threshold` or more says 1.

    `seed` is the resampling's. Raises ValueError where there are no rows. ROC AUC is None where one class is absent.
    """
    if len(labels) == 0:
        raise ValueError("no labelled rows: nothing can be measured; wait for labels")
    decisions = (scores >= threshold).astype(np.int8)
    precision, recall, f1, _ = precision_recall_fscore_support(labels, decisions, average="binary", zero_division=0.0)
    positives = int(labels.sum())
    return Metrics(
        rows=len(labels),
        positives=positives,
        accuracy=float(np.mean(decisions == labels)),
        majority=max(positives, len(labels) - positives) / len(labels),
        precision=float(precision),
        recall=float(recall),
        f1=float(f1),
        brier=float(brier_score_loss(labels, scores)),
        log_loss=float(log_loss(labels, scores, labels=[0, 1])),
        roc_auc=float(roc_auc_score(labels, scores)) if 0 < positives < len(labels) else None,
        mean_score=float(scores.mean()),
        calibration_error=_calibration_error(labels, scores),
        intervals=_intervals(labels, scores, decisions, seed),
    )


def _calibration_error(labels: NDArray[np.int8], scores: NDArray[np.float64]) -> float:
    """From counts, which are all that the monitor has: two formulas would differ in the fourth decimal."""
    negatives, positives = (
        np.bincount(score_bins(scores[labels == label]), minlength=BINS).astype(np.float64) for label in (0, 1)
    )
    return calibration_error(negatives, positives)


def _gaps(labels: NDArray[np.int8], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Label less the middle of the score's bin [n, 10], in the column of the bin that calibration is looked at in."""
    gaps = np.zeros((len(labels), CALIBRATION_BINS))
    bins = score_bins(scores)
    gaps[np.arange(len(labels)), bins * CALIBRATION_BINS // BINS] = labels - (bins + 0.5) / BINS
    return gaps


def _intervals(
    labels: NDArray[np.int8], scores: NDArray[np.float64], decisions: NDArray[np.int8], seed: int
) -> dict[str, Interval]:
    hits = int(np.sum((decisions == 1) & (labels == 1)))
    found = {
        "accuracy": share_interval(int(np.sum(decisions == labels)), len(labels)),
        "precision": share_interval(hits, int(decisions.sum())),
        "recall": share_interval(hits, int(labels.sum())),
        "roc_auc": roc_auc_interval(labels, scores),
    }
    lows, highs = bootstrap_interval(_parts(labels, scores, decisions), _figures, seed).tolist()
    found |= {name: (low, high) for name, low, high in zip(_BOOTSTRAPPED, lows, highs, strict=True)}
    # A resample's calibration error is the larger for its own chance: mirrored at the figure, that is taken back.
    twice = 2 * _calibration_error(labels, scores)
    found["calibration_error"] = (max(0.0, twice - highs[-1]), max(0.0, twice - lows[-1]))
    return {name: bounds for name, bounds in found.items() if bounds is not None}


def _parts(labels: NDArray[np.int8], scores: NDArray[np.float64], decisions: NDArray[np.int8]) -> NDArray[np.float64]:
    """What each row adds [n, 5 + bins] to the sums that `_figures` is made from."""
    # As scikit-learn's log_loss does: a sure and wrong answer costs much, but not everything.
    tiny = np.finfo(np.float64).eps
    own = np.clip(np.where(labels == 1, scores, 1 - scores), tiny, 1 - tiny)
    columns = (np.ones(len(labels)), decisions + labels, 2 * decisions * labels, (scores - labels) ** 2, -np.log(own))
    return np.column_stack((*columns, _gaps(labels, scores)))


def _figures(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1, Brier score, log loss and calibration error [r, 4] of sums [r, 5 + bins]."""
    rows, either, both, squares, losses = sums[:, :5].T
    f1 = np.divide(both, either, out=np.zeros_like(both), where=either > 0)
    return np.column_stack((f1, squares / rows, losses / rows, np.abs(sums[:, 5:]).sum(axis=1) / rows))
