"""The recipe as a whole on the demo's populations: what the champion loses, the challenger gains, and it is proven."""

import numpy as np
from numpy.typing import NDArray

from driftloop.common.rows import validator
from driftloop.demo.populations import BaselineLike, Case, older
from driftloop.trainer.domain.dataset import LabeledRows, divide, training_set
from driftloop.trainer.domain.export import export_onnx, score
from driftloop.trainer.domain.gate import Paired, judge
from driftloop.trainer.domain.metrics import evaluate
from driftloop.trainer.domain.segments import segments
from driftloop.trainer.domain.split import split_baseline
from driftloop.trainer.domain.training import train
from tests.support.models import shipped

SHIPPED = shipped("diabetes", trees=100)


def labeled(cases: list[Case]) -> LabeledRows:
    compiled = validator(SHIPPED.contract)
    n = len(cases)
    return LabeledRows(
        ids=np.array([f"p{row:05d}" for row in range(n)]),
        times=np.datetime64("2024-01-01", "s") + np.arange(n).astype("m8[s]"),
        values=compiled.values([compiled.canonicalise(case.features) for case in cases]),
        labels=np.array([case.label for case in cases], dtype=np.int8),
        subjects=np.full(n, ""),
    )


def test_a_challenger_trained_on_the_older_population_is_proven_better_and_promoted() -> None:
    contract, rng = SHIPPED.contract, np.random.default_rng(0)
    split = split_baseline(contract, SHIPPED.labels)
    like = BaselineLike(contract, SHIPPED.rows, SHIPPED.labels)
    division = divide(labeled(like.draw(rng, 1000) + older(contract, rng, 1100)), contract.gates.gate_labels)
    fresh = labeled(older(contract, rng, 1000))
    versions = []
    for extra in (None, division.train):
        data = training_set(SHIPPED.values, SHIPPED.labels, split, extra)
        versions.append(export_onnx(train(contract, data.features, data.labels), 5))

    def scores(model: bytes, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return score(model, values.astype(np.float32))

    def paired(values: NDArray[np.float64], labels: NDArray[np.int8]) -> Paired:
        champion, challenger = (scores(model, values) for model in versions)
        return Paired(labels, champion, challenger, contract.decision_threshold)

    decision = judge(
        contract.gates,
        paired(division.gate.values, division.gate.labels),
        paired(SHIPPED.values[split.holdout], SHIPPED.labels[split.holdout]),
        segments(contract, division.gate.values),
        seed=0,
    )
    first, second = (evaluate(fresh.labels, scores(model, fresh.values), 0.5).accuracy for model in versions)
    assert decision.promoted, decision.reasons
    assert first <= 0.70
    assert second >= 0.95
