"""The gate: what it takes to be promoted, and what forbids it."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest

from driftloop.common.contract import Gates
from driftloop.common.statistics.scores import BINS, calibration_error, score_bins
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
from driftloop.trainer.domain.metrics import evaluate
from driftloop.trainer.domain.segments import segments
from tests.support.models import shipped

GATES = Gates(gate_labels=300)


def pairs(rows: int, wins: int, losses: int, both_wrong: int = 0) -> Paired:
    """Rows of label 1: first those that only the challenger gets right, then only the champion, then neither.

    The last row, which both get right, is of label 0: of one class alone nothing can be proven.
    """
    champion, challenger = np.full(rows, 0.9), np.full(rows, 0.9)
    champion[:wins] = 0.2
    challenger[wins : wins + losses] = 0.2
    champion[wins + losses :][:both_wrong] = challenger[wins + losses :][:both_wrong] = 0.2
    labels = np.ones(rows, dtype=np.int8)
    if rows > wins + losses + both_wrong:
        labels[-1], champion[-1], challenger[-1] = 0, 0.1, 0.1
    return Paired(labels, champion, challenger, 0.5)


def decide(
    newest: Paired,
    baseline: Paired | None = None,
    concept_drift: bool = False,
    gates: Gates = GATES,
    **masks: NDArray[np.bool_],
) -> GateDecision:
    return judge(
        gates,
        newest,
        pairs(154, 0, 0) if baseline is None else baseline,
        masks,
        seed=0,
        concept_drift=concept_drift,
    )


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


def test_scores_of_different_rows_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="are no pairs"):
        Paired(np.zeros(2, dtype=np.int8), np.zeros(2), np.zeros(3), 0.5)


def test_what_is_no_label_is_refused() -> None:
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        Paired(np.array([0, -1], dtype=np.int8), np.zeros(2), np.zeros(2), 0.5)


def test_a_score_at_the_threshold_says_one() -> None:
    at = Paired(np.array([1, 0], dtype=np.int8), np.array([0.3, 0.3]), np.array([0.299999, 0.299999]), 0.3)
    assert (compare(at).losses, compare(at).wins) == (1, 1)


@pytest.mark.parametrize("score", [np.nan, np.inf, -0.1])
@pytest.mark.parametrize("place", ["newest", "baseline"])
@pytest.mark.parametrize("model", ["champion", "challenger"])
def test_a_score_that_is_no_probability_forbids_the_promotion(score: float, place: str, model: str) -> None:
    rows = {"newest": pairs(300, wins=200, losses=0), "baseline": pairs(154, wins=2, losses=0)}
    getattr(rows[place], model)[-1] = score
    decision = decide(rows["newest"], rows["baseline"])
    assert not decision.promoted
    assert f"1 of the {model}'s scores on the" in decision.reasons[0]


def test_each_level_is_a_setting_of_its_own() -> None:
    newest = pairs(300, wins=40, losses=20)
    assert decide(newest).promoted
    for setting, reason in (("alpha", "McNemar"), ("bootstrap_alpha", "perhaps only")):
        refused = decide(newest, gates=msgspec.structs.replace(GATES, **{setting: 0.0001}))
        assert len(refused.reasons) == 1
        assert reason in refused.reasons[0]
    lost = np.arange(300) >= 40
    strict, lax = (msgspec.structs.replace(GATES, segment_alpha=alpha) for alpha in (1e-9, 0.05))
    assert [decide(newest, gates=gates, lost=lost).promoted for gates in (strict, lax)] == [True, False]


# --- optional guards

LABELS = np.repeat([1, 0], [150, 150]).astype(np.int8)


def sure(score: float, right: int) -> NDArray[np.float64]:
    """Scores that say the right class with this probability in so many rows, and the wrong one in the others."""
    correct = np.zeros(300, dtype=np.bool_)
    correct[np.random.default_rng(0).permutation(300)[:right]] = True
    return np.where((LABELS == 1) == correct, score, 1 - score)


ALL_POSITIVE, ALL_RANKED = np.full(300, 0.9), np.where(LABELS == 1, 0.4, 0.1)
GUARDS = {
    "accepted_brier_rise": ("Brier score", sure(0.67, 200), sure(0.51, 260)),
    "accepted_calibration_rise": ("calibration error", sure(0.67, 200), sure(0.51, 260)),
    "accepted_recall_drop": ("recall", ALL_POSITIVE, sure(0.9, 260)),
    "accepted_roc_auc_drop": ("ROC AUC", ALL_RANKED, sure(0.9, 260)),
}


def guarded(setting: str, accepted: float, newest: Paired) -> GateDecision:
    return decide(newest, gates=msgspec.structs.replace(GATES, **{setting: accepted}))


def test_there_are_no_guards_unless_they_are_asked_for() -> None:
    assert decide(Paired(LABELS, sure(0.67, 200), sure(0.51, 260), 0.5)).guards == ()


@pytest.mark.parametrize("setting", GUARDS)
def test_a_guard_refuses_what_is_more_often_right_and_worse_by_its_figure(setting: str) -> None:
    name, champion, challenger = GUARDS[setting]
    newest = Paired(LABELS, champion, challenger, 0.5)
    (guard,) = guarded(setting, 0.9, newest).guards
    assert (guard.name, guard.held) == (name, True)
    assert guard.worsening is not None
    assert guard.worsening > 0.01
    assert guarded(setting, guard.worsening, newest).promoted
    refused = guarded(setting, guard.worsening - 1e-6, newest)
    assert not refused.promoted
    assert refused.reasons[0].startswith(f"{name} on the newest rows: ")


def test_the_figures_of_the_guards_are_those_of_the_metrics() -> None:
    newest = Paired(LABELS, sure(0.67, 200), sure(0.83, 260), 0.5)
    decision = decide(newest, gates=msgspec.structs.replace(GATES, **dict.fromkeys(GUARDS, 0.05)))
    expected = evaluate(LABELS, newest.challenger, 0.5)
    found = [guard.challenger for guard in decision.guards]
    assert decision.promoted, decision.reasons
    assert found == [expected.brier, expected.calibration_error, expected.recall, expected.roc_auc]


def test_the_calibration_error_is_the_monitors() -> None:
    newest = Paired(LABELS, sure(0.67, 200), sure(0.83, 260), 0.5)
    (guard,) = guarded("accepted_calibration_rise", 0.0, newest).guards
    negatives, positives = (
        np.bincount(score_bins(newest.champion[one == LABELS]), minlength=BINS).astype(np.float64) for one in (0, 1)
    )
    assert guard.champion == calibration_error(negatives, positives)


@pytest.mark.parametrize(("label", "setting"), [(1, "accepted_roc_auc_drop"), (0, "accepted_recall_drop")])
def test_rows_of_one_class_mean_no_and_so_does_a_guard_that_they_do_not_allow(label: int, setting: str) -> None:
    ones = pairs(300, wins=60, losses=10)
    champion, challenger = (scores if label else 1 - scores for scores in (ones.champion, ones.challenger))
    newest = Paired(np.full(300, label, dtype=np.int8), champion, challenger, 0.5)
    (reason,) = decide(newest).reasons
    assert reason.startswith(f"all 300 newest labelled rows are of class {label}")
    (_, guard) = guarded(setting, 1.0, newest).reasons
    assert "cannot be computed on the newest rows" in guard


def test_a_guard_without_rows_or_with_scores_that_are_none_means_no() -> None:
    broken = Paired(LABELS, sure(0.67, 200), np.where(np.arange(300) == 3, np.nan, sure(0.83, 260)), 0.5)
    for newest in (broken, pairs(0, 0, 0)):
        assert [guard.held for guard in guarded("accepted_brier_rise", 1.0, newest).guards] == [False]


def test_segments_are_categories_halves_and_the_missing() -> None:
    loan = shipped("loan")
    found = segments(loan.contract, loan.values)
    middle = np.median(loan.values[:, 0])
    assert list(found)[:3] == [f"income <= {middle:g}", f"income > {middle:g}", "income missing"]
    assert sum(found[f"employment = {c}"].sum() for c in loan.contract.feature("employment").categories) == (
        400 - found["employment missing"].sum()
    )
