"""The canary's evidence against exact arithmetic and by simulation, and what becomes of a canary."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from driftloop.common.contract import Rollout, RolloutStep
from driftloop.trainer.domain.canary import Tally, judge_canary, log_e_value, step_ended

ROLLOUT = Rollout()


def exact(wins: int, losses: int) -> Fraction:
    """2ⁿ⁺¹ ∫ θᵃ(1 − θ)ᵇ dθ over ½ to 1, the integrand written out as a polynomial."""
    integral = Fraction(0)
    for k in range(losses + 1):
        power = wins + k + 1
        integral += Fraction((-1) ** k * math.comb(losses, k) * (2**power - 1), power * 2**power)
    return Fraction(integral * 2 ** (wins + losses + 1))


def judged(wins: int, losses: int, rows: int, rollout: Rollout = ROLLOUT, seconds: float = 0.0) -> tuple[str, str]:
    verdict = judge_canary(rollout, Tally(wins=wins, losses=losses, rows=rows), seconds)
    return verdict.action, verdict.reason


# --- the e-value


@given(st.integers(0, 150), st.integers(0, 150))
def test_the_e_value_is_the_integral(wins: int, losses: int) -> None:
    value = exact(wins, losses)
    expected = math.log(value.numerator) - math.log(value.denominator)
    assert log_e_value(wins, losses) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("more", [0, 1, 17, 10**3, 10**6])
def test_one_sided_histories_have_a_closed_form(more: int) -> None:
    """E(0, b) = 1/(b + 1), and E(a, 0) = (2ᵃ⁺¹ − 1)/(a + 1)."""
    assert log_e_value(0, more) == pytest.approx(-math.log(more + 1), rel=1e-12)
    expected = (more + 1) * math.log(2) + math.log1p(-(2.0 ** -(more + 1))) - math.log(more + 1)
    assert log_e_value(more, 0) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("wins", "losses"), [(10**6, 10**6), (10**6, 10**6 - 1), (10**6, 1000), (500_000, 499_000), (3, 10**6)]
)
def test_both_sides_of_a_million_rows_add_up_to_the_whole_integral(wins: int, losses: int) -> None:
    """E(a, b) + E(b, a) = 2ⁿ⁺¹ B(a + 1, b + 1)."""
    whole = (wins + losses + 1) * math.log(2)
    whole += math.lgamma(wins + 1) + math.lgamma(losses + 1) - math.lgamma(wins + losses + 2)
    both = np.logaddexp(log_e_value(wins, losses), log_e_value(losses, wins))
    assert both == pytest.approx(whole, abs=1e-7)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_e_value_is_a_number_and_rises_with_each_win(wins: int, losses: int) -> None:
    value = log_e_value(wins, losses)
    assert math.isfinite(value)
    assert log_e_value(wins + 1, losses) > value - 1e-8


@pytest.mark.parametrize("wins", [0, 1, 5, 40])
@pytest.mark.parametrize("losses", [0, 3, 60])
def test_under_an_even_coin_the_next_e_value_is_expected_to_be_this_one(wins: int, losses: int) -> None:
    """What makes it safe at every look: a martingale."""
    following = (math.exp(log_e_value(wins + 1, losses)) + math.exp(log_e_value(wins, losses + 1))) / 2
    assert following == pytest.approx(math.exp(log_e_value(wins, losses)), rel=1e-12)


def test_a_canary_as_good_as_the_champion_is_hardly_ever_called_worse_at_any_look() -> None:
    """At most 1 in 50 by Ville; 2,000 coins of 400 tosses each, looked at after every toss."""
    coins, tosses = 2000, 400
    limit = boundary(tosses)
    losses = np.cumsum(np.random.default_rng(0).integers(0, 2, (coins, tosses)), axis=1)
    ever = (losses >= limit).any(axis=1).mean()
    assert 0 < ever <= 0.02


def boundary(tosses: int) -> NDArray[np.int64]:
    """For each number of discordant rows the fewest losses with E_worse >= 50."""
    needed = math.log(ROLLOUT.evidence)
    return np.array(
        [
            next((losses for losses in range(n + 1) if log_e_value(losses, n - losses) >= needed), n + 1)
            for n in range(1, tosses + 1)
        ]
    )


# --- verdicts


def test_nothing_seen_decides_nothing() -> None:
    assert judged(0, 0, 0)[0] == "go on"


def test_a_proven_loss_rolls_back_however_few_labels_there_are() -> None:
    action, reason = judged(0, 8, 20)
    assert action == "roll back"
    assert reason == "proven worse: 0 rows won, 8 lost of 20, evidence for worse 56.8 of 50"


def test_a_proven_gain_promotes_once_there_are_enough_labels() -> None:
    assert judged(8, 0, 99) == ("go on", "proven better, but by fewer than 100 labels: 8 rows won, 0 lost of 99")
    assert judged(8, 0, 100) == (
        "promote",
        "proven better: 8 rows won, 0 lost of 100, evidence for better 56.8 of 50",
    )


def test_what_is_not_proven_goes_on_and_says_how_far_it_is() -> None:
    action, reason = judged(12, 10, 400)
    assert action == "go on"
    assert reason.startswith("not decided: 12 rows won, 10 lost of 400, evidence for better 0.")


def test_without_a_verdict_by_the_last_label_it_is_rolled_back() -> None:
    assert judged(200, 190, 2999)[0] == "go on"
    assert judged(200, 190, 3000) == ("roll back", "not proven better by 3000 labels: 200 rows won, 190 lost of 3000")


def test_the_last_label_still_promotes_where_it_proves() -> None:
    assert judged(280, 190, 3000)[0] == "promote"


def test_without_a_verdict_in_time_it_is_rolled_back_where_the_contract_sets_one() -> None:
    patient, hasty = Rollout(max_seconds=None), Rollout(max_seconds=60)
    assert judged(2, 1, 50, patient, 1e9)[0] == "go on"
    assert judged(2, 1, 50, hasty, 59.9)[0] == "go on"
    assert judged(2, 1, 50, hasty, 60) == ("roll back", "not proven better in 60 seconds: 2 rows won, 1 lost of 50")
    assert judged(8, 0, 50, hasty, 60)[0] == "roll back"


def test_the_settings_are_the_contracts() -> None:
    assert judged(0, 8, 20, Rollout(evidence=100))[0] == "go on"
    assert judged(8, 0, 20, Rollout(min_labels=20))[0] == "promote"
    assert judged(5, 5, 40, Rollout(min_labels=20, max_labels=40))[0] == "roll back"


def test_overwhelming_evidence_is_still_a_number() -> None:
    verdict = judge_canary(ROLLOUT, Tally(wins=100_000, losses=0, rows=100_000))
    assert verdict.action == "promote"
    assert "evidence for better above a million of 50" in verdict.reason
    assert verdict.log_better > 709


# --- the steps


@pytest.mark.parametrize(
    ("step", "labels", "seconds", "ended"),
    [
        (RolloutStep(weight=0.1, min_labels=50), 49, 1e9, False),
        (RolloutStep(weight=0.1, min_labels=50), 50, 0, True),
        (RolloutStep(weight=0.1, min_seconds=60), 10**6, 59, False),
        (RolloutStep(weight=0.1, min_labels=50, min_seconds=60), 0, 60, True),
        (RolloutStep(weight=0.1), 10**6, 1e9, False),
    ],
)
def test_a_step_ends_with_its_labels_or_its_time(step: RolloutStep, labels: int, seconds: float, ended: bool) -> None:
    assert step_ended(step, labels, seconds) is ended
