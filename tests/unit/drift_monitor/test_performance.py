"""Realised performance from mergeable label counts, against scikit-learn on the rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from driftloop.common.statistics.cells import Counts
from driftloop.common.statistics.scores import BINS
from driftloop.drift_monitor.domain.fold.base import Fold, State, merged
from driftloop.drift_monitor.domain.fold.labels import LabelledScores
from driftloop.drift_monitor.domain.fold.rows import LabelRows
from driftloop.drift_monitor.domain.performance import Performance, performance
from tests.unit.drift_monitor.builders import labels_of

Rows = list[tuple[float, int]]
ROWS = st.lists(st.tuples(st.integers(0, 10**6).map(lambda units: units / 10**6), st.integers(0, 1)), max_size=60)
SCORES: Fold[LabelRows] = Fold((LabelledScores(),))


def state(rows: Rows, sign: int = 1) -> State:
    return SCORES.add(labels_of([score for score, _ in rows], [label for _, label in rows], sign))


def counted(rows: Rows) -> Counts:
    return state(rows).counts


def both_classes(rows: Rows) -> bool:
    return len({label for _, label in rows}) == 2


@given(ROWS.filter(both_classes))
def test_the_figures_are_scikit_learns(rows: Rows) -> None:
    scores, labels = np.array(rows).T
    predicted = scores >= 0.5
    found = performance(counted(rows))
    assert found.accuracy == metrics.accuracy_score(labels, predicted)
    assert (found.precision or 0.0) == pytest.approx(metrics.precision_score(labels, predicted, zero_division=0))
    assert found.recall == pytest.approx(metrics.recall_score(labels, predicted))
    assert found.f1 == pytest.approx(metrics.f1_score(labels, predicted))
    assert found.brier == pytest.approx(metrics.brier_score_loss(labels, scores), abs=1e-12)
    assert found.log_loss == pytest.approx(metrics.log_loss(labels, scores), abs=1e-6)


@given(ROWS.filter(both_classes))
def test_roc_auc_is_scikit_learns_with_the_scores_of_a_bin_tied(rows: Rows) -> None:
    scores, labels = np.array(rows).T
    tied = np.minimum(np.floor(np.round(scores * 10**6) * BINS / 10**6), BINS - 1)
    assert performance(counted(rows)).roc_auc == pytest.approx(metrics.roc_auc_score(labels, tied))


def test_the_calibration_error_is_the_mean_gap_of_ten_bins() -> None:
    rows = [(0.2005, 1)] * 3 + [(0.2005, 0)] * 7 + [(0.9005, 1)] * 10
    expected = (10 * abs(0.3 - 0.2005) + 10 * abs(1 - 0.9005)) / 20
    assert performance(counted(rows)).calibration_error == pytest.approx(expected, abs=5e-4)


def test_the_confusion_matrix_is_that_of_the_predictions_made_not_of_a_threshold() -> None:
    rows = LabelRows(
        np.array([0.4, 0.4, 0.6]),
        np.array([True, False, True]),
        np.array([1, 1, 0]),
        np.ones(3, dtype=np.int64),
        np.zeros(3),
        ["a", "b", "c"],
    )
    found = performance(SCORES.add(rows).counts)
    assert (found.true_positives, found.false_negatives, found.false_positives, found.true_negatives) == (1, 1, 1, 0)


def test_no_row_has_no_figures() -> None:
    assert performance(counted([])) == performance(None) == Performance(n=0)


def test_one_row_has_the_figures_that_one_row_can_have() -> None:
    found = performance(counted([(0.9, 1)]))
    assert (found.n, found.accuracy, found.precision, found.recall, found.roc_auc) == (1, 1.0, 1.0, 1.0, None)
    assert found.brier == pytest.approx(0.01)


def test_a_class_that_is_absent_leaves_its_figures_open() -> None:
    found = performance(counted([(0.1, 0), (0.2, 0)]))
    assert (found.accuracy, found.precision, found.recall, found.f1, found.roc_auc) == (1.0, None, None, None, None)


@given(ROWS, ROWS)
def test_what_is_taken_away_leaves_nothing_behind(kept: Rows, amended: Rows) -> None:
    left = merged([state(amended, sign=-1), state([*kept, *amended])])
    assert left.counts.tolist() == counted(kept).tolist()


@given(ROWS)
def test_all_that_was_labelled_and_taken_away_again_has_no_figures(rows: Rows) -> None:
    assert performance(state(rows).merge(state(rows, sign=-1)).counts) == Performance(n=0)


@given(ROWS, st.integers(0, 60))
def test_merging_in_any_grouping_gives_the_same_counts(rows: Rows, cut: int) -> None:
    assert state(rows[cut:]).merge(state(rows[:cut])).counts.tolist() == counted(rows).tolist()


@given(ROWS)
def test_stored_label_counts_come_back(rows: Rows) -> None:
    assert State.from_bytes(state(rows).to_bytes()).counts.tolist() == counted(rows).tolist()


def test_two_hundred_million_rows_overflow_nothing() -> None:
    found = performance(10**8 * counted([(0.999999, 1), (0.000001, 0)]))
    assert found.brier == pytest.approx(1e-12)
    assert found.log_loss == pytest.approx(1e-6, abs=5e-7)
    assert found.accuracy == 1.0


def test_a_certain_and_wrong_score_costs_what_scikit_learn_says() -> None:
    assert performance(counted([(0.0, 1), (1.0, 0)])).log_loss == pytest.approx(
        metrics.log_loss([1, 0], [0.0, 1.0]), abs=1e-6
    )
