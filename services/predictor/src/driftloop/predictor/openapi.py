"""The OpenAPI document: what each door takes and answers, the contract's features as the true schema of a row."""

from driftloop.common.contract import Contract
from driftloop.common.http import PROBLEM_JSON
from driftloop.predictor.body import IDENTIFIER_CHARACTERS, ORDER_ID, PATIENT_ID, ROWS
from driftloop.predictor.open_inference import description
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
    refusal,
    response,
)
from driftloop.predictor.schema import answer_name, example_row, row_schema

_MOMENT: Schema = {"type": "string", "format": "date-time"}
_IDENTIFIER = or_null({"type": "string", "minLength": 1, "maxLength": IDENTIFIER_CHARACTERS})
_KEPT = "Logged under a keyed pseudonym only, and never answered."
_IDENTIFIERS: Schema = {
    PATIENT_ID: _IDENTIFIER | {"description": f"Whose data these are. {_KEPT}"},
    ORDER_ID: _IDENTIFIER | {"description": f"The order or accession number whose results are awaited. {_KEPT}"},
}
_FIELDS: Schema = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["loc", "msg", "type"],
        "properties": {"loc": {"type": "array", "items": TEXT}, "msg": TEXT, "type": TEXT, "input": {}},
    },
}
_HEADERS = {
    "x-prediction-id": "The id under which the inference was logged; a laboratory's outcome refers to it.",
    "x-model-name": "The model that answered.",
    "x-model-version": "Its version.",
    "x-model-variant": "Whether it answered as the champion or as a canary.",
    "x-driftloop-revision": "The serving revision that this replica had applied.",
}


def document(contract: Contract, title: str, max_rows: int) -> Schema:
    """The whole OpenAPI document of a predictor that serves this contract."""
    row, example = row_schema(contract), example_row(contract)
    full = row | {"properties": row["properties"] | _IDENTIFIERS}
    rows = {"type": "array", "minItems": 1, "maxItems": max_rows, "items": {"description": "As in /v1/predict."}}
    prediction = _prediction(contract)
    result = {"anyOf": [prediction, object_of({"error": ref("Problem")})]}
    results = object_of({"results": {"type": "array", "items": result}})
    predict, many = "Predict, answering all that is known", "Predict many rows, each with an answer of its own"
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1", "description": contract.description},
        "security": [{"bearer": []}, {"key": []}],
        "components": _components(),
        "paths": {
            "/": {"get": _get("Say that the service is there", object_of({"message": TEXT}))},
            "/predict": {"post": _bare(row, example, object_of({answer_name(contract): {"type": "boolean"}}))},
            "/v1/predict": {"post": _post(predict, full, example, prediction)},
            "/v1/predict/batch": {"post": _post(many, object_of({ROWS: rows}) | _CLOSED, {ROWS: [example]}, results)},
            "/v1/model": {"get": _get("Tell what serves now, since when, and why", ref("Model"))},
            **description.paths(contract, max_rows),
        },
    }


_CLOSED: Schema = {"additionalProperties": False}


def _components() -> Schema:
    """What several doors share."""
    problem = object_of({"type": TEXT, "title": TEXT, "status": WHOLE, "detail": TEXT})
    problem["properties"]["errors"] = _FIELDS
    problem["description"] = "RFC 9457; `errors` names each field that is refused."
    replaced = object_of({"detail": {"anyOf": [TEXT, _FIELDS]}})
    replaced["description"] = "As the replaced service's framework says it."
    model = {
        "model_name": TEXT, "replica": TEXT, "revision": WHOLE, "since": _MOMENT, "decided_at": _MOMENT,
        "reason": TEXT, "champion": WHOLE, "canary": or_null(WHOLE),
        "canary_weight": or_null({"type": "number", "minimum": 0, "maximum": 1}), "shadow": or_null(WHOLE),
        "artifacts": {"type": "object", "additionalProperties": TEXT, "description": "SHA-256 by version."},
        "refused": or_null(TEXT),
    }  # fmt: skip
    return {
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or a JWT."},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        },
        "schemas": {"Problem": problem, "CompatibleProblem": replaced, "Model": object_of(model)}
        | description.schemas(),
    }


def _prediction(contract: Contract) -> Schema:
    threshold = f"Whether the probability is at least {contract.decision_threshold:g}."
    sets = (
        "The decisions that cannot be excluded: the true one is among them in `level` of all cases. None: neither is"
        " usual at this probability. null: the version has no held-out rows to tell."
    )
    decisions = object_of({"level": {"type": "number"}, "decisions": {"type": "array", "items": {"type": "boolean"}}})
    outside = "Features in which this row is unlike all those that the version was proven on."
    return object_of(
        {
            "prediction_id": TEXT,
            "probability": {"type": "number", "minimum": 0, "maximum": 1},
            "prediction": {"type": "boolean", "description": threshold},
            "model_name": TEXT,
            "model_version": WHOLE,
            "revision": WHOLE,
            "variant": {"type": "string", "enum": ["champion", "canary"]},
            "prediction_set": or_null(decisions) | {"description": sets},
            "outside_reference": {"type": "array", "items": TEXT, "description": outside},
        }
    )


def _post(summary: str, body: Schema, example: object, answer: Schema) -> Schema:
    return {
        "summary": summary,
        "parameters": [IDEMPOTENCY_KEY],
        "requestBody": {"required": True, "content": {JSON: {"schema": body, "example": example}}},
        "responses": {
            "200": response("Every inference that is answered is logged.", answer),
            "422": refusal("The body is not what the contract accepts; nothing was logged."),
            "500": refusal("The model gave no probability; nothing was logged."),
            "503": refusal("Nothing durable can be written, or no model is loaded.", headers=RETRY_AFTER),
        }
        | everywhere(),
    }


def _bare(body: Schema, example: object, answer: Schema) -> Schema:
    found = _post("Predict, answering the bare decision", body, example, answer)
    headers = {name: {"description": text, "schema": TEXT} for name, text in _HEADERS.items()}
    found["responses"]["200"]["headers"] = headers
    for status in ("422", "500", "503"):
        found["responses"][status]["content"] = {JSON: {"schema": ref("CompatibleProblem")}}
    # Whether a key is good is said by the guard, as everywhere.
    found["responses"]["503"]["content"][PROBLEM_JSON] = {"schema": ref("Problem")}
    return found


def _get(summary: str, answer: Schema) -> Schema:
    unavailable = refusal("No model is loaded, or no key can be checked.", headers=RETRY_AFTER)
    responses = {"200": response("It is.", answer), "503": unavailable}
    return {"summary": summary, "responses": responses | everywhere()}
