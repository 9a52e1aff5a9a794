"""What we show and answer is FHIR, as a library that knows the standard judges (R4B, whose forms of these are R4's)."""

import json
from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class

from tests.support.asgi import ask
from tests.support.fhir import EXAMPLES, Core, example

NAMES = sorted(path.stem for path in EXAMPLES.glob("*.json"))
ADDRESSES = {"Bundle": "/fhir", "Observation": "/fhir/Observation", "DiagnosticReport": "/fhir/DiagnosticReport"}


def judge(resource: dict[str, Any]) -> None:
    """Raises pydantic.ValidationError where this is no FHIR resource."""
    get_fhir_model_class(resource["resourceType"]).model_validate(resource)


@pytest.mark.parametrize("name", NAMES)
def test_each_example_is_fhir(name: str) -> None:
    judge(example(name))


@pytest.mark.parametrize("name", NAMES)
def test_each_example_s_answer_is_fhir(name: str) -> None:
    resource = example(name)
    response = ask(Core().app(), "POST", ADDRESSES[resource["resourceType"]], content=json.dumps(resource))
    assert response.status_code in (200, 201)
    judge(response.json())


def test_a_refusal_is_fhir() -> None:
    judge(ask(Core().app(), "POST", "/fhir/Observation", content=b"{").json())


def test_the_capability_statement_is_fhir() -> None:
    judge(ask(Core().app(), "GET", "/fhir/metadata").json())
