"""The trainer's only source of production rows: label-ingest, over HTTP, as an Arrow stream."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from driftloop.common.contract import Contract
from driftloop.common.rows import Value, validator
from driftloop.common.settings import Secret, SettingsError, variable
from driftloop.trainer.domain.dataset import LabeledRows

TIMEOUT_SECONDS = 60.0
KEY_VARIABLE = variable("label_ingest_key")


class RowsUnavailable(RuntimeError):
    """label-ingest did not answer; the request goes on waiting."""


@dataclass(frozen=True)
class ProductionRows:
    """Rows newest first: `ids` [n], `times` [n], exact `values` [n, d], and a label of 0, 1 or −1 (none yet) [n]."""

    ids: NDArray[np.str_]
    times: NDArray[np.datetime64]
    values: NDArray[np.float64]
    labels: NDArray[np.int8]
    subjects: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.ids)

    def without(self, erased: Mapping[str, datetime]) -> "ProductionRows":
        """These but for what was predicted of erased subjects before the instant that stands with each."""
        if not erased:
            return self
        until = {subject: np.datetime64(time.astimezone(UTC).replace(tzinfo=None)) for subject, time in erased.items()}
        named = zip(self.subjects.tolist(), self.times, strict=True)
        kept = np.array([subject not in until or time >= until[subject] for subject, time in named], dtype=np.bool_)
        return ProductionRows(
            self.ids[kept], self.times[kept], self.values[kept], self.labels[kept], self.subjects[kept]
        )

    def labeled(self) -> LabeledRows:
        """Those rows that have their outcome."""
        known = np.flatnonzero(self.labels >= 0)
        return LabeledRows(
            self.ids[known], self.times[known], self.values[known], self.labels[known], self.subjects[known]
        )


def open_client(url: str, key: Secret | None) -> httpx.Client:
    """A client of label-ingest, with the API key that it asks for. Raises SettingsError."""
    if key is None:
        return httpx.Client(base_url=url)
    if not (key.value.isascii() and key.value.isprintable()):
        raise SettingsError(f"{KEY_VARIABLE} has characters that no API key has: copy the key anew")
    return httpx.Client(base_url=url, headers={"x-api-key": key.value})


def fetch_rows(
    client: httpx.Client, contract: Contract, *, limit: int, labelled: bool, since: datetime | None = None
) -> ProductionRows:
    """The newest `limit` rows that the champion answered, from `since` on. Raises RowsUnavailable."""
    query = {
        "model": contract.name,
        "limit": str(limit),
        "labelled": "true" if labelled else "any",
        "variant": "champion",
    }
    if since is not None:
        query["since"] = since.isoformat()
    try:
        response = client.get("/v1/rows", params=query, timeout=TIMEOUT_SECONDS)
        response.raise_for_status()
        with pa.ipc.open_stream(response.content) as reader:
            table = reader.read_all()
    except httpx.HTTPStatusError as error:
        raise RowsUnavailable(f"label-ingest at {client.base_url}: {_refusal(error.response)}") from error
    except (httpx.HTTPError, pa.ArrowInvalid) as error:
        raise RowsUnavailable(f"label-ingest at {client.base_url}: {type(error).__name__}") from error
    return _rows(contract, table)


def _refusal(response: httpx.Response) -> str:
    if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        remedy = "an API key of scope rows, from `driftloop api-keys create --scope rows`"
        return f"it lets the trainer read no rows (status {response.status_code}): set {KEY_VARIABLE} to {remedy}"
    return f"status {response.status_code}, {response.text[:200]}"


def _rows(contract: Contract, table: pa.Table) -> ProductionRows:
    columns = {feature.name: table[f"feature.{feature.name}"].to_pylist() for feature in contract.features}
    rows: list[dict[str, Value]] = [
        {name: column[index] for name, column in columns.items()} for index in range(table.num_rows)
    ]
    return ProductionRows(
        ids=np.array(table["prediction_id"].to_pylist(), dtype=np.str_),
        times=np.array(table["predicted_at"].cast(pa.timestamp("us")).to_numpy(), dtype="datetime64[us]"),
        values=validator(contract).values(rows),
        labels=np.array([-1 if label is None else label for label in table["label"].to_pylist()], dtype=np.int8),
        subjects=np.array([subject or "" for subject in table["subject"].to_pylist()], dtype=np.str_),
    )
