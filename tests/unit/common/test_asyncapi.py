"""The published description is that of the code, and real messages keep to it."""

from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from driftloop.cli.main import app
from driftloop.common.asyncapi import document
from driftloop.common.events import EVENT_TYPES
from driftloop.common.topics import TOPICS
from tests.support.paths import ROOT

FILE = ROOT / "docs" / "asyncapi.yaml"


def test_the_published_file_is_what_the_code_says() -> None:
    assert yaml.safe_load(FILE.read_text()) == document(), "run `driftloop asyncapi > docs/asyncapi.yaml`"


def test_the_command_prints_it() -> None:
    result = CliRunner().invoke(app, ["asyncapi"])
    assert result.output == FILE.read_text()


def test_every_topic_and_event_is_described() -> None:
    described = document()
    assert set(described["channels"]) == {topic.name for topic in TOPICS}
    assert set(described["components"]["messages"]) == {event.__name__ for event in EVENT_TYPES.values()}


@pytest.mark.parametrize("name", sorted(document()["components"]["schemas"]))
def test_every_schema_is_valid_json_schema(name: str) -> None:
    schema: dict[str, Any] = document()["components"]["schemas"][name]
    jsonschema.Draft202012Validator.check_schema(schema)
