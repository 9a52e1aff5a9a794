"""The predictor's HTTP face: the doors in front, everything else by FastAPI, and a guard before all of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import msgspec
from fastapi import FastAPI, Response
from starlette.types import ASGIApp

from driftloop.common.http import BodyLimit
from driftloop.predictor.doors import Doors, Identities, bare_door, batch_door, compatible, full_door, guarded, problem
from driftloop.predictor.handlers import Predictor
from driftloop.predictor.openapi import document
from driftloop.predictor.serving import Replica

BATCH_PATH = "/v1/predict/batch"


@dataclass(frozen=True)
class Limits:
    """How large a request's body may be, a batch's, and how many rows a batch may have."""

    body_bytes: int = 64 * 1024
    batch_bytes: int = 4 * 1024 * 1024
    batch_rows: int = 1000


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
) -> ASGIApp:
    """The application; its lifespan opens the inference log on the server's loop."""
    title = f"{predictor.contract.name.title()} Prediction API"

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        predictor.log.open(asyncio.get_running_loop())
        yield
        predictor.log.close()

    app = FastAPI(title=title, lifespan=lifespan)
    description = document(predictor.contract, title, limits.batch_rows)
    app.openapi = lambda: description  # type: ignore[method-assign]

    @app.get("/")
    async def live() -> dict[str, str]:
        return {"message": f"{title} is live"}

    @app.get("/v1/model")
    async def model() -> Response:
        served = served_model(predictor.replica)
        return Response(msgspec.json.encode(served), 503 if served is None else 200, media_type="application/json")

    bare = guarded(predictor, bare_door(predictor, identities), compatible)
    full = guarded(predictor, full_door(predictor, identities), problem)
    batch = guarded(predictor, batch_door(predictor, identities, limits.batch_rows), problem)
    doors = Doors(app, {"/predict": bare, "/v1/predict": full, BATCH_PATH: batch})
    return BodyLimit(doors, limits.body_bytes, {BATCH_PATH: limits.batch_bytes})


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
