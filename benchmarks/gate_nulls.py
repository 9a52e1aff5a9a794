"""How often is a challenger promoted that is no better? The peer promotes whoever is right more often."""

import sys
from typing import NamedTuple

import numpy as np

from benchmarks.duels import (
    POPULATION_ROWS,
    Truth,
    canary,
    clinic,
    evidence,
    fit,
    over_seeds,
    paired,
    population,
    truth,
)
from benchmarks.harness import Figure, conditions, record, say
from driftloop.common.contract import Rollout
from driftloop.trainer.domain.evidence import decide
from driftloop.trainer.domain.gate import compare

SEEDS = 300
# As many rows as the shipped model's version 2 learns from: 614 of the baseline and 800 labelled ones.
TRAIN_ROWS, GATE_ROWS, BASELINE_ROWS = 1414, 300, 154
MOST, MOST_AFTER_CANARY = 5.0, 0.5
LIKE_THE_BASELINE = 0.0


class Null(NamedTuple):
    """One challenger that is no better: was it promoted by the gate, after its canary, and by the naive rule?"""

    truth: Truth
    gate: bool
    canary: bool
    naive: bool


def main() -> None:
    """An argument is a smaller number of seeds, to try it out."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS
    nulls = list(over_seeds(null, seeds))
    share = 100 / seeds
    naive = share * sum(one.naive for one in nulls)
    found = conditions(
        "numpy",
        "scipy",
        "scikit-learn",
        seeds=seeds,
        population="baseline-like",
        train_rows=TRAIN_ROWS,
        newest_rows=GATE_ROWS,
        baseline_rows=BASELINE_ROWS,
        population_rows=POPULATION_ROWS,
        highest_gain_points=max(one.truth.gain for one in nulls),
        mean_gain_points=float(np.mean([one.truth.gain for one in nulls])),
        mean_discordance=float(np.mean([one.truth.discordance for one in nulls])),
        peer="promotes whoever is right more often on the newest rows",
    )
    gate, after = (share * sum(passed) for passed in ([one.gate for one in nulls], [one.canary for one in nulls]))
    for name, ours, most in (("the gate", gate, MOST), ("the gate and the canary", after, MOST_AFTER_CANARY)):
        record(
            Figure(
                figure=f"challengers that are no better, % promoted by {name}",
                ours=ours,
                peer=naive,
                target=f"<= {most:g} %",
                met=ours <= most,
                conditions=found,
            )
        )
    say(f"gain {found['mean_gain_points']:.2f} points, discordance {found['mean_discordance']:.3f} on average")


def null(seed: int) -> Null:
    """Two models of one population, each of a sample of its own. The better one is the champion."""
    place, rng = clinic(LIKE_THE_BASELINE), np.random.default_rng([seed, 1])
    contract = place.contract
    samples = (place.draw(rng, TRAIN_ROWS) for _ in range(2))
    champion, challenger = (fit(contract, rows.values, rows.labels) for rows in samples)
    whole = population(LIKE_THE_BASELINE)
    found = truth(compare(paired(contract, whole, champion, challenger)))
    if found.gain > 0:
        champion, challenger, found = challenger, champion, Truth(-found.gain, found.discordance)
    newest, baseline = place.draw(rng, GATE_ROWS), place.draw(rng, BASELINE_ROWS)
    scored = paired(contract, newest, champion, challenger)
    decision = decide(evidence(contract, newest, scored, paired(contract, baseline, champion, challenger), GATE_ROWS))
    served = False
    if decision.promoted:
        rollout = Rollout()
        live = paired(contract, place.draw(rng, rollout.max_labels), champion, challenger)
        served = canary(rollout, live).action == "promote"
    return Null(found, decision.promoted, served, naive=decision.newest.difference > 0)


if __name__ == "__main__":
    main()
