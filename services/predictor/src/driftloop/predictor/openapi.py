"""The OpenAPI document: what each door takes and answers, the contract's features as the true schema of a row."""

from collections.abc import Mapping
from typing import Any

from driftloop.common.contract import Contract
from driftloop.common.http import PROBLEM_JSON
from driftloop.predictor.body import PATIENT_ID, PATIENT_ID_CHARACTERS, ROWS
from driftloop.predictor.schema import example_row, row_schema

Schema = dict[str, Any]

_JSON = "application/json"
_TEXT: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer"}
_MOMENT: Schema = {"type": "string", "format": "date-time"}
_PATIENT: Schema = {
    "anyOf": [{"type": "string", "minLength": 1, "maxLength": PATIENT_ID_CHARACTERS}, {"type": "null"}],
    "description": "Whose data these are. Logged under a keyed pseudonym only, and never answered.",
}
_FIELDS: Schema = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["loc", "msg", "type"],
        "properties": {"loc": {"type": "array", "items": _TEXT}, "msg": _TEXT, "type": _TEXT, "input": {}},
    },
}
_IDEMPOTENCY_KEY: Schema = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key from the same caller gives the same prediction id, and is counted once, for a day.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}
_HEADERS = {
    "x-prediction-id": "The id under which the inference was logged; a laboratory's outcome refers to it.",
    "x-model-name": "The model that answered.",
    "x-model-version": "Its version.",
    "x-model-variant": "Whether it answered as the champion or as a canary.",
    "x-driftloop-revision": "The serving revision that this replica had applied.",
}
_RETRY_AFTER: Schema = {"retry-after": {"description": "Seconds.", "schema": _WHOLE}}


def document(contract: Contract, title: str, max_rows: int) -> Schema:
    """The whole OpenAPI document of a predictor that serves this contract."""
    row, example = row_schema(contract), example_row(contract)
    full = row | {"properties": row["properties"] | {PATIENT_ID: _PATIENT}}
    rows = {"type": "array", "minItems": 1, "maxItems": max_rows, "items": {"description": "As in /v1/predict."}}
    prediction = _prediction(contract)
    result = {"anyOf": [prediction, _object({"error": _ref("Problem")})]}
    results = _object({"results": {"type": "array", "items": result}})
    predict, many = "Predict, answering all that is known", "Predict many rows, each with an answer of its own"
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1", "description": contract.description},
        "security": [{"bearer": []}, {"key": []}],
        "components": _components(),
        "paths": {
            "/": {"get": _get("Say that the service is there", _object({"message": _TEXT}))},
            "/predict": {"post": _bare(row, example, _object({answer_name(contract): {"type": "boolean"}}))},
            "/v1/predict": {"post": _post(predict, full, example, prediction)},
            "/v1/predict/batch": {"post": _post(many, _object({ROWS: rows}) | _CLOSED, {ROWS: [example]}, results)},
            "/v1/model": {"get": _get("Tell what serves now, since when, and why", _ref("Model"))},
        },
    }


def answer_name(contract: Contract) -> str:
    """What the decision is called in the answer of `/predict`."""
    return contract.target.title or contract.target.name


_CLOSED: Schema = {"additionalProperties": False}


def _components() -> Schema:
    """What several doors share."""
    problem = _object({"type": _TEXT, "title": _TEXT, "status": _WHOLE, "detail": _TEXT})
    problem["properties"]["errors"] = _FIELDS
    problem["description"] = "RFC 9457; `errors` names each field that is refused."
    replaced = _object({"detail": {"anyOf": [_TEXT, _FIELDS]}})
    replaced["description"] = "As the replaced service's framework says it."
    model = {
        "model_name": _TEXT, "replica": _TEXT, "revision": _WHOLE, "since": _MOMENT, "decided_at": _MOMENT,
        "reason": _TEXT, "champion": _WHOLE, "canary": _or_null(_WHOLE),
        "canary_weight": _or_null({"type": "number", "minimum": 0, "maximum": 1}), "shadow": _or_null(_WHOLE),
        "artifacts": {"type": "object", "additionalProperties": _TEXT, "description": "SHA-256 by version."},
        "refused": _or_null(_TEXT),
    }  # fmt: skip
    return {
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or a JWT."},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        },
        "schemas": {"Problem": problem, "CompatibleProblem": replaced, "Model": _object(model)},
    }


def _prediction(contract: Contract) -> Schema:
    threshold = f"Whether the probability is at least {contract.decision_threshold:g}."
    sets = (
        "The decisions that cannot be excluded: the true one is among them in `level` of all cases. None: neither is"
        " usual at this probability. null: the version has no held-out rows to tell."
    )
    decisions = _object({"level": {"type": "number"}, "decisions": {"type": "array", "items": {"type": "boolean"}}})
    outside = "Features in which this row is unlike all those that the version was proven on."
    return _object(
        {
            "prediction_id": _TEXT,
            "probability": {"type": "number", "minimum": 0, "maximum": 1},
            "prediction": {"type": "boolean", "description": threshold},
            "model_name": _TEXT,
            "model_version": _WHOLE,
            "revision": _WHOLE,
            "variant": {"type": "string", "enum": ["champion", "canary"]},
            "prediction_set": _or_null(decisions) | {"description": sets},
            "outside_reference": {"type": "array", "items": _TEXT, "description": outside},
        }
    )


def _post(summary: str, body: Schema, example: object, answer: Schema) -> Schema:
    return {
        "summary": summary,
        "parameters": [_IDEMPOTENCY_KEY],
        "requestBody": {"required": True, "content": {_JSON: {"schema": body, "example": example}}},
        "responses": {
            "200": _response("Every inference that is answered is logged.", answer),
            "422": _refusal("The body is not what the contract accepts; nothing was logged."),
            "500": _refusal("The model gave no probability; nothing was logged."),
            "503": _refusal("Nothing durable can be written, or no model is loaded.", headers=_RETRY_AFTER),
        }
        | _everywhere(),
    }


def _bare(body: Schema, example: object, answer: Schema) -> Schema:
    found = _post("Predict, answering the bare decision", body, example, answer)
    headers = {name: {"description": text, "schema": _TEXT} for name, text in _HEADERS.items()}
    found["responses"]["200"]["headers"] = headers
    for status in ("422", "500", "503"):
        found["responses"][status]["content"] = {_JSON: {"schema": _ref("CompatibleProblem")}}
    # Whether a key is good is said by the guard, as everywhere.
    found["responses"]["503"]["content"][PROBLEM_JSON] = {"schema": _ref("Problem")}
    return found


def _get(summary: str, answer: Schema) -> Schema:
    unavailable = _refusal("No model is loaded, or no key can be checked.", headers=_RETRY_AFTER)
    responses = {"200": _response("It is.", answer), "503": unavailable}
    return {"summary": summary, "responses": responses | _everywhere()}


def _everywhere() -> Schema:
    return {
        "400": _refusal("Several keys that differ."),
        "401": _refusal("No key, or none that is known."),
        "403": _refusal("The key may not do this."),
        "413": _refusal("The body is too large."),
        "429": _refusal("The caller sends more than it may.", headers=_RETRY_AFTER),
    }


def _response(description: str, schema: Schema, media_type: str = _JSON) -> Schema:
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _refusal(description: str, headers: Schema | None = None) -> Schema:
    return _response(description, _ref("Problem"), PROBLEM_JSON) | ({"headers": headers} if headers else {})


def _object(properties: Mapping[str, Schema]) -> Schema:
    return {"type": "object", "required": list(properties), "properties": dict(properties)}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
