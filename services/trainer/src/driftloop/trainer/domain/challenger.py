"""From rows to a version that could serve: trained, exported, judged, and described."""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from driftloop.common.contract import Contract
from driftloop.common.profile import ReferenceProfile
from driftloop.trainer.domain import card, export, gate
from driftloop.trainer.domain.dataset import Division, TrainingSet, training_set
from driftloop.trainer.domain.metrics import Metrics, evaluate
from driftloop.trainer.domain.reference import reference_profile
from driftloop.trainer.domain.segments import segments
from driftloop.trainer.domain.split import BaselineSplit, split_baseline
from driftloop.trainer.domain.training import out_of_fold_scores, train


@dataclass(frozen=True)
class BaselineData:
    """A contract's baseline: exact `values` [n, d], `labels` [n], and which rows are held out for ever."""

    values: NDArray[np.float64]
    labels: NDArray[np.int8]
    split: BaselineSplit

    @classmethod
    def of(cls, contract: Contract, values: NDArray[np.float64], labels: NDArray[np.int8]) -> "BaselineData":
        """Draw the contract's split. Raises ValueError where the baseline is too small for it."""
        return cls(values, labels, split_baseline(contract, labels))


@dataclass(frozen=True)
class ReferenceRows:
    """Recent production rows, by prediction id: what a promoted version will be compared with."""

    ids: NDArray[np.str_]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Challenger:
    """Everything that a bundle holds. `card.decision` is None for a first version, which met no champion."""

    model: bytes
    card: card.ModelCard
    profile: ReferenceProfile
    known_inputs: NDArray[np.float32]
    known_probabilities: NDArray[np.float64]

    @property
    def promoted(self) -> bool:
        """Whether it may serve."""
        return self.card.decision is None or self.card.decision.promoted


def first_version(contract: Contract, baseline: BaselineData, version: int, created: datetime) -> Challenger:
    """Train on the baseline but its held-out rows. Its reference is the whole baseline."""
    data = training_set(baseline.values, baseline.labels, baseline.split)
    model, inputs, answers = _fit(contract, data)
    held = baseline.split.holdout
    scores = np.empty(len(baseline.labels))
    scores[baseline.split.train] = out_of_fold_scores(contract, data.features, data.labels)
    scores[held] = export.score(model, baseline.values[held].astype(np.float32))
    metrics = {"baseline_holdout": evaluate(baseline.labels[held], scores[held], contract.decision_threshold)}
    described = card.model_card(
        contract, version, created, "first version, trained on the baseline", card.training_data(data), metrics
    )
    profile = reference_profile(contract, version, "training", baseline.values, scores)
    return Challenger(model, described, profile, inputs, answers)


def challenge(
    contract: Contract,
    baseline: BaselineData,
    division: Division,
    reference: ReferenceRows,
    champion: bytes,
    *,
    version: int,
    created: datetime,
    reason: str,
) -> Challenger:
    """Train on the baseline and the older labelled rows; compare with the champion on rows that neither has seen."""
    data = training_set(baseline.values, baseline.labels, baseline.split, division.train)
    model, inputs, answers = _fit(contract, data)
    decision = _judge(contract, baseline, division, champion, model)
    times = division.train.times
    described = card.model_card(
        contract,
        version,
        created,
        reason,
        card.training_data(data, *((_instant(times.min()), _instant(times.max())) if len(times) else (None, None))),
        _metrics(contract, baseline, division, champion, model),
        decision,
    )
    if contract.reference == "recent":
        scores = _unseen_scores(contract, data, division, model, reference)
        profile = reference_profile(contract, version, "recent", reference.values, scores)
    else:
        profile = reference_profile(
            contract, version, "training", data.values, out_of_fold_scores(contract, data.features, data.labels)
        )
    return Challenger(model, described, profile, inputs, answers)


def _fit(contract: Contract, data: TrainingSet) -> tuple[bytes, NDArray[np.float32], NDArray[np.float64]]:
    pipeline = train(contract, data.features, data.labels)
    model = export.export_onnx(pipeline, data.values.shape[1])
    export.check_export(pipeline, model, data.features, contract.decision_threshold)
    inputs, answers = export.known_answers(contract, pipeline, data.features)
    return model, inputs, answers


def _judge(
    contract: Contract, baseline: BaselineData, division: Division, champion: bytes, challenger: bytes
) -> gate.GateDecision:
    held = baseline.split.holdout
    newest = _paired(contract, division.gate.labels, division.gate.values, champion, challenger)
    old = _paired(contract, baseline.labels[held], baseline.values[held], champion, challenger)
    parts = segments(contract, division.gate.values)
    return gate.judge(contract.gates, newest, old, parts, seed=contract.estimator.seed)


def _paired(
    contract: Contract, labels: NDArray[np.int8], values: NDArray[np.float64], champion: bytes, challenger: bytes
) -> gate.Paired:
    return gate.Paired(labels, _decisions(contract, champion, values), _decisions(contract, challenger, values))


def _decisions(contract: Contract, model: bytes, values: NDArray[np.float64]) -> NDArray[np.int8]:
    return (export.score(model, values.astype(np.float32)) >= contract.decision_threshold).astype(np.int8)


def _metrics(
    contract: Contract, baseline: BaselineData, division: Division, champion: bytes, challenger: bytes
) -> dict[str, Metrics]:
    held = baseline.split.holdout
    slices = {
        "newest": (division.gate.labels, division.gate.values),
        "baseline_holdout": (baseline.labels[held], baseline.values[held]),
    }
    found = {}
    for name, (labels, values) in slices.items():
        for who, model in (("challenger", challenger), ("champion", champion)):
            scores = export.score(model, values.astype(np.float32))
            found[f"{name}.{who}"] = evaluate(labels, scores, contract.decision_threshold)
    return found


def _unseen_scores(
    contract: Contract, data: TrainingSet, division: Division, model: bytes, reference: ReferenceRows
) -> NDArray[np.float64]:
    """The challenger's scores [n] of the reference rows; what it learnt from is scored by others that did not."""
    scores = export.score(model, reference.values.astype(np.float32))
    trained = {identity: data.baseline_rows + index for index, identity in enumerate(division.train.ids.tolist())}
    places = [(place, trained[one]) for place, one in enumerate(reference.ids.tolist()) if one in trained]
    if places:
        out_of_fold = out_of_fold_scores(contract, data.features, data.labels)
        scores[[place for place, _ in places]] = out_of_fold[[row for _, row in places]]
    return scores


def _instant(time: np.datetime64) -> datetime:
    found = time.astype("datetime64[us]").item()
    assert isinstance(found, datetime)
    return found
