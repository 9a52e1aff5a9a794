"""What is trained on and what is the gate's: in order of time, never both."""

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.common.contract import Contract, Gates, Recipe
from driftloop.trainer.domain.dataset import (
    LabeledRows,
    LabelsWanted,
    LeakError,
    divide,
    division_of,
    labels_wanted,
    training_set,
)
from driftloop.trainer.domain.split import BaselineSplit
from tests.support.models import shipped

LOAN = shipped("loan").contract
START = np.datetime64("2024-01-01T00:00", "s")


def labeled(minutes: Sequence[int], subjects: Sequence[str] = ()) -> LabeledRows:
    """One row a minute given; its values hold its number."""
    n = len(minutes)
    times = START + np.array(minutes, dtype="m8[m]")
    return LabeledRows(
        ids=np.array([f"p{row:05d}" for row in range(n)], dtype=np.str_),
        times=times,
        values=np.arange(n, dtype=np.float64)[:, None],
        labels=np.zeros(n, dtype=np.int8),
        subjects=np.array(subjects or [""] * n, dtype=np.str_),
    )


def test_the_newest_rows_are_the_gates_whatever_order_they_came_in() -> None:
    division = divide(labeled([5, 1, 4, 2, 3]), gate_labels=2)
    assert division.train.ids.tolist() == ["p00001", "p00003", "p00004"]
    assert division.gate.ids.tolist() == ["p00002", "p00000"]


@given(
    st.lists(st.tuples(st.integers(0, 20), st.sampled_from(["", "ann", "bob", "cid"])), max_size=40),
    st.integers(0, 50),
    st.none() | st.integers(-1, 20),
)
def test_no_row_is_on_both_sides_or_lost_and_training_is_never_newer(
    history: list[tuple[int, str]], gate_labels: int, after: int | None
) -> None:
    rows = labeled([minute for minute, _ in history], [subject for _, subject in history])
    edge = None if after is None else START + np.timedelta64(after, "m")
    division = divide(rows, gate_labels, edge)
    late = [subject for minute, subject in history if after is None or minute > after]
    assert len(division.gate) == min(gate_labels, late.count("") + len({*late} - {""}))
    assert len({*division.train.ids, *division.gate.ids}) + division.withheld == len(rows)
    assert not {*division.train.subjects} & {*division.gate.subjects} - {""}
    assert edge is None or (division.gate.times > edge).all()
    if len(division.train) and len(division.gate):
        assert division.train.times.max() <= division.gate.times.min()


def test_rows_of_one_instant_are_always_divided_the_same() -> None:
    rows = labeled([7] * 6)
    shuffled = rows.take(np.array([3, 5, 0, 1, 4, 2]))
    assert divide(rows, 2).gate.ids.tolist() == divide(shuffled, 2).gate.ids.tolist() == ["p00004", "p00005"]


def test_a_patient_of_the_gate_is_withheld_from_training() -> None:
    division = divide(labeled([1, 2, 3, 4], subjects=["ann", "", "", "ann"]), gate_labels=2)
    assert division.train.ids.tolist() == ["p00001"]
    assert division.withheld == 1


def test_of_a_patient_the_newest_row_judges_and_no_other() -> None:
    division = divide(labeled([1, 2, 3, 4, 5, 6], subjects=["bob", "cid", "bob", "ann", "ann", "ann"]), gate_labels=2)
    assert division.gate.ids.tolist() == ["p00002", "p00005"]
    assert division.train.ids.tolist() == ["p00001"]
    assert division.withheld == 3


def test_rows_that_name_nobody_judge_each() -> None:
    assert divide(labeled([1, 2, 3], subjects=["ann", "", ""]), gate_labels=2).gate.ids.tolist() == ["p00001", "p00002"]


def test_rows_that_have_judged_are_trained_on_and_judge_no_more() -> None:
    """However late the label of an older prediction came: what judges is newer than all that did."""
    rows = labeled([1, 2, 3, 4, 5])
    division = divide(rows, gate_labels=4, after=rows.times[2])
    assert division.gate.ids.tolist() == ["p00003", "p00004"]
    assert division.train.ids.tolist() == ["p00000", "p00001", "p00002"]


def test_a_prediction_that_occurs_twice_is_a_leak() -> None:
    rows = labeled([1, 2])
    with pytest.raises(LeakError, match="occurs twice"):
        rows.take(np.array([0, 0]))


def test_only_labels_of_the_new_population_are_waited_for() -> None:
    gates = Gates(train_labels=3, gate_labels=2)
    rows = labeled([1, 2, 3, 4, 5, 6])
    assert labels_wanted(gates, rows, rows.times[3]).total == 2
    assert labels_wanted(gates, rows, rows.times[0]).total == 0


def test_a_patient_who_came_often_does_not_count_as_many() -> None:
    gates = Gates(train_labels=2, gate_labels=2)
    rows = labeled([1, 2, 3, 4, 5, 6], subjects=["ann", "bob", "bob", "cid", "cid", "cid"])
    assert labels_wanted(gates, rows, rows.times[0]) == LabelsWanted(judging=0, training=1, deeper=True)


def test_labels_of_predictions_that_are_not_newer_than_all_that_judged_are_none_to_judge_by() -> None:
    gates = Gates(train_labels=3, gate_labels=2)
    rows = labeled([1, 2, 3, 4, 5, 6])
    wanted = labels_wanted(gates, rows, rows.times[0], after=rows.times[4])
    assert wanted == LabelsWanted(judging=1, training=0, deeper=False)


def test_more_rows_are_looked_at_only_where_older_ones_may_be_wanted() -> None:
    gates = Gates(train_labels=1, gate_labels=3)
    rows = labeled([5, 6], subjects=["ann", "ann"])
    assert labels_wanted(gates, rows, rows.times[0]).deeper
    assert labels_wanted(gates, rows, rows.times[0], after=START).deeper
    assert not labels_wanted(gates, rows, rows.times[0], after=rows.times[0]).deeper


def test_the_training_set_is_the_baselines_part_and_then_the_labelled_rows() -> None:
    split = BaselineSplit(train=np.array([0, 2]), holdout=np.array([1]))
    baseline = np.array([[10.0], [11.0], [12.0]])
    data = training_set(baseline, np.array([1, 0, 1], dtype=np.int8), split, labeled([1, 2]))
    assert data.values[:, 0].tolist() == [10, 12, 0, 1]
    assert (data.baseline_rows, data.labeled_rows) == (2, 2)
    assert data.subjects.tolist() == ["", "", *labeled([1, 2]).subjects.tolist()]
    assert data.features.dtype == np.float32


def test_a_held_out_baseline_row_in_training_is_a_leak() -> None:
    split = BaselineSplit(train=np.array([0, 1]), holdout=np.array([1]))
    with pytest.raises(LeakError, match="1 baseline rows are both"):
        training_set(np.zeros((2, 1)), np.zeros(2, dtype=np.int8), split)


def test_the_digest_names_the_set() -> None:
    split = BaselineSplit(train=np.array([0, 1]), holdout=np.array([], dtype=np.int64))
    labels = np.array([0, 1], dtype=np.int8)
    one = training_set(np.array([[1.0], [np.nan]]), labels, split)
    same = training_set(np.array([[1.0], [np.nan]]), labels, split)
    other = training_set(np.array([[1.0], [2.0]]), labels, split)
    assert one.digest == same.digest != other.digest


# --- the recipe

DAY = 24 * 60
SPLIT = BaselineSplit(train=np.array([0, 2]), holdout=np.array([1]))
BASELINE = np.array([[10.0], [11.0], [12.0]])
LABELS = np.array([1, 0, 1], dtype=np.int8)


def contract_of(recipe: Recipe) -> Contract:
    """A contract whose gate takes one row."""
    return msgspec.structs.replace(LOAN, training=recipe, gates=Gates(gate_labels=1))


@pytest.mark.parametrize(
    ("recipe", "kept"),
    [
        (Recipe(), [0, 1, 2, 3]),
        (Recipe(rows="new"), [2, 3]),
        (Recipe(rows="window", window_rows=3), [1, 2, 3]),
        (Recipe(rows="window", window_days=2), [2, 3]),
        (Recipe(rows="window", window_days=2, window_rows=1), [3]),
        (Recipe(rows="window", window_days=1e9), [0, 1, 2, 3]),
        (Recipe(rows="window", window_days=0.5), []),
    ],
)
def test_the_recipe_says_which_of_the_older_rows_are_trained_on(recipe: Recipe, kept: list[int]) -> None:
    rows = labeled([day * DAY for day in range(5)])
    division = division_of(contract_of(recipe), rows, rows.times[2])
    assert division.train.values[:, 0].tolist() == kept
    assert division.gate.values[:, 0].tolist() == [4]
    assert division.unused == 4 - len(kept)


def test_a_recipe_that_leaves_no_row_at_all_is_told_so() -> None:
    rows = labeled([1, 2])
    with pytest.raises(ValueError, match=r"of 1 older labelled rows training.rows = 'new' leaves none, and"):
        division_of(contract_of(Recipe(rows="new", baseline=False)), rows, rows.times[1])


def test_the_baseline_can_be_left_out_once_there_are_production_rows() -> None:
    recipe = Recipe(baseline=False)
    data = training_set(BASELINE, LABELS, SPLIT, labeled([1, 2]), recipe)
    assert (data.values[:, 0].tolist(), data.baseline_rows) == ([0, 1], 0)
    assert training_set(BASELINE, LABELS, SPLIT, recipe=recipe).baseline_rows == 2


@pytest.mark.parametrize(("stated", "halvings"), [(None, 3), (0.0, 0), (10.0, 10)])
def test_the_baseline_is_as_old_as_the_oldest_row_or_as_is_stated(stated: float | None, halvings: int) -> None:
    recipe = Recipe(half_life_days=1, baseline_age_days=stated)
    data = training_set(BASELINE, LABELS, SPLIT, labeled([0, 2 * DAY, 3 * DAY]), recipe)
    assert data.weights is not None
    np.testing.assert_allclose(data.weights / data.weights[-1], [0.5**halvings] * 2 + [1 / 8, 1 / 2, 1])


def test_a_first_version_has_no_newer_rows_and_no_weights_by_age() -> None:
    assert training_set(BASELINE, LABELS, SPLIT, recipe=Recipe(half_life_days=1, baseline_age_days=9)).weights is None


def test_weights_are_of_the_digest_only_where_there_are_some() -> None:
    rows = labeled([0, DAY])
    plain = training_set(BASELINE, LABELS, SPLIT, rows)
    same = training_set(BASELINE, LABELS, SPLIT, rows, Recipe(balance="balanced"))
    weighted = training_set(BASELINE, LABELS, SPLIT, rows, Recipe(half_life_days=1))
    assert plain.digest == same.digest != weighted.digest
