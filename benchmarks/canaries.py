"""How soon is a canary rolled back that is worse? The peer is Wald's test, which is told how much worse it is."""

import math
import statistics
import sys
from typing import NamedTuple

import numpy as np

from benchmarks.duels import canary
from benchmarks.harness import Figure, conditions, record, say
from driftloop.common.contract import Rollout
from driftloop.trainer.domain.gate import Paired

SEEDS = 100
LOSS = 0.05
LEAST_DECIDED = 95.0
# By discordance: in the median no more labels than these.
MOST_LABELS = {0.08: 300, 0.15: 600, 0.25: 1100}


class Ended(NamedTuple):
    """How one canary ended: rolled back, by the test and not for want of a verdict, after so many labels."""

    rolled_back: bool
    tested: bool
    labels: int
    peer_labels: int


def main() -> None:
    """An argument is a smaller number of seeds, to try it out."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS
    for discordance, most in MOST_LABELS.items():
        say(f"{seeds} canaries worse by {100 * LOSS:g} points, discordance {discordance:g}")
        _report(discordance, most, [ended(discordance, seed) for seed in range(seeds)])


def _report(discordance: float, most: int, canaries: list[Ended]) -> None:
    share = 100 / len(canaries)
    rolled_back = share * sum(one.rolled_back for one in canaries)
    tested = share * sum(one.tested for one in canaries)
    labels = statistics.median(one.labels for one in canaries)
    told = statistics.median(one.peer_labels for one in canaries)
    found = conditions(
        "numpy",
        "scipy",
        canaries=len(canaries),
        loss_points=100 * LOSS,
        discordance=discordance,
        looks="after every label",
        policy="the contract's defaults",
        slowest_labels=max(one.labels for one in canaries),
        peer="likelihood ratio of 50 against no difference, by one who knows loss and discordance",
    )
    name = f"worse canaries, discordance {discordance:g}"
    figures = (
        (f"{name}: % rolled back", rolled_back, None, "100 %", rolled_back == 100),
        (f"{name}: % decided by the test", tested, None, f">= {LEAST_DECIDED:g} %", tested >= LEAST_DECIDED),
        (f"{name}: median labels", labels, told, f"<= {most}", labels <= most),
    )
    for figure, ours, peer, target, met in figures:
        ratio = None if peer is None else ours / peer
        record(Figure(figure=figure, ours=ours, peer=peer, ratio=ratio, target=target, met=met, conditions=found))


def ended(discordance: float, seed: int) -> Ended:
    """Draw live rows, each of a patient, and let the canary run to its end.

    Only the canary gets a row right with probability (discordance − loss)/2, only the champion with (discordance +
    loss)/2.
    """
    rollout, rng = Rollout(), np.random.default_rng([seed, int(1000 * discordance)])
    won, lost = (discordance - LOSS) / 2, (discordance + LOSS) / 2
    outcomes = rng.choice([1, -1, 0], size=rollout.max_labels, p=[won, lost, 1 - discordance])
    right, wrong = 0.9, 0.1
    live = Paired(
        labels=np.ones(len(outcomes), dtype=np.int8),
        champion=np.where(outcomes == 1, wrong, right),
        challenger=np.where(outcomes == -1, wrong, right),
        threshold=0.5,
    )
    verdict = canary(rollout, live)
    even = discordance / 2
    steps = np.array([0.0, math.log(won / even), math.log(lost / even)])
    ratios = np.cumsum(steps[outcomes])
    passed = np.flatnonzero(ratios >= math.log(rollout.evidence))
    return Ended(
        rolled_back=verdict.action == "roll back",
        tested=verdict.action == "roll back" and verdict.log_worse >= math.log(rollout.evidence),
        labels=verdict.tally.rows,
        peer_labels=int(passed[0]) + 1 if len(passed) else rollout.max_labels,
    )


if __name__ == "__main__":
    main()
