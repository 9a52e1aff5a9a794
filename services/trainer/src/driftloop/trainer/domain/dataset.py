"""What is trained on and what is kept for the gate: in order of time, and never both."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftloop.common.contract import Gates
from driftloop.trainer.domain.split import BaselineSplit


class LeakError(ValueError):
    """A row that judges a challenger was also trained on, or would be."""


@dataclass(frozen=True)
class LabeledRows:
    """Production rows with outcomes, by column.

    `ids` [n] are prediction ids, `times` [n] (datetime64) when each was predicted, `values` float64 [n, d] as
    `RowValidator.values` gives them, `labels` int8 [n]; `subjects` [n] are pseudonyms, "" where unknown.
    """

    ids: NDArray[np.str_]
    times: NDArray[np.datetime64]
    values: NDArray[np.float64]
    labels: NDArray[np.int8]
    subjects: NDArray[np.str_]

    def __post_init__(self) -> None:
        """Refuse columns of different length, and a prediction that occurs twice."""
        lengths = {len(column) for column in (self.ids, self.times, self.values, self.labels, self.subjects)}
        if len(lengths) != 1:
            raise ValueError(f"labelled rows have columns of different lengths {sorted(lengths)}: pass one entry a row")
        if len(np.unique(self.ids)) != len(self.ids):
            raise LeakError("a prediction occurs twice among the labelled rows: pass each prediction's last label only")

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, chosen: NDArray[np.int64]) -> "LabeledRows":
        """The rows with these numbers, in this order."""
        return LabeledRows(
            self.ids[chosen], self.times[chosen], self.values[chosen], self.labels[chosen], self.subjects[chosen]
        )


@dataclass(frozen=True)
class Division:
    """Labelled rows, divided: `train` is older than `gate`. `withheld` rows are in neither."""

    train: LabeledRows
    gate: LabeledRows
    withheld: int


def divide(rows: LabeledRows, gate_labels: int) -> Division:
    """Give the newest `gate_labels` rows to the gate and the older ones to training.

    Rows of one instant are ordered by id, so that the same rows are always divided the same. Older rows of a subject
    that is among the gate's are withheld: a patient whom the challenger has met proves nothing.
    """
    order = np.lexsort((rows.ids, rows.times))
    edge = max(0, len(rows) - gate_labels)
    older, gate = order[:edge], order[edge:]
    met = np.isin(rows.subjects[older], rows.subjects[gate]) & (rows.subjects[older] != "")
    return Division(rows.take(older[~met]), rows.take(gate), withheld=int(met.sum()))


def labels_wanted(gates: Gates, times: NDArray[np.datetime64], since: np.datetime64) -> int:
    """How many more labels a retraining waits for, 0 when it may start; `times` [n] are those of the labelled rows.

    Only rows predicted at or after `since`, when the new population came, count. With 300 of its labels among 1,300 the
    newest 300 are the gate's, nothing is learnt from it, and a challenger no better than the champion can pass.
    """
    return max(0, gates.train_labels + gates.gate_labels - int(np.sum(times >= since)))


@dataclass(frozen=True)
class TrainingSet:
    """What a version is fitted to, `values` float64 [n, d] and `labels` int8 [n]: first the baseline's, then others."""

    values: NDArray[np.float64]
    labels: NDArray[np.int8]
    baseline_rows: int
    labeled_rows: int

    @property
    def features(self) -> NDArray[np.float32]:
        """The values as the model takes them."""
        return self.values.astype(np.float32)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of shape, values and labels: two sets with one digest are the same set."""
        shape = np.array(self.values.shape, dtype="<i8")
        parts = (shape, np.ascontiguousarray(self.values, dtype="<f8"), self.labels.astype("<i1"))
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def training_set(
    baseline_values: NDArray[np.float64],
    baseline_labels: NDArray[np.int8],
    split: BaselineSplit,
    labeled: LabeledRows | None = None,
) -> TrainingSet:
    """The baseline's rows that are not held out, and after them the labelled production rows, if there are any.

    Raises LeakError where the split gives a baseline row to both sides.
    """
    both = np.intersect1d(split.train, split.holdout)
    if len(both):
        raise LeakError(f"{len(both)} baseline rows are both trained on and held out: draw the split anew")
    values, labels = [baseline_values[split.train]], [baseline_labels[split.train]]
    if labeled is not None:
        values.append(labeled.values)
        labels.append(labeled.labels)
    return TrainingSet(
        np.concatenate(values), np.concatenate(labels), len(split.train), 0 if labeled is None else len(labeled)
    )
