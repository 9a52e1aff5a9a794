"""What the trainer tells people, and what they may order: see `operations`."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import psycopg
from confluent_kafka import KafkaException
from fastapi import FastAPI, HTTPException, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from driftloop.common.access.guard import caller
from driftloop.common.contract import Contract, chosen
from driftloop.common.http import BodyLimit, problem
from driftloop.common.kafka.reader import ReadTimeout
from driftloop.common.postgres.pool import Pool
from driftloop.trainer.evidence_store import recomputed
from driftloop.trainer.operations import Operations, Refused, Unknown
from driftloop.trainer.request_store import RequestStore
from driftloop.trainer.store import Store

MAX_BODY_BYTES = 64 * 1024
MAX_SHOWN = 500


class _Order(BaseModel):
    """Which model is meant, and why; the only one there is may be left out."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: Annotated[str | None, Field(max_length=100)] = None
    reason: Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")] = ""


class RetrainOrder(_Order):
    """`since`: only rows predicted from then on count as the new population; by default since the champion serves."""

    since: datetime | None = None


class PromoteOrder(_Order):
    """Which version shall serve."""

    version: Annotated[int, Field(ge=1, le=2**31 - 1)]


class RollbackOrder(_Order):
    """`to`: which version shall serve again; by default a roll-out ends, or the version before serves."""

    to: Annotated[int | None, Field(ge=1, le=2**31 - 1)] = None


def create_app(pool: Pool, contracts: Mapping[str, Contract], operations: Operations) -> FastAPI:
    """The trainer's HTTP face."""
    app = FastAPI(title="Driftloop trainer", version="1", docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES)
    app.add_exception_handler(psycopg.Error, _database_error)
    app.add_exception_handler(Refused, _refused)
    for error in (KafkaException, ReadTimeout):
        app.add_exception_handler(error, _broker_error)
    _reading(app, pool, contracts)
    _ordering(app, contracts, operations)
    return app


def _reading(app: FastAPI, pool: Pool, contracts: Mapping[str, Contract]) -> None:
    @app.get("/v1/models", summary="The models, and which version of each serves")
    def list_models() -> dict[str, Any]:
        with pool.connection() as connection:
            heads = [_head(Store(connection), model) for model in contracts]
        return {"models": heads}

    @app.get("/v1/models/{model}", summary="A model's versions, requests and replicas")
    def show_model(model: str) -> dict[str, Any]:
        _contract(contracts, model)
        with pool.connection() as connection:
            store = Store(connection)
            return _head(store, model) | store.overview(model)

    @app.get("/v1/models/{model}/versions/{version}", summary="A version's model card")
    def show_version(model: str, version: int) -> dict[str, Any]:
        _contract(contracts, model)
        with pool.connection() as connection:
            card = Store(connection).card(model, version)
        if card is None:
            raise HTTPException(404, f"model {model!r} has no version {version}")
        return card

    @app.get("/v1/models/{model}/versions/{version}/decision", summary="The gate's decision, made once more")
    def show_decision(model: str, version: int) -> dict[str, object]:
        """Makes the decision again from what is stored, and says whether it is the one that was made."""
        _contract(contracts, model)
        with pool.connection() as connection:
            try:
                return recomputed(connection, model, version)
            except LookupError as error:
                raise HTTPException(404, str(error)) from error

    @app.get("/v1/requests", summary="Retraining requests, newest first, each with its history")
    def list_requests(
        model: str | None = None, limit: Annotated[int, Query(ge=1, le=MAX_SHOWN)] = 50
    ) -> dict[str, Any]:
        if model is not None:
            _contract(contracts, model)
        with pool.connection() as connection:
            return {"requests": RequestStore(connection).shown(model, limit)}


def _ordering(app: FastAPI, contracts: Mapping[str, Contract], operations: Operations) -> None:
    @app.post("/v1/retrain", summary="Ask for a retraining", status_code=202)
    def retrain(order: RetrainOrder, request: Request) -> dict[str, Any]:
        contract = _contract(contracts, order.model)
        found, opened = operations.retrain(contract, caller(request.scope), order.reason, order.since)
        return {"model_name": contract.name, "request": found, "opened": opened}

    @app.post("/v1/promote", summary="Let a version serve, whatever its gate said")
    def promote(order: PromoteOrder, request: Request) -> dict[str, Any]:
        contract = _contract(contracts, order.model)
        return asdict(operations.promote(contract, order.version, caller(request.scope), order.reason))

    @app.post("/v1/rollback", summary="End a roll-out, or let an earlier version serve again")
    def roll_back(order: RollbackOrder, request: Request) -> dict[str, Any]:
        contract = _contract(contracts, order.model)
        return asdict(operations.roll_back(contract, caller(request.scope), order.reason, order.to))


def _head(store: Store, model: str) -> dict[str, Any]:
    state = store.model(model)
    found = {"model_name": model, "revision": 0, "champion": None}
    return found if state is None else found | {"revision": state.revision, "champion": state.champion}


def _contract(contracts: Mapping[str, Contract], model: str | None) -> Contract:
    contract = chosen(contracts, model)
    if contract is None:
        raise HTTPException(404, f"model {model!r} is not known here: name one of {list(contracts)}")
    return contract


def _refused(_request: Request, error: Exception) -> Response:
    return problem(404 if isinstance(error, Unknown) else 409, str(error))


def _broker_error(_request: Request, _error: Exception) -> Response:
    return problem(503, "the broker does not answer, and nothing was decided: try again", {"retry-after": "2"})


def _database_error(_request: Request, _error: Exception) -> Response:
    return problem(503, "the database does not answer: try again", {"retry-after": "2"})
