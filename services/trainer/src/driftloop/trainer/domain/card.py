"""The model card: what a version is, what it was made of, how good it is, and why it serves or does not."""

import os
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import distribution
from importlib.metadata import version as installed_version
from platform import python_version
from types import MappingProxyType
from typing import Any, Literal

import msgspec
import numpy as np

from driftloop.common.contract import Contract, Estimator, digest
from driftloop.trainer.domain.candidates import CandidateScore
from driftloop.trainer.domain.dataset import LabeledRows, TrainingSet
from driftloop.trainer.domain.gate import GateDecision
from driftloop.trainer.domain.inspection import Inspection
from driftloop.trainer.domain.leaks import LeakReport
from driftloop.trainer.domain.metrics import Metrics

OWN = "driftloop-trainer"
REVISION_VARIABLE = "DRIFTLOOP_REVISION"
LIBRARIES = ("numpy", "onnx", "onnxruntime", "scikit-learn", "scipy", "skl2onnx")

ImportSource = Literal["onnx", "scikit-learn"]
TrainedOn = Literal["none", "baseline-train", "file"]


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


class LabelDelay(msgspec.Struct, frozen=True, kw_only=True):
    """How long after their predictions `rows` labels came: half of them, and nine of ten, within so many seconds."""

    rows: int
    p50_seconds: float
    p90_seconds: float


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """Where a version came from that was not trained here, and which baseline rows it is said to have seen.

    `file_digest` is the SHA-256 of the file that was given. `trained_on` is what was said: no baseline row, the
    baseline's training rows, or a file of `named_rows` rows. `seen_holdout` are the numbers of the held-out baseline
    rows among them, counted from 0, and `seen_holdout_digest` that of their values and labels (as of a training set).
    """

    source: ImportSource
    file_digest: str
    trained_on: TrainedOn
    named_rows: int
    seen_holdout: tuple[int, ...]
    seen_holdout_digest: str
    made_with: str | None = None


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """The trainer's version, and the commit that it was built from where the installation knows it."""

    version: str
    commit: str | None = None


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """One version's whole story. `metrics` are by slice, each of rows that the version never trained on.

    `estimator`, `parameters` and `seed` are those of the chosen one of the `candidates`, which stand best first.
    `label_delays` are those of the production rows trained on (`training`) and of those that judged (`newest`).

    What has a default is not in the cards of older releases, which are read as well.
    """

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
    inspection: Inspection | None = None
    code: Code | None = None
    imported: Imported | None = None
    candidates: tuple[CandidateScore, ...] = ()
    label_delays: dict[str, LabelDelay] = {}


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


def label_delays(rows: Mapping[str, LabeledRows]) -> dict[str, LabelDelay]:
    """How late the labels of each of these came, as far as it is known. An amended label came when it was amended."""
    found = {}
    for name, one in rows.items():
        late = np.zeros(0) if one.labeled_at is None else (one.labeled_at - one.times) / np.timedelta64(1, "s")
        late = late[np.isfinite(late)]
        if len(late):
            half, most = np.percentile(late, (50, 90))
            found[name] = LabelDelay(rows=len(late), p50_seconds=float(half), p90_seconds=float(most))
    return found


def model_card(
    contract: Contract,
    version: int,
    created: datetime,
    reason: str,
    training: TrainingData,
    metrics: Mapping[str, Metrics],
    decision: GateDecision | None = None,
    leaks: LeakReport | None = None,
    *,
    inspection: Inspection | None = None,
    estimator: Estimator | None = None,
    candidates: tuple[CandidateScore, ...] = (),
    label_delays: Mapping[str, LabelDelay] = MappingProxyType({}),
) -> ModelCard:
    """Write the card of a version; `decision` is None for a first version, which met no champion.

    `estimator` is the one that was trained, where that is not the contract's own.
    """
    trained = estimator or contract.estimator
    return ModelCard(
        model_name=contract.name,
        model_version=version,
        created=created,
        reason=reason,
        contract_digest=digest(contract),
        estimator=trained.kind,
        parameters=msgspec.structs.asdict(trained.parameters),
        seed=trained.seed,
        decision_threshold=contract.decision_threshold,
        training=training,
        metrics=dict(metrics),
        decision=decision,
        leaks=leaks,
        libraries={"python": python_version()} | {name: installed_version(name) for name in LIBRARIES},
        inspection=inspection,
        code=code_version(),
        candidates=candidates,
        label_delays=dict(label_delays),
    )


def card_of(data: bytes) -> ModelCard:
    """A card as a bundle carries it."""
    return msgspec.json.decode(data, type=ModelCard)


def card_schema() -> dict[str, Any]:
    """The JSON Schema of a card, as docs/model-card.schema.json has it."""
    found = msgspec.json.schema(ModelCard, schema_hook=lambda _kind: {"description": "a parameter of the estimator"})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | found


def code_version() -> Code:
    """Which code runs: by what the image's build said of it, or by what pip noted of where it came from."""
    told = os.environ.get(REVISION_VARIABLE, "").strip()
    commit = told if told and told != "unknown" else _installed_commit()
    return Code(version=installed_version(OWN), commit=commit)


def _installed_commit() -> str | None:
    """The commit of an installation from a repository (direct_url.json, PEP 610), None of any other."""
    origin = distribution(OWN).read_text("direct_url.json")
    try:
        found = msgspec.json.decode(origin or "{}", type=_Origin)
    except msgspec.MsgspecError:
        return None
    return found.vcs_info.commit_id if found.vcs_info else None


class _Checkout(msgspec.Struct, frozen=True):
    commit_id: str


class _Origin(msgspec.Struct, frozen=True):
    vcs_info: _Checkout | None = None
