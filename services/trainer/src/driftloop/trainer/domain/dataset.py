"""What is trained on and what is kept for the gate: in order of time, and never both."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from driftloop.common.contract import Contract, Gates, Recipe
from driftloop.trainer.domain.split import BaselineSplit
from driftloop.trainer.domain.weights import row_weights

DEFAULT_RECIPE = Recipe()


class LeakError(ValueError):
    """A row that judges a challenger was also trained on, or would be."""


@dataclass(frozen=True)
class LabeledRows:
    """Production rows with outcomes, by column.

    `ids` [n] are prediction ids, `times` [n] (datetime64) when each was predicted, `values` float64 [n, d] as
    `RowValidator.values` gives them, `labels` int8 [n]; `subjects` [n] are pseudonyms, "" where unknown. `labeled_at`
    [n] says when each label came, None where nobody knows.
    """

    ids: NDArray[np.str_]
    times: NDArray[np.datetime64]
    values: NDArray[np.float64]
    labels: NDArray[np.int8]
    subjects: NDArray[np.str_]
    labeled_at: NDArray[np.datetime64] | None = None

    def __post_init__(self) -> None:
        """Refuse columns of different length, and a prediction that occurs twice."""
        columns = (self.ids, self.times, self.values, self.labels, self.subjects, self.labeled_at)
        lengths = {len(column) for column in columns if column is not None}
        if len(lengths) != 1:
            raise ValueError(f"labelled rows have columns of different lengths {sorted(lengths)}: pass one entry a row")
        # Sorting a million texts would take ten times as long.
        if len(set(self.ids.tolist())) != len(self.ids):
            raise LeakError("a prediction occurs twice among the labelled rows: pass each prediction's last label only")

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, chosen: NDArray[np.int64]) -> "LabeledRows":
        """The rows with these numbers, in this order."""
        labeled_at = None if self.labeled_at is None else self.labeled_at[chosen]
        return LabeledRows(
            self.ids[chosen],
            self.times[chosen],
            self.values[chosen],
            self.labels[chosen],
            self.subjects[chosen],
            labeled_at,
        )


@dataclass(frozen=True)
class Division:
    """Labelled rows, divided: `train` is older than `gate`, which has one row of a patient.

    `withheld` are on neither side because another row of their subject is the gate's, `unused` by the recipe.
    """

    train: LabeledRows
    gate: LabeledRows
    withheld: int
    unused: int = 0

    @classmethod
    def empty(cls, width: int) -> "Division":
        """No rows of `width` values: what there is before a model has answered anybody."""
        texts = np.zeros(0, dtype=np.str_)
        rows = LabeledRows(texts, np.zeros(0, "M8[us]"), np.zeros((0, width)), np.zeros(0, dtype=np.int8), texts)
        return cls(rows, rows, withheld=0)


def divide(rows: LabeledRows, gate_labels: int, after: np.datetime64 | None = None) -> Division:
    """Give the newest row of each of the newest `gate_labels` patients to the gate, and what is older to training.

    A row that names no subject counts as a patient's only one. The gate's tests take its rows for independent, which
    forty rows of one patient are not. All other rows of the gate's subjects are withheld: a patient whom the challenger
    has met proves nothing. With `after` the gate gets only rows predicted later than that, though they may be fewer.
    Rows of one instant are ordered by id, so that the same rows are always divided the same.
    """
    order = np.lexsort((rows.ids, rows.times))
    judging = _judging(rows, order, gate_labels, after)
    gate = order[judging]
    known = set(rows.subjects[gate].tolist()) - {""}
    older = order[: judging[0]] if len(judging) else order
    met = np.array([subject in known for subject in rows.subjects[older].tolist()], dtype=np.bool_)
    train = older[~met]
    return Division(rows.take(train), rows.take(gate), withheld=len(rows) - len(train) - len(gate))


def _judging(
    rows: LabeledRows, order: NDArray[np.int64], gate_labels: int, after: np.datetime64 | None
) -> NDArray[np.int64]:
    """Which places in `order`, oldest first, the gate gets: whatever is newer than these is of the same patients."""
    first = 0 if after is None else int(np.searchsorted(rows.times[order], after, side="right"))
    subjects = rows.subjects[order[first:]].tolist()
    found: list[int] = []
    met: set[str] = set()
    for place in reversed(range(len(subjects))):
        if len(found) == gate_labels:
            break
        if subjects[place] not in met:
            found.append(first + place)
            met.update({subjects[place]} - {""})
    return np.array(found[::-1], dtype=np.int64)


def division_of(
    contract: Contract, rows: LabeledRows, since: np.datetime64, after: np.datetime64 | None = None
) -> Division:
    """The rows as `divide` divides them, of the older only those that the contract's recipe asks for.

    `since` is when the new population came; only rows predicted later than `after` judge. Raises ValueError where
    nothing is left to train on.
    """
    recipe, divided = contract.training, divide(rows, contract.gates.gate_labels, after)
    times = divided.train.times
    wanted = np.ones(len(times), dtype=np.bool_)
    if recipe.rows == "new":
        wanted = times >= since
    if recipe.window_days is not None and len(rows):
        wanted &= times >= rows.times.max() - _span(recipe.window_days)
    chosen = np.flatnonzero(wanted)
    if recipe.window_rows is not None:
        # Ascending in time: the last are the newest.
        chosen = chosen[-recipe.window_rows :]
    if not len(chosen) and not recipe.baseline:
        raise ValueError(
            f"model {contract.name!r}: of {len(times)} older labelled rows training.rows = {recipe.rows!r} leaves none,"
            " and the baseline is not trained on: wait for more labels, or widen the recipe"
        )
    return replace(divided, train=divided.train.take(chosen), unused=len(times) - len(chosen))


@dataclass(frozen=True)
class LabelsWanted:
    """How many more labels a retraining waits for at least: so many that judge, and so many to train on besides.

    `deeper` says that rows older than those that were looked at may be some of them.
    """

    judging: int
    training: int
    deeper: bool

    @property
    def total(self) -> int:
        """How many in all, 0 when the training may start."""
        return self.judging + self.training


def labels_wanted(
    gates: Gates, rows: LabeledRows, since: np.datetime64, after: np.datetime64 | None = None
) -> LabelsWanted:
    """What the newest labelled rows lack for a retraining.

    Only rows predicted at or after `since`, when the new population came, count. With 300 of its labels among 1,300 the
    newest 300 are the gate's, nothing is learnt from it, and a challenger no better than the champion can pass. They
    count as `divide` divides them: of a patient one row judges, and only one predicted later than `after`.
    """
    new = divide(rows.take(np.flatnonzero(rows.times >= since)), gates.gate_labels, after)
    judging = gates.gate_labels - len(new.gate)
    training = max(0, gates.train_labels - len(new.train))
    passed = after is not None and bool((rows.times <= after).any())
    return LabelsWanted(judging, training, deeper=not passed if judging else training > 0)


@dataclass(frozen=True)
class TrainingSet:
    """What a version is fitted to, `values` float64 [n, d] and `labels` int8 [n]: first the baseline's, then others.

    `subjects` [n] are pseudonyms, "" where unknown, as all of the baseline's are.
    `weights` [n], of mean 1, say how much each row counts; None where all count the same.
    """

    values: NDArray[np.float64]
    labels: NDArray[np.int8]
    subjects: NDArray[np.str_]
    baseline_rows: int
    labeled_rows: int
    weights: NDArray[np.float64] | None = None

    @property
    def features(self) -> NDArray[np.float32]:
        """The values as the model takes them."""
        return self.values.astype(np.float32)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of shape, values, labels, and weights if there are: sets with one digest are the same set."""
        shape = np.array(self.values.shape, dtype="<i8")
        parts = [shape, np.ascontiguousarray(self.values, dtype="<f8"), self.labels.astype("<i1")]
        if self.weights is not None:
            parts.append(self.weights.astype("<f8"))
        found = hashlib.sha256()
        for part in parts:
            found.update(part.data)
        return found.hexdigest()


def training_set(
    baseline_values: NDArray[np.float64],
    baseline_labels: NDArray[np.int8],
    split: BaselineSplit,
    labeled: LabeledRows | None = None,
    recipe: Recipe = DEFAULT_RECIPE,
) -> TrainingSet:
    """The baseline's rows that are not held out, and after them the labelled production rows, if there are any.

    Without production rows the baseline is all that there is, whatever the recipe says of it. Raises LeakError where
    the split gives a baseline row to both sides.
    """
    both = np.intersect1d(split.train, split.holdout)
    if len(both):
        raise LeakError(f"{len(both)} baseline rows are both trained on and held out: draw the split anew")
    if labeled is None:
        labels = baseline_labels[split.train]
        ageless = np.zeros(len(labels), dtype="m8[us]")
        weights = row_weights(recipe, labels, ageless)
        return TrainingSet(baseline_values[split.train], labels, unknown(len(labels)), len(labels), 0, weights)
    kept = split.train if recipe.baseline else split.train[:0]
    labels = np.concatenate((baseline_labels[kept], labeled.labels))
    ages = _ages(recipe, len(kept), labeled.times)
    values = np.concatenate((baseline_values[kept], labeled.values))
    subjects = np.concatenate((unknown(len(kept)), labeled.subjects))
    return TrainingSet(values, labels, subjects, len(kept), len(labeled), row_weights(recipe, labels, ages))


def unknown(rows: int) -> NDArray[np.str_]:
    """The subjects of rows of which nobody says whose they are."""
    return np.full(rows, "", dtype=np.str_)


def _ages(recipe: Recipe, baseline_rows: int, times: NDArray[np.datetime64]) -> NDArray[np.timedelta64]:
    """How much older than the newest production row each row is, the baseline's first; without any, 0 for all."""
    ages = np.zeros(baseline_rows + len(times), dtype="m8[us]")
    if len(times):
        oldest = times.max() - times.min()
        stated = recipe.baseline_age_days
        ages[:baseline_rows] = oldest if stated is None else _span(stated)
        ages[baseline_rows:] = times.max() - times
    return ages


def _span(days: float) -> np.timedelta64:
    # Longer than all of time is no longer than a thousand years, and fits.
    return np.timedelta64(round(min(days, 365_250.0) * 86_400e6), "us")
