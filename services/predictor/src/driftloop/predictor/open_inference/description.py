"""The protocol's routes as OpenAPI describes them."""

from collections.abc import Mapping
from typing import Any

from driftloop.common.contract import Contract
from driftloop.common.http import PROBLEM_JSON
from driftloop.predictor.body import IDENTIFIERS
from driftloop.predictor.open_inference import ROOT
from driftloop.predictor.open_inference.outputs import OUTPUTS
from driftloop.predictor.open_inference.tensors import BYTES, FP64, NUMBERS
from driftloop.predictor.openapi_parts import (
    IDEMPOTENCY_KEY,
    JSON,
    RETRY_AFTER,
    TEXT,
    WHOLE,
    Schema,
    everywhere,
    object_of,
    or_null,
    ref,
    response,
)
from driftloop.predictor.schema import example_row

OCTETS = "application/octet-stream"
_YES: Schema = {"const": True}
_VERSION: Schema = {
    "name": "version",
    "in": "path",
    "required": True,
    "description": "The champion's version. Who names it is answered by no canary.",
    "schema": TEXT,
}
_LENGTH: Schema = {
    "description": "How many bytes the JSON has, where others follow it.",
    "schema": WHOLE | {"minimum": 1},
}
_LENGTH_HEADER: Schema = {"name": "Inference-Header-Content-Length", "in": "header", "required": False} | _LENGTH
_NOT_READY = {"400": response("It cannot, and why. Or several keys that differ.", ref("InferenceError"))}


def paths(contract: Contract, max_rows: int) -> dict[str, Schema]:
    """Every route under `/v2`."""
    model: Schema = {"name": "model", "in": "path", "required": True, "schema": {"enum": [contract.name]}}
    found = {
        ROOT: {"get": _get("Tell what the server is", ref("InferenceServer"))},
        f"{ROOT}/health/live": {"get": _get("Say that the server is there", object_of({"live": _YES}))},
        f"{ROOT}/health/ready": {"get": _get("Say whether it can answer", object_of({"ready": _YES}), _NOT_READY)},
    }
    for path, named in (("", [model]), ("/versions/{version}", [model, _VERSION])):
        found |= _model_paths(f"{ROOT}/models/{{model}}{path}", named, contract, max_rows)
    return found


def _model_paths(path: str, named: list[Schema], contract: Contract, max_rows: int) -> dict[str, Schema]:
    ready = object_of({"name": TEXT, "ready": _YES})
    return {
        path: {"parameters": named, "get": _get("Tell what the model takes", ref("InferenceModel"), _not(404, 503))},
        f"{path}/ready": {
            "parameters": named,
            "get": _get("Say whether the model can answer", ready, _NOT_READY | _not(404)),
        },
        f"{path}/infer": {"parameters": named, "post": _infer(contract, max_rows)},
    }


def schemas() -> dict[str, Schema]:
    """What several routes share."""
    tensor = object_of({"name": TEXT, "datatype": TEXT, "shape": {"type": "array", "items": WHOLE}})
    tensors = {"type": "array", "items": tensor | {"properties": tensor["properties"] | {"parameters": _ANY}}}
    model = {"name": TEXT, "versions": {"type": "array", "items": TEXT}, "platform": TEXT}
    server = {"name": TEXT, "version": TEXT, "extensions": {"type": "array", "items": TEXT}}
    answer = object_of({"model_name": TEXT, "model_version": TEXT, "outputs": {"type": "array", "items": _output()}})
    answer["properties"]["id"] = TEXT | {"description": "The request's own."}
    answer["description"] = "`model_version` is the champion's; the output of this name has the one of each row."
    return {
        "InferenceServer": object_of(server),
        "InferenceModel": object_of(model | {"inputs": tensors, "outputs": tensors}),
        "InferenceAnswer": answer,
        "InferenceError": object_of({"error": TEXT}),
    }


_ANY: Schema = {"type": "object", "description": "A client's own are ignored."}


def _output() -> Schema:
    described = "; ".join(f"`{name}`: {output.description.rstrip('.')}" for name, output in OUTPUTS.items())
    output = object_of({
        "name": {"enum": list(OUTPUTS), "description": f"{described}."},
        "datatype": {"enum": sorted({output.datatype for output in OUTPUTS.values()})},
        "shape": {"type": "array", "items": WHOLE, "minItems": 1, "maxItems": 1},
    })  # fmt: skip
    output["properties"] |= {"data": {"type": "array"}, "parameters": object_of({"binary_data_size": WHOLE})}
    return output


def _infer(contract: Contract, max_rows: int) -> Schema:
    body: Schema = {
        JSON: {"schema": _request(contract, max_rows), "examples": _examples(contract)},
        OCTETS: {"schema": {"description": "The JSON, and after it the bytes of the inputs with `binary_data_size`."}},
    }
    answers = response("Every row is answered, and logged.", ref("InferenceAnswer"))
    answers["content"][OCTETS] = {"schema": {"description": "The JSON, and after it the outputs wanted as bytes."}}
    answers["headers"] = {"inference-header-content-length": _LENGTH}
    return {
        "summary": "Predict rows that come as tensors: all are answered, or none",
        "parameters": [IDEMPOTENCY_KEY, _LENGTH_HEADER],
        "requestBody": {"required": True, "content": body},
        "responses": {"200": answers} | _guarded(_not(400, 404, 415, 500, 503)),
    }


def _request(contract: Contract, max_rows: int) -> Schema:
    at_least_one = WHOLE | {"minimum": 1}
    rows = at_least_one | {"maximum": max_rows}
    tensor = object_of({
        "name": TEXT | {"description": f"{_names(contract)}. {_matrix(contract)}"},
        "shape": {"type": "array", "prefixItems": [rows], "items": at_least_one, "minItems": 1, "maxItems": 2},
        "datatype": {"enum": [*NUMBERS, BYTES]},
    })  # fmt: skip
    size = {"binary_data_size": WHOLE | {"minimum": 0}}
    tensor["properties"] |= {
        "data": {"type": ["array", "null"], "description": "Flat, or nested as the shape; null and NaN are missing."},
        "parameters": or_null(_ANY | {"properties": size}),
    }
    binary = {"type": "boolean", "default": False}
    output = object_of({"name": {"enum": list(OUTPUTS)}})
    output["properties"]["parameters"] = or_null(_ANY | {"properties": {"binary_data": binary}})
    request = object_of({"inputs": {"type": "array", "minItems": 1, "items": tensor}})
    request["properties"] |= {
        "id": or_null(TEXT),
        "outputs": or_null({"type": "array", "items": output, "description": "All, unless some are named."}),
        "parameters": or_null(_ANY | {"properties": {"binary_data_output": binary}}),
    }
    return request


def _names(contract: Contract) -> str:
    return f"{', '.join(contract.feature_names)}; and, optional, {' and '.join(IDENTIFIERS)}"


def _matrix(contract: Contract) -> str:
    if any(feature.type == "category" for feature in contract.features):
        return f"A category is {BYTES}."
    return f"Or one input of any name with all features in this order, of the shape [n, {len(contract.features)}]."


def _examples(contract: Contract) -> Schema:
    row = example_row(contract)
    inputs = [
        {"name": name, "shape": [1], "datatype": BYTES if isinstance(value, str) else FP64, "data": [value]}
        for name, value in row.items()
    ]
    found: Schema = {"features": {"value": {"id": "1", "inputs": inputs, "outputs": [{"name": "probability"}]}}}
    if not any(isinstance(value, str) for value in row.values()):
        matrix = {"name": "predict", "shape": [1, len(row)], "datatype": FP64, "data": [list(row.values())]}
        found["matrix"] = {"value": {"inputs": [matrix]}}
    return found


# --- errors

_DETAILS = {
    400: "The request or a row of it is not as it must be; nothing was logged. Or several keys that differ.",
    404: "Another model or version is asked for than the one that serves.",
    415: "The body is compressed.",
    500: "The model gave no probability for a row.",
    503: "Nothing durable can be written, no model is loaded, or no key can be checked.",
}


def _get(summary: str, answer: Schema, errors: Mapping[str, Schema] | None = None) -> Schema:
    return {"summary": summary, "responses": {"200": response("It is.", answer)} | _guarded(errors or {})}


def _not(*statuses: int) -> dict[str, Schema]:
    return {str(status): response(_DETAILS[status], ref("InferenceError")) for status in statuses}


def _guarded(errors: Mapping[str, Schema]) -> Schema:
    """These and the guard's answers: it says its own as everywhere, also those of the same status."""
    found: dict[str, Any] = everywhere() | {"503": response(_DETAILS[503], ref("Problem"), PROBLEM_JSON)}
    for status, own in errors.items():
        guards = found.get(status, {"content": {}})["content"]
        found[status] = own | {"content": own["content"] | guards}
    found["503"]["headers"] = RETRY_AFTER
    return found
