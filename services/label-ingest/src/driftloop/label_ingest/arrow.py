"""Rows as an Arrow IPC stream or a Parquet file, batch by batch: a reader gets the newest rows while older ones are
still read.
"""

import math
from collections.abc import Generator, Iterable, Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from driftloop.common.contract import Contract, Feature
from driftloop.common.events import FeatureValue
from driftloop.label_ingest.reading import StoredRow

Format = Literal["arrow", "parquet"]
MEDIA_TYPES: dict[Format, str] = {
    "arrow": "application/vnd.apache.arrow.stream",
    "parquet": "application/vnd.apache.parquet",
}
_INSTANT = pa.timestamp("us", tz="UTC")
_FIXED = (
    pa.field("prediction_id", pa.string(), nullable=False),
    pa.field("predicted_at", _INSTANT, nullable=False),
    pa.field("model_version", pa.int32(), nullable=False),
    pa.field("variant", pa.string(), nullable=False),
    pa.field("score", pa.float64(), nullable=False),
    pa.field("prediction", pa.bool_(), nullable=False),
    pa.field("label", pa.int8()),
    pa.field("label_revision", pa.int32()),
    pa.field("labeled_at", _INSTANT),
    pa.field("policy_version", pa.int32()),
    pa.field("subject", pa.string()),
)


def schema_of(contract: Contract) -> pa.Schema:
    """The columns of a model's rows: the fixed ones, then `feature.<name>` in the contract's order."""
    features = [
        pa.field(f"feature.{one.name}", pa.string() if one.type == "category" else pa.float64())
        for one in contract.features
    ]
    return pa.schema([*_FIXED, *features])


def stream(
    contract: Contract, batches: Iterable[Sequence[StoredRow]], format: Format = "arrow"
) -> Generator[bytes, None, None]:
    """The bytes of the rows, a piece a batch."""
    schema, sink = schema_of(contract), _Sink()
    with _writer(sink, schema, format) as writer:
        for rows in batches:
            writer.write_batch(record_batch(contract, schema, rows))
            yield sink.take()
    yield sink.take()


def _writer(sink: "_Sink", schema: pa.Schema, format: Format) -> Any:
    if format == "parquet":
        return pq.ParquetWriter(pa.PythonFile(sink, mode="w"), schema)
    return pa.ipc.new_stream(sink, schema)


class _Sink:
    """A file that hands out what was written to it."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        """Keep a copy: the writer reuses its memory."""
        piece = bytes(data)
        self._pieces.append(piece)
        return len(piece)

    def flush(self) -> None:
        """Nothing is held back."""

    def take(self) -> bytes:
        """What was written since the last call."""
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


def record_batch(contract: Contract, schema: pa.Schema, rows: Sequence[StoredRow]) -> pa.RecordBatch:
    """The columns of some rows."""
    fixed = [[getattr(row, field.name) for row in rows] for field in _FIXED]
    features = [[_value(one, row.features.get(one.name)) for row in rows] for one in contract.features]
    arrays = [pa.array(column, field.type) for column, field in zip([*fixed, *features], schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _value(feature: Feature, value: FeatureValue) -> str | float | None:
    """A logged value as its column takes it; one of another type, from another contract's time, is missing."""
    if feature.type == "category":
        return value if isinstance(value, str) else None
    if isinstance(value, str) or value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None
