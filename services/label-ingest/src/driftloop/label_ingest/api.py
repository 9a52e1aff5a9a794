"""label-ingest's doors: laboratories report outcomes, the trainer reads rows, people read counts."""

import logging
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from contextlib import closing
from typing import Annotated, Any

import msgspec
import psycopg
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import iterate_in_threadpool

from driftloop.common import metrics
from driftloop.common.clock import Clock
from driftloop.common.contract import Contract
from driftloop.common.events import OutcomeReported
from driftloop.common.http import BodyLimit, problem
from driftloop.common.postgres.outbox import emit
from driftloop.common.postgres.pool import Pool, is_transient
from driftloop.label_ingest import arrow, doors
from driftloop.label_ingest.handlers import join, observe
from driftloop.label_ingest.store import RowQuery, Store
from driftloop.label_ingest.submitted import Rejected, UnreadableBody, read_outcomes

logger = logging.getLogger(__name__)

BATCH_ROWS = 2_000
RETRY_AFTER_SECONDS = 2


def create_app(
    *,
    pool: Pool,
    reading: Pool,
    contracts: Mapping[str, Contract],
    clock: Clock,
    published: Callable[[], None],
    max_body_bytes: int,
) -> FastAPI:
    """The HTTP face. `reading` serves rows and counts, so that slow readers keep no laboratory waiting.

    `published` is called after a transaction that may have emitted.
    """
    app = FastAPI(
        title="Driftloop label-ingest",
        version="1",
        description="Joins the outcomes that come weeks later to the predictions that they prove.",
    )
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    app.add_exception_handler(psycopg.Error, _database_error)
    app.include_router(_reporting(pool, clock, published))
    app.include_router(_reading(reading, contracts))
    return app


def _reporting(pool: Pool, clock: Clock, published: Callable[[], None]) -> APIRouter:
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
        results = _take(pool, clock, items, traceparent)
        published()
        return Response(msgspec.json.encode({"results": results}), media_type="application/json")

    return router


def _reading(pool: Pool, contracts: Mapping[str, Contract]) -> APIRouter:
    router = APIRouter()

    @router.get(
        "/v1/rows",
        summary="Read the newest rows of a model",
        description=doors.ROWS_TEXT,
        response_class=StreamingResponse,
        responses=doors.ROWS_RESPONSES,
    )
    def rows(parameters: Annotated[doors.RowParameters, Query()]) -> Response:
        contract = _contract(parameters.model, contracts)
        query = RowQuery(**parameters.model_dump(exclude={"model"}), model=contract.name)
        pieces = _pieces(pool, contract, query)
        # Until the first piece is there, an error still has an answer of its own.
        return StreamingResponse(_streamed(next(pieces), pieces), media_type=arrow.MEDIA_TYPE)

    @router.get("/v1/summary", summary="Count predictions and outcomes", response_model=doors.Summary)
    def summary(
        model: Annotated[str | None, Query(description="A model's name; needed where there are several.")] = None,
    ) -> dict[str, Any]:
        contract = _contract(model, contracts)
        with pool.connection() as connection:
            counts = Store(connection).summary(contract.name)
        # An outcome whose prediction is there was published in the same transaction.
        return {"model_name": contract.name, "outcomes": counts["labeled"]} | counts

    return router


async def _body(request: Request) -> bytes:
    return await request.body()


def _take(
    pool: Pool, clock: Clock, items: list[OutcomeReported | Rejected], traceparent: str | None
) -> list[dict[str, str | None]]:
    """Take the good items in one transaction; an answer for every item."""
    outcomes = [item for item in items if isinstance(item, OutcomeReported)]
    with pool.connection() as connection:
        traces = {one.prediction_id: traceparent for one in outcomes}
        joined = join(Store(connection), lambda events: emit(connection, events), clock, (), outcomes, traces)
    observe(joined)
    answers = iter(joined.answers)
    results: list[dict[str, str | None]] = []
    for item in items:
        if isinstance(item, Rejected):
            metrics.OUTCOMES.labels("rejected").inc()
            result = {"prediction_id": item.prediction_id, "status": "rejected", "detail": item.detail}
        else:
            answer = next(answers)
            result = {"prediction_id": item.prediction_id, "status": answer.status}
            if answer.detail is not None:
                result["detail"] = answer.detail
        results.append(result)
    return results


def _pieces(pool: Pool, contract: Contract, query: RowQuery) -> Generator[bytes, None, None]:
    with pool.connection() as connection, closing(Store(connection).rows(query, BATCH_ROWS)) as batches:
        yield from arrow.stream(contract, batches)


async def _streamed(first: bytes, rest: Generator[bytes, None, None]) -> AsyncIterator[bytes]:
    try:
        yield first
        async for piece in iterate_in_threadpool(rest):
            yield piece
    finally:
        # A reader that goes away must not keep the connection.
        rest.close()


def _contract(model: str | None, contracts: Mapping[str, Contract]) -> Contract:
    if model is None and len(contracts) == 1:
        return next(iter(contracts.values()))
    if model not in contracts:
        raise HTTPException(404, f"model {model!r} is not known here: name one of {sorted(contracts)} with ?model=")
    assert model is not None
    return contracts[model]


def _database_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, psycopg.Error)
    # Not the error's text: Postgres quotes the value that it refuses.
    said = {"error": type(error).__name__, "sqlstate": error.sqlstate}
    if is_transient(error):
        logger.warning("the database is away", extra=said)
        retry_after = {"Retry-After": str(RETRY_AFTER_SECONDS)}
        return problem(503, "the database is away and nothing was kept: send the same again", retry_after)
    logger.error("the database refused a request", extra=said)
    return problem(500, f"the database refused the request ({said['error']}) and nothing was kept")
