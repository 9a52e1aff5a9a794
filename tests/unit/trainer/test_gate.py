"""The gate: what it takes to be promoted, and what forbids it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest

from driftloop.common.contract import Gates
from driftloop.trainer.domain.gate import (
    Comparison,
    GateDecision,
    Paired,
    bootstrap_bounds,
    compare,
    holm,
    judge,
    mcnemar,
)
from driftloop.trainer.domain.segments import segments
from tests.support.models import shipped

GATES = Gates(gate_labels=300)


def pairs(rows: int, wins: int, losses: int, both_wrong: int = 0) -> Paired:
    """Rows of label 1: first those that only the challenger gets right, then only the champion, then neither."""
    labels = np.ones(rows, dtype=np.int8)
    champion, challenger = labels.copy(), labels.copy()
    champion[:wins] = 0
    challenger[wins : wins + losses] = 0
    champion[wins + losses :][:both_wrong] = challenger[wins + losses :][:both_wrong] = 0
    return Paired(labels, champion, challenger)


def decide(
    newest: Paired, baseline: Paired | None = None, concept_drift: bool = False, **masks: NDArray[np.bool_]
) -> GateDecision:
    return judge(GATES, newest, baseline or pairs(154, 0, 0), masks, seed=0, concept_drift=concept_drift)


def test_a_clearly_better_challenger_is_promoted_with_all_its_numbers() -> None:
    decision = decide(pairs(300, wins=60, losses=10, both_wrong=20), pairs(154, wins=2, losses=6))
    assert decision.promoted
    assert decision.newest.champion_accuracy == pytest.approx(220 / 300)
    assert decision.newest.challenger_accuracy == pytest.approx(270 / 300)
    assert 0 < decision.difference_low < 50 / 300 < decision.difference_high
    assert decision.mcnemar_p == pytest.approx(binomtest(60, 70).pvalue)
    assert decision.baseline_loss == pytest.approx(4 / 154)
    assert "better on the 300 newest rows: 73.3% to 90.0% (+16.7 points)" in decision.reasons[0]


def test_an_equal_challenger_is_not_promoted() -> None:
    decision = decide(pairs(300, wins=20, losses=20))
    assert not decision.promoted
    assert all("not proven better" in reason for reason in decision.reasons)


def test_a_worse_challenger_is_not_promoted_however_significant() -> None:
    decision = decide(pairs(300, wins=5, losses=80))
    assert decision.mcnemar_p < 0.001
    assert not decision.promoted


def test_identical_models_are_not_a_promotion() -> None:
    decision = decide(pairs(300, 0, 0))
    assert (decision.promoted, decision.mcnemar_p, decision.difference_low) == (False, 1.0, 0.0)


def test_missing_evidence_means_no() -> None:
    assert decide(pairs(299, wins=200, losses=0)).reasons == ("only 299 of 300 newest labelled rows: wait for labels",)
    assert not decide(pairs(0, 0, 0)).promoted
    assert not decide(pairs(300, wins=200, losses=0), baseline=pairs(0, 0, 0)).promoted


@pytest.mark.parametrize(("lost", "promoted"), [(5, True), (6, False)])
def test_the_accepted_loss_is_five_points_of_the_baseline_slice_inclusive(lost: int, promoted: bool) -> None:
    decision = decide(pairs(300, wins=60, losses=10), pairs(100, wins=0, losses=lost))
    assert decision.promoted is promoted


def test_declared_concept_drift_widens_the_accepted_loss_to_ten_points() -> None:
    decision = decide(pairs(300, wins=60, losses=10), pairs(100, wins=0, losses=10), concept_drift=True)
    assert (decision.promoted, decision.accepted_loss) == (True, 0.10)


def test_a_segment_with_a_proven_loss_forbids_the_promotion() -> None:
    newest = pairs(300, wins=80, losses=30)
    lost = np.arange(300) >= 80
    decision = decide(newest, theirs=lost)
    assert not decision.promoted
    assert [segment.proven for segment in decision.segments] == [True]
    assert "segment theirs" in decision.reasons[0]


def test_a_segment_that_is_small_or_whose_loss_is_not_proven_does_not() -> None:
    newest = pairs(300, wins=80, losses=33)
    small = (np.arange(300) >= 80) & (np.arange(300) < 179)
    unproven = np.arange(300) >= 110
    assert decide(newest, small=small, unproven=unproven).promoted


def test_holm_stops_at_the_first_that_is_not_rejected() -> None:
    assert holm([0.03, 0.01, 0.04], 0.05) == (False, True, False)
    assert holm([0.01, 0.02, 0.04], 0.05) == (True, True, True)
    assert holm([], 0.05) == ()


def test_the_bootstrap_from_counts_agrees_with_resampled_rows() -> None:
    wins, losses, rows = 40, 25, 300
    differences = np.repeat([1, -1, 0], [wins, losses, rows - wins - losses])
    rng = np.random.default_rng(1)
    means = differences[rng.integers(0, rows, (20_000, rows))].mean(axis=1)
    bounds = bootstrap_bounds(compare(pairs(rows, wins, losses)), 0.05, 20_000, seed=0)
    assert bounds == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.004)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_exact_binomial_test(wins: int, losses: int) -> None:
    comparison = Comparison(rows=200, champion_accuracy=0, challenger_accuracy=0, wins=wins, losses=losses)
    expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert mcnemar(comparison) == pytest.approx(expected)


def test_the_same_evidence_gives_the_same_decision() -> None:
    newest = pairs(300, wins=30, losses=14)
    assert decide(newest) == decide(newest)


def test_decisions_on_different_rows_are_no_pairs() -> None:
    two, three = np.zeros(2, dtype=np.int8), np.zeros(3, dtype=np.int8)
    with pytest.raises(ValueError, match="are no pairs"):
        Paired(two, two, three)


def test_segments_are_categories_halves_and_the_missing() -> None:
    loan = shipped("loan")
    found = segments(loan.contract, loan.values)
    middle = np.median(loan.values[:, 0])
    assert list(found)[:3] == [f"income <= {middle:g}", f"income > {middle:g}", "income missing"]
    assert sum(found[f"employment = {c}"].sum() for c in loan.contract.feature("employment").categories) == (
        400 - found["employment missing"].sum()
    )
