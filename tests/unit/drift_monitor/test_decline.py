"""Realised figures against the model's own held-out ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import fisher_exact

from driftloop.common.profile import ScoredRows
from driftloop.common.statistics.cells import Counts
from driftloop.drift_monitor.domain.decline import decline

COUNT = st.integers(0, 300)


def confusion(tn: int, fn: int, fp: int, tp: int) -> Counts:
    return np.array([[tn, fn], [fp, tp]], dtype=np.int64)


def heldout(tn: int = 80, fn: int = 20, fp: int = 15, tp: int = 39) -> ScoredRows:
    """154 rows by default, 119 of them right."""
    return ScoredRows((0.2, 0.8), (tn, fp), (fn, tp))


@given(COUNT, COUNT, COUNT, COUNT)
def test_each_p_is_fishers_exact_one_sided(tn: int, fn: int, fp: int, tp: int) -> None:
    found = decline(heldout(), 0.5, confusion(tn, fn, fp, tp))
    for figure in (found.accuracy, found.precision, found.recall):
        then = [figure.heldout_right, figure.heldout_rows - figure.heldout_right]
        now = [figure.right, figure.rows - figure.right]
        assert figure.p == pytest.approx(fisher_exact(np.array([then, now]), alternative="greater").pvalue)


def test_a_clear_drop_is_a_decline_with_its_numbers() -> None:
    found = decline(heldout(), 0.5, confusion(220, 150, 60, 70))
    assert (found.declined, found.n, found.heldout_n) == (True, 500, 154)
    assert (found.accuracy.realised, found.accuracy.heldout) == (290 / 500, 119 / 154)
    assert found.accuracy.drop == pytest.approx(119 / 154 - 290 / 500)
    assert (found.precision.right, found.precision.rows, found.precision.heldout_rows) == (70, 130, 54)
    assert (found.recall.right, found.recall.rows, found.recall.heldout_rows) == (70, 220, 59)


def test_the_luck_of_few_heldout_rows_is_no_decline() -> None:
    """Six points below the held-out figure: certain if that were known, not if 154 rows are all that it rests on."""
    assert not decline(heldout(), 0.5, confusion(330, 120, 170, 380)).declined
    assert decline(heldout(8000, 2000, 1500, 3900), 0.5, confusion(330, 120, 170, 380)).declined


def test_a_significant_drop_of_less_than_three_points_is_none() -> None:
    large = heldout(80_000, 0, 20_000, 0)
    assert not decline(large, 0.5, confusion(77_100, 0, 22_900, 0)).declined
    assert decline(large, 0.5, confusion(77_000, 0, 23_000, 0)).declined
    assert decline(large, 0.5, confusion(77_100, 0, 22_900, 0), least=0.029).declined


def test_a_better_model_has_not_declined() -> None:
    found = decline(heldout(), 0.5, confusion(300, 10, 10, 180))
    assert not found.declined
    assert found.accuracy.drop is not None
    assert found.accuracy.drop < 0
    assert found.accuracy.p > 0.99


def test_accuracy_decides_and_a_lower_recall_is_told_beside_it() -> None:
    found = decline(heldout(), 0.5, confusion(420, 60, 5, 15))
    assert (found.declined, found.recall.p < 0.01) == (False, True)


def test_a_score_at_the_threshold_was_answered_yes() -> None:
    rows = ScoredRows((0.4, 0.5), (7, 1), (2, 5))
    assert decline(rows, 0.5, confusion(1, 0, 0, 1)).accuracy.heldout_right == 12
    assert decline(rows, 0.51, confusion(1, 0, 0, 1)).accuracy.heldout_right == 8


def test_no_row_and_an_absent_class_have_no_figure_and_no_decline() -> None:
    found = decline(heldout(), 0.5, confusion(0, 0, 0, 0))
    assert (found.declined, found.accuracy.realised, found.accuracy.drop, found.accuracy.p) == (False, None, None, 1.0)
    one = decline(heldout(), 0.5, confusion(1, 0, 0, 0))
    assert (one.n, one.accuracy.realised, one.precision.realised, one.recall.drop) == (1, 1.0, None, None)


def test_one_wrong_row_proves_nothing() -> None:
    assert not decline(heldout(), 0.5, confusion(0, 1, 0, 0)).declined


def test_a_model_that_is_as_good_as_it_was_hardly_ever_declines() -> None:
    rng = np.random.default_rng(0)
    pairs = zip(rng.binomial(154, 0.77, 500).tolist(), rng.binomial(500, 0.77, 500).tolist(), strict=True)
    found = [
        decline(heldout(then, 0, 154 - then, 0), 0.5, confusion(now, 0, 500 - now, 0)).declined for then, now in pairs
    ]
    assert np.mean(found) <= 0.015
