"""What a roll-out does next."""

from datetime import UTC, datetime, timedelta

import pytest

from driftloop.common.contract import Rollout, RolloutStep
from driftloop.trainer.domain.canary import Tally
from driftloop.trainer.domain.rollout import Move, Trial, next_move

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BETTER, WORSE, EVEN = (
    Tally(wins=40, losses=2, rows=300),
    Tally(wins=2, losses=40, rows=300),
    Tally(wins=9, losses=9, rows=300),
)
RAMP = Rollout(
    steps=(
        RolloutStep(weight=0, min_labels=50),
        RolloutStep(weight=0.1, min_labels=100, min_seconds=3600),
        RolloutStep(weight=0.5, min_seconds=60),
    )
)
OPEN = Rollout(steps=(RolloutStep(weight=0.2),))


def move(
    tally: Tally,
    step: int = 2,
    rollout: Rollout = RAMP,
    *,
    rows: int = 0,
    waited: float = 0,
    errors: tuple[str, ...] = (),
) -> Move:
    since = NOW - timedelta(seconds=waited)
    return next_move(rollout, Trial(step, since, rows, since), tally, errors, NOW)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_what_is_proven_worse_is_rolled_back_at_any_step(step: int) -> None:
    assert move(WORSE, step).kind == "roll back"


@pytest.mark.parametrize("step", [0, 1, 2])
def test_what_replicas_cannot_serve_is_rolled_back_though_its_labels_are_good(step: int) -> None:
    found = move(BETTER, step, waited=1e6, errors=("p-1: it gave no probability",))
    assert (found.kind, found.reason) == ("roll back", "predictors report errors: p-1: it gave no probability")


def test_a_step_with_its_labels_gives_way_to_the_next() -> None:
    assert move(EVEN, 0, rows=250).kind == "step"
    assert move(EVEN, 0, rows=251).kind == "stay"


def test_a_step_with_its_time_gives_way_to_the_next() -> None:
    assert move(EVEN, 1, rows=300, waited=3600).kind == "step"
    assert move(EVEN, 1, rows=300, waited=3599).kind == "stay"


def test_what_is_proven_better_goes_through_all_steps_all_the_same() -> None:
    assert move(BETTER, 1, rows=300).kind == "stay"
    assert move(BETTER, 2, rows=300, waited=59).kind == "stay"
    assert move(BETTER, 2, rows=300, waited=60).kind == "promote"


def test_a_last_step_without_limits_ends_by_the_verdict() -> None:
    assert move(EVEN, 0, OPEN, waited=1e6).kind == "stay"
    assert move(BETTER, 0, OPEN).kind == "promote"


def test_a_roll_out_goes_on_where_its_contract_lost_steps_and_ends_where_it_lost_all() -> None:
    assert move(BETTER, 2, OPEN).kind == "promote"
    found = move(BETTER, 2, Rollout())
    assert (found.kind, found.reason) == ("roll back", "the contract has no steps of a roll-out any more")


def test_a_last_step_that_is_over_waits_for_the_verdict() -> None:
    assert move(EVEN, 2, waited=1e6).kind == "stay"
