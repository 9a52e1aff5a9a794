"""The trainer as a client of label-ingest: its key, what it reads, and what it says of what is wrong."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.common.rows import Row, validator
from driftloop.common.settings import Secret, SettingsError, read_settings
from driftloop.trainer import label_rows
from driftloop.trainer.label_rows import ProductionRows, RowsUnavailable, fetch_rows, open_client
from driftloop.trainer.settings import Settings
from tests.support.models import shipped

LOAN = shipped("loan").contract
ENVIRONMENT = {
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "DATABASE_URL": "postgresql://127.0.0.1:1/none",
    "DRIFTLOOP_CONTRACTS": "/nowhere",
    "DRIFTLOOP_ARTIFACTS": "file:///nowhere",
    "DRIFTLOOP_SIGNING_KEY": "/nowhere",
    "DRIFTLOOP_TRUSTED_KEYS": "/nowhere",
}


def refused(status: int, said: bytes = b'{"detail":"no"}') -> str:
    """Why rows are not to be had where label-ingest answers with this status."""
    transport = httpx.MockTransport(lambda _request: httpx.Response(status, content=said))
    client = httpx.Client(transport=transport, base_url="http://label-ingest")
    with client, pytest.raises(RowsUnavailable) as unavailable:
        fetch_rows(client, LOAN, limit=1, labelled=True)
    return str(unavailable.value)


def test_the_key_is_sent() -> None:
    with open_client("http://label-ingest", Secret("dl_key")) as client:
        assert client.headers["x-api-key"] == "dl_key"


def test_without_a_key_none_is_sent() -> None:
    with open_client("http://label-ingest", None) as client:
        assert "x-api-key" not in client.headers


@pytest.mark.parametrize("key", ["dl_k\u00e9y", "dl_\nkey"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(SettingsError, match="DRIFTLOOP_LABEL_INGEST_KEY has characters") as error:
        open_client("http://label-ingest", Secret(key))
    assert key not in str(error.value)


@pytest.mark.parametrize("status", [401, 403])
def test_who_is_not_let_in_is_told_which_setting_is_wrong(status: int) -> None:
    reason = refused(status)
    assert f"label-ingest at http://label-ingest: it lets the trainer read no rows (status {status})" in reason
    assert "set DRIFTLOOP_LABEL_INGEST_KEY to an API key of scope rows" in reason


def test_any_other_refusal_is_said_as_it_came() -> None:
    assert refused(404) == 'label-ingest at http://label-ingest: status 404, {"detail":"no"}'


def test_of_a_refusal_that_is_no_text_only_text_is_said() -> None:
    """A reason is kept in the database, which keeps no zero byte."""
    assert refused(502, b"\x00\x1f\x8bbad gateway\r\n").endswith("status 502,   \ufffdbad gateway  ")


def test_the_key_does_not_show_itself() -> None:
    settings = read_settings(Settings, ENVIRONMENT | {"DRIFTLOOP_LABEL_INGEST_KEY": "dl_key"})
    assert settings.label_ingest_key == Secret("dl_key")
    assert "dl_key" not in repr(settings)


# --- rows

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
SCHEMA = pa.schema(
    {
        "prediction_id": pa.string(),
        "predicted_at": pa.timestamp("us", tz="UTC"),
        "label": pa.int8(),
        "labeled_at": pa.timestamp("us", tz="UTC"),
        "subject": pa.string(),
        "feature.income": pa.float64(),
        "feature.employment": pa.string(),
        "feature.term": pa.float64(),
    }
)
BORROWER: Row = {"income": 42_000.0, "employment": "retired", "term": 24}


def sent(row: int, features: Row = BORROWER, **others: Any) -> dict[str, Any]:
    """One row as label-ingest sends it; a lower number is newer."""
    time = START - timedelta(seconds=row)
    known = {"prediction_id": f"p-{row}", "predicted_at": time, "label": 1, "labeled_at": None, "subject": None}
    return known | {f"feature.{name}": value for name, value in features.items()} | others


def stream(batches: Sequence[pa.RecordBatch], schema: pa.Schema = SCHEMA) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def rows_sent(rows: Sequence[Mapping[str, Any]], schema: pa.Schema = SCHEMA, batch: int = 3) -> bytes:
    return stream(pa.Table.from_pylist(list(rows), schema=schema).to_batches(max_chunksize=batch), schema)


def fetched(content: bytes | Iterator[bytes], limit: int = 1000) -> ProductionRows:
    """What the trainer makes of such an answer."""
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, content=content))
    with httpx.Client(transport=transport, base_url="http://label-ingest") as client:
        return fetch_rows(client, LOAN, limit=limit, labelled=False)


def test_rows_are_asked_for_between_two_instants() -> None:
    asked: list[httpx.QueryParams] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.params)
        return httpx.Response(200, content=rows_sent([]))

    with httpx.Client(transport=httpx.MockTransport(answer), base_url="http://label-ingest") as client:
        fetch_rows(client, LOAN, limit=1, labelled=True)
        fetch_rows(client, LOAN, limit=1, labelled=True, since=START, until=START + timedelta(hours=1))
    assert {"since", "until"}.isdisjoint(asked[0])
    assert (asked[1]["since"], asked[1]["until"]) == ("2026-03-01T12:00:00+00:00", "2026-03-01T13:00:00+00:00")


def unusable(content: bytes | Iterator[bytes], limit: int = 1000) -> str:
    """Why rows are not to be had of such an answer."""
    with pytest.raises(RowsUnavailable) as unavailable:
        fetched(content, limit)
    return str(unavailable.value)


borrowers = st.fixed_dictionaries(
    {
        "income": st.none() | st.floats(0, 1e6) | st.integers(0, 10**6),
        "employment": st.none() | st.sampled_from(["employed", "retired", "unlisted", ""]),
        "term": st.none() | st.integers(1, 360),
    }
)


@given(st.lists(borrowers, max_size=20), st.integers(1, 7))
def test_values_are_those_that_are_made_row_by_row(rows: list[Row], batch: int) -> None:
    found = fetched(rows_sent([sent(number, row) for number, row in enumerate(rows)], batch=batch))
    np.testing.assert_array_equal(found.values, validator(LOAN).values(rows))
    assert found.values.shape == (len(rows), 3)


def test_the_other_columns_are_read_as_they_were_sent() -> None:
    rows = [sent(0, label=None, subject="s" * 32), sent(1, label=0), sent(2, prediction_id="a-longer-one")]
    found = fetched(rows_sent(rows, batch=2))
    assert found.ids.tolist() == ["p-0", "p-1", "a-longer-one"]
    assert found.times.tolist() == [(START - timedelta(seconds=row)).replace(tzinfo=None) for row in range(3)]
    assert found.labels.tolist() == [-1, 0, 1]
    assert found.subjects.tolist() == ["s" * 32, "", ""]
    assert found.labeled().ids.tolist() == ["p-1", "a-longer-one"]


def test_when_a_label_came_is_known_where_there_is_one() -> None:
    rows = [sent(0, label=None), sent(1, labeled_at=START), sent(2, labeled_at=START + timedelta(days=1))]
    found = fetched(rows_sent(rows))
    assert found.labeled_at.tolist() == [None, *(one["labeled_at"].replace(tzinfo=None) for one in rows[1:])]
    assert found.labeled().labeled_at is not None


def test_an_answer_without_a_row_is_no_row() -> None:
    found = fetched(rows_sent([]))
    assert (len(found), found.values.shape, len(found.labeled())) == (0, (0, 3), 0)


def test_whole_numbers_and_columns_without_any_value_are_read() -> None:
    rows = [sent(0, {"income": None, "employment": None, "term": 12}, label=None)]
    found = fetched(rows_sent(rows, pa.Table.from_pylist(rows).schema))
    np.testing.assert_array_equal(found.values, [[np.nan, -1, 12]])


def typed(name: str, kind: pa.DataType) -> pa.Schema:
    return SCHEMA.set(SCHEMA.get_field_index(name), pa.field(name, kind))


WRONG: dict[str, tuple[bytes, str]] = {
    "a column is missing": (
        rows_sent([sent(0)], SCHEMA.remove(SCHEMA.get_field_index("feature.term"))),
        "column 'feature.term' is missing",
    ),
    "a number is a text": (
        rows_sent([sent(0, BORROWER | {"term": "24"})], typed("feature.term", pa.string())),
        "column 'feature.term' has the type string: it must hold numbers",
    ),
    "a category is a number": (
        rows_sent([sent(0, BORROWER | {"employment": 3})], typed("feature.employment", pa.int32())),
        "column 'feature.employment' has the type int32: it must hold texts",
    ),
    "a label is neither 0 nor 1": (
        rows_sent([sent(0, label=None), sent(1, label=2), sent(2, label=-1)]),
        "column 'label' has 2 labels that are neither 0 nor 1",
    ),
    "a label is a fraction": (
        rows_sent([sent(0, label=0.5)], typed("label", pa.float64())),
        "column 'label' has the type double: it must hold whole numbers",
    ),
    "a value is no number": (
        rows_sent([sent(0, BORROWER | {"income": float("nan")}), sent(1, BORROWER | {"income": None})]),
        "column 'feature.income' has 1 values that are not finite",
    ),
    "a value is infinite": (
        rows_sent([sent(0, BORROWER | {"income": float("-inf")})]),
        "column 'feature.income' has 1 values that are not finite",
    ),
    "a prediction is there twice": (
        rows_sent([sent(0), sent(1), sent(2), sent(3, prediction_id="p-1")]),
        "1 predictions are there twice",
    ),
    "a prediction has no id": (
        rows_sent([sent(0, prediction_id=None)]),
        "column 'prediction_id' has 1 rows without a value",
    ),
    "a prediction has no time": (
        rows_sent([sent(0, predicted_at=None)]),
        "column 'predicted_at' has 1 rows without a value",
    ),
    "a time is a text": (
        rows_sent([sent(0, predicted_at="today")], typed("predicted_at", pa.string())),
        "column 'predicted_at' has the type string: it must hold instants",
    ),
    "a subject is very long": (
        rows_sent([sent(0, subject="s" * 201)]),
        "column 'subject' has a text of 201 characters, at most 200 are read",
    ),
    "a text begins outside of the stream": (
        rows_sent([sent(0), sent(1)]).replace(struct.pack("<3i", 0, 3, 6), struct.pack("<3i", 0, 2**30, 6)),
        "its answer is no Arrow stream that can be read",
    ),
    "a page": (b"<html>no rows today</html>", "it sends no rows"),
    "no Arrow": (b"\xff\xff\xff\xff\x08\x00\x00\x00 no rows", "its answer is no Arrow stream that can be read"),
    "nothing": (b"", "its answer broke off"),
}


@pytest.mark.parametrize(("content", "says"), WRONG.values(), ids=WRONG)
def test_what_is_not_as_it_should_be_is_named(content: bytes, says: str) -> None:
    reason = unusable(content)
    assert reason.startswith("label-ingest at http://label-ingest: ")
    assert says in reason


def test_an_error_shows_no_value_of_a_patient() -> None:
    rows = [sent(0, BORROWER | {"income": "much-income"}, subject="anna")]
    reason = unusable(rows_sent(rows, typed("feature.income", pa.string())))
    assert "much-income" not in reason
    assert "anna" not in reason


@pytest.mark.parametrize("lost", [8, 20])
def test_an_answer_that_breaks_off_is_not_taken_for_all_there_is(lost: int) -> None:
    """At a batch's end, too: an Arrow reader takes that for the stream's."""
    content = rows_sent([sent(row) for row in range(6)])
    assert "its answer broke off" in unusable(content[:-lost])


def test_a_connection_that_breaks_is_named() -> None:
    def pieces() -> Iterator[bytes]:
        yield rows_sent([sent(row) for row in range(6)])[:-20]
        raise httpx.RemoteProtocolError("peer closed connection")

    assert "RemoteProtocolError" in unusable(pieces())


def test_more_rows_than_were_asked_for_are_not_read() -> None:
    assert "more than the 5 rows" in unusable(rows_sent([sent(row) for row in range(6)]), limit=5)


def test_an_answer_without_end_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_rows, "MESSAGE_LIMIT", 1_000)
    assert "more than were asked for" in unusable(rows_sent([sent(row) for row in range(1000)], batch=1000))


def test_an_answer_of_many_small_pieces_has_an_end_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("MESSAGE_LIMIT", 4_000), ("ROW_BYTES", 0), ("VALUE_BYTES", 0)):
        monkeypatch.setattr(label_rows, name, size)
    assert "more than were asked for" in unusable(rows_sent([sent(row) for row in range(100)]))
    assert len(fetched(rows_sent([sent(row) for row in range(3)]))) == 3


@pytest.mark.parametrize("n", [0, 4, 7])
def test_pieces_are_joined_whatever_their_size(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    monkeypatch.setattr(label_rows, "PIECE_ROWS", 2)
    found = fetched(rows_sent([sent(row, BORROWER | {"term": row + 1}) for row in range(n)], batch=1))
    assert found.ids.tolist() == [f"p-{row}" for row in range(n)]
    assert found.values[:, 2].tolist() == list(range(1, n + 1))


def test_an_answer_that_trickles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_rows, "TIMEOUT_SECONDS", -1.0)
    assert "too slowly" in unusable(rows_sent([sent(0)]), limit=1)
