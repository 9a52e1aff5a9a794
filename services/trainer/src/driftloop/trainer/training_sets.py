"""Training sets as files: what a version was fitted to, kept so that it can be rebuilt, until a patient is erased.

A file holds the labelled production rows; those of the baseline come with the contract. A set is announced in the
database before its file is written, so that no file is ever unknown to an erasure. Where one comes meanwhile, the file
is to be deleted again once it is written; whoever dies in between leaves that to `leftovers`.

Beside each file are two manifests by which others verify it: what `sha256sum -c` reads, and what DVC reads.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from driftloop.common import registry
from driftloop.common.contract import Contract
from driftloop.common.contract import digest as contract_digest
from driftloop.common.postgres.pool import Pool
from driftloop.common.registry import DigestMismatch
from driftloop.trainer import columns
from driftloop.trainer.domain.card import TrainingData
from driftloop.trainer.domain.challenger import BaselineData
from driftloop.trainer.domain.dataset import LabeledRows, TrainingSet, training_set
from driftloop.trainer.set_store import KeptSet, SetStore

SIZE_LIMIT = 2_000_000_000
MANIFEST_LIMIT = 10_000
SHA256SUM, DVC = ".sha256", ".dvc"
_FILE = re.compile(r"([0-9a-f]{64})\.arrow(\.sha256|\.dvc)?")


@dataclass(frozen=True)
class SetFiles:
    """Where the files are: `<root>/<model>/<digest>.arrow`, beside each its manifests. All raise ArtifactError."""

    root: str

    def write(self, model: str, digest: str, data: bytes) -> None:
        """Write a file, whole or not at all, and then its manifests."""
        name = _name(digest)
        registry.write_object(self.root, model, name, data)
        for ending, manifest in _manifests(name, data).items():
            registry.write_object(self.root, model, name + ending, manifest)

    def read(self, model: str, digest: str) -> bytes:
        """The file of a set."""
        return registry.read_object(self.root, model, _name(digest), size_limit=SIZE_LIMIT)

    def manifest(self, model: str, digest: str) -> bytes:
        """What `sha256sum -c` reads of a set's file."""
        return registry.read_object(self.root, model, _name(digest) + SHA256SUM, size_limit=MANIFEST_LIMIT)

    def written(self, model: str) -> dict[str, datetime]:
        """The digests of which there is a file or a manifest, whole or not, with when the youngest was written."""
        found: dict[str, datetime] = {}
        for name, time in registry.list_objects(self.root, model).items():
            if match := _FILE.fullmatch(name):
                found[match[1]] = max(time, found.get(match[1], time))
        return found

    def delete(self, kept: KeptSet) -> None:
        """Delete the file of a set and then its manifests; what is not there is no error."""
        try:
            for ending in ("", SHA256SUM, DVC):
                registry.delete_object(self.root, kept.model_name, _name(kept.digest) + ending)
        except registry.ArtifactMissing:
            # No root: a volume that is not mounted, or nothing was ever written.
            if kept.stored:
                raise


def keep(
    pool: Pool,
    files: SetFiles,
    contract: Contract,
    data: TrainingData,
    rows: LabeledRows,
    clock: Callable[[], datetime],
) -> None:
    """Keep the training set that `data` sums up and whose production rows are `rows`.

    Of a set of which a subject was erased meanwhile only the digest is kept. Raises registry.ArtifactError.
    """
    with pool.connection() as connection:
        store = SetStore(connection)
        store.register(contract.name, data, earliest(rows), clock())
        kept = store.rebuildable(contract.name, data.digest)
    if kept is None or kept.stored or not len(rows):
        return
    # In no transaction: a store may be slow, and the database ends a transaction in which nothing happens.
    stored = False
    try:
        files.write(contract.name, data.digest, encode(contract, data, rows))
        stored = True
    finally:
        # Also where it failed: the file may be there, and only a manifest missing.
        with pool.connection() as connection:
            SetStore(connection).written(kept, clock() if stored else None)


def encode(contract: Contract, data: TrainingData, rows: LabeledRows) -> bytes:
    """An Arrow IPC file: prediction id, time, subject, label, and each feature as the float64 that was learnt from.

    A category is its number in the contract's list. A missing number is NaN, a missing or unlisted category −1.
    """
    arrays: dict[str, pa.Array] = {
        "prediction_id": pa.array(rows.ids, pa.string()),
        "predicted_at": _times(rows),
        "subject": _subjects(rows),
        "label": pa.array(rows.labels, pa.int8()),
    }
    for name, column in zip(contract.feature_names, rows.values.T, strict=True):
        arrays[columns.FEATURE + name] = pa.array(np.ascontiguousarray(column), pa.float64())
    meaning = {
        "driftloop.model": contract.name,
        "driftloop.digest": data.digest,
        "driftloop.contract_digest": contract_digest(contract),
        "driftloop.baseline_rows": str(data.baseline_rows),
    }
    return columns.file_of(pa.table(arrays).replace_schema_metadata(meaning))


def decode(contract: Contract, data: bytes) -> LabeledRows:
    """The production rows in a file, in their order.

    Raises pa.ArrowInvalid, and columns.ColumnError where it is of another model.
    """
    with pa.ipc.open_file(pa.BufferReader(data)) as reader:
        table = reader.read_all()
    # Arrow believes a file: an offset that leads out of it would be followed, and the process would be gone.
    table.validate(full=True)
    return LabeledRows(
        ids=columns.texts(table, "prediction_id"),
        times=columns.instants(table, "predicted_at"),
        values=np.column_stack([columns.floats(table, columns.FEATURE + name) for name in contract.feature_names]),
        labels=columns.labels(table, "label"),
        subjects=columns.texts(table, "subject", nullable=True),
    )


def verify(files: SetFiles, model: str, digest: str) -> bytes:
    """The file of a set, found to be what was written: by its manifest, and by the model and digest that it states.

    Who can write there can write both; that its rows are those that a version learnt from, `rebuilt` proves. Raises
    DigestMismatch, and registry.ArtifactError where file or manifest is missing or cannot be read.
    """
    data, name = files.read(model, digest), _name(digest)
    wanted, _, named = files.manifest(model, digest).decode("ascii", "replace").strip().partition("  ")
    if named != name or hashlib.sha256(data).hexdigest() != wanted:
        raise DigestMismatch(f"{model}/{name} is not what its manifest {name}{SHA256SUM} says: restore both")
    try:
        with pa.ipc.open_file(pa.BufferReader(data)) as reader:
            stated = reader.schema.metadata or {}
    except pa.ArrowInvalid as error:
        raise DigestMismatch(f"{model}/{name} is no file of a training set: restore it") from error
    if (stated.get(b"driftloop.model"), stated.get(b"driftloop.digest")) != (model.encode(), digest.encode()):
        raise DigestMismatch(f"{model}/{name} is the file of another training set: restore it")
    return data


def rebuilt(contract: Contract, baseline: BaselineData, digest: str, rows: LabeledRows | None) -> TrainingSet:
    """The training set of a version: the baseline's rows, and those of its file, None for a version without one.

    Raises DigestMismatch where contract, baseline or file are not those that the version learnt from.
    """
    found = training_set(baseline.values, baseline.labels, baseline.split, rows, contract.training)
    if found.digest != digest:
        raise DigestMismatch(
            f"the training set of model {contract.name!r} has digest {found.digest}, not {digest}: rebuild it with the "
            "contract and the baseline of its time"
        )
    return found


def earliest(rows: LabeledRows) -> dict[str, datetime]:
    """Of each subject the time of the earliest row."""
    known = pa.table({"subject": _subjects(rows), "time": _times(rows)}).filter(pc.field("subject").is_valid())
    found = known.group_by("subject").aggregate([("time", "min")])
    return dict(zip(found["subject"].to_pylist(), found["time_min"].to_pylist(), strict=True))


def _subjects(rows: LabeledRows) -> pa.Array:
    """The subjects, null where unknown."""
    found = pa.array(rows.subjects, pa.string())
    return pc.if_else(pc.equal(found, ""), pa.scalar(None, pa.string()), found)


def _times(rows: LabeledRows) -> pa.Array:
    return pa.array(rows.times.astype("datetime64[us]")).cast(pa.timestamp("us", tz="UTC"))


def _manifests(name: str, data: bytes) -> dict[str, bytes]:
    """What stands beside a file, by the ending of its name.

    DVC's own format (https://dvc.org/doc/user-guide/project-structure/dvc-files), of which JSON is a spelling; it knows
    a file by MD5, which only tells what has changed, not who changed it.
    """
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    out = {"md5": md5, "size": len(data), "hash": "md5", "path": name}
    return {
        SHA256SUM: f"{hashlib.sha256(data).hexdigest()}  {name}\n".encode(),
        DVC: msgspec.json.format(msgspec.json.encode({"outs": [out]})) + b"\n",
    }


def _name(digest: str) -> str:
    return f"{digest}.arrow"
