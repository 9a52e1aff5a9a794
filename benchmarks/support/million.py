"""Trains once on the rows in a file, ours or scikit-learn alone, and prints what it took: a process of its own.

Its arguments: "ours" or "peer", and the file that `write_rows` has written.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from benchmarks.harness import say
from benchmarks.support.predictors import CONTRACT
from driftloop.common.contract import Contract, RandomForest, load_contract
from driftloop.common.rows import Row, validator
from driftloop.demo.populations import BaselineLike, Case, older
from driftloop.trainer.build import load_baseline
from driftloop.trainer.domain.challenger import BaselineData, Challenger, ReferenceRows, challenge, first_version
from driftloop.trainer.domain.dataset import LabeledRows, divide
from driftloop.trainer.domain.training import fold_count
from driftloop.trainer.progress import progress

START = np.datetime64("2024-01-01", "s")
CREATED = datetime(2026, 1, 1, tzinfo=UTC)
BLOCK = 50_000
SECONDS_BETWEEN_WORDS = 2.0

Draw = Callable[[int], list[Case]]


def write_rows(path: Path, rows: int) -> None:
    """Half of the rows as the baseline's, then half of the older population; two rows a patient, one a second."""
    contract = load_contract(CONTRACT)
    baseline = load_baseline(CONTRACT, contract)
    rng = np.random.default_rng(0)
    like = BaselineLike(contract, _as_rows(contract, baseline.values), baseline.labels)
    values, labels = [], []
    draws: tuple[Draw, ...] = (lambda count: like.draw(rng, count), lambda count: older(contract, rng, count))
    for draw in draws:
        left = rows // 2
        while left:
            cases = draw(min(BLOCK, left))
            compiled = validator(contract)
            values.append(compiled.values([compiled.canonicalise(case.features) for case in cases]))
            labels.append(np.array([case.label for case in cases], dtype=np.int8))
            left -= len(cases)
    np.savez(path, values=np.concatenate(values), labels=np.concatenate(labels))


def main() -> None:
    """Train, and print one line of JSON."""
    which, path = sys.argv[1:]
    with np.load(path) as file:
        values, labels = file["values"], file["labels"]
    contract = load_contract(CONTRACT)
    baseline = load_baseline(CONTRACT, contract)
    work = {"ours": _ours, "peer": _peer}[which](contract, baseline, values, labels)
    cpu, wall = time.process_time(), time.perf_counter()
    found = work()
    took = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    # Linux counts in units of 1,024 bytes.
    took["gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps(took | found))


Work = Callable[[], dict[str, float]]


def _ours(contract: Contract, baseline: BaselineData, values: NDArray[np.float64], labels: NDArray[np.int8]) -> Work:
    rows = _labeled(values, labels)
    champion = first_version(contract, baseline, 1, CREATED).model
    words: list[float] = []

    def tell(step: str) -> None:
        words.append(time.perf_counter())
        say(step)

    def work() -> dict[str, float]:
        recent = rows.take(np.arange(len(rows) - contract.gates.reference_rows_max, len(rows)))
        with progress(tell, every=SECONDS_BETWEEN_WORDS) as step:
            made: Challenger = challenge(
                contract,
                baseline,
                divide(rows, contract.gates.gate_labels),
                ReferenceRows(recent.ids, recent.values),
                champion,
                since=rows.times[len(rows) // 2],
                version=2,
                created=CREATED,
                reason="a million labels",
                say=step,
            )
        silence = float(np.diff(words).max())
        accuracy = made.card.metrics["newest.challenger"].accuracy
        return {"megabytes": len(made.model) / 1e6, "silence_s": silence, "accuracy": accuracy}

    return work


def _peer(contract: Contract, baseline: BaselineData, values: NDArray[np.float64], labels: NDArray[np.int8]) -> Work:
    assert isinstance(contract.estimator, RandomForest)
    parameters = contract.estimator.parameters
    held, newest = baseline.split.holdout, len(labels) - contract.gates.gate_labels

    def work() -> dict[str, float]:
        train = baseline.split.train
        x = np.concatenate([baseline.values[train], values[:newest]]).astype(np.float32)
        y = np.concatenate([baseline.labels[train], labels[:newest]])
        forest = RandomForestClassifier(
            parameters.n_estimators,
            min_samples_leaf=parameters.min_samples_leaf,
            max_samples=parameters.max_samples_rows,
            random_state=0,
            n_jobs=1,
        )
        pipeline = make_pipeline(SimpleImputer(strategy="median"), forest)
        pipeline.fit(x, y)
        folds = StratifiedKFold(fold_count(len(y)), shuffle=True, random_state=0)
        cross_val_predict(pipeline, x, y, cv=folds, method="predict_proba")
        pipeline.predict_proba(baseline.values[held].astype(np.float32))
        right = pipeline.predict(values[newest:].astype(np.float32)) == labels[newest:]
        return {"accuracy": float(np.mean(right))}

    return work


def _labeled(values: NDArray[np.float64], labels: NDArray[np.int8]) -> LabeledRows:
    numbers = np.arange(len(labels))
    return LabeledRows(
        ids=np.char.add("p", numbers.astype(np.str_)),
        times=START + numbers.astype("m8[s]"),
        values=values,
        labels=labels,
        subjects=np.char.add("s", (numbers // 2).astype(np.str_)),
    )


def _as_rows(contract: Contract, values: NDArray[np.float64]) -> list[Row]:
    return [
        {name: None if np.isnan(value) else value for name, value in zip(contract.feature_names, row, strict=True)}
        for row in values.tolist()
    ]


if __name__ == "__main__":
    main()
