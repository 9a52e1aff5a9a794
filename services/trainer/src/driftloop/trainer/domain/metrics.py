"""How good a model is on rows with known labels."""

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss, log_loss, precision_recall_fscore_support, roc_auc_score


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one model on `rows` rows. `majority` is what always saying the commoner class scores."""

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


def evaluate(labels: NDArray[np.int8], scores: NDArray[np.float64], threshold: float) -> Metrics:
    """Compare `scores` [n] = P(label = 1) with `labels` [n] of 0 and 1; a score of `threshold` or more says 1.

    Raises ValueError where there are no rows. ROC AUC is None where one class is absent.
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
    )
