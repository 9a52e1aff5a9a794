"""How many feature values a second does the fold count on one core, beside River's KSWIN on the same values?"""

import statistics
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import ROOT, Figure, conditions, cpu_seconds, one_core, peer, record, say
from driftloop.common.contract import Contract, baseline_path, load_contract
from driftloop.common.profile import scored_rows
from driftloop.common.rows import canonical_scores, read_baseline, validator
from driftloop.drift_monitor.domain.fold.base import EMPTY, Fold, State
from driftloop.drift_monitor.domain.fold.registry import prediction_fold
from driftloop.drift_monitor.domain.fold.rows import Column, PredictionRows
from driftloop.trainer.domain.reference import reference_profile

CONTRACT = ROOT / "models" / "diabetes" / "contract.yaml"
BATCH, BATCHES, ROUNDS, PEER_ROWS = 1000, 100, 21, 200
LEAST, RATIO = 20e6, 500.0
Rows = NDArray[np.float64]


def main() -> None:
    """Batches drawn from the baseline of the shipped contract, counted into all that a prediction is counted into."""
    rng = np.random.default_rng(2)
    contract = load_contract(CONTRACT)
    values = validator(contract).values(read_baseline(contract, baseline_path(CONTRACT, contract))[0])
    scores = canonical_scores(rng.beta(2, 4, size=len(values)))
    # A model that means what it says: its calibration curve has steps all the way.
    calibration = scored_rows(scores, rng.random(len(scores)) < scores)
    fold = prediction_fold(
        contract, reference_profile(contract, 1, "training", values, scores, calibration=calibration)
    )
    batches = [_batch(rng, contract, values) for _ in range(BATCHES)]
    features = len(contract.features)
    rates: list[tuple[float, float]] = []
    answer: dict[str, Any] = {}
    with one_core(), peer("river", "kswin") as ask:
        for done in range(ROUNDS):
            ours = BATCHES * BATCH * features / cpu_seconds(partial(_count, fold, [_new(batch) for batch in batches]))
            rows = values[rng.integers(len(values), size=PEER_ROWS)]
            answer = ask({"columns": np.nan_to_num(rows).T.tolist()})
            rates.append((ours, rows.size / answer["seconds"]))
            say(f"round {done + 1} of {ROUNDS}: {rates[-1][0] / 1e6:.1f} M values/s, KSWIN {rates[-1][1]:,.0f}")
    mine, other = (statistics.median(column) for column in zip(*rates, strict=True))
    found = conditions(
        "numpy",
        river=answer["version"],
        features=features,
        batch=BATCH,
        batches=BATCHES,
        reference_rows=len(values),
        counted=", ".join(frame.name for frame in fold.frames),
        time=f"CPU, median of {ROUNDS} rounds, one core",
    )
    figure = f"fold, {features} features, batches of {BATCH}, feature values/s"
    for target, met in ((f">= {LEAST:g}", mine >= LEAST), (f">= {RATIO:g} x River's KSWIN", mine / other >= RATIO)):
        record(
            Figure(figure=figure, ours=mine, peer=other, ratio=mine / other, target=target, met=met, conditions=found)
        )


def _count(fold: Fold[PredictionRows], batches: list[PredictionRows]) -> State:
    total = EMPTY
    for batch in batches:
        total = total.merge(fold.add(batch))
    return total


def _new(batch: PredictionRows) -> PredictionRows:
    """The same rows, without what an earlier round found out about them."""
    columns = {name: Column(column.values) for name, column in batch.columns.items()}
    return PredictionRows(columns, batch.scores, batch.predictions)


def _batch(rng: np.random.Generator, contract: Contract, values: Rows) -> PredictionRows:
    rows = values[rng.integers(len(values), size=BATCH)]
    scores = canonical_scores(rng.beta(2, 4, size=BATCH))
    columns = {name: Column(np.ascontiguousarray(rows[:, place])) for place, name in enumerate(contract.feature_names)}
    return PredictionRows(columns, scores, scores >= contract.decision_threshold)


if __name__ == "__main__":
    main()
