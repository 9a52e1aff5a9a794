"""Champions and challengers on the demo's populations, drawn, trained and judged by the product's own code."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from benchmarks.harness import ROOT, say
from driftloop.common.contract import Contract, Rollout, baseline_path, load_contract
from driftloop.common.rows import canonical_scores, read_baseline, validator
from driftloop.demo.populations import BaselineLike, older
from driftloop.trainer.domain.canary import CanaryVerdict, Tally, judge_canary
from driftloop.trainer.domain.dataset import LabeledRows
from driftloop.trainer.domain.evidence import Evidence
from driftloop.trainer.domain.gate import Comparison, Paired
from driftloop.trainer.domain.segments import segments
from driftloop.trainer.domain.training import train

DIABETES = ROOT / "models" / "diabetes" / "contract.yaml"
# What decides whether a challenger is better in truth.
POPULATION_ROWS = 20_000
START = np.datetime64("2026-01-01", "s")
Result = TypeVar("Result")


class Truth(NamedTuple):
    """What a challenger is worth on POPULATION_ROWS rows: points of accuracy gained, and the share of discordant rows.

    Discordant are rows that only one of the two gets right.
    """

    gain: float
    discordance: float


class Clinic:
    """Patients of whom a share comes from the older population, the others are as the baseline's."""

    def __init__(self, share: float) -> None:
        self.contract = load_contract(DIABETES)
        self._share = share
        self._like = BaselineLike(self.contract, *read_baseline(self.contract, baseline_path(DIABETES, self.contract)))

    def draw(self, rng: np.random.Generator, count: int) -> LabeledRows:
        """Patients in random order, a second apart, each with a row of one."""
        foreign = int(rng.binomial(count, self._share))
        apart = self._like.draw(rng, count - foreign) + older(self.contract, rng, foreign)
        cases = [apart[place] for place in rng.permutation(count).tolist()]
        compiled = validator(self.contract)
        return LabeledRows(
            ids=np.array([f"p{row:05d}" for row in range(count)], dtype=np.str_),
            times=START + np.arange(count).astype("m8[s]"),
            values=compiled.values([compiled.canonicalise(case.features) for case in cases]),
            labels=np.array([case.label for case in cases], dtype=np.int8),
            subjects=np.full(count, "", dtype=np.str_),
        )


@cache
def clinic(share: float) -> Clinic:
    """A clinic, made once in a process."""
    return Clinic(share)


@cache
def population(share: float) -> LabeledRows:
    """The rows that tell the truth of all models of one clinic; nothing is trained or judged on them."""
    return clinic(share).draw(np.random.default_rng([2**31, int(1000 * share)]), POPULATION_ROWS)


def fit(contract: Contract, values: NDArray[np.float64], labels: NDArray[np.int8]) -> Pipeline:
    """The shipped estimator, fitted."""
    return train(contract, values.astype(np.float32), labels)


def paired(contract: Contract, rows: LabeledRows, champion: Pipeline, challenger: Pipeline) -> Paired:
    """Both models' scores of the same rows, as they are served: the export check holds ONNX equal to the estimator."""
    features = rows.values.astype(np.float32)
    champions, challengers = (canonical_scores(model.predict_proba(features)[:, 1]) for model in (champion, challenger))
    return Paired(rows.labels, champions, challengers, contract.decision_threshold)


def truth(found: Comparison) -> Truth:
    """What a comparison on the whole population says."""
    return Truth(100 * found.difference, (found.wins + found.losses) / found.rows)


def evidence(contract: Contract, newest: LabeledRows, scored: Paired, baseline: Paired, gate_labels: int) -> Evidence:
    """What the gate decides from, at the contract's settings but for the number of labels."""
    return Evidence(
        ids=newest.ids,
        subjects=newest.subjects,
        newest=scored,
        segments=segments(contract, newest.values),
        baseline=baseline,
        gates=msgspec.structs.replace(contract.gates, gate_labels=gate_labels),
        seed=contract.estimator.seed,
    )


def canary(rollout: Rollout, live: Paired) -> CanaryVerdict:
    """Look after every label until the canary is decided; `live` has `max_labels` rows or more, each of a patient."""
    positive = live.labels == 1
    champion, challenger = ((scores >= live.threshold) == positive for scores in (live.champion, live.challenger))
    wins, losses = np.cumsum(challenger & ~champion).tolist(), np.cumsum(champion & ~challenger).tolist()
    for rows, (won, lost) in enumerate(zip(wins, losses, strict=True), start=1):
        verdict = judge_canary(rollout, Tally(wins=won, losses=lost, rows=rows))
        if verdict.action != "go on":
            return verdict
    raise ValueError(f"{len(live)} rows decide nothing: draw {rollout.max_labels}")


def over_seeds(work: Callable[[int], Result], seeds: int) -> Iterator[Result]:
    """Work on seeds 0, 1, … in as many processes as there are cores; results in their order, with progress."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for done, result in enumerate(pool.map(work, range(seeds), chunksize=5), start=1):
            if done % 50 == 0:
                say(f"{done} of {seeds} seeds")
            yield result
