"""How surely is a challenger promoted that is better in truth? The peer promotes whoever is right more often."""

import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from benchmarks.duels import POPULATION_ROWS, Truth, clinic, evidence, fit, over_seeds, paired, population, truth
from benchmarks.harness import Figure, conditions, record, say
from driftloop.trainer.domain.dataset import divide, training_set
from driftloop.trainer.domain.evidence import decide
from driftloop.trainer.domain.gate import GateDecision, compare
from driftloop.trainer.domain.split import split_baseline

SEEDS = 300
BASELINE_ROWS, TRAIN_ROWS = 768, 800
LEAST = 95.0


class Case(NamedTuple):
    """A clinic by its share of older patients, the gate's labels, and what the challenger is worth in truth."""

    share: float
    labels: int
    least_gain: float
    most_discordance: float

    def holds(self, found: Truth) -> bool:
        """Whether a challenger is one of this case."""
        return found.gain >= self.least_gain and found.discordance <= self.most_discordance


class Change(NamedTuple):
    """One challenger that is better in truth, and how many were drawn before it that were not of the case."""

    truth: Truth
    decision: GateDecision
    passed_over: int


# The smallest shares at which most challengers are of the case: nearer to its edge there is no real change.
CASES = (Case(0.25, 1200, 5.0, 0.15), Case(0.4, 500, 10.0, 0.25))


def main() -> None:
    """An argument is a smaller number of seeds, to try it out."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS
    for case in CASES:
        say(f"gain >= {case.least_gain:g} points, discordance <= {case.most_discordance:g}, {case.labels} labels")
        _report(case, list(over_seeds(partial(change, case), seeds)))


def _report(case: Case, changes: list[Change]) -> None:
    share = 100 / len(changes)
    ours = share * sum(one.decision.promoted for one in changes)
    against = Counter(why for one in changes for why in _why(one.decision))
    record(
        Figure(
            figure=f"challengers better by {case.least_gain:g} points or more, % promoted on {case.labels} labels",
            ours=ours,
            peer=share * sum(one.decision.newest.difference > 0 for one in changes),
            target=f">= {LEAST:g} %",
            met=ours >= LEAST,
            conditions=conditions(
                "numpy",
                "scipy",
                "scikit-learn",
                seeds=len(changes),
                population=f"{case.share:.0%} older, the others baseline-like",
                train_rows=TRAIN_ROWS,
                newest_rows=case.labels,
                population_rows=POPULATION_ROWS,
                passed_over=sum(one.passed_over for one in changes),
                lowest_gain_points=min(one.truth.gain for one in changes),
                mean_gain_points=float(np.mean([one.truth.gain for one in changes])),
                mean_discordance=float(np.mean([one.truth.discordance for one in changes])),
                highest_discordance=max(one.truth.discordance for one in changes),
                refused=", ".join(f"{why}: {count}" for why, count in against.most_common()) or "none",
                peer="promotes whoever is right more often on the newest rows",
            ),
        )
    )
    say(f"refused: {dict(against)}")


def _why(decision: GateDecision) -> Iterator[str]:
    if not decision.promoted:
        if any("not proven better" in reason for reason in decision.reasons):
            yield "not proven"
        if any("held-out baseline" in reason for reason in decision.reasons):
            yield "baseline"
        if any(segment.proven for segment in decision.segments):
            yield "segment"


def change(case: Case, seed: int) -> Change:
    """Draw baseline and production rows until a challenger is of the case, and judge it."""
    attempt = 0
    while True:
        found = _attempt(case, np.random.default_rng([seed, case.labels, attempt]))
        if found is not None:
            return Change(*found, passed_over=attempt)
        attempt += 1


def _attempt(case: Case, rng: np.random.Generator) -> tuple[Truth, GateDecision] | None:
    place = clinic(case.share)
    contract = place.contract
    baseline = clinic(0.0).draw(rng, BASELINE_ROWS)
    division = divide(place.draw(rng, TRAIN_ROWS + case.labels), case.labels)
    split = split_baseline(contract, baseline.labels)
    sets = (training_set(baseline.values, baseline.labels, split, extra) for extra in (None, division.train))
    champion, challenger = (fit(contract, data.values, data.labels) for data in sets)
    found = truth(compare(paired(contract, population(case.share), champion, challenger)))
    if not case.holds(found):
        return None
    scored = paired(contract, division.gate, champion, challenger)
    old = paired(contract, baseline.take(split.holdout), champion, challenger)
    return found, decide(evidence(contract, division.gate, scored, old, case.labels))


if __name__ == "__main__":
    main()
