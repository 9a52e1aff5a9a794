"""From rows to a version that could serve: trained, exported, judged, and described."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from driftloop.common.contract import Contract
from driftloop.common.profile import ReferenceProfile, scored_rows
from driftloop.trainer.domain import candidates, card, export
from driftloop.trainer.domain.candidates import CandidateScore
from driftloop.trainer.domain.dataset import Division, TrainingSet, training_set
from driftloop.trainer.domain.evidence import Evidence, decide
from driftloop.trainer.domain.gate import Paired
from driftloop.trainer.domain.inspection import inspect
from driftloop.trainer.domain.leaks import LeakReport, check_leaks, fingerprint, require_unchanged
from driftloop.trainer.domain.metrics import Metrics, evaluate
from driftloop.trainer.domain.reference import reference_profile
from driftloop.trainer.domain.segments import segments
from driftloop.trainer.domain.split import BaselineSplit, split_baseline
from driftloop.trainer.domain.training import out_of_fold_scores, train

# The slices of the card.
HOLDOUT, NEWEST = "baseline_holdout", "newest"


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
    """Everything that a bundle holds, and the evidence for it.

    `card.decision` and `evidence` are None for a first version, which met no champion.
    """

    model: bytes
    card: card.ModelCard
    profile: ReferenceProfile
    known_inputs: NDArray[np.float32]
    known_probabilities: NDArray[np.float64]
    evidence: Evidence | None = None

    @property
    def promoted(self) -> bool:
        """Whether it may serve."""
        return self.card.decision is None or self.card.decision.promoted


@dataclass(frozen=True)
class _Fitted:
    """The trained candidate: its contract, the exported `model`, known answers, and how all candidates fared."""

    contract: Contract
    model: bytes
    inputs: NDArray[np.float32]
    answers: NDArray[np.float64]
    candidates: tuple[CandidateScore, ...]


Say = Callable[[str], None]


def _unsaid(_step: str) -> None:
    """For callers who do not ask how far it is."""


def first_version(
    contract: Contract, baseline: BaselineData, version: int, created: datetime, say: Say = _unsaid
) -> Challenger:
    """Train on the baseline but its held-out rows. Its reference is the whole baseline. `say` is told each step."""
    data = training_set(baseline.values, baseline.labels, baseline.split, recipe=contract.training)
    leaks = _check_leaks(contract, baseline, data, Division.empty(baseline.values.shape[1]))
    held = baseline.split.holdout
    fitted = _fit(contract, data, baseline.values[held], say)
    model = fitted.model
    scores = np.empty(len(baseline.labels))
    scores[baseline.split.train] = _out_of_fold(fitted.contract, data, say)
    scores[held] = export.score(model, baseline.values[held].astype(np.float32))
    profile = reference_profile(
        contract,
        version,
        "training",
        baseline.values,
        scores,
        calibration=scored_rows(scores[baseline.split.train], data.labels),
        heldout=scored_rows(scores[held], baseline.labels[held]),
    )
    described = card.model_card(
        contract,
        version,
        created,
        "first version, trained on the baseline",
        card.training_data(data),
        {HOLDOUT: evaluated(contract, baseline.labels[held], scores[held])},
        leaks=leaks,
        estimator=fitted.contract.estimator,
        candidates=fitted.candidates,
        inspection=inspect(contract, model, HOLDOUT, baseline.labels[held], baseline.values[held], profile.heldout),
    )
    return Challenger(model, described, profile, fitted.inputs, fitted.answers)


def challenge(
    contract: Contract,
    baseline: BaselineData,
    division: Division,
    reference: ReferenceRows,
    champion: bytes,
    *,
    since: np.datetime64,
    version: int,
    created: datetime,
    reason: str,
    concept_drift: bool = False,
    unseen: NDArray[np.bool_] | None = None,
    say: Say = _unsaid,
) -> Challenger:
    """Train on the baseline and the older labelled rows; compare with the champion on rows that neither has seen.

    Rows predicted at or after `since` are of the new population: what the scores mean is learnt from these alone.
    `concept_drift` says that it was declared: the old law is wrong, and more may be lost on the baseline. `unseen` [h]
    are the held-out baseline rows that the champion was not trained on (`imported.unseen_holdout`), None for all.
    `say` is told each step.
    Raises LeakError where a row that judges was also learnt from, and ValueError where the rows allow no model.
    """
    held = baseline.split.holdout if unseen is None else baseline.split.holdout[unseen]
    data = training_set(baseline.values, baseline.labels, baseline.split, division.train, contract.training)
    before = _fingerprint(baseline, data, division)
    leaks = _check_leaks(contract, baseline, data, division)
    checked = np.concatenate((division.gate.values, baseline.values[baseline.split.holdout]))
    fitted = _fit(contract, data, checked, say)
    model = fitted.model
    say("judging")
    evidence = _evidence(contract, baseline, held, division, champion, model, concept_drift)
    require_unchanged(before, _fingerprint(baseline, data, division))
    figures = _metrics(contract, evidence)
    out_of_fold = _out_of_fold(fitted.contract, data, say)
    profile = _profile(contract, version, data, division, since, reference, model, out_of_fold, evidence.newest)
    times, newest = division.train.times, division.gate
    described = card.model_card(
        contract,
        version,
        created,
        reason,
        card.training_data(data, *((instant(times.min()), instant(times.max())) if len(times) else (None, None))),
        figures,
        decide(evidence),
        leaks,
        estimator=fitted.contract.estimator,
        candidates=fitted.candidates,
        inspection=inspect(contract, model, NEWEST, newest.labels, newest.values, profile.heldout),
        label_delays=card.label_delays({"training": division.train, NEWEST: newest}),
    )
    return Challenger(model, described, profile, fitted.inputs, fitted.answers, evidence)


def _fit(contract: Contract, data: TrainingSet, unseen: NDArray[np.float64], say: Say) -> _Fitted:
    """Train the best candidate that can be trained and exported; `unseen` [m, d] are rows to check the export by, too.

    Raises ValueError where none can.
    """
    entrants = candidates.estimators(contract)
    if len(entrants) > 1:
        say(f"comparing {len(entrants)} candidates")
    ranking = candidates.ranked(contract, data.features, data.labels, subjects=data.subjects, weights=data.weights)
    scores = [one.score for one in ranking]
    for place, one in enumerate(ranking):
        if one.score.failure is not None:
            continue
        try:
            model, inputs, answers = _exported(one.contract, data, unseen, say)
        except candidates.FAILURES as error:
            if len(ranking) == 1:
                raise
            scores[place] = candidates.failed(one.score, str(error))
            continue
        scores[place] = candidates.chosen(one.score)
        return _Fitted(one.contract, model, inputs, answers, tuple(scores))
    told = "; ".join(f"{score.estimator} {score.parameters}: {score.failure}" for score in scores)
    raise ValueError(f"model {contract.name!r}: no candidate can be used: {told}")


def _exported(
    contract: Contract, data: TrainingSet, unseen: NDArray[np.float64], say: Say
) -> tuple[bytes, NDArray[np.float32], NDArray[np.float64]]:
    features = data.features
    say(f"fitting a {contract.estimator.kind} to {len(features):,} rows")
    pipeline = train(contract, features, data.labels, data.weights)
    say("exporting it")
    model = export.export_onnx(pipeline, features.shape[1])
    say("checking the export")
    rows = np.concatenate((export.spread_rows(features), unseen.astype(np.float32)))
    export.check_export(pipeline, model, rows, contract.decision_threshold)
    inputs, answers = export.known_answers(contract, pipeline, features)
    return model, inputs, answers


def _out_of_fold(contract: Contract, data: TrainingSet, say: Say) -> NDArray[np.float64]:
    say("scoring the training rows out of fold")
    return out_of_fold_scores(contract, data.features, data.labels, subjects=data.subjects, weights=data.weights)


def _check_leaks(contract: Contract, baseline: BaselineData, data: TrainingSet, division: Division) -> LeakReport:
    return check_leaks(contract, baseline.values, baseline.labels, baseline.split, data, division)


def _fingerprint(baseline: BaselineData, data: TrainingSet, division: Division) -> str:
    return fingerprint(baseline.values, baseline.labels, baseline.split, data, division)


def _evidence(
    contract: Contract,
    baseline: BaselineData,
    held: NDArray[np.int64],
    division: Division,
    champion: bytes,
    challenger: bytes,
    concept_drift: bool,
) -> Evidence:
    return Evidence(
        ids=division.gate.ids,
        subjects=division.gate.subjects,
        newest=_paired(contract, division.gate.labels, division.gate.values, champion, challenger),
        segments=segments(contract, division.gate.values),
        baseline=_paired(contract, baseline.labels[held], baseline.values[held], champion, challenger),
        gates=contract.gates,
        seed=contract.estimator.seed,
        concept_drift=concept_drift,
    )


def _paired(
    contract: Contract, labels: NDArray[np.int8], values: NDArray[np.float64], champion: bytes, challenger: bytes
) -> Paired:
    features = values.astype(np.float32)
    return Paired(
        labels, export.score(champion, features), export.score(challenger, features), contract.decision_threshold
    )


def _metrics(contract: Contract, evidence: Evidence) -> dict[str, Metrics]:
    """Both models' figures on the rows that the gate decides from."""
    found = {}
    for name, pairs in ((NEWEST, evidence.newest), (HOLDOUT, evidence.baseline)):
        for who, scores in (("challenger", pairs.challenger), ("champion", pairs.champion)):
            found[f"{name}.{who}"] = evaluated(contract, pairs.labels, scores)
    return found


def evaluated(contract: Contract, labels: NDArray[np.int8], scores: NDArray[np.float64]) -> Metrics:
    """A model's figures by the contract, from its `scores` [n] of rows with `labels` [n]."""
    return evaluate(labels, scores, contract.decision_threshold, contract.estimator.seed)


def _profile(
    contract: Contract,
    version: int,
    data: TrainingSet,
    division: Division,
    since: np.datetime64,
    reference: ReferenceRows,
    model: bytes,
    out_of_fold: NDArray[np.float64],
    newest: Paired,
) -> ReferenceProfile:
    """A challenger's reference; every score in it is of a row that its model, or the fold's, has not seen."""
    production, labels = out_of_fold[data.baseline_rows :], division.train.labels
    if contract.reference == "training":
        values, scores = data.values, out_of_fold
    else:
        values, scores = reference.values, export.score(model, reference.values.astype(np.float32))
        trained = dict(zip(division.train.ids.tolist(), production.tolist(), strict=True))
        scores = np.array([trained.get(one, score) for one, score in zip(reference.ids.tolist(), scores, strict=True)])
    # Under an older law a score meant something else: mixed in, it would be concept drift at the first window.
    new = division.train.times >= since
    return reference_profile(
        contract,
        version,
        contract.reference,
        values,
        scores,
        calibration=scored_rows(
            np.concatenate((production[new], newest.challenger)), np.concatenate((labels[new], newest.labels))
        ),
        heldout=scored_rows(newest.challenger, newest.labels),
    )


def instant(time: np.datetime64) -> datetime:
    found = time.astype("datetime64[us]").item()
    assert isinstance(found, datetime)
    return found
