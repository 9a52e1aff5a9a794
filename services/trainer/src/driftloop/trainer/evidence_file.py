"""The evidence of a decision as a file, from which the decision can be made again."""

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from driftloop.common.contract import Gates
from driftloop.common.registry import DigestMismatch
from driftloop.trainer.columns import file_of
from driftloop.trainer.domain.evidence import Evidence
from driftloop.trainer.domain.gate import Paired

PREFIX = "segment."
_METADATA = b"driftloop.evidence"


class _Meaning(msgspec.Struct, frozen=True, kw_only=True):
    """What the rows alone do not say. Of the table's rows the first `newest` are the gate's, the others baseline."""

    digest: str
    newest: int
    segments: tuple[str, ...]
    threshold: float
    gates: Gates
    seed: int
    concept_drift: bool


def encode(evidence: Evidence) -> bytes:
    """An Arrow IPC file: the newest rows, and after them the held-out baseline rows, which have no prediction id.

    Of each row it has prediction id, subject, label, the champion's and the challenger's score as the float64 that was
    judged, and of the newest rows whether they belong to each segment.
    """
    newest, baseline = evidence.newest, evidence.baseline
    nothing = [None] * len(baseline)
    columns: dict[str, pa.Array] = {
        "prediction_id": pa.array(evidence.ids.tolist() + nothing, pa.string()),
        "subject": pa.array([subject or None for subject in evidence.subjects.tolist()] + nothing, pa.string()),
        "label": pa.array(np.concatenate((newest.labels, baseline.labels)), pa.int8()),
        "champion": pa.array(np.concatenate((newest.champion, baseline.champion)), pa.float64()),
        "challenger": pa.array(np.concatenate((newest.challenger, baseline.challenger)), pa.float64()),
    }
    for name, mask in evidence.segments.items():
        columns[PREFIX + name] = pa.array(mask.tolist() + nothing, pa.bool_())
    meaning = _Meaning(
        digest=evidence.digest,
        newest=len(newest),
        segments=tuple(evidence.segments),
        threshold=newest.threshold,
        gates=evidence.gates,
        seed=evidence.seed,
        concept_drift=evidence.concept_drift,
    )
    return file_of(pa.table(columns).replace_schema_metadata({_METADATA: msgspec.json.encode(meaning)}))


def decode(data: bytes) -> Evidence:
    """The evidence in a file.

    Raises DigestMismatch where it is not what was written, pa.ArrowInvalid where it is no Arrow file, and KeyError,
    ValueError or msgspec.MsgspecError where it is another one.
    """
    with pa.ipc.open_file(pa.BufferReader(data)) as reader:
        table = reader.read_all()
    # Arrow believes a file: an offset that leads out of it would be followed, and the process would be gone.
    table.validate(full=True)
    meaning = msgspec.json.decode((table.schema.metadata or {})[_METADATA], type=_Meaning)
    newest, baseline = table.slice(0, meaning.newest), table.slice(meaning.newest)
    found = Evidence(
        ids=np.array(newest["prediction_id"].to_pylist(), dtype=np.str_),
        subjects=np.array([subject or "" for subject in newest["subject"].to_pylist()], dtype=np.str_),
        newest=_pairs(newest, meaning.threshold),
        segments={name: _mask(newest, name) for name in meaning.segments},
        baseline=_pairs(baseline, meaning.threshold),
        gates=meaning.gates,
        seed=meaning.seed,
        concept_drift=meaning.concept_drift,
    )
    if found.digest != meaning.digest:
        raise DigestMismatch(
            f"evidence of digest {meaning.digest} reads as {found.digest}: the file was changed, restore it"
        )
    return found


def _pairs(table: pa.Table, threshold: float) -> Paired:
    labels, champion, challenger = (table[name].to_numpy() for name in ("label", "champion", "challenger"))
    return Paired(labels.astype(np.int8), champion, challenger, threshold)


def _mask(table: pa.Table, name: str) -> NDArray[np.bool_]:
    return np.array(table[PREFIX + name].to_pylist(), dtype=np.bool_)
