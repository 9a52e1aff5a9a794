"""The published description of every topic and event (AsyncAPI 3.0), made from the types that the code itself uses."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from driftloop.common.envelope import CONTENT_TYPE
from driftloop.common.events import EVENT_TYPES, Event, type_name
from driftloop.common.topics import TOPICS, Topic, dead_letter_topic

VERSION = "1.0.0"
_SCHEMAS = "#/components/schemas"
_HEADERS: Mapping[str, Mapping[str, object]] = {
    "ce_specversion": {"const": "1.0"},
    "ce_id": {"type": "string", "minLength": 1, "description": "The same for every delivery of one event."},
    "ce_source": {"type": "string", "minLength": 1, "description": "The producer's incarnation, or its outbox."},
    "ce_type": {"type": "string"},
    "ce_time": {"type": "string", "format": "date-time"},
    "ce_sequence": {
        "type": "string",
        "pattern": "^[0-9]+$",
        "description": (
            "Dense for each source and partition, though not always in the order of the log: "
            "by it a consumer knows what was produced twice."
        ),
    },
    "content-type": {"const": CONTENT_TYPE},
    "traceparent": {"type": "string", "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"},
}
_REQUIRED_HEADERS = ("ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "content-type")


def document() -> dict[str, Any]:
    """The whole description as JSON-ready values."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Driftloop",
            "version": VERSION,
            "description": (
                "Every event of the loop: CloudEvents 1.0 in the Kafka binary binding, values in JSON. A consumer "
                "accepts fields that it does not know; a field is added, never renamed or retyped."
            ),
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {topic.name: _channel(topic) for topic in TOPICS},
        "components": {
            "messages": {event.__name__: _message(event) for event in EVENT_TYPES.values()},
            "schemas": schemas(),
        },
    }


def schemas() -> dict[str, Any]:
    """The JSON Schemas (2020-12) of every event and of what they are made of, by name."""
    _, components = msgspec.json.schema_components(list(EVENT_TYPES.values()), ref_template=_SCHEMAS + "/{name}")
    # As JSON has it: a default that is a tuple here is an array there.
    plain = msgspec.json.decode(msgspec.json.encode(components))
    return {name: _portable(schema) for name, schema in sorted(plain.items())}


def headers(event: type[Event]) -> dict[str, Any]:
    """The JSON Schema of an event's record headers, as text."""
    properties = {name: dict(schema) for name, schema in _HEADERS.items()}
    properties["ce_type"] = {"const": type_name(event)}
    return {"type": "object", "properties": properties, "required": list(_REQUIRED_HEADERS)}


def _channel(topic: Topic) -> dict[str, Any]:
    return {
        "address": topic.name,
        "description": f"What cannot be handled goes to {dead_letter_topic(topic).name}.",
        "messages": {event.__name__: {"$ref": f"#/components/messages/{event.__name__}"} for event in topic.events},
        "bindings": {"kafka": {"partitions": topic.partitions, "topicConfiguration": _configuration(topic)}},
    }


def _configuration(topic: Topic) -> dict[str, Any]:
    known: Mapping[str, Callable[[str], object]] = {
        "cleanup.policy": lambda value: [value],
        "retention.ms": int,
        "max.message.bytes": int,
    }
    return {name: known[name](value) for name, value in topic.config.items()}


def _message(event: type[Event]) -> dict[str, Any]:
    return {
        "name": type_name(event),
        "summary": (event.__doc__ or "").partition("\n")[0],
        "headers": headers(event),
        "payload": {"$ref": f"{_SCHEMAS}/{event.__name__}"},
    }


def _portable(value: Any) -> Any:
    """A schema whose patterns are JSON Schema's (ECMA 262), which has no \\A and no \\Z."""
    if isinstance(value, dict):
        return {
            key: inner.replace(r"\A", "^").replace(r"\Z", "$") if key == "pattern" else _portable(inner)
            for key, inner in value.items()
        }
    return [_portable(inner) for inner in value] if isinstance(value, list) else value
