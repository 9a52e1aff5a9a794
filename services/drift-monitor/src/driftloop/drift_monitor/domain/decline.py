"""Whether the model has become worse: realised figures against those on its own held-out rows.

The test is Fisher's exact one, one-sided (Fisher 1935): both sides are samples, the held-out one a small sample whose
luck must not count as a decline; it keeps its level at any size, where two proportions' normal approximation does not;
and nobody needs to be told that a model became better. Accuracy decides, because accuracy is what the gate promotes by:
a retraining for another figure could not end. Precision and recall stand beside it with p-values of their own.
"""

import msgspec
import numpy as np
from scipy import stats

from driftloop.common.profile import ScoredRows
from driftloop.common.statistics.cells import Counts


class FigureDecline(msgspec.Struct, frozen=True, kw_only=True):
    """One figure: `right` of `rows` now, `heldout_right` of `heldout_rows` then. `drop` is positive where it fell.

    `p` is the chance of so few right now, or fewer, if both came of one population. Shares and `drop` are None where
    either side has no such row; then p is 1.
    """

    name: str
    right: int
    rows: int
    heldout_right: int
    heldout_rows: int
    realised: float | None
    heldout: float | None
    drop: float | None
    p: float


class Decline(msgspec.Struct, frozen=True, kw_only=True):
    """Performance of `n` labelled rows against `heldout_n` held-out ones, and whether accuracy declined.

    It did where p < `alpha` and it fell by `least` or more (a share).
    """

    n: int
    heldout_n: int
    accuracy: FigureDecline
    precision: FigureDecline
    recall: FigureDecline
    alpha: float
    least: float
    declined: bool


def decline(
    heldout: ScoredRows, threshold: float, confusion: Counts, *, alpha: float = 0.01, least: float = 0.03
) -> Decline:
    """Compare the window's `confusion` int64 [2 (answer), 2 (label)] with the held-out rows, cut at `threshold`."""
    then = _confusion(heldout, threshold)
    accuracy = _figure("accuracy", np.trace(confusion), confusion.sum(), np.trace(then), then.sum())
    precision = _figure("precision", confusion[1, 1], confusion[1].sum(), then[1, 1], then[1].sum())
    recall = _figure("recall", confusion[1, 1], confusion[:, 1].sum(), then[1, 1], then[:, 1].sum())
    return Decline(
        n=accuracy.rows,
        heldout_n=accuracy.heldout_rows,
        accuracy=accuracy,
        precision=precision,
        recall=recall,
        alpha=alpha,
        least=least,
        # A difference of two shares: three points may come out as 2.999….
        declined=accuracy.p < alpha and accuracy.drop is not None and accuracy.drop >= least - 1e-9,
    )


def heldout_figures(heldout: ScoredRows, threshold: float) -> dict[str, float | None]:
    """Accuracy, precision and recall on the held-out rows; None where there is no such row."""
    then = decline(heldout, threshold, np.zeros((2, 2), np.int64))
    return {one.name: one.heldout for one in (then.accuracy, then.precision, then.recall)}


def _confusion(heldout: ScoredRows, threshold: float) -> Counts:
    """The held-out rows by answer and label, int64 [2, 2]; a score of `threshold` or more answers 1."""
    counts = np.array([heldout.negatives, heldout.positives], dtype=np.int64)
    answers = np.array(heldout.scores) >= threshold
    return np.stack([counts[:, ~answers].sum(axis=1), counts[:, answers].sum(axis=1)])


def _figure(name: str, right: int, rows: int, heldout_right: int, heldout_rows: int) -> FigureDecline:
    right, rows, heldout_right, heldout_rows = map(int, (right, rows, heldout_right, heldout_rows))
    realised = right / rows if rows else None
    heldout = heldout_right / heldout_rows if heldout_rows else None
    drop = None if realised is None or heldout is None else heldout - realised
    # Of all that were right, how many are the window's: hypergeometric, if both came of one population.
    p = stats.hypergeom.cdf(right, rows + heldout_rows, right + heldout_right, rows) if drop is not None else 1.0
    return FigureDecline(
        name=name,
        right=right,
        rows=rows,
        heldout_right=heldout_right,
        heldout_rows=heldout_rows,
        realised=realised,
        heldout=heldout,
        drop=drop,
        p=float(min(1.0, p)),
    )
