"""Training sets as files: what a version was fitted to, kept so that it can be rebuilt, until a patient is erased.

A file holds the labelled production rows; those of the baseline come with the contract. A set is announced in the
database before its file is written, and written under the lock of its row: so no file is ever unknown to an erasure,
and none is written after one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from driftloop.common import registry
from driftloop.common.contract import Contract
from driftloop.common.contract import digest as contract_digest
from driftloop.common.postgres.pool import Pool
from driftloop.common.registry import DigestMismatch
from driftloop.trainer.domain.card import TrainingData
from driftloop.trainer.domain.challenger import BaselineData
from driftloop.trainer.domain.dataset import LabeledRows, TrainingSet, training_set
from driftloop.trainer.set_store import KeptSet, SetStore

SIZE_LIMIT = 2_000_000_000
PREFIX = "feature."


@dataclass(frozen=True)
class SetFiles:
    """Where the files are: `<root>/<model>/<digest>.arrow`. All raise registry.ArtifactError."""

    root: str

    def write(self, model: str, digest: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        registry.write_object(self.root, model, _name(digest), data)

    def read(self, model: str, digest: str) -> bytes:
        """The file of a set."""
        return registry.read_object(self.root, model, _name(digest), size_limit=SIZE_LIMIT)

    def delete(self, kept: KeptSet) -> None:
        """Delete the file of a set; one that is not there is no error."""
        try:
            registry.delete_object(self.root, kept.model_name, _name(kept.digest))
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
        SetStore(connection).register(contract.name, data, earliest(rows), clock())
    with pool.connection() as connection:
        store = SetStore(connection)
        kept = store.lock_rebuildable(contract.name, data.digest)
        if kept is not None and not kept.stored and len(rows):
            files.write(contract.name, data.digest, encode(contract, data, rows))
            store.set_stored(kept, clock())


def encode(contract: Contract, data: TrainingData, rows: LabeledRows) -> bytes:
    """An Arrow IPC file: prediction id, time, subject, label, and each feature as the float64 that was learnt from.

    A category is its number in the contract's list. A missing number is NaN, a missing or unlisted category −1.
    """
    columns: dict[str, pa.Array] = {
        "prediction_id": pa.array(rows.ids.tolist(), pa.string()),
        "predicted_at": pa.array(rows.times.astype("datetime64[us]")).cast(pa.timestamp("us", tz="UTC")),
        "subject": pa.array([subject or None for subject in rows.subjects.tolist()], pa.string()),
        "label": pa.array(rows.labels, pa.int8()),
    }
    for name, column in zip(contract.feature_names, rows.values.T, strict=True):
        columns[PREFIX + name] = pa.array(np.ascontiguousarray(column), pa.float64())
    meaning = {
        "driftloop.model": contract.name,
        "driftloop.digest": data.digest,
        "driftloop.contract_digest": contract_digest(contract),
        "driftloop.baseline_rows": str(data.baseline_rows),
    }
    table = pa.table(columns).replace_schema_metadata(meaning)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    found: bytes = sink.getvalue().to_pybytes()
    return found


def decode(contract: Contract, data: bytes) -> LabeledRows:
    """The production rows in a file, in their order.

    Raises pa.ArrowInvalid, and KeyError where it is of another model.
    """
    with pa.ipc.open_file(pa.BufferReader(data)) as reader:
        table = reader.read_all()
    features = [table[PREFIX + name].to_numpy() for name in contract.feature_names]
    return LabeledRows(
        ids=np.array(table["prediction_id"].to_pylist(), dtype=np.str_),
        times=np.array(table["predicted_at"].cast(pa.timestamp("us")).to_numpy(), dtype="datetime64[us]"),
        values=np.column_stack(features),
        labels=table["label"].to_numpy().astype(np.int8),
        subjects=np.array([subject or "" for subject in table["subject"].to_pylist()], dtype=np.str_),
    )


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
    """Of each known subject the time of the earliest row."""
    found: dict[str, datetime] = {}
    times = rows.times.astype("datetime64[us]").tolist()
    for subject, time in zip(rows.subjects.tolist(), times, strict=True):
        if subject:
            aware = time.replace(tzinfo=UTC)
            found[subject] = min(aware, found.get(subject, aware))
    return found


def _name(digest: str) -> str:
    return f"{digest}.arrow"
