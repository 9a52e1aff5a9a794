"""What trainer and training process tell each other: files in a folder of their own, none of which is a pickle.

A training process may be made to open what others wrote. Whatever it answers is read as data.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftloop.common.contract import Contract
from driftloop.common.registry import Bundle
from driftloop.common.registry.bundle import CONTENTS, MANIFEST, from_files, read_manifest, to_files
from driftloop.trainer.backends import Backend
from driftloop.trainer.domain.challenger import BaselineData, ReferenceRows
from driftloop.trainer.domain.dataset import Division, LabeledRows
from driftloop.trainer.domain.evidence import Evidence
from driftloop.trainer.domain.split import BaselineSplit
from driftloop.trainer.evidence_file import decode as decode_evidence
from driftloop.trainer.evidence_file import encode as encode_evidence

TASK = "task.json"
ARRAYS = "arrays.npz"
CHAMPION = "champion.onnx"
EVIDENCE = "evidence.arrow"
FAILURE = "failure.json"
PROGRESS = "progress.txt"

# `data`: these rows allow no model, and would not at the next try either.
FailureKind = Literal["data", "memory", "killed", "time", "internal"]


@dataclass(frozen=True)
class TrainingTask:
    """All that a challenger is made of; see `domain.challenger.challenge`."""

    contract: Contract
    baseline: BaselineData
    division: Division
    reference: ReferenceRows
    champion: bytes
    since: np.datetime64
    version: int
    created: datetime
    reason: str
    concept_drift: bool
    unseen: NDArray[np.bool_] | None = None
    backend: Backend = field(default_factory=Backend)


@dataclass(frozen=True)
class Trained:
    """What a training made."""

    bundle: Bundle
    evidence: Evidence


class Failure(msgspec.Struct, frozen=True):
    """Why a training made nothing."""

    kind: FailureKind
    message: str


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a task that is no array."""

    contract: Contract
    version: int
    created: datetime
    reason: str
    concept_drift: bool
    withheld: int
    unused: int
    backend: Backend


def write_task(folder: Path, task: TrainingTask) -> None:
    """Write a task into an empty folder."""
    told = _Told(
        contract=task.contract,
        version=task.version,
        created=task.created,
        reason=task.reason,
        concept_drift=task.concept_drift,
        withheld=task.division.withheld,
        unused=task.division.unused,
        backend=task.backend,
    )
    arrays: dict[str, NDArray[Any]] = {
        "baseline_values": task.baseline.values,
        "baseline_labels": task.baseline.labels,
        "baseline_train": task.baseline.split.train,
        "baseline_holdout": task.baseline.split.holdout,
        "reference_ids": task.reference.ids,
        "reference_values": task.reference.values,
        "since": np.array(task.since, dtype="datetime64[us]"),
        **({} if task.unseen is None else {"unseen": task.unseen}),
        **_columns("train", task.division.train),
        **_columns("gate", task.division.gate),
    }
    (folder / TASK).write_bytes(msgspec.json.encode(told))
    (folder / CHAMPION).write_bytes(task.champion)
    # Without compression: it is read once, by the next process.
    np.savez(folder / ARRAYS, allow_pickle=False, **arrays)


def read_task(folder: Path) -> TrainingTask:
    """What `write_task` wrote."""
    told = msgspec.json.decode((folder / TASK).read_bytes(), type=_Told)
    with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
        return TrainingTask(
            contract=told.contract,
            baseline=BaselineData(
                arrays["baseline_values"],
                arrays["baseline_labels"],
                BaselineSplit(arrays["baseline_train"], arrays["baseline_holdout"]),
            ),
            division=Division(_rows("train", arrays), _rows("gate", arrays), told.withheld, told.unused),
            reference=ReferenceRows(arrays["reference_ids"], arrays["reference_values"]),
            champion=(folder / CHAMPION).read_bytes(),
            since=arrays["since"][()],
            version=told.version,
            created=told.created,
            reason=told.reason,
            concept_drift=told.concept_drift,
            unseen=arrays.get("unseen"),
            backend=told.backend,
        )


def write_trained(folder: Path, trained: Trained) -> None:
    """Write what a training made; the manifest comes last."""
    (folder / EVIDENCE).write_bytes(encode_evidence(trained.evidence))
    for name, data in to_files(trained.bundle).items():
        (folder / name).write_bytes(data)


def read_trained(folder: Path, model: str, version: int) -> Trained:
    """What `write_trained` wrote. Raises registry.ArtifactMalformed, OSError."""
    manifest = read_manifest((folder / MANIFEST).read_bytes(), model, version)
    files = {name: (folder / name).read_bytes() for name in CONTENTS}
    return Trained(from_files(manifest, files), decode_evidence((folder / EVIDENCE).read_bytes()))


def write_failure(folder: Path, failure: Failure) -> None:
    """Say why nothing was made."""
    (folder / FAILURE).write_bytes(msgspec.json.encode(failure))


def read_failure(folder: Path) -> Failure | None:
    """What `write_failure` said, None if it said nothing that can be read."""
    try:
        return msgspec.json.decode((folder / FAILURE).read_bytes(), type=Failure)
    except (OSError, msgspec.DecodeError):
        return None


def _columns(name: str, rows: LabeledRows) -> dict[str, NDArray[Any]]:
    return {
        f"{name}_ids": rows.ids,
        f"{name}_times": rows.times,
        f"{name}_values": rows.values,
        f"{name}_labels": rows.labels,
        f"{name}_subjects": rows.subjects,
        **({} if rows.labeled_at is None else {f"{name}_labeled_at": rows.labeled_at}),
    }


def _rows(name: str, arrays: Mapping[str, NDArray[Any]]) -> LabeledRows:
    return LabeledRows(
        arrays[f"{name}_ids"],
        arrays[f"{name}_times"],
        arrays[f"{name}_values"],
        arrays[f"{name}_labels"],
        arrays[f"{name}_subjects"],
        arrays.get(f"{name}_labeled_at"),
    )
