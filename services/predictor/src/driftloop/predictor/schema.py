"""A contract as JSON Schema: exactly what a request may carry."""

import math
from typing import Any

from driftloop.common.contract import Contract, Feature, Grid
from driftloop.common.rows import LARGEST_INTEGER


def row_schema(contract: Contract) -> dict[str, Any]:
    """The JSON Schema of a row: exactly what the contract accepts."""
    return {
        "type": "object",
        "properties": {feature.name: _feature_schema(feature) for feature in contract.features},
        "required": [feature.name for feature in contract.features if feature.required],
        "additionalProperties": False,
    }


def answer_name(contract: Contract) -> str:
    """What the decision is called in the answer of `/predict`."""
    return contract.target.title or contract.target.name


def example_row(contract: Contract) -> dict[str, str | int | float]:
    """A row that the contract accepts."""
    return {feature.name: _example(feature) for feature in contract.features}


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
