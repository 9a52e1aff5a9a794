"""The predictor's HTTP face.

The two doors that clients knock at all day are answered before FastAPI, whose routing costs as much as predicting;
everything else, the documentation too, is FastAPI's.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import msgspec
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from driftloop.common import metrics
from driftloop.common.events import Variant
from driftloop.common.http import BodyLimit, field_problem
from driftloop.common.rows import InvalidRow
from driftloop.predictor.acknowledging import Unavailable
from driftloop.predictor.body import PATIENT_ID, InvalidBody, read_body, take_patient_id
from driftloop.predictor.domain.identity import pseudonym
from driftloop.predictor.handlers import NoProbability, Predictor
from driftloop.predictor.schema import answer_name, document

logger = logging.getLogger(__name__)

RETRY_AFTER = (b"retry-after", b"1")
_JSON = (b"content-type", b"application/json")


class Answer(NamedTuple):
    """A status, headers and a JSON body, as ASGI takes them."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Prediction(msgspec.Struct, frozen=True):
    """The answer of `/v1/predict`."""

    prediction_id: str
    probability: float
    prediction: bool
    model_name: str
    model_version: int
    revision: int
    variant: Variant


Door = Callable[[bytes, str | None], Awaitable[Answer]]


def create_app(predictor: Predictor, pseudonym_key: bytes, max_body_bytes: int) -> ASGIApp:
    """The application; its lifespan opens the predictor's acknowledgements on the server's loop."""
    title = f"{predictor.contract.name.title()} Prediction API"

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        predictor.acknowledgements.open(asyncio.get_running_loop())
        yield
        predictor.acknowledgements.close()

    app = FastAPI(title=title, lifespan=lifespan)
    description = document(predictor.contract, title)
    app.openapi = lambda: description  # type: ignore[method-assign]

    @app.get("/")
    async def live() -> dict[str, str]:
        return {"message": f"{title} is live"}

    doors = {
        "/predict": guarded(predictor, bare_door(predictor)),
        "/v1/predict": guarded(predictor, full_door(predictor, pseudonym_key)),
    }
    return BodyLimit(Doors(app, doors), max_body_bytes)


class Doors:
    """Around an application: answers POST requests to its paths itself. Behind BodyLimit, which gives a body whole."""

    def __init__(self, app: ASGIApp, doors: Mapping[str, Door]) -> None:
        self._app = app
        self._doors = doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        door = self._doors.get(scope["path"]) if scope["type"] == "http" else None
        if door is None:
            await self._app(scope, receive, send)
            return
        if scope["method"] == "POST":
            message = await receive()
            answer = await door(message["body"], _traceparent(scope))
        else:
            answer = _problem(405, f"{scope['method']} is not answered here: use POST", (b"allow", b"POST"))
        length = (b"content-length", b"%d" % len(answer.body))
        await send(
            {"type": "http.response.start", "status": answer.status, "headers": [_JSON, length, *answer.headers]}
        )
        await send({"type": "http.response.body", "body": answer.body})


def bare_door(predictor: Predictor) -> Door:
    """`/predict`: the body of the service that this one replaces, to the byte; what is new is in the headers."""
    name = answer_name(predictor.contract)
    bodies = {decision: msgspec.json.encode({name: decision}) for decision in (False, True)}

    async def answer(body: bytes, traceparent: str | None) -> Answer:
        serving, made = await predictor.predict(read_body(body), None, traceparent)
        headers = [(b"x-prediction-id", made.prediction_id.encode()), *serving.headers]
        return Answer(200, headers, bodies[made.prediction])

    return answer


def full_door(predictor: Predictor, pseudonym_key: bytes) -> Door:
    """`/v1/predict`: the prediction with all that is known of it; a patient's id is logged as a pseudonym."""
    encoder = msgspec.json.Encoder()

    async def answer(body: bytes, traceparent: str | None) -> Answer:
        fields = read_body(body)
        patient_id = take_patient_id(fields)
        subject = None if patient_id is None else pseudonym(pseudonym_key, patient_id)
        _serving, made = await predictor.predict(fields, subject, traceparent)
        prediction = Prediction(
            made.prediction_id,
            made.score,
            made.prediction,
            made.model_name,
            made.model_version,
            made.revision,
            made.variant,
        )
        return Answer(200, [], encoder.encode(prediction))

    return answer


def guarded(predictor: Predictor, door: Door) -> Door:
    """The door with its counts, and with an answer for every way in which it can fail."""
    replica = predictor.replica
    seconds = metrics.PREDICTION_SECONDS.labels(replica.model)

    def count(result: str) -> None:
        metrics.PREDICTIONS.labels(replica.model, str(replica.version), result).inc()

    async def answer(body: bytes, traceparent: str | None) -> Answer:
        started = time.perf_counter()
        try:
            found = await door(body, traceparent)
        except InvalidRow as invalid:
            count("invalid")
            return _problem(422, [_field(error.field, error.value, error.reason) for error in invalid.errors])
        except InvalidBody as invalid:
            count("invalid")
            return _problem(422, [{"type": invalid.kind, "loc": ["body"], "msg": str(invalid), "input": None}])
        except Unavailable as unavailable:
            count("unavailable")
            seconds.observe(time.perf_counter() - started)
            return _problem(503, f"{unavailable}: try again later", RETRY_AFTER)
        except NoProbability as error:
            count("failed")
            logger.error("a model gave no probability", extra={"error": str(error)})
            return _problem(500, "the model gave no probability for this row: promote a version that takes it")
        count("ok")
        seconds.observe(time.perf_counter() - started)
        return found

    return answer


def _field(name: str, value: object, reason: str) -> dict[str, Any]:
    return field_problem(name, None if name == PATIENT_ID else value, reason)


def _problem(status: int, detail: object, *headers: tuple[bytes, bytes]) -> Answer:
    return Answer(status, list(headers), msgspec.json.encode({"detail": detail}))


def _traceparent(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"traceparent":
            return str(value, "latin-1")
    return None
