"""The OpenAPI document: the contract's features as the true schema of a request."""

import math
from collections.abc import Mapping
from typing import Any

from driftloop.common.contract import Contract, Feature, Grid
from driftloop.common.rows import LARGEST_INTEGER
from driftloop.predictor.body import PATIENT_ID, PATIENT_ID_CHARACTERS

_PATIENT = {
    "anyOf": [{"type": "string", "minLength": 1, "maxLength": PATIENT_ID_CHARACTERS}, {"type": "null"}],
    "description": "Whose data these are. Logged under a keyed pseudonym only, and never answered.",
}
_HEADERS = {
    "x-prediction-id": "The id under which the inference was logged; a laboratory's outcome refers to it.",
    "x-model-name": "The model that answered.",
    "x-model-version": "Its version.",
    "x-driftloop-revision": "The serving revision that this replica had applied.",
}
_PROBLEM = {
    "type": "object",
    "required": ["detail"],
    "properties": {
        "detail": {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["loc", "msg", "type"],
                        "properties": {
                            "loc": {"type": "array", "items": {"type": "string"}},
                            "msg": {"type": "string"},
                            "type": {"type": "string"},
                            "input": {},
                        },
                    },
                },
            ]
        }
    },
}


def row_schema(contract: Contract) -> dict[str, Any]:
    """The JSON Schema of a row: exactly what the contract accepts."""
    return {
        "type": "object",
        "properties": {feature.name: _feature_schema(feature) for feature in contract.features},
        "required": [feature.name for feature in contract.features if feature.required],
        "additionalProperties": False,
    }


def document(contract: Contract, title: str) -> dict[str, Any]:
    """The whole OpenAPI document of a predictor that serves this contract."""
    row, example = row_schema(contract), {feature.name: _example(feature) for feature in contract.features}
    full = row | {"properties": row["properties"] | {PATIENT_ID: _PATIENT}}
    answer = _object({answer_name(contract): {"type": "boolean"}})
    threshold = f"Whether the probability is at least {contract.decision_threshold:g}."
    full_answer = _object(
        {
            "prediction_id": {"type": "string"},
            "probability": {"type": "number", "minimum": 0, "maximum": 1},
            "prediction": {"type": "boolean", "description": threshold},
            "model_name": {"type": "string"},
            "model_version": {"type": "integer"},
            "revision": {"type": "integer"},
            "variant": {"type": "string", "enum": ["champion", "canary"]},
        }
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1", "description": contract.description},
        "paths": {
            "/": {"get": _live()},
            "/predict": {"post": _door("Predict, answering the bare decision", row, example, answer, _HEADERS)},
            "/v1/predict": {"post": _door("Predict, answering all that is known", full, example, full_answer, {})},
        },
    }


def answer_name(contract: Contract) -> str:
    """What the decision is called in the answer of `/predict`."""
    return contract.target.title or contract.target.name


def _door(summary: str, body: object, example: object, answer: object, headers: Mapping[str, str]) -> dict[str, Any]:
    described = {name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body, "example": example}}},
        "responses": {
            "200": _response("The decision; its inference is in the log.", answer) | {"headers": described},
            "413": _response("The body is too large.", _PROBLEM),
            "422": _response("The body is not what the contract accepts; nothing was logged.", _PROBLEM),
            "503": _response("The log does not confirm, or no model is loaded: try again later.", _PROBLEM)
            | {"headers": {"retry-after": {"description": "Seconds.", "schema": {"type": "integer"}}}},
        },
    }


def _live() -> dict[str, Any]:
    return {
        "summary": "Say that the service is there",
        "responses": {"200": _response("It is.", _object({"message": {"type": "string"}}))},
    }


def _response(description: str, schema: object) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _object(properties: Mapping[str, object]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": dict(properties)}


def _feature_schema(feature: Feature) -> dict[str, Any]:
    if feature.type == "category":
        values: dict[str, Any] = {"type": "string", "enum": list(feature.categories)}
    else:
        widest = LARGEST_INTEGER if feature.type == "integer" else math.inf
        low = -widest if feature.minimum is None else feature.minimum
        high = widest if feature.maximum is None else feature.maximum
        bounds = {"minimum": low, "maximum": high}
        values = {"type": feature.type} | {
            name: _plain(bound) for name, bound in bounds.items() if math.isfinite(bound)
        }
    choices = [values]
    if feature.missing:
        choices.append({"enum": list(feature.missing), "description": "Codes that mean: missing."})
    if feature.nullable:
        choices.append({"type": "null", "description": "Missing."})
    schema = values if len(choices) == 1 else {"anyOf": choices}
    unit = f" Unit: {feature.unit}." if feature.unit else ""
    described = f"{feature.description}{unit}".strip()
    return schema | ({"description": described} if described else {}) | {"examples": [_example(feature)]}


def _example(feature: Feature) -> str | int | float:
    """A value that the feature accepts."""
    if feature.type == "category":
        return feature.categories[0]
    low, high = feature.minimum, feature.maximum
    if low is not None and high is not None:
        value = low + (high - low) / 4
        # A bound is on the grid, and so is a point between two of them that was rounded to it.
        return _plain(value if feature.step is None else Grid(feature.step).round(value))
    return _plain(next((bound for bound in (low, high) if bound is not None), 0.0))


def _plain(number: float) -> int | float:
    return int(number) if number.is_integer() else number
