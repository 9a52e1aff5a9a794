"""The doors that clients knock at all day: bytes in, bytes out, without a framework between.

A framework's routing costs as much as predicting; so these are answered before it.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from driftloop.common import metrics
from driftloop.common.access.guard import CALLER
from driftloop.common.conformal import prediction_set
from driftloop.common.events import Variant
from driftloop.common.http import PROBLEM_JSON, field_problem, problem_members
from driftloop.common.pseudonyms import order_pseudonym, pseudonym
from driftloop.common.rows import FieldError, InvalidRow
from driftloop.predictor.batches import Failure, answer_rows
from driftloop.predictor.body import (
    IDENTIFIERS,
    ORDER_ID,
    PATIENT_ID,
    InvalidBody,
    read_body,
    read_rows,
    take_identifier,
)
from driftloop.predictor.domain.identity import repeated_prediction_id
from driftloop.predictor.handlers import Answered, Asked, NoProbability, Predictor
from driftloop.predictor.inference_log import Unavailable
from driftloop.predictor.schema import answer_name

logger = logging.getLogger(__name__)

RETRY_AFTER = (b"retry-after", b"1")
KEY_CHARACTERS = 255
JSON = (b"content-type", b"application/json")
_PROBLEM_JSON = (b"content-type", PROBLEM_JSON.encode())

Header = tuple[bytes, bytes]


class Call(NamedTuple):
    """One request: its body, who sends it, and the headers that matter here."""

    body: bytes
    caller: str
    traceparent: str | None = None
    idempotency_key: str | None = None


class Answer(NamedTuple):
    """A status, headers with the content type, and a body, as ASGI takes them."""

    status: int
    headers: Sequence[Header]
    body: bytes


Door = Callable[[Call], Awaitable[Answer]]
# What a door may take instead of a call.
C = TypeVar("C")


class Refusal(NamedTuple):
    """Why a request is not answered as it would like: a sentence, and what is wrong in which field."""

    status: int
    detail: str
    fields: Sequence[Mapping[str, Any]] = ()
    headers: Sequence[Header] = ()


Refuse = Callable[[Refusal], Answer]


class Refused(Exception):
    """A request that a door refuses with a status of its own choice."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.refusal = Refusal(status, detail)


class PredictionSet(msgspec.Struct, frozen=True):
    """The decisions that cannot be excluded: the true one is among them in `level` of all cases."""

    level: float
    decisions: tuple[bool, ...]


class Prediction(msgspec.Struct, frozen=True):
    """The answer of `/v1/predict`."""

    prediction_id: str
    probability: float
    prediction: bool
    model_name: str
    model_version: int
    revision: int
    variant: Variant
    prediction_set: PredictionSet | None
    outside_reference: tuple[str, ...]


class RowRefused(msgspec.Struct, frozen=True):
    """What a batch answers for a row that was not predicted."""

    error: Mapping[str, Any]


class Doors:
    """Around an application: answers POST requests to its paths itself.

    Behind Guard, which says who calls, and BodyLimit, which gives a body whole.
    """

    def __init__(self, app: ASGIApp, doors: Mapping[str, Door]) -> None:
        self._app = app
        self._doors = doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        door = self._doors.get(scope["path"]) if scope["type"] == "http" else None
        if door is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = scope["path"]
        if scope["method"] == "POST":
            message = await receive()
            answer = await door(call_of(scope, message["body"]))
        else:
            allowed = (b"allow", b"POST")
            answer = problem(Refusal(405, f"{scope['method']} is not answered here: use POST", headers=[allowed]))
        await send_answer(answer, send)


async def send_answer(answer: Answer, send: Send) -> None:
    """Send an answer, as ASGI wants it."""
    length = (b"content-length", b"%d" % len(answer.body))
    await send({"type": "http.response.start", "status": answer.status, "headers": [*answer.headers, length]})
    await send({"type": "http.response.body", "body": answer.body})


def as_response(answer: Answer) -> Response:
    """An answer, as the framework sends it."""
    response = Response(answer.body, answer.status)
    response.raw_headers.extend(answer.headers)
    return response


def call_of(scope: Scope, body: bytes) -> Call:
    """What a door needs of a request."""
    traceparent = key = None
    for name, value in scope["headers"]:
        if name == b"traceparent":
            traceparent = str(value, "latin-1")
        elif name == b"idempotency-key":
            key = str(value, "latin-1")
    return Call(body, scope[CALLER], traceparent, key)


# --- the doors


def bare_door(predictor: Predictor, ids: "Identities") -> Door:
    """`/predict`: the body of the service that this one replaces, to the byte; what is new is in the headers."""
    name = answer_name(predictor.contract)
    bodies = {decision: msgspec.json.encode({name: decision}) for decision in (False, True)}

    async def answer(call: Call) -> Answer:
        features = predictor.validator.canonicalise(read_body(call.body))
        made, plan = await predictor.predict(Asked(features, None, ids.repeated(call)), call.traceparent)
        headers = [JSON, (b"x-prediction-id", made.prediction_id.encode()), *plan.headers]
        return Answer(200, headers, bodies[made.prediction])

    return answer


def full_door(predictor: Predictor, ids: "Identities") -> Door:
    """`/v1/predict`: the prediction with all that is known of it; patient and order are logged as pseudonyms."""
    encoder = msgspec.json.Encoder()

    async def answer(call: Call) -> Answer:
        asked = ask(predictor, ids, call, read_body(call.body))
        answered = await predictor.predict(asked, call.traceparent)
        return Answer(200, [JSON], encoder.encode(said(answered)))

    return answer


def batch_door(predictor: Predictor, ids: "Identities", max_rows: int) -> Door:
    """`/v1/predict/batch`: many rows at once, each with its own answer or its own error."""
    encoder = msgspec.json.Encoder()

    async def answer(call: Call) -> Answer:
        rows = read_rows(call.body, max_rows)
        # A key that is none refuses all rows, and not each.
        ids.repeated(call)

        def asked(row: int) -> Asked:
            fields = rows[row]
            if not isinstance(fields, dict):
                raise InvalidBody("value_error", "a row must be an object")
            return ask(predictor, ids, call, fields, row)

        outcomes = await answer_rows(predictor, predictor.serving(), len(rows), asked, call.traceparent)
        unavailable = next((one for one in outcomes if isinstance(one, Unavailable)), None)
        if unavailable is not None and not any(isinstance(one, Answered) for one in outcomes):
            raise unavailable
        results = [
            said(one) if isinstance(one, Answered) else RowRefused(_details(refusal_of(one))) for one in outcomes
        ]
        return Answer(200, [JSON], encoder.encode({"results": results}))

    return answer


def ask(predictor: Predictor, ids: "Identities", call: Call, fields: dict[str, Any], row: int = 0) -> Asked:
    """What is asked for a request's row, whose fields may name patient and order. Raises InvalidRow, InvalidBody."""
    subject, order = ids.subject(fields), ids.order(fields)
    return Asked(predictor.validator.canonicalise(fields), subject, ids.repeated(call, row), order)


class Identities:
    """How a request's own names become those that are logged."""

    def __init__(self, pseudonym_key: bytes, repeat_key: bytes) -> None:
        self._pseudonym_key = pseudonym_key
        self._repeat_key = repeat_key

    def subject(self, fields: dict[str, Any]) -> str | None:
        """The pseudonym of the patient, whose id is taken out of the fields. Raises InvalidRow."""
        patient_id = take_identifier(fields, PATIENT_ID)
        return None if patient_id is None else pseudonym(self._pseudonym_key, patient_id)

    def order(self, fields: dict[str, Any]) -> str | None:
        """The pseudonym of the order, whose id is taken out of the fields. Raises InvalidRow."""
        order_id = take_identifier(fields, ORDER_ID)
        return None if order_id is None else order_pseudonym(self._pseudonym_key, order_id)

    def repeated(self, call: Call, row: int = 0) -> str | None:
        """The id that a retry of this request gets, too; None where it does not ask for one. Raises InvalidBody."""
        key = call.idempotency_key
        if key is None:
            return None
        if not 1 <= len(key) <= KEY_CHARACTERS or not key.isprintable():
            raise InvalidBody(
                "idempotency_key", f"Idempotency-Key must have 1 to {KEY_CHARACTERS} printable characters"
            )
        return repeated_prediction_id(self._repeat_key, call.caller, key, row)


def said(answered: Answered) -> Prediction:
    """What `/v1/predict` says of an inference."""
    made, plan = answered
    conformal = plan.model.conformal
    decisions = None
    if conformal is not None:
        labels = prediction_set(conformal, made.score, made.prediction_id)
        decisions = PredictionSet(conformal.level, tuple(map(bool, labels)))
    return Prediction(
        made.prediction_id,
        made.score,
        made.prediction,
        made.model_name,
        made.model_version,
        made.revision,
        made.variant,
        decisions,
        plan.model.reference.outside(made.features),
    )


# --- what goes wrong


def guarded(
    predictor: Predictor, door: Callable[[C], Awaitable[Answer]], refuse: Refuse
) -> Callable[[C], Awaitable[Answer]]:
    """The door with its counts, and with an answer for every way in which it can fail."""
    replica = predictor.replica
    seconds = metrics.PREDICTION_SECONDS.labels(replica.model)

    def count(result: str) -> None:
        metrics.PREDICTIONS.labels(replica.model, str(replica.version), result).inc()

    async def answer(call: C) -> Answer:
        started = time.perf_counter()
        try:
            found = await door(call)
        except (InvalidRow, InvalidBody) as invalid:
            count("invalid")
            return refuse(refusal_of(invalid))
        except Refused as refused:
            count("invalid")
            return refuse(refused.refusal)
        except Unavailable as unavailable:
            count("unavailable")
            seconds.observe(time.perf_counter() - started)
            return refuse(refusal_of(unavailable))
        except NoProbability as error:
            count("failed")
            seconds.observe(time.perf_counter() - started)
            logger.error("a model gave no probability", extra={"error": str(error)})
            return refuse(refusal_of(error))
        except Exception:
            # A bug, which the server answers with 500.
            count("failed")
            seconds.observe(time.perf_counter() - started)
            raise
        count("ok")
        seconds.observe(time.perf_counter() - started)
        return found

    return answer


def refusal_of(error: Failure) -> Refusal:
    """What a client is told of an error."""
    if isinstance(error, InvalidRow):
        fields = [_field(one) for one in error.errors]
        return Refusal(422, f"{len(fields)} field{'s are' if len(fields) > 1 else ' is'} not as it must be", fields)
    if isinstance(error, InvalidBody):
        return Refusal(422, str(error), [{"type": error.kind, "loc": ["body"], "msg": str(error), "input": None}])
    if isinstance(error, Unavailable):
        return Refusal(503, f"{error}: try again later", headers=[RETRY_AFTER])
    return Refusal(500, "the model gave no probability for this row: promote a version that takes it")


def compatible(refusal: Refusal) -> Answer:
    """An error as the replaced service's framework says it: `detail` is a sentence, or a list of fields."""
    body = msgspec.json.encode({"detail": refusal.fields or refusal.detail})
    return Answer(refusal.status, [JSON, *refusal.headers], body)


def problem(refusal: Refusal) -> Answer:
    """An error as RFC 9457 says it."""
    body = msgspec.json.encode(_details(refusal))
    return Answer(refusal.status, [_PROBLEM_JSON, *refusal.headers], body)


def _details(refusal: Refusal) -> dict[str, Any]:
    return problem_members(refusal.status, refusal.detail, refusal.fields)


def _field(error: FieldError) -> Mapping[str, Any]:
    return field_problem(error.field, None if error.field in IDENTIFIERS else error.value, error.reason)
