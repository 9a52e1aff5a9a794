"""The predictor's HTTP face: the doors in front, everything else by FastAPI, and a guard before all of it."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from driftloop.common.access.checking import Access
from driftloop.common.access.guard import Guard
from driftloop.common.access.rate import RateLimit
from driftloop.common.http import BodyLimit, problem_details
from driftloop.predictor import open_inference
from driftloop.predictor.doors import (
    RETRY_AFTER,
    Doors,
    Identities,
    Refusal,
    as_response,
    bare_door,
    batch_door,
    compatible,
    full_door,
    guarded,
    problem,
)
from driftloop.predictor.handlers import Predictor
from driftloop.predictor.open_inference.door import protocol_error
from driftloop.predictor.open_inference.routes import protocol_routes
from driftloop.predictor.openapi import document
from driftloop.predictor.serving import Replica

BATCH_PATH = "/v1/predict/batch"
# What the replaced service's clients call, who have no key.
COMPATIBLE = (("GET", "/"), ("HEAD", "/"), ("POST", "/predict"))


@dataclass(frozen=True)
class Limits:
    """How large a request's body may be, a batch's, and how many rows a batch may have."""

    body_bytes: int = 64 * 1024
    batch_bytes: int = 4 * 1024 * 1024
    batch_rows: int = 1000

    def of_path(self, path: str) -> int | None:
        """How large the body of a request that may have many rows may be; None where it has one."""
        return self.batch_bytes if path == BATCH_PATH or open_inference.infers(path) else None


@dataclass(frozen=True)
class Admission:
    """Who may come in, how often, and whether the replaced service's clients may without a key."""

    access: Access
    limit: RateLimit | None = None
    compat_anonymous: bool = False


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `GET /v1/model`: what this replica serves, since when, why, and what it refused instead."""

    model_name: str
    replica: str
    revision: int
    since: datetime
    decided_at: datetime
    reason: str
    champion: int
    canary: int | None
    canary_weight: float | None
    shadow: int | None
    artifacts: dict[str, str]
    refused: str | None


def create_app(
    predictor: Predictor,
    identities: Identities,
    limits: Limits,
    admission: Admission,
) -> ASGIApp:
    """The application; its lifespan opens the inference log on the server's loop."""
    app = _framework(predictor, limits)
    app.router.routes.extend(protocol_routes(predictor, identities, limits.batch_rows))
    bare = guarded(predictor, bare_door(predictor, identities), compatible)
    full = guarded(predictor, full_door(predictor, identities), problem)
    batch = guarded(predictor, batch_door(predictor, identities, limits.batch_rows), problem)
    doors = Doors(app, {"/predict": bare, "/v1/predict": full, BATCH_PATH: batch})
    bounded = BodyLimit(doors, limits.body_bytes, limits.of_path)
    open_routes = COMPATIBLE if admission.compat_anonymous else ()
    return Guard(bounded, admission.access, "predict", admission.limit, open_routes)


def _framework(predictor: Predictor, limits: Limits) -> FastAPI:
    """The routes that nobody asks all day."""
    title = f"{predictor.contract.name.title()} Prediction API"

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        predictor.log.open(asyncio.get_running_loop())
        yield
        predictor.log.close()

    # A page for browsers could not send a key, and would load its scripts from strangers.
    app = FastAPI(title=title, lifespan=lifespan, docs_url=None, redoc_url=None)
    description = document(predictor.contract, title, limits.batch_rows)
    app.openapi = lambda: description  # type: ignore[method-assign]

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        refuse = protocol_error if open_inference.speaks(request.scope["path"]) else problem
        return as_response(refuse(Refusal(error.status_code, error.detail, headers=[*_raw(error.headers)])))

    @app.api_route("/", methods=["GET", "HEAD"])
    async def live() -> dict[str, str]:
        return {"message": f"{title} is live"}

    @app.get("/v1/model")
    async def model() -> Response:
        served = served_model(predictor.replica)
        if served is None:
            return problem_details(503, "no model is loaded yet: try again later", headers=[RETRY_AFTER])
        return Response(msgspec.json.encode(served), media_type="application/json")

    return app


def _raw(headers: Mapping[str, str] | None) -> Iterator[tuple[bytes, bytes]]:
    for name, value in (headers or {}).items():
        yield name.lower().encode("latin-1"), value.encode("latin-1")


def served_model(replica: Replica) -> ServedModel | None:
    """What a replica serves, None if nothing yet."""
    serving, refusal = replica.serving, replica.refusal
    if serving is None:
        return None
    state = serving.state
    return ServedModel(
        model_name=state.model_name,
        replica=replica.name,
        revision=state.revision,
        since=serving.since,
        decided_at=state.decided_at,
        reason=state.reason,
        champion=state.champion,
        canary=None if state.canary is None else state.canary.version,
        canary_weight=None if state.canary is None else state.canary.weight,
        shadow=state.shadow,
        artifacts={str(version): artifact.sha256 for version, (artifact, _model) in serving.models.items()},
        refused=None if refusal is None else str(refusal),
    )
