"""The protocol's door: rows of tensors in, tensors out, and every error of its own as the protocol says it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import msgspec

from driftloop.common.rows import InvalidRow
from driftloop.predictor.batches import CHUNK_ROWS, answer_rows
from driftloop.predictor.doors import JSON, Answer, Call, Identities, Refusal, Refused, ask
from driftloop.predictor.handlers import Answered, Asked, Predictor
from driftloop.predictor.open_inference.outputs import encode_answer
from driftloop.predictor.open_inference.requests import InferenceRequest, in_words, read_request
from driftloop.predictor.open_inference.tensors import shortened, wrong
from driftloop.predictor.serving import Serving


class InferCall(NamedTuple):
    """A call, which model is asked, perhaps which version of it, and the headers that say how to read the body."""

    call: Call
    model: str
    version: str | None
    header_length: str | None = None
    encoding: str | None = None


def infer_door(predictor: Predictor, ids: Identities, max_rows: int) -> Callable[[InferCall], Awaitable[Answer]]:
    """`/v2/models/{model}/infer`: all rows are answered, or none."""

    async def answer(infer: InferCall) -> Answer:
        serving = asked_serving(predictor, infer.model, infer.version)
        if infer.encoding not in (None, "identity"):
            raise Refused(415, f"content-encoding {shortened(infer.encoding)!r} is not read here: send plain bytes")
        request = read_request(infer.call.body, infer.header_length, predictor.contract, max_rows)
        asked = await _asked(predictor, ids, infer.call, request)
        outcomes = await answer_rows(predictor, serving, len(asked), asked.__getitem__, infer.call.traceparent)
        made = []
        for outcome in outcomes:
            if not isinstance(outcome, Answered):
                raise outcome
            made.append(outcome.made)
        champion = serving.state.champion
        return encode_answer(predictor.contract.name, champion, request.id, made, request.outputs)

    return answer


def asked_serving(predictor: Predictor, model: str, version: str | None) -> Serving:
    """What answers a request that names a model, and perhaps a version. Raises Refused, Unavailable."""
    check_model(predictor, model)
    serving = predictor.serving()
    if version is None:
        return serving
    champion = serving.state.champion
    if version != str(champion):
        asked = f"version {shortened(version)} of model {model!r}"
        raise Refused(404, f"{asked} does not serve: version {champion} does")
    return serving.pinned


def check_model(predictor: Predictor, model: str) -> None:
    """Raises Refused where another model is asked for than the one that is here."""
    if model != predictor.contract.name:
        raise Refused(404, f"model {shortened(model)!r} is not served here: {predictor.contract.name!r} is")


async def _asked(predictor: Predictor, ids: Identities, call: Call, request: InferenceRequest) -> Sequence[Asked]:
    """Every row; where one is refused, nothing is logged: the protocol has no errors of rows. Raises InvalidBody."""
    asked = []
    for row, fields in enumerate(request.rows):
        if row % CHUNK_ROWS == CHUNK_ROWS - 1:
            # Others have their turn.
            await asyncio.sleep(0)
        try:
            asked.append(ask(predictor, ids, call, fields, row))
        except InvalidRow as invalid:
            raise wrong(f"row {row}: {in_words(invalid)}") from invalid
    return asked


def protocol_error(refusal: Refusal) -> Answer:
    """An error as the protocol says it: whatever is wrong with a body is 400."""
    status = 400 if refusal.status == 422 else refusal.status
    return Answer(status, [JSON, *refusal.headers], msgspec.json.encode({"error": refusal.detail}))
