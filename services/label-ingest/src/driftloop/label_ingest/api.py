"""label-ingest's doors: laboratories report outcomes, the trainer reads rows, people read counts and erase patients."""

from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import closing
from datetime import timedelta
from typing import Annotated, Any, Literal

import msgspec
import psycopg
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import iterate_in_threadpool

from driftloop.common.access.guard import caller
from driftloop.common.clock import Clock
from driftloop.common.contract import Contract, chosen
from driftloop.common.events import OutcomeReported
from driftloop.common.http import BodyLimit, problem
from driftloop.common.postgres.pool import Pool
from driftloop.common.pseudonyms import pseudonym
from driftloop.label_ingest import arrow, audit, csv_door, doors
from driftloop.label_ingest.domain.matching import ORDER, PREDICTION, SUBJECT
from driftloop.label_ingest.failures import failed_whole, retry_after
from driftloop.label_ingest.fhir import routes as fhir
from driftloop.label_ingest.intake import Intake
from driftloop.label_ingest.reading import Coverage, Reader, RowQuery, Waiting
from driftloop.label_ingest.reports import Answer, Rejected, Reports
from driftloop.label_ingest.submitted import UnreadableBody, read_erasure, read_outcomes

BATCH_ROWS = 2_000
MAX_WAITING = 10_000


def create_app(
    *,
    intake: Intake,
    reading: Pool,
    contracts: Mapping[str, Contract],
    pseudonym_key: bytes | None,
    clock: Clock,
    max_body_bytes: int,
    max_upload_bytes: int,
    max_upload_lines: int,
) -> FastAPI:
    """The HTTP face. `reading` serves rows and counts, so that slow readers keep no laboratory waiting."""
    app = FastAPI(
        title="Driftloop label-ingest",
        version="1",
        description="Joins the outcomes that come weeks later to the predictions that they prove.",
        # A browser's page would need scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes, streamed=(csv_door.PATH,))
    app.add_exception_handler(psycopg.Error, _database_error)
    app.include_router(_reporting(intake))
    app.include_router(csv_door.router(intake, max_upload_bytes, max_upload_lines))
    app.include_router(fhir.router(intake, intake.problem))
    app.include_router(_reading(reading, contracts, clock))
    app.include_router(_counting(reading, contracts, clock))
    app.include_router(_erasing(intake, pseudonym_key))
    return app


def _reporting(reports: Reports) -> APIRouter:
    router = APIRouter()

    @router.post(
        "/v1/outcomes",
        summary="Report outcomes",
        description=doors.OUTCOMES_TEXT,
        response_model=doors.OutcomeAnswers,
        responses=doors.OUTCOMES_RESPONSES,
        openapi_extra={"requestBody": doors.outcomes_body()},
    )
    def report_outcomes(
        body: Annotated[bytes, Depends(_body)], traceparent: Annotated[str | None, Header()] = None
    ) -> Response:
        try:
            items = read_outcomes(body)
        except UnreadableBody as error:
            return problem(error.status, str(error))
        answers = reports.take(items, traceparent)
        results = [_said(item, answer) for item, answer in zip(items, answers, strict=True)]
        return Response(msgspec.json.encode({"results": results}), media_type="application/json")

    return router


def _said(item: OutcomeReported | Rejected, answer: Answer) -> dict[str, str | None]:
    said = {"prediction_id": item.prediction_id, "status": answer.status}
    return said if answer.detail is None else said | {"detail": answer.detail}


def _reading(pool: Pool, contracts: Mapping[str, Contract], clock: Clock) -> APIRouter:
    router = APIRouter()

    @router.get(
        "/v1/rows",
        summary="Read the newest rows of a model",
        description=doors.ROWS_TEXT,
        response_class=StreamingResponse,
        responses=doors.ROWS_RESPONSES,
    )
    def rows(request: Request, parameters: Annotated[doors.RowParameters, Query()]) -> Response:
        contract = _contract(parameters.model, contracts)
        query = RowQuery(**parameters.model_dump(exclude={"model", "format"}), model=contract.name)
        with pool.connection() as connection:
            asked = parameters.model_dump(mode="json", exclude_none=True) | {"model": contract.name}
            audit.record(connection, clock(), caller(request.scope), "rows", asked)
        pieces = _pieces(pool, contract, query, parameters.format)
        # Until the first piece is there, an error still has an answer of its own.
        return StreamingResponse(_streamed(next(pieces), pieces), media_type=arrow.MEDIA_TYPES[parameters.format])

    @router.get("/v1/parked", summary="Outcomes that wait for their prediction", response_model=doors.WaitingOutcomes)
    def parked(request: Request, limit: Annotated[int, Query(ge=1, le=MAX_WAITING)] = 100) -> dict[str, Any]:
        return waiting("parked", limit, request)

    @router.get(
        "/v1/expired", summary="Outcomes whose prediction did not come in time", response_model=doors.WaitingOutcomes
    )
    def expired(request: Request, limit: Annotated[int, Query(ge=1, le=MAX_WAITING)] = 100) -> dict[str, Any]:
        return waiting("expired", limit, request)

    def waiting(which: Literal["parked", "expired"], limit: int, request: Request) -> dict[str, Any]:
        with pool.connection() as connection:
            audit.record(connection, clock(), caller(request.scope), which, {"limit": limit})
            found = Reader(connection).waiting(which, limit)
        return {"outcomes": [_without_prediction(one) for one in found]}

    return router


def _counting(pool: Pool, contracts: Mapping[str, Contract], clock: Clock) -> APIRouter:
    router = APIRouter()

    @router.get("/v1/summary", summary="Count predictions and outcomes", response_model=doors.Summary)
    def summary(
        model: Annotated[str | None, Query(description="A model's name; needed where there are several.")] = None,
    ) -> dict[str, Any]:
        contract = _contract(model, contracts)
        with pool.connection() as connection:
            counts = Reader(connection).summary(contract.name)
        return {"model_name": contract.name} | counts

    @router.get("/v1/labels/coverage", summary="Share and delay of labels by day", response_model=doors.LabelCoverage)
    def coverage(parameters: Annotated[doors.CoverageParameters, Query()]) -> dict[str, Any]:
        contract = _contract(parameters.model, contracts)
        until = parameters.until or clock()
        try:
            since = until - timedelta(days=parameters.days)
        except OverflowError as error:
            raise HTTPException(422, "until: is too near to the beginning of the calendar") from error
        with pool.connection() as connection:
            found = Reader(connection).coverage(contract.name, since, until)
        return {"model_name": contract.name, "since": since, "until": until, "days": [_day(one) for one in found]}

    return router


def _day(one: Coverage) -> dict[str, Any]:
    half, most = one.delays or (None, None)
    counts = {name: value for name, value in vars(one).items() if name != "delays"}
    share = one.labeled / one.predictions
    return counts | {"share": share, "delay_seconds_p50": half, "delay_seconds_p90": most}


_NAMES = {PREDICTION: "prediction", ORDER: "order", SUBJECT: "patient"}


def _without_prediction(one: Waiting) -> dict[str, Any]:
    kind, name = one.key[0], one.key[1:]
    by_id = kind == PREDICTION
    said = {key: value for key, value in vars(one).items() if key not in ("key", "version")}
    return said | {
        "names": _NAMES[kind],
        "prediction_id": name if by_id else None,
        "pseudonym": None if by_id else name,
        "result_version": one.version,
    }


def _erasing(intake: Intake, pseudonym_key: bytes | None) -> APIRouter:
    router = APIRouter()

    @router.post(
        "/v1/erasures",
        summary="Erase a patient's rows",
        response_model=doors.ErasureAnswer,
        responses=doors.ERASURE_RESPONSES,
        openapi_extra={"requestBody": doors.erasure_body()},
    )
    def erase_patient(request: Request, body: Annotated[bytes, Depends(_body)]) -> dict[str, Any]:
        try:
            erasure = read_erasure(body)
        except UnreadableBody as error:
            raise HTTPException(error.status, str(error)) from error
        if pseudonym_key is None:
            raise HTTPException(409, "no patient is known here: DRIFTLOOP_PSEUDONYM_KEY is not set")
        subject = pseudonym(pseudonym_key, erasure.patient_id)
        erased, now = intake.erase(subject, caller(request.scope))
        return {"subject": subject, "erased_at": now} | vars(erased)

    return router


async def _body(request: Request) -> bytes:
    return await request.body()


def _pieces(pool: Pool, contract: Contract, query: RowQuery, format: arrow.Format) -> Generator[bytes, None, None]:
    with pool.connection() as connection, closing(Reader(connection).rows(query, BATCH_ROWS)) as batches:
        yield from arrow.stream(contract, batches, format)


async def _streamed(first: bytes, rest: Generator[bytes, None, None]) -> AsyncIterator[bytes]:
    try:
        yield first
        async for piece in iterate_in_threadpool(rest):
            yield piece
    finally:
        # A reader that goes away must not keep the connection.
        rest.close()


def _contract(model: str | None, contracts: Mapping[str, Contract]) -> Contract:
    contract = chosen(contracts, model)
    if contract is None:
        raise HTTPException(404, f"model {model!r} is not known here: name one of {sorted(contracts)} with ?model=")
    return contract


def _database_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, psycopg.Error)
    status, reason = failed_whole(error)
    return problem(status, reason, retry_after(status))
