"""The leak check: nothing that judges a version was learnt from. It looks at the arrays themselves, whoever made them.

Two rows with the same values are no leak by themselves: on coarse features other patients look the same, and whether a
row without a subject is of a patient that is known nobody can tell. So these are counted, for people to look at.
"""

import hashlib

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftloop.common.contract import Contract
from driftloop.trainer.domain.dataset import Division, LabeledRows, LeakError, TrainingSet
from driftloop.trainer.domain.split import BaselineSplit, split_baseline


class LeakReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was found where there is no leak.

    `training_rows`, `gate_rows` and `holdout_rows` were compared; `withheld` rows were left out because another of
    their patient is the gate's, `unused` by the recipe. Of the gate's rows `gate_unknown` name no subject.
    `gate_repeated` and `holdout_repeated` have a training row with the same values and label. Of the training rows
    `contradictory` have one of the same subject with the same values and the other label. `sha256` is that of all that
    was compared.
    """

    training_rows: int
    gate_rows: int
    holdout_rows: int
    withheld: int
    unused: int
    gate_unknown: int
    gate_repeated: int
    holdout_repeated: int
    contradictory: int
    sha256: str


def check_leaks(
    contract: Contract,
    values: NDArray[np.float64],
    labels: NDArray[np.int8],
    split: BaselineSplit,
    data: TrainingSet,
    division: Division,
) -> LeakReport:
    """Compare what is fitted, `data`, with what judges it: the gate's rows and the baseline's held-out ones.

    `values` [n, d] and `labels` [n] are the whole baseline's. Raises LeakError, naming what is on both sides.
    """
    _check_split(contract, labels, split)
    _check_sides(division.train, division.gate)
    _check_fitted(values, labels, split, data, division.train)
    gate, held = division.gate, split.holdout
    newest, oldest = _keys(gate.values, gate.labels), _keys(values[held], labels[held])
    repeated = {*newest, *oldest}.intersection(_keys(data.values, data.labels))
    return LeakReport(
        training_rows=len(data.labels),
        gate_rows=len(gate),
        holdout_rows=len(held),
        withheld=division.withheld,
        unused=division.unused,
        gate_unknown=int(np.sum(gate.subjects == "")),
        gate_repeated=sum(key in repeated for key in newest),
        holdout_repeated=sum(key in repeated for key in oldest),
        contradictory=_contradictory(division.train),
        sha256=_digest(data, gate, values[held], labels[held]),
    )


def fingerprint(
    values: NDArray[np.float64],
    labels: NDArray[np.int8],
    split: BaselineSplit,
    data: TrainingSet,
    division: Division,
) -> str:
    """SHA-256 (hex) of all that `check_leaks` looks at: while it is the same, so is what the check finds."""
    found = hashlib.sha256(data.digest.encode())
    sides = (
        column
        for side in (division.train, division.gate)
        for column in (side.ids, side.times, side.values, side.labels, side.subjects)
    )
    for column in (values, labels, split.train, split.holdout, *sides):
        found.update(f"{column.dtype.str}{column.shape}".encode())
        found.update(column.tobytes())
    return found.hexdigest()


def require_unchanged(before: str, after: str) -> None:
    """Raise LeakError where rows have not the `fingerprint` any more that they had when they were checked."""
    if before != after:
        raise LeakError(
            "rows changed while a challenger was fitted and judged: something writes into the arrays that it was given;"
            " let it work on a copy"
        )


def _check_split(contract: Contract, labels: NDArray[np.int8], split: BaselineSplit) -> None:
    fixed = split_baseline(contract, labels)
    moved = len(np.setdiff1d(split.holdout, fixed.holdout))
    if moved:
        raise LeakError(
            f"{moved} of the baseline's held-out rows are not the contract's: every version must leave out the same; "
            "draw them by baseline.seed"
        )
    both = len(np.intersect1d(split.train, fixed.holdout))
    if both:
        raise LeakError(f"{both} held-out baseline rows are trained on: train on the split's other rows only")


def _check_sides(train: LabeledRows, gate: LabeledRows) -> None:
    both = set(gate.ids.tolist()).intersection(train.ids.tolist())
    if both:
        raise LeakError(f"{len(both)} predictions are both trained on and the gate's: divide them anew")
    known = gate.subjects[gate.subjects != ""].tolist()
    judged = set(known)
    if len(judged) != len(known):
        raise LeakError(
            f"{len(known) - len(judged)} of the gate's rows are of a patient who has judged: give it one each"
        )
    met = judged.intersection(train.subjects.tolist())
    if met:
        raise LeakError(f"rows of {len(met)} patients are both trained on and the gate's: withhold the older ones")
    if np.isnat(train.times).any() or np.isnat(gate.times).any():
        raise LeakError("a labelled row has no time: whether it is older than the gate's cannot be told")
    if len(train) and len(gate):
        newer = int(np.sum(train.times > gate.times.min()))
        if newer:
            raise LeakError(f"{newer} training rows are newer than the gate's oldest: the gate's must be the newest")


def _check_fitted(
    values: NDArray[np.float64],
    labels: NDArray[np.int8],
    split: BaselineSplit,
    data: TrainingSet,
    production: LabeledRows,
) -> None:
    kept = split.train[: data.baseline_rows]
    if data.baseline_rows not in (0, len(split.train)) or data.labeled_rows != len(production):
        raise LeakError(
            f"a set of {data.baseline_rows} baseline and {data.labeled_rows} production rows was not made of "
            f"{len(split.train)} and {len(production)}: make it of the rows that were divided"
        )
    expected = np.concatenate((values[kept], production.values)), np.concatenate((labels[kept], production.labels))
    if len(data.values) != len(expected[0]) or len(data.labels) != len(expected[1]):
        raise LeakError(f"{len(data.labels)} rows are fitted where {len(expected[1])} may be: some come from elsewhere")
    same = np.all((data.values == expected[0]) | (np.isnan(data.values) & np.isnan(expected[0])), axis=1)
    others = int(np.sum(~same | (data.labels != expected[1])))
    if others:
        raise LeakError(f"{others} rows that are fitted are not those that were divided: make the set of these")


def _contradictory(rows: LabeledRows) -> int:
    of_either = (set(rows.subjects[rows.labels == label].tolist()) for label in (0, 1))
    mixed = set.intersection(*of_either) - {""}
    chosen = np.array([subject in mixed for subject in rows.subjects.tolist()], dtype=np.bool_)
    keys = list(zip(rows.subjects[chosen].tolist(), _keys(rows.values[chosen]), strict=True))
    labels = rows.labels[chosen].tolist()
    negative, positive = ({key for key, label in zip(keys, labels, strict=True) if label == one} for one in (0, 1))
    both = negative & positive
    return sum(key in both for key in keys)


def _keys(values: NDArray[np.float64], labels: NDArray[np.int8] | None = None) -> list[bytes]:
    """The rows as bytes: equal where all their values are, missing ones too, and the labels where these are given."""
    columns = values if labels is None else np.column_stack((values, labels.astype(np.float64)))
    # Zero has no sign here, and every NaN is the same.
    rows = np.ascontiguousarray(np.where(np.isnan(columns), np.nan, columns + 0.0))
    found: list[bytes] = rows.view(f"V{rows.dtype.itemsize * rows.shape[1]}").ravel().tolist()
    return found


def _digest(data: TrainingSet, gate: LabeledRows, held: NDArray[np.float64], held_labels: NDArray[np.int8]) -> str:
    found = hashlib.sha256(data.digest.encode())
    for column in (gate.ids, gate.times, gate.values, gate.labels, gate.subjects, held, held_labels):
        found.update(np.ascontiguousarray(column).tobytes())
    return found.hexdigest()
