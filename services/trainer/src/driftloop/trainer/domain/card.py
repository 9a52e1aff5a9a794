"""The model card: what a version is, what it was made of, how good it is, and why it serves or does not."""

from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version as installed_version
from platform import python_version

import msgspec

from driftloop.common.contract import Contract, digest
from driftloop.trainer.domain.dataset import TrainingSet
from driftloop.trainer.domain.gate import GateDecision
from driftloop.trainer.domain.leaks import LeakReport
from driftloop.trainer.domain.metrics import Metrics

LIBRARIES = ("numpy", "onnx", "onnxruntime", "scikit-learn", "scipy", "skl2onnx")


class TrainingData(msgspec.Struct, frozen=True, kw_only=True):
    """What a version was fitted to; `since` and `until` bound the prediction times of its production rows.

    Where rows do not all count the same, `effective_rows` = (Σw)² / Σw² is how many that did would say as much (Kish,
    Survey Sampling, 1965).
    """

    digest: str
    rows: int
    positives: int
    baseline_rows: int
    labeled_rows: int
    since: datetime | None = None
    until: datetime | None = None
    effective_rows: float | None = None


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """One version's whole story. `metrics` are by slice, each of rows that the version never trained on."""

    model_name: str
    model_version: int
    created: datetime
    reason: str
    contract_digest: str
    estimator: str
    parameters: dict[str, object]
    seed: int
    decision_threshold: float
    training: TrainingData
    metrics: dict[str, Metrics]
    decision: GateDecision | None
    libraries: dict[str, str]
    leaks: LeakReport | None = None


def training_data(data: TrainingSet, since: datetime | None = None, until: datetime | None = None) -> TrainingData:
    """Sum up a training set."""
    return TrainingData(
        digest=data.digest,
        rows=len(data.labels),
        positives=int(data.labels.sum()),
        baseline_rows=data.baseline_rows,
        labeled_rows=data.labeled_rows,
        since=since,
        until=until,
        effective_rows=None if data.weights is None else float(data.weights.sum() ** 2 / (data.weights**2).sum()),
    )


def model_card(
    contract: Contract,
    version: int,
    created: datetime,
    reason: str,
    training: TrainingData,
    metrics: Mapping[str, Metrics],
    decision: GateDecision | None = None,
    leaks: LeakReport | None = None,
) -> ModelCard:
    """Write the card of a version; `decision` is None for a first version, which met no champion."""
    return ModelCard(
        model_name=contract.name,
        model_version=version,
        created=created,
        reason=reason,
        contract_digest=digest(contract),
        estimator=contract.estimator.kind,
        parameters=msgspec.structs.asdict(contract.estimator.parameters),
        seed=contract.estimator.seed,
        decision_threshold=contract.decision_threshold,
        training=training,
        metrics=dict(metrics),
        decision=decision,
        leaks=leaks,
        libraries={"python": python_version()} | {name: installed_version(name) for name in LIBRARIES},
    )


def card_of(data: bytes) -> ModelCard:
    """A card as a bundle carries it."""
    return msgspec.json.decode(data, type=ModelCard)
