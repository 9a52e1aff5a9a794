"""The trainer's only source of production rows: label-ingest, over HTTP, as an Arrow stream.

The stream is read piece by piece into arrays, so that of a million rows no more is in memory than their arrays and a
piece; and no further than was asked for, in size and in time.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from driftloop.common.contract import Contract
from driftloop.common.settings import Secret, SettingsError, variable
from driftloop.trainer import columns
from driftloop.trainer.columns import FEATURE, ColumnError
from driftloop.trainer.domain.dataset import LabeledRows

# Large enough that the system takes back the memory of each piece when they are joined.
PIECE_ROWS = 250_000
# For the first bytes, and between two of their arrivals.
TIMEOUT_SECONDS = 60.0
# label-ingest sends ten times as many; a stream that trickles must not hold the worker for ever.
SLOWEST_ROWS_A_SECOND = 2_000
MESSAGE_LIMIT = 256_000_000
# A row's ids and fixed columns, and one value of it, at their very longest.
ROW_BYTES, VALUE_BYTES = 2_000, 1_000
KEY_VARIABLE = variable("label_ingest_key")


class RowsUnavailable(RuntimeError):
    """label-ingest did not answer, or not as it should; the request goes on waiting."""


@dataclass(frozen=True)
class ProductionRows:
    """Rows newest first: `ids` [n], `times` [n], exact `values` [n, d], and a label of 0, 1 or −1 (none yet) [n].

    `labeled_at` [n] says when each label came, NaT where none has.
    """

    ids: NDArray[np.str_]
    times: NDArray[np.datetime64]
    values: NDArray[np.float64]
    labels: NDArray[np.int8]
    subjects: NDArray[np.str_]
    labeled_at: NDArray[np.datetime64]

    def __len__(self) -> int:
        return len(self.ids)

    def without(self, erased: Mapping[str, datetime]) -> "ProductionRows":
        """These but for what was predicted of erased subjects before the instant that stands with each."""
        named = np.flatnonzero(np.isin(self.subjects, list(erased)))
        if not len(named):
            return self
        until = {subject: instant64(time) for subject, time in erased.items()}
        kept = np.ones(len(self), dtype=np.bool_)
        kept[named] = [self.times[row] >= until[str(self.subjects[row])] for row in named]
        return ProductionRows(**{field.name: getattr(self, field.name)[kept] for field in fields(self)})

    def labeled(self) -> LabeledRows:
        """Those rows that have their outcome."""
        known = self.labels >= 0
        # Where all are, nothing is copied.
        chosen = slice(None) if known.all() else known
        return LabeledRows(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})


def instant64(time: datetime) -> np.datetime64:
    """An instant as NumPy has it, which knows no time zones: UTC."""
    return np.datetime64(time.astimezone(UTC).replace(tzinfo=None))


def open_client(url: str, key: Secret | None) -> httpx.Client:
    """A client of label-ingest, with the API key that it asks for. Raises SettingsError."""
    if key is None:
        return httpx.Client(base_url=url)
    if not (key.value.isascii() and key.value.isprintable()):
        raise SettingsError(f"{KEY_VARIABLE} has characters that no API key has: copy the key anew")
    return httpx.Client(base_url=url, headers={"x-api-key": key.value})


def fetch_rows(
    client: httpx.Client,
    contract: Contract,
    *,
    limit: int,
    labelled: bool,
    since: datetime | None = None,
    until: datetime | None = None,
) -> ProductionRows:
    """The newest `limit` rows that the champion answered, predicted from `since` on and before `until`.

    Raises RowsUnavailable, also where what comes is not what was asked for.
    """
    query = {
        "model": contract.name,
        "limit": str(limit),
        "labelled": "true" if labelled else "any",
        "variant": "champion",
    }
    query |= {name: at.isoformat() for name, at in (("since", since), ("until", until)) if at is not None}
    try:
        with client.stream("GET", "/v1/rows", params=query, timeout=TIMEOUT_SECONDS) as response:
            if not response.is_success:
                raise RowsUnavailable(_refusal(response))
            size = MESSAGE_LIMIT + limit * (ROW_BYTES + VALUE_BYTES * len(contract.features))
            end = time.monotonic() + TIMEOUT_SECONDS + limit / SLOWEST_ROWS_A_SECOND
            return _read(contract, _Body(response.iter_bytes(), size, end), limit)
    except RowsUnavailable as error:
        raise RowsUnavailable(f"label-ingest at {client.base_url}: {error}") from error
    except ColumnError as error:
        raise RowsUnavailable(f"label-ingest at {client.base_url}: its rows cannot be used: {error}") from error
    except httpx.HTTPError as error:
        raise RowsUnavailable(f"label-ingest at {client.base_url}: {type(error).__name__}") from error
    except (pa.ArrowException, OSError) as error:
        reason = f"its answer is no Arrow stream that can be read ({type(error).__name__})"
        raise RowsUnavailable(f"label-ingest at {client.base_url}: {reason}") from error


def _refusal(response: httpx.Response) -> str:
    if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        remedy = "an API key of scope rows, from `driftloop api-keys create --scope rows`"
        return f"it lets the trainer read no rows (status {response.status_code}): set {KEY_VARIABLE} to {remedy}"
    # Whoever answers in label-ingest's place may say anything, and no database keeps a zero byte.
    said = "".join(one if one.isprintable() else " " for one in next(response.iter_text(), "")[:200])
    return f"status {response.status_code}, {said}"


class _Body:
    """A response's body as a file that is read forwards, within a size and until an instant (monotonic seconds)."""

    closed = False

    def __init__(self, pieces: Iterator[bytes], size_limit: int, end: float) -> None:
        self._pieces = pieces
        self._left = size_limit
        self._end = end
        self._buffer = bytearray()

    def read(self, size: int) -> bytes:
        """The next `size` bytes. Raises RowsUnavailable, also where there are fewer, and httpx.HTTPError."""
        if size > min(MESSAGE_LIMIT, self._left):
            raise RowsUnavailable("it sends no rows, or more than were asked for: check which service answers there")
        while len(self._buffer) < size:
            if time.monotonic() > self._end:
                raise RowsUnavailable("it sends too slowly: look at its database, or lower DRIFTLOOP_MAX_ROWS")
            piece = next(self._pieces, None)
            if piece is None:
                # A stream says where it ends. To Arrow's reader the end of a batch would do, too.
                raise RowsUnavailable("its answer broke off")
            self._buffer += piece
        with memoryview(self._buffer) as view:
            found = bytes(view[:size])
        del self._buffer[:size]
        self._left -= len(found)
        return found


def _read(contract: Contract, body: _Body, limit: int) -> ProductionRows:
    pieces: dict[str, list[Any]] = {field.name: [] for field in fields(ProductionRows)}
    with pa.ipc.open_stream(pa.PythonFile(body, mode="r")) as reader:
        for table in _tables(reader, limit):
            _add(pieces, _rows(contract, table))
    return _joined(pieces)


def _tables(reader: Any, limit: int) -> Iterator[pa.Table]:
    """The stream's batches, so many rows at a time; one table without rows where there are none."""
    batches, rows, left = [], 0, limit
    for batch in reader:
        # Arrow believes a stream: an offset that leads out of it would be followed, and the process would be gone.
        batch.validate(full=True)
        batches.append(batch)
        rows += batch.num_rows
        left -= batch.num_rows
        if left < 0:
            raise RowsUnavailable(f"it sends more than the {limit} rows that were asked for")
        if rows >= PIECE_ROWS:
            yield pa.Table.from_batches(batches)
            batches, rows = [], 0
    if batches or left == limit:
        yield pa.Table.from_batches(batches, reader.schema)


def _add(pieces: Mapping[str, list[Any]], rows: ProductionRows) -> None:
    for name, found in pieces.items():
        found.append(getattr(rows, name))


def _rows(contract: Contract, data: columns.Columns) -> ProductionRows:
    values = np.empty((data.num_rows, len(contract.features)))
    for index, feature in enumerate(contract.features):
        name = FEATURE + feature.name
        category = feature.type == "category"
        values[:, index] = columns.codes(data, name, feature.categories) if category else columns.numbers(data, name)
    return ProductionRows(
        ids=columns.texts(data, "prediction_id"),
        times=columns.instants(data, "predicted_at"),
        values=values,
        labels=columns.labels(data, "label"),
        subjects=columns.texts(data, "subject", nullable=True),
        labeled_at=columns.instants(data, "labeled_at", nullable=True),
    )


def _joined(pieces: dict[str, list[Any]]) -> ProductionRows:
    # A column at a time: its pieces are gone before the next one is joined.
    found = {name: np.concatenate(pieces.pop(name)) for name in list(pieces)}
    twice = len(found["ids"]) - len(set(found["ids"].tolist()))
    if twice:
        raise RowsUnavailable(f"{twice} predictions are there twice")
    return ProductionRows(**found)
