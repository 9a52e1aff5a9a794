"""The leak check: each planted leak fails the run and is named; what only looks like one is counted."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from driftloop.common.contract import Recipe
from driftloop.trainer.domain import export
from driftloop.trainer.domain.challenger import BaselineData, Challenger, ReferenceRows, challenge, first_version
from driftloop.trainer.domain.dataset import (
    Division,
    LabeledRows,
    LeakError,
    TrainingSet,
    divide,
    division_of,
    training_set,
)
from driftloop.trainer.domain.leaks import LeakReport, check_leaks, fingerprint, require_unchanged
from driftloop.trainer.domain.split import BaselineSplit
from tests.support.models import shipped

LOAN = shipped("loan", trees=3)
GATES = msgspec.structs.replace(LOAN.contract.gates, gate_labels=30)
CONTRACT = msgspec.structs.replace(LOAN.contract, gates=GATES)
BASELINE = BaselineData.of(CONTRACT, LOAN.values, LOAN.labels)
CREATED = datetime(2026, 1, 1, tzinfo=UTC)


class Run(NamedTuple):
    """What a run compares."""

    split: BaselineSplit
    data: TrainingSet
    division: Division

    def check(self) -> LeakReport:
        return check_leaks(CONTRACT, BASELINE.values, BASELINE.labels, self.split, self.data, self.division)

    def fingerprint(self) -> str:
        return fingerprint(BASELINE.values, BASELINE.labels, self.split, self.data, self.division)


def production(n: int = 90) -> LabeledRows:
    """Rows a second apart, of a patient each, with values that no baseline row has."""
    rng = np.random.default_rng(0)
    values = LOAN.values[rng.integers(0, len(LOAN.values), n)].copy()
    values[:, 0] = 1e6 + np.arange(n)
    return LabeledRows(
        ids=np.array([f"p{row:03d}" for row in range(n)]),
        times=np.datetime64("2026-01-01", "us") + np.arange(n).astype("m8[s]"),
        values=values,
        labels=(np.arange(n) % 2).astype(np.int8),
        subjects=np.array([f"s{row}" for row in range(n)]),
    )


def made(split: BaselineSplit, division: Division) -> Run:
    """The run that follows from a split and a division."""
    return Run(split, training_set(BASELINE.values, BASELINE.labels, split, division.train), division)


def clean(rows: LabeledRows | None = None) -> Run:
    return made(BASELINE.split, divide(rows or production(), GATES.gate_labels))


def changed(rows: LabeledRows, column: str, row: int, value: object) -> LabeledRows:
    """The rows with one entry changed."""
    entries = getattr(rows, column).copy()
    entries[row] = value
    return replace(rows, **{column: entries})


def with_train(run: Run, train: LabeledRows) -> Run:
    """The run, had it been trained on these rows."""
    return made(run.split, replace(run.division, train=train))


def joined(one: LabeledRows, other: LabeledRows) -> LabeledRows:
    columns = ("ids", "times", "values", "labels", "subjects")
    return LabeledRows(*(np.concatenate((getattr(one, name), getattr(other, name))) for name in columns))


def gate_row_in_training(run: Run) -> Run:
    return with_train(run, joined(run.division.train, run.division.gate.take(np.array([0]))))


def patient_on_both_sides(run: Run) -> Run:
    return with_train(run, changed(run.division.train, "subjects", 3, run.division.gate.subjects[7]))


def patient_who_judges_twice(run: Run) -> Run:
    gate = run.division.gate
    return made(run.split, replace(run.division, gate=changed(gate, "subjects", 3, gate.subjects[7])))


def training_row_newer_than_the_gate(run: Run) -> Run:
    return with_train(run, changed(run.division.train, "times", 0, run.division.gate.times[1]))


def row_without_a_time(run: Run) -> Run:
    return with_train(run, changed(run.division.train, "times", 0, np.datetime64("NaT")))


def held_out_row_trained_on(run: Run) -> Run:
    split = BaselineSplit(np.sort(np.append(run.split.train, run.split.holdout[0])), run.split.holdout)
    data = training_set(BASELINE.values, BASELINE.labels, BaselineSplit(split.train, split.holdout[1:]))
    return Run(split, data, Division.empty(BASELINE.values.shape[1]))


def another_held_out_slice(run: Run) -> Run:
    train, held = run.split.train.copy(), run.split.holdout.copy()
    train[0], held[0] = held[0], train[0]
    return made(BaselineSplit(train, held), run.division)


def gate_values_in_the_matrix(run: Run) -> Run:
    values = run.data.values.copy()
    values[-1] = run.division.gate.values[0]
    return run._replace(data=replace(run.data, values=values))


def other_labels_in_the_matrix(run: Run) -> Run:
    return run._replace(data=replace(run.data, labels=1 - run.data.labels))


def rows_added_to_the_matrix(run: Run) -> Run:
    gate = run.division.gate
    values, labels = np.concatenate((run.data.values, gate.values)), np.concatenate((run.data.labels, gate.labels))
    return run._replace(data=replace(run.data, values=values, labels=labels))


def rows_of_the_gate_counted_as_training_rows(run: Run) -> Run:
    everything = joined(run.division.train, run.division.gate)
    return run._replace(data=training_set(BASELINE.values, BASELINE.labels, run.split, everything))


LEAKS: dict[Callable[[Run], Run], str] = {
    gate_row_in_training: "1 predictions are both trained on and the gate's: divide them anew",
    patient_on_both_sides: "rows of 1 patients are both trained on and the gate's: withhold the older ones",
    patient_who_judges_twice: "1 of the gate's rows are of a patient who has judged",
    training_row_newer_than_the_gate: "1 training rows are newer than the gate's oldest",
    row_without_a_time: "a labelled row has no time",
    held_out_row_trained_on: "1 held-out baseline rows are trained on",
    another_held_out_slice: "1 of the baseline's held-out rows are not the contract's",
    gate_values_in_the_matrix: "1 rows that are fitted are not those that were divided",
    other_labels_in_the_matrix: "rows that are fitted are not those that were divided",
    rows_added_to_the_matrix: "rows are fitted where 380 may be",
    rows_of_the_gate_counted_as_training_rows: "90 production rows was not made of 320 and 60",
}


@pytest.mark.parametrize(("plant", "says"), LEAKS.items(), ids=lambda one: getattr(one, "__name__", ""))
def test_a_planted_leak_fails_the_run(plant: Callable[[Run], Run], says: str) -> None:
    with pytest.raises(LeakError, match=says):
        plant(clean()).check()


def test_a_clean_run_is_told_what_was_compared() -> None:
    report = clean().check()
    assert (report.training_rows, report.gate_rows, report.holdout_rows) == (380, 30, 80)
    assert (report.gate_repeated, report.contradictory, report.gate_unknown) == (0, 0, 0)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["", "ann", "bob", "cid"])), max_size=60),
    st.sampled_from(
        [
            Recipe(),
            Recipe(rows="new"),
            Recipe(rows="window", window_days=20 / 86_400, window_rows=9),
            Recipe(half_life_days=10 / 86_400, balance="balanced"),
        ]
    ),
)
def test_no_history_is_divided_with_a_leak_whatever_the_recipe(history: list[tuple[int, str]], recipe: Recipe) -> None:
    contract = msgspec.structs.replace(CONTRACT, training=recipe)
    n = len(history)
    rows = replace(
        production(n),
        times=np.datetime64("2026-01-01", "us") + np.array([second for second, _ in history], dtype="m8[s]"),
        subjects=np.array([subject for _, subject in history], dtype=np.str_),
    )
    division = division_of(contract, rows, np.datetime64("2026-01-01T00:00:20"))
    data = training_set(BASELINE.values, BASELINE.labels, BASELINE.split, division.train, recipe)
    report = check_leaks(contract, BASELINE.values, BASELINE.labels, BASELINE.split, data, division)
    assert report.training_rows - 320 + report.gate_rows + report.withheld + report.unused == n


def test_rows_that_look_the_same_are_counted_and_no_leak() -> None:
    rows = production()
    values, labels = rows.values.copy(), rows.labels.copy()
    values[89], labels[89] = values[2], labels[2]
    held = BASELINE.split.holdout[0]
    values[4], labels[4] = BASELINE.values[held], BASELINE.labels[held]
    before = clean().check()
    report = clean(replace(rows, values=values, labels=labels)).check()
    assert report.gate_repeated == 1
    assert report.holdout_repeated - before.holdout_repeated == 1


def test_rows_look_the_same_where_the_same_values_are_missing() -> None:
    rows = production()
    values = rows.values.copy()
    values[[0, 88], :] = np.nan
    # Of a missing value the sign means nothing, and of zero neither.
    values[88, 1] = -np.nan
    values[[0, 88], 2] = 0.0, -0.0
    assert clean(replace(rows, values=values)).check().gate_repeated == 1


def test_a_patient_with_both_labels_for_the_same_values_is_counted() -> None:
    rows = production()
    values = rows.values.copy()
    values[1] = values[0]
    twins = changed(replace(rows, values=values), "subjects", 1, rows.subjects[0])
    assert clean(twins).check().contradictory == 2
    assert clean(replace(rows, values=values)).check().contradictory == 0


def test_rows_of_nobody_known_are_counted() -> None:
    assert clean(changed(production(), "subjects", 89, "")).check().gate_unknown == 1


LOOKED_AT: dict[str, Callable[[Run], NDArray[Any]]] = {
    "baseline values": lambda run: BASELINE.values,
    "baseline labels": lambda run: BASELINE.labels,
    "split's training rows": lambda run: run.split.train,
    "split's held-out rows": lambda run: run.split.holdout,
    "fitted values": lambda run: run.data.values,
    "fitted labels": lambda run: run.data.labels,
    "training ids": lambda run: run.division.train.ids,
    "training times": lambda run: run.division.train.times,
    "training values": lambda run: run.division.train.values,
    "training labels": lambda run: run.division.train.labels,
    "training subjects": lambda run: run.division.train.subjects,
    "gate's ids": lambda run: run.division.gate.ids,
    "gate's times": lambda run: run.division.gate.times,
    "gate's values": lambda run: run.division.gate.values,
    "gate's labels": lambda run: run.division.gate.labels,
    "gate's subjects": lambda run: run.division.gate.subjects,
}


@pytest.mark.parametrize("array", LOOKED_AT.values(), ids=LOOKED_AT)
def test_whatever_is_written_into_while_it_is_judged_is_noticed(array: Callable[[Run], NDArray[Any]]) -> None:
    run = clean()
    before = run.fingerprint()
    require_unchanged(before, run.fingerprint())
    entries = array(run)
    kept = entries.copy()
    entries[...] = kept[::-1]
    try:
        with pytest.raises(LeakError, match="rows changed while a challenger was fitted and judged"):
            require_unchanged(before, run.fingerprint())
    finally:
        entries[...] = kept


# --- in a run


def challenged(division: Division) -> Challenger:
    first = first_version(CONTRACT, BASELINE, 1, CREATED)
    reference = ReferenceRows(division.train.ids, division.train.values)
    return challenge(
        CONTRACT, BASELINE, division, reference, first.model,
        since=np.datetime64("2026-01-01"), version=2, created=CREATED, reason="a test",
    )  # fmt: skip


def test_a_challenger_is_not_made_from_a_division_with_a_leak() -> None:
    with pytest.raises(LeakError, match="patients are both trained on"):
        challenged(patient_on_both_sides(clean()).division)


def test_rows_that_change_while_it_is_judged_fail_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    division = clean().division
    score = export.score

    def scoring(model: bytes, features: NDArray[np.float32]) -> NDArray[np.float64]:
        division.gate.values[0, 0] += 1
        return score(model, features)

    monkeypatch.setattr(export, "score", scoring)
    with pytest.raises(LeakError, match="rows changed"):
        challenged(division)


def test_the_card_says_what_was_compared() -> None:
    division = clean().division
    assert challenged(division).card.leaks == clean().check()
    first = first_version(CONTRACT, BASELINE, 1, CREATED).card.leaks
    assert first is not None
    assert (first.training_rows, first.gate_rows) == (320, 0)
