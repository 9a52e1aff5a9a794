"""The canary: is a version that answers live requests better or worse than the champion, by their outcomes?

Both models score every request, so that the comparison is paired: of the rows that only one of them got right, how many
are the canary's? Under "no better" each is so with probability ½ at most, whatever came before. The e-value is the
likelihood of what was seen, averaged over all probabilities above ½ uniformly, as a multiple of that under ½:

    E(a, b) = 2ⁿ⁺¹ ∫_{½}^{1} θᵃ (1 − θ)ᵇ dθ,  n = a + b.

As a non-negative supermartingale that starts at 1 it ever reaches 50 with probability 1/50 at most (Ville 1939; Ramdas
et al. 2023, "Game-theoretic statistics and safe anytime-valid inference"): one may look after every label.
"""

import math
from typing import Literal

import msgspec
import numpy as np
from scipy.special import betainc, betaln

from driftloop.common.contract import Rollout, RolloutStep


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """Labelled live rows, one a patient: `wins` only the canary got right, `losses` only the champion."""

    wins: int
    losses: int
    rows: int


class CanaryVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done with a canary, why, and the evidence: natural logarithms of both e-values."""

    action: Literal["promote", "roll back", "go on"]
    reason: str
    tally: Tally
    log_better: float
    log_worse: float


def log_e_value(wins: int, losses: int) -> float:
    """ln E(wins, losses), the evidence for a probability of winning above ½; exact to about 10⁻⁹ up to millions."""
    if wins > losses:
        # At least half of the beta distribution lies above ½: nothing cancels, and only the logarithm may be large.
        above = betainc(losses + 1, wins + 1, 0.5)
        return float((wins + losses + 1) * math.log(2) + betaln(wins + 1, losses + 1) + math.log(above))
    # The tail may be too small for a float. By parts, a times: E(a, b) = Σₖ a(a−1)…(a−k+1) / ((b+1)(b+2)…(b+1+k)).
    k = np.arange(1, wins + 1)
    terms = np.cumprod((wins + 1 - k) / (losses + 1 + k))
    return float(math.log1p(terms.sum()) - math.log(losses + 1))


def judge_canary(rollout: Rollout, seen: Tally, seconds: float = 0.0) -> CanaryVerdict:
    """Decide on a canary that has been compared on `seen` for `seconds`; may be asked after every label."""
    better, worse = log_e_value(seen.wins, seen.losses), log_e_value(seen.losses, seen.wins)
    needed = math.log(rollout.evidence)
    figures = f"{seen.wins} rows won, {seen.losses} lost of {seen.rows}"
    action: Literal["promote", "roll back", "go on"] = "go on"
    if worse >= needed:
        action, reason = "roll back", f"proven worse: {figures}, {_evidence('worse', worse, rollout)}"
    elif better >= needed and seen.rows >= rollout.min_labels:
        action, reason = "promote", f"proven better: {figures}, {_evidence('better', better, rollout)}"
    elif seen.rows >= rollout.max_labels:
        action, reason = "roll back", f"not proven better by {rollout.max_labels} labels: {figures}"
    elif rollout.max_seconds is not None and seconds >= rollout.max_seconds:
        action, reason = "roll back", f"not proven better in {rollout.max_seconds:g} seconds: {figures}"
    elif better >= needed:
        reason = f"proven better, but by fewer than {rollout.min_labels} labels: {figures}"
    else:
        reason = f"not decided: {figures}, {_evidence('better', better, rollout)}, {_evidence('worse', worse, rollout)}"
    return CanaryVerdict(action=action, reason=reason, tally=seen, log_better=better, log_worse=worse)


def step_ended(step: RolloutStep, labels: int, seconds: float) -> bool:
    """Whether a step that has seen `labels` labels in `seconds` gives way to the next; without limits it never does."""
    return (step.min_labels is not None and labels >= step.min_labels) or (
        step.min_seconds is not None and seconds >= step.min_seconds
    )


def _evidence(direction: str, log_value: float, rollout: Rollout) -> str:
    # A float ends near e^709, and beyond a million nobody compares.
    value = f"{math.exp(log_value):.3g}" if log_value < math.log(1e6) else "above a million"
    return f"evidence for {direction} {value} of {rollout.evidence:g}"
