"""The protocol's routes: what the server and its model are, whether they are ready, and inference."""

from collections.abc import Awaitable, Callable
from importlib.metadata import version as installed_version
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from driftloop.common.contract import Contract
from driftloop.predictor.body import IDENTIFIERS
from driftloop.predictor.doors import JSON, Answer, Identities, Refused, as_response, call_of, guarded, refusal_of
from driftloop.predictor.handlers import Predictor
from driftloop.predictor.inference_log import Unavailable
from driftloop.predictor.open_inference import ROOT
from driftloop.predictor.open_inference.door import InferCall, asked_serving, check_model, infer_door, protocol_error
from driftloop.predictor.open_inference.outputs import OUTPUTS
from driftloop.predictor.open_inference.tensors import BYTES, FP64

SERVER = "driftloop-predictor"
MODEL = ROOT + "/models/{model}"
VERSION = MODEL + "/versions/{version}"
Respond = Callable[[Request], Awaitable[Answer]]


def protocol_routes(predictor: Predictor, ids: Identities, max_rows: int) -> list[BaseRoute]:
    """All routes under `/v2`."""
    infer = guarded(predictor, infer_door(predictor, ids, max_rows), protocol_error)

    async def inferred(request: Request) -> Answer:
        headers, call = request.headers, call_of(request.scope, await request.body())
        length, encoding = headers.get("inference-header-content-length"), headers.get("content-encoding")
        return await infer(InferCall(call, *_named(request), length, encoding))

    routes = _server_routes(predictor)
    for path in (MODEL, VERSION):
        routes += _model_routes(predictor, path)
        routes.append(Route(f"{path}/infer", _endpoint(inferred), methods=["POST"]))
    return routes


def _server_routes(predictor: Predictor) -> list[BaseRoute]:
    server = {"name": SERVER, "version": installed_version(SERVER), "extensions": ["binary_tensor_data"]}

    async def metadata(_request: Request) -> Answer:
        return _json(server)

    async def live(_request: Request) -> Answer:
        return _json({"live": True})

    async def ready(_request: Request) -> Answer:
        _check_ready(predictor)
        return _json({"ready": True})

    return [_get(ROOT, metadata), _get(f"{ROOT}/health/live", live), _get(f"{ROOT}/health/ready", ready)]


def _model_routes(predictor: Predictor, path: str) -> list[BaseRoute]:
    async def metadata(request: Request) -> Answer:
        serving = asked_serving(predictor, *_named(request))
        return _json(model_metadata(predictor.contract, serving.state.champion))

    async def ready(request: Request) -> Answer:
        name, version = _named(request)
        check_model(predictor, name)
        _check_ready(predictor)
        asked_serving(predictor, name, version)
        return _json({"name": name, "ready": True})

    return [_get(path, metadata), _get(f"{path}/ready", ready)]


def model_metadata(contract: Contract, version: int) -> dict[str, Any]:
    """What the model takes and answers. A number that may be missing is NaN, so that all are of a type that has it."""
    inputs = [
        _described(feature.name, BYTES if feature.type == "category" else FP64, {} if feature.required else _OPTIONAL)
        for feature in contract.features
    ]
    return {
        "name": contract.name,
        "versions": [str(version)],
        "platform": "onnx",
        "inputs": [*inputs, *(_described(name, BYTES, _OPTIONAL) for name in IDENTIFIERS)],
        "outputs": [_described(name, output.datatype) for name, output in OUTPUTS.items()],
    }


_OPTIONAL = {"parameters": {"optional": True}}


def _described(name: str, datatype: str, more: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [-1]} | (more or {})


def _named(request: Request) -> tuple[str, str | None]:
    return request.path_params["model"], request.path_params.get("version")


def _check_ready(predictor: Predictor) -> None:
    """Raises Refused where this replica cannot answer."""
    problem = predictor.problem()
    if problem is not None:
        raise Refused(400, f"not ready: {problem}")


def _get(path: str, respond: Respond) -> Route:
    async def answer(request: Request) -> Answer:
        try:
            return await respond(request)
        except Refused as refused:
            return protocol_error(refused.refusal)
        except Unavailable as unavailable:
            return protocol_error(refusal_of(unavailable))

    return Route(path, _endpoint(answer), methods=["GET"])


def _endpoint(respond: Respond) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return as_response(await respond(request))

    return endpoint


def _json(said: object) -> Answer:
    return Answer(200, [JSON], msgspec.json.encode(said))
