"""`POST /v1/outcomes.csv`: what is answered, and what is kept when something goes wrong in the middle."""

import asyncio
import threading
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import chain, repeat
from typing import Any

import httpx
import msgspec
import psycopg
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from driftloop.common.events import OutcomeReported
from driftloop.common.http import BodyLimit
from driftloop.label_ingest import csv_door
from driftloop.label_ingest.csv_door import (
    BATCH_ROWS,
    MAX_ERRORS,
    MAX_REJECTED_IN_A_ROW,
    MAX_UPLOADS,
    PATH,
    router,
)
from driftloop.label_ingest.reports import Answer, Rejected, Reports
from tests.support.asgi import ask

HEADER = b"prediction_id,label\n"
GOOD = b"p-1,1\n"
CSV = {"content-type": "text/csv"}
MAX_BYTES = 10_000_000
MAX_LINES = 100_000


class FakeReports:
    """Keeps what it is given; from the batch `fails_at` on it raises `error`."""

    def __init__(self, fails_at: int | None = None, error: Exception | None = None) -> None:
        self.batches: list[list[OutcomeReported | Rejected]] = []
        self.traceparents: list[str | None] = []
        self._fails_at = fails_at
        self._error = error or psycopg.OperationalError("secret")

    def take(self, items: Sequence[OutcomeReported | Rejected], traceparent: str | None = None) -> list[Answer]:
        """Good items are joined, and bad ones rejected with their own detail."""
        if len(self.batches) == self._fails_at:
            raise self._error
        self.batches.append(list(items))
        self.traceparents.append(traceparent)
        return [Answer("rejected", one.detail) if isinstance(one, Rejected) else Answer("joined") for one in items]


class CountingReports:
    """Counts, and keeps nothing."""

    def __init__(self) -> None:
        self.rows = 0

    def take(self, items: Sequence[OutcomeReported | Rejected], traceparent: str | None = None) -> list[Answer]:
        """Every item waits for its prediction."""
        self.rows += len(items)
        return [Answer("parked")] * len(items)


def app_of(reports: Reports, max_bytes: int = MAX_BYTES, max_lines: int = MAX_LINES) -> FastAPI:
    """The door behind the limit that all other doors have."""
    app = FastAPI()
    app.add_middleware(BodyLimit, max_bytes=100, streamed=(PATH,))
    app.include_router(router(reports, max_bytes, max_lines))
    return app


def send(reports: Reports, body: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
    return ask(app_of(reports), "POST", PATH, content=body, headers=CSV | (headers or {}))


class Upload:
    """One request of chunks, without a client between: what is answered, and how much of it was asked for."""

    def __init__(
        self, app: FastAPI, chunks: Iterator[bytes] | Callable[[], Awaitable[Message]], **headers: str
    ) -> None:
        self._app = app
        self._chunks = chunks
        self._headers = [(b"content-type", b"text/csv")]
        self._headers += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.received = 0
        self._sent: list[Message] = []

    async def run(self) -> None:
        """Send it; afterwards `status` and `body` are known."""
        scope = {"type": "http", "method": "POST", "path": PATH, "headers": self._headers, "query_string": b""}
        await self._app(scope | {"app": self._app, "http_version": "1.1", "root_path": ""}, self._receive, self._send)

    async def _receive(self) -> Message:
        self.received += 1
        if callable(self._chunks):
            return await self._chunks()
        chunk = next(self._chunks, None)
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    async def _send(self, message: Message) -> None:
        self._sent.append(message)

    @property
    def status(self) -> int:
        """The answer's status."""
        status: int = self._sent[0]["status"]
        return status

    @property
    def body(self) -> Any:
        """The answer's body."""
        return msgspec.json.decode(b"".join(message.get("body", b"") for message in self._sent[1:]))


def test_the_answer_counts_rows_by_status_and_names_the_lines_that_were_rejected() -> None:
    reports = FakeReports()
    response = send(reports, HEADER + b'p-1,1\n"p\nq",1\n\np-3,2\np-4,0\n')
    assert response.status_code == 200
    assert response.json() == {
        "rows": 4,
        "statuses": {"joined": 2},
        "rejected": 2,
        "errors": [
            {
                "line": 3,
                "detail": "prediction_id: must have 1 to 128 characters of A-Z, a-z, 0-9, '.', '_', ':' and '-'",
            },
            {"line": 6, "detail": "label: must be 0 or 1"},
        ],
        "errors_cut": False,
    }
    assert [type(item) for item in reports.batches[0]] == [OutcomeReported, Rejected, Rejected, OutcomeReported]


def test_a_header_alone_is_a_file_without_rows() -> None:
    reports = FakeReports()
    assert send(reports, HEADER).json()["rows"] == 0
    assert reports.batches == []


def test_rows_are_handed_in_by_batches_with_the_trace() -> None:
    reports = FakeReports()
    response = send(reports, HEADER + GOOD * (2 * BATCH_ROWS + 1), {"traceparent": "00-1-2-01"})
    assert response.json()["statuses"] == {"joined": 2 * BATCH_ROWS + 1}
    assert [len(batch) for batch in reports.batches] == [BATCH_ROWS, BATCH_ROWS, 1]
    assert set(reports.traceparents) == {"00-1-2-01"}


@pytest.mark.parametrize(("bad", "cut"), [(MAX_ERRORS, False), (MAX_ERRORS + 1, True)])
def test_the_list_of_errors_is_bounded_and_says_so(bad: int, cut: bool) -> None:
    answer = send(FakeReports(), HEADER + b"p-1,7\n" * bad).json()
    assert (answer["rejected"], len(answer["errors"]), answer["errors_cut"]) == (bad, MAX_ERRORS, cut)


# --- what is refused before the first byte


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ({"content-type": "application/json"}, 415, "send it with Content-Type: text/csv"),
        ({"content-type": ""}, 415, "send it with Content-Type: text/csv"),
        ({"content-type": "text/csv; charset=ebcdic"}, 415, "send one of iso-8859-1, utf-8, windows-1252"),
        ({"content-encoding": "gzip"}, 415, "a compressed body is not taken"),
        ({"content-encoding": "identity, gzip"}, 415, "a compressed body is not taken"),
        ({"content-length": str(MAX_BYTES + 1)}, 413, "nothing was kept: send it in parts"),
        ({"content-length": "9" * 5000}, 413, "nothing was kept: send it in parts"),
    ],
)
def test_a_file_that_its_headers_make_impossible_is_refused(headers: dict[str, str], status: int, reason: str) -> None:
    reports = FakeReports()
    response = send(reports, HEADER + GOOD, headers)
    assert response.status_code == status
    assert reason in response.json()["detail"]
    assert reports.batches == []


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "TEXT/CSV"},
        {"content-type": 'text/csv; header=present; charset="UTF-8"'},
        {"content-type": "text/csv; charset=ISO-8859-1"},
        {"content-encoding": "identity"},
        {"content-length": "ten"},
    ],
)
def test_headers_that_say_nothing_against_it_are_taken(headers: dict[str, str]) -> None:
    assert send(FakeReports(), HEADER + GOOD, headers).status_code == 200


def test_who_waits_to_be_asked_is_refused_without_being_heard() -> None:
    upload = Upload(app_of(FakeReports()), iter([HEADER]), content_length=str(MAX_BYTES + 1), expect="100-continue")
    asyncio.run(upload.run())
    assert (upload.status, upload.received) == (413, 0)


@given(st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=60))
def test_no_content_type_breaks_it(text: str) -> None:
    for start in ("", "text/csv;", "text/csv; charset="):
        headers = {"content-type": start + text}
        refusal = csv_door._refusal(headers, csv_door._charset(headers), MAX_BYTES)
        assert refusal is None or refusal.status_code == 415


# --- what ends a file in the middle


def test_when_the_database_goes_away_the_answer_says_what_is_kept() -> None:
    reports = FakeReports(fails_at=1)
    response = send(reports, HEADER + b"p-1,7\n" + GOOD * 1500)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "5"
    assert response.json()["detail"] == (
        "the database is away; all good rows up to line 1001 are kept, and sending the whole file again is harmless"
    )
    assert response.json()["errors"] == [{"line": 2, "detail": "label: must be 0 or 1"}]
    assert "secret" not in response.text
    assert len(reports.batches) == 1


def test_when_the_database_is_away_from_the_start_nobody_knows_that_anything_was_kept() -> None:
    response = send(FakeReports(fails_at=0), HEADER + GOOD)
    assert response.status_code == 503
    assert "; nothing is known to be kept, and " in response.json()["detail"]


def test_what_the_database_refuses_for_good_is_no_reason_to_try_again() -> None:
    response = send(FakeReports(fails_at=0, error=psycopg.errors.UndefinedTable("secret")), HEADER + GOOD)
    assert response.status_code == 500
    assert "retry-after" not in response.headers
    assert "(UndefinedTable)" in response.json()["detail"]
    assert "secret" not in response.text


def test_what_was_read_before_a_line_that_ends_the_reading_is_kept() -> None:
    reports = FakeReports()
    response = send(reports, HEADER + GOOD * 3 + b"M\xfcller,1\n" + GOOD)
    assert response.status_code == 422
    assert response.json()["detail"].startswith("line 5: not utf-8: ")
    assert "; all good rows up to line 4 are kept, and " in response.json()["detail"]
    assert [len(batch) for batch in reports.batches] == [3]


def test_a_file_that_is_longer_than_it_says_is_cut_off_and_what_was_read_is_kept() -> None:
    reports = FakeReports()
    upload = Upload(app_of(reports, max_bytes=200), chain([HEADER], repeat(GOOD, 50)), content_length="20")
    asyncio.run(upload.run())
    assert upload.status == 413
    assert upload.body["detail"] == (
        "line 32: the file has more than 200 bytes: send it in parts; all good rows up to line 31 are kept, and "
        "sending the whole file again is harmless"
    )
    assert sum(map(len, reports.batches)) == 30
    # It was heard out, or the answer would be lost.
    assert upload.received == 52


def test_a_file_of_more_lines_than_it_may_have_is_cut_off_and_what_was_read_is_kept() -> None:
    reports = FakeReports()
    response = ask(app_of(reports, max_lines=2), "POST", PATH, content=HEADER + GOOD * 3, headers=CSV)
    assert response.status_code == 413
    assert response.json()["detail"] == (
        "line 4: the file has more than 2 lines below the columns' names: send it in parts; all good rows up to line 3 "
        "are kept, and sending the whole file again is harmless"
    )
    assert sum(map(len, reports.batches)) == 2


def test_a_file_of_bad_rows_only_is_not_read_to_its_end() -> None:
    reports = FakeReports()
    bad = chain([HEADER + GOOD], repeat(b"p-1,7\n" * BATCH_ROWS, 3 * MAX_REJECTED_IN_A_ROW // BATCH_ROWS))
    upload = Upload(app_of(reports), bad)
    asyncio.run(upload.run())
    taken = sum(map(len, reports.batches))
    assert upload.status == 422
    # Batches are handed in whole, and the first has one good row.
    assert taken == MAX_REJECTED_IN_A_ROW + BATCH_ROWS
    assert upload.body["detail"] == (
        f"line {taken + 2}: the {taken - 1} rows before it were all rejected: correct what errors says of them; "
        f"all good rows up to line {taken + 1} are kept, and sending the whole file again is harmless"
    )
    assert len(upload.body["errors"]) == MAX_ERRORS


@pytest.mark.parametrize(
    "body",
    [
        b"p-1,7\n" * MAX_REJECTED_IN_A_ROW,
        (b"p-1,7\n" * (MAX_REJECTED_IN_A_ROW - 1) + GOOD) * 3,
    ],
    ids=["no more than that", "good ones among them"],
)
def test_bad_rows_end_no_file_that_ends_with_them_or_has_good_ones_too(body: bytes) -> None:
    answer = send(FakeReports(), HEADER + body)
    assert (answer.status_code, answer.json()["rows"]) == (200, body.count(b"\n"))


def test_what_was_committed_stays_when_the_client_goes_away() -> None:
    reports = FakeReports()
    messages: Iterator[Message] = iter(
        [
            {"type": "http.request", "body": HEADER + GOOD * (BATCH_ROWS + 1), "more_body": True},
            {"type": "http.disconnect"},
        ]
    )

    async def receive() -> Message:
        return next(messages)

    asyncio.run(Upload(app_of(reports), receive).run())
    assert [len(batch) for batch in reports.batches] == [BATCH_ROWS]


def test_a_client_that_falls_silent_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_door, "SILENT_SECONDS", 0.05)
    first = [{"type": "http.request", "body": HEADER + GOOD, "more_body": True}]

    async def receive() -> Message:
        return first.pop() if first else await asyncio.Future()

    upload = Upload(app_of(FakeReports()), receive)
    asyncio.run(upload.run())
    assert upload.status == 408


class SlowClient:
    """Sends each chunk so many seconds after it was asked for it, by a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, chunks: Iterator[bytes], seconds: float) -> None:
        self.now = 0.0
        monkeypatch.setattr(csv_door, "monotonic", lambda: self.now)
        self._chunks = chunks
        self._seconds = seconds

    async def receive(self) -> Message:
        """The next message."""
        self.now += self._seconds
        chunk = next(self._chunks, None)
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}


def test_a_client_that_sends_a_byte_now_and_then_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    client = SlowClient(monkeypatch, chain([HEADER + GOOD * BATCH_ROWS], repeat(b"p")), seconds=29)
    upload = Upload(app_of(FakeReports()), client.receive)
    asyncio.run(upload.run())
    assert upload.status == 408
    assert upload.body["detail"] == (
        "less than 10000 bytes a second came after the first 60 seconds; all good rows up to line 1001 are kept, and "
        "sending the whole file again is harmless"
    )
    assert client.now == 3 * 29


def test_a_client_whose_last_patience_runs_out_is_cut_off_before_it_counts_as_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(csv_door, "PATIENCE_SECONDS", 0.05)

    async def receive() -> Message:
        return await asyncio.Future()

    upload = Upload(app_of(FakeReports()), receive)
    asyncio.run(upload.run())
    assert upload.status == 408
    assert upload.body["detail"].startswith("less than 10000 bytes a second came")


def test_a_large_file_that_comes_fast_enough_may_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_door, "BYTES_PER_SECOND", 10)
    client = SlowClient(monkeypatch, chain([HEADER], repeat(GOOD * 50, 20)), seconds=29)
    upload = Upload(app_of(FakeReports()), client.receive)
    asyncio.run(upload.run())
    assert (upload.status, upload.body["rows"]) == (200, 1000)
    assert client.now > 600


def test_the_time_that_a_database_needs_is_not_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    client = SlowClient(monkeypatch, iter([HEADER, GOOD * BATCH_ROWS, GOOD]), seconds=1)

    class SlowReports(FakeReports):
        def take(self, items: Sequence[OutcomeReported | Rejected], traceparent: str | None = None) -> list[Answer]:
            """Takes an hour."""
            client.now += 3600
            return super().take(items, traceparent)

    upload = Upload(app_of(SlowReports()), client.receive)
    asyncio.run(upload.run())
    assert (upload.status, upload.body["rows"]) == (200, BATCH_ROWS + 1)


# --- many and large files


def test_no_more_than_some_files_come_at_once_and_the_next_is_told_to_wait() -> None:
    async def run() -> list[int]:
        app, go = app_of(FakeReports()), asyncio.Event()
        arrived = asyncio.Semaphore(0)

        async def receive() -> Message:
            arrived.release()
            await go.wait()
            return {"type": "http.request", "body": HEADER + GOOD, "more_body": False}

        slow = [Upload(app, receive) for _ in range(MAX_UPLOADS)]
        tasks = [asyncio.create_task(upload.run()) for upload in slow]
        for _ in slow:
            await arrived.acquire()
        refused = Upload(app, iter([HEADER]))
        await refused.run()
        go.set()
        await asyncio.gather(*tasks)
        later = Upload(app, iter([HEADER]))
        await later.run()
        return [refused.status, *(upload.status for upload in slow), later.status]

    assert asyncio.run(run()) == [503, *[200] * MAX_UPLOADS, 200]


def test_the_loop_goes_on_while_a_database_is_slow() -> None:
    answered = threading.Event()

    class SlowReports(FakeReports):
        def take(self, items: Sequence[OutcomeReported | Rejected], traceparent: str | None = None) -> list[Answer]:
            """Waits until another request was answered."""
            assert answered.wait(60)
            return super().take(items, traceparent)

    async def run() -> list[int]:
        app = app_of(SlowReports())

        @app.get("/other")
        async def other() -> None:
            answered.set()

        slow = [Upload(app, iter([HEADER, GOOD])) for _ in range(2)]
        tasks = [asyncio.create_task(upload.run()) for upload in slow]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
            await client.get("/other")
        await asyncio.gather(*tasks)
        return [upload.status for upload in slow]

    assert asyncio.run(run()) == [200, 200]


def test_a_file_of_100_mb_needs_no_more_memory_than_a_small_one() -> None:
    line = b"MRN-%07d,4548-4,6.7,%%,2026-02-03T08:15:00Z," + b"x" * 4000 + b"\n"
    lines_a_chunk, chunks = 16, 1600
    expected = lines_a_chunk * chunks

    def file() -> Iterator[bytes]:
        yield b"patient_id,analyte,value,unit,observed_at,x_note\n"
        for chunk in range(chunks):
            yield b"".join(line % (chunk * lines_a_chunk + row) for row in range(lines_a_chunk))

    assert expected * len(line) > 100_000_000
    reports = CountingReports()
    upload = Upload(app_of(reports, max_bytes=268_435_456), file())
    tracemalloc.start()
    try:
        asyncio.run(upload.run())
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (upload.status, upload.body["statuses"], reports.rows) == (200, {"parked": expected}, expected)
    assert peak < 8_000_000


def test_the_description_names_every_column() -> None:
    described = ask(app_of(FakeReports()), "GET", "/openapi.json").json()["paths"][PATH]["post"]
    assert "result_version" in described["description"]
    assert "text/csv" in described["requestBody"]["content"]
