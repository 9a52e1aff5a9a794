"""What a roll-out does next: go on, take the next step, promote, or roll back."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from driftloop.common.contract import Rollout
from driftloop.trainer.domain.canary import CanaryVerdict, Tally, judge_canary, step_ended


@dataclass(frozen=True)
class Trial:
    """How far a roll-out is: at `step` of the contract's, from 0, since `step_since`, with `step_rows` labels then."""

    step: int
    step_since: datetime
    step_rows: int
    started_at: datetime


@dataclass(frozen=True)
class Move:
    """What is to be done, and why. `verdict` is what the labels say."""

    kind: Literal["stay", "step", "promote", "roll back"]
    reason: str
    verdict: CanaryVerdict


def next_move(rollout: Rollout, trial: Trial, tally: Tally, errors: Sequence[str], now: datetime) -> Move:
    """Decide what comes next.

    What replicas report against the challenger (`errors`), or labels that show it worse, roll back at any step.
    Better ones promote after the last step: until then it has not met the traffic that it would have to serve.
    """
    verdict = judge_canary(rollout, tally, (now - trial.started_at).total_seconds())
    if not rollout.steps:
        return Move("roll back", "the contract has no steps of a roll-out any more", verdict)
    if errors:
        return Move("roll back", f"predictors report errors: {'; '.join(errors)}", verdict)
    if verdict.action == "roll back":
        return Move("roll back", verdict.reason, verdict)
    # A contract may have lost steps meanwhile.
    step, last = rollout.steps[min(trial.step, len(rollout.steps) - 1)], trial.step >= len(rollout.steps) - 1
    waited = (now - trial.step_since).total_seconds()
    ended = step_ended(step, tally.rows - trial.step_rows, waited)
    if not last:
        return Move("step" if ended else "stay", verdict.reason, verdict)
    # A last step without limits ends by the verdict alone.
    unlimited = step.min_labels is None and step.min_seconds is None
    promoted = verdict.action == "promote" and (ended or unlimited)
    return Move("promote" if promoted else "stay", verdict.reason, verdict)
