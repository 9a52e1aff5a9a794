"""What the descriptions of several doors share."""

from collections.abc import Mapping
from typing import Any

from driftloop.common.http import PROBLEM_JSON

Schema = dict[str, Any]

JSON = "application/json"
TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
IDEMPOTENCY_KEY: Schema = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key from the same caller gives the same prediction id, and is counted once, for a day.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}
RETRY_AFTER: Schema = {"retry-after": {"description": "Seconds.", "schema": WHOLE}}


def everywhere() -> Schema:
    """The answers of the guard, which every door has."""
    return {
        "400": refusal("Several keys that differ."),
        "401": refusal("No key, or none that is known."),
        "403": refusal("The key may not do this."),
        "413": refusal("The body is too large."),
        "429": refusal("The caller sends more than it may.", headers=RETRY_AFTER),
    }


def response(description: str, schema: Schema, media_type: str = JSON) -> Schema:
    """An answer with a body of this schema."""
    return {"description": description, "content": {media_type: {"schema": schema}}}


def refusal(description: str, headers: Schema | None = None) -> Schema:
    """An error as RFC 9457 says it."""
    return response(description, ref("Problem"), PROBLEM_JSON) | ({"headers": headers} if headers else {})


def object_of(properties: Mapping[str, Schema]) -> Schema:
    """An object that has all of these."""
    return {"type": "object", "required": list(properties), "properties": dict(properties)}


def or_null(schema: Schema) -> Schema:
    """The same, or nothing."""
    return {"anyOf": [schema, {"type": "null"}]}


def ref(name: str) -> Schema:
    """One of the document's schemas, by its name."""
    return {"$ref": f"#/components/schemas/{name}"}
