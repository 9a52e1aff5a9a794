"""`POST /v1/outcomes.csv`: a laboratory's file of outcomes, kept while it comes in, in constant memory."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message as Header
from functools import partial
from itertools import islice
from time import monotonic
from typing import Any

import msgspec
import psycopg
from anyio import CapacityLimiter, Semaphore, WouldBlock, fail_after, from_thread, to_thread
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel
from pydantic import Field as Described
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from driftloop.common.http import hear_out, problem_details
from driftloop.label_ingest.csv_reading import CHARSETS, COLUMNS, IGNORED_PREFIX, Row, UnreadableFile, read_rows
from driftloop.label_ingest.failures import RETRY_AFTER_SECONDS, failed
from driftloop.label_ingest.reports import MAX_ITEMS, Answer, Reports

logger = logging.getLogger(__name__)

PATH = "/v1/outcomes.csv"
BATCH_ROWS = MAX_ITEMS
MAX_ERRORS = 1_000
# That is no bad row, but a wrong file.
MAX_REJECTED_IN_A_ROW = 10_000
# Each upload has a thread of its own, so that a slow one keeps nobody else waiting.
MAX_UPLOADS = 4
SILENT_SECONDS = 30.0
# So long a file is waited for in all, and longer by what it would take at this rate: a trickle keeps its place no more
# than silence does.
PATIENCE_SECONDS = 60.0
BYTES_PER_SECOND = 10_000
_RETRY_AFTER = (b"retry-after", str(RETRY_AFTER_SECONDS).encode())

_TEXT = (
    f"A CSV file whose first line names the columns: {', '.join(COLUMNS)}, in any order, and others that begin with "
    f"`{IGNORED_PREFIX}`, which are ignored. The delimiter is a comma, a semicolon or a tab. Rows are kept while they "
    "come in, good ones even if others are rejected; sending the same file again is harmless."
)
_AGAIN = "sending the whole file again is harmless"
_RESPONSES: dict[int | str, dict[str, Any]] = {
    408: {"description": "Nothing came any more, or too little. `detail` says which rows are kept."},
    413: {"description": "The file has too many bytes or lines. `detail` says which rows are kept."},
    415: {"description": "Not text/csv, in a charset that is not known, or compressed."},
    422: {
        "description": f"From some line on nothing can be read, or {MAX_REJECTED_IN_A_ROW} rows before it were all "
        "rejected. `detail` says which rows are kept."
    },
    503: {"description": "The database went away, or too many files come at once. `detail` says which rows are kept."},
}


class LineError(BaseModel):
    """A row that was not kept."""

    line: int = Described(description="Where the row begins; the line with the columns' names is 1.")
    detail: str = Described(description="Which column is wrong and why.")


class FileAnswer(BaseModel):
    """What became of a file's rows."""

    rows: int = Described(description="How many there were, empty ones not counted.")
    statuses: dict[str, int] = Described(description="How many of those that were kept have which status.")
    rejected: int = Described(description="How many were not kept.")
    errors: list[LineError] = Described(description=f"Why, for the first {MAX_ERRORS} of them.")
    errors_cut: bool = Described(description="Whether there were more.")


@dataclass
class Tally:
    """What became of the rows so far. Every row up to `kept_line` has its answer and is committed."""

    kept_line: int = 0
    rows: int = 0
    rejected_in_a_row: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    errors: list[dict[str, Any]] = field(default_factory=list)

    def add(self, rows: Sequence[Row], answers: Sequence[Answer]) -> None:
        """Count a batch that was committed."""
        for row, answer in zip(rows, answers, strict=True):
            self.statuses[answer.status] += 1
            if answer.status != "rejected":
                self.rejected_in_a_row = 0
                continue
            self.rejected_in_a_row += 1
            if len(self.errors) < MAX_ERRORS:
                self.errors.append({"line": row.line, "detail": answer.detail or "rejected"})
        self.rows += len(rows)
        self.kept_line = rows[-1].last_line

    def answer(self) -> dict[str, Any]:
        """The answer's body; see FileAnswer."""
        statuses = dict(self.statuses)
        rejected = statuses.pop("rejected", 0)
        cut = rejected > len(self.errors)
        return {
            "rows": self.rows,
            "statuses": statuses,
            "rejected": rejected,
            "errors": self.errors,
            "errors_cut": cut,
        }

    def kept(self) -> str:
        """Which rows are kept, in words, where not all of them are."""
        return f"all good rows up to line {self.kept_line} are kept" if self.kept_line else "nothing was kept"


class _TooSlow(Exception):
    """The client sends nothing any more, or too little, and is still there. The text says which."""


class _Body:
    """A request's body, which a worker thread pulls chunk by chunk: no more is read than is worked on."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._waited_seconds = 0.0
        self._received_bytes = 0
        self.ended = False

    def chunks(self) -> Iterator[bytes]:
        """The chunks, for a thread that anyio started. Raises ClientDisconnect, _TooSlow."""
        while not self.ended:
            yield from_thread.run(self._next)

    async def _next(self) -> bytes:
        message = await self._awaited()
        self.ended = not message.get("more_body", False)
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        self._received_bytes += len(chunk)
        return chunk

    async def _awaited(self) -> Message:
        """The next message. Only the time until it is there counts: a slow database is not the client's fault."""
        left = PATIENCE_SECONDS + self._received_bytes / BYTES_PER_SECOND - self._waited_seconds
        too_little = f"less than {BYTES_PER_SECOND} bytes a second came after the first {PATIENCE_SECONDS:.0f} seconds"
        if left <= 0:
            raise _TooSlow(too_little)
        began = monotonic()
        try:
            with fail_after(min(SILENT_SECONDS, left)):
                return await self._receive()
        except TimeoutError as error:
            silent = left >= SILENT_SECONDS
            raise _TooSlow(f"nothing came for {SILENT_SECONDS:.0f} seconds" if silent else too_little) from error
        finally:
            self._waited_seconds += monotonic() - began


def router(reports: Reports, max_bytes: int, max_lines: int) -> APIRouter:
    """The door. BodyLimit must let `PATH` through as a stream; `max_bytes` and `max_lines` bound it here."""
    routes = APIRouter()
    uploads = Semaphore(MAX_UPLOADS)

    @routes.post(
        PATH,
        summary="Report outcomes as a CSV file",
        description=_TEXT,
        response_model=FileAnswer,
        responses=_RESPONSES,
        openapi_extra={"requestBody": {"required": True, "content": {"text/csv": {"schema": {"type": "string"}}}}},
    )
    async def report_file(request: Request) -> Response:
        charset = _charset(request.headers)
        refusal = _refusal(request.headers, charset, max_bytes)
        if refusal is not None:
            return await _refused(request, refusal)
        assert charset is not None
        try:
            uploads.acquire_nowait()
        except WouldBlock:
            return await _refused(request, _too_many())
        try:
            body = _Body(request.receive)
            return await _taken(request, body, read_rows(body.chunks(), charset, max_bytes, max_lines), reports)
        finally:
            uploads.release()

    return routes


def take_file(rows: Iterator[Row], reports: Reports, traceparent: str | None, tally: Tally) -> None:
    """Hand in the rows by batches and count them in `tally`, which holds what was kept when this raises.

    Raises UnreadableFile after what was read before it has been handed in, or where all before it was rejected;
    psycopg.Error; what `rows` raises.
    """
    end: UnreadableFile | None = None
    while True:
        batch: list[Row] = []
        try:
            for row in islice(rows, BATCH_ROWS):
                batch.append(row)
        except UnreadableFile as error:
            end = error
        if batch:
            _check_worth(tally, batch[0].line)
            tally.add(batch, reports.take([row.item for row in batch], traceparent))
        if end is not None:
            raise end
        if len(batch) < BATCH_ROWS:
            return


def _check_worth(tally: Tally, line: int) -> None:
    """Raises UnreadableFile where so many rows before this line came to nothing that those that follow will, too."""
    if tally.rejected_in_a_row >= MAX_REJECTED_IN_A_ROW:
        reason = f"the {tally.rejected_in_a_row} rows before it were all rejected: correct what errors says of them"
        raise UnreadableFile(422, line, reason)


async def _taken(request: Request, body: _Body, rows: Iterator[Row], reports: Reports) -> Response:
    """Take the file, which is `body` read as `rows`, in a thread of its own, and answer."""
    tally = Tally()
    work = partial(take_file, rows, reports, request.headers.get("traceparent"), tally)
    try:
        await to_thread.run_sync(work, limiter=CapacityLimiter(1))
    except ClientDisconnect:
        logger.info("a client went away in the middle of its file", extra={"rows_taken": tally.rows})
        # Nobody reads it.
        return Response(status_code=400)
    except (UnreadableFile, psycopg.Error, _TooSlow) as error:
        response = _stopped(error, tally)
        if not body.ended and not isinstance(error, _TooSlow):
            await hear_out(request.receive)
        return response
    return Response(msgspec.json.encode(tally.answer()), media_type="application/json")


def _stopped(error: UnreadableFile | psycopg.Error | _TooSlow, tally: Tally) -> Response:
    """The answer where not all of a file was taken: why, and what is kept."""
    headers = [(b"connection", b"close")]
    if isinstance(error, UnreadableFile):
        status, reason = error.status, str(error)
    elif isinstance(error, _TooSlow):
        status, reason = 408, str(error)
    else:
        status, reason = failed(error)
        if status == 503:
            headers.append(_RETRY_AFTER)
    # Where the connection broke during the first commit, nobody knows.
    kept = "nothing is known to be kept" if status == 503 and not tally.kept_line else tally.kept()
    return problem_details(status, f"{reason}; {kept}, and {_AGAIN}", tally.errors, headers)


async def _refused(request: Request, response: Response) -> Response:
    """Refuse a file before its first byte. Who waits to be asked for it is not heard out."""
    if request.headers.get("expect", "").lower() != "100-continue":
        await hear_out(request.receive)
    return response


def _refusal(headers: Mapping[str, str], charset: str | None, max_bytes: int) -> Response | None:
    """Why the headers alone make a file impossible, or None."""
    if _content_type(headers).get_content_type() != "text/csv":
        return _problem(415, "the body must be CSV: send it with Content-Type: text/csv")
    if charset is None:
        return _problem(415, f"the charset is not known: send one of {', '.join(sorted(set(CHARSETS.values())))}")
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        return _problem(415, "a compressed body is not taken: send the file as it is, without Content-Encoding")
    declared = headers.get("content-length", "")
    # What is no number is not believed; what has a thousand digits cannot be made one.
    if declared.isascii() and declared.isdigit() and (len(declared) > 18 or int(declared) > max_bytes):
        return _problem(413, f"the file has more than {max_bytes} bytes and nothing was kept: send it in parts")
    return None


def _charset(headers: Mapping[str, str]) -> str | None:
    return CHARSETS.get(_content_type(headers).get_content_charset("utf-8"))


def _content_type(headers: Mapping[str, str]) -> Header:
    header = Header()
    header["content-type"] = headers.get("content-type", "")
    return header


def _too_many() -> Response:
    detail = f"{MAX_UPLOADS} files are coming in already and nothing was kept: send it again later"
    return _problem(503, detail, _RETRY_AFTER)


def _problem(status: int, detail: str, *headers: tuple[bytes, bytes]) -> Response:
    return problem_details(status, detail, headers=[(b"connection", b"close"), *headers])
