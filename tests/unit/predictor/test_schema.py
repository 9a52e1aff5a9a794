"""The OpenAPI document tells exactly what is accepted."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from driftloop.common.contract import Contract, Feature
from driftloop.common.rows import InvalidRow, canonicalise
from driftloop.predictor.body import IDENTIFIERS
from driftloop.predictor.openapi import document
from driftloop.predictor.schema import row_schema
from tests.unit.predictor.builders import DIABETES, LOAN

WIDE = msgspec.structs.replace(
    LOAN,
    features=(
        Feature(name="n", type="integer", nullable=False),
        Feature(name="x", type="number", minimum=0.5, missing=(-1,), required=False),
        Feature(name="y", type="number", maximum=2.5, resolution=0.5),
        Feature(name="z", type="category", categories=("a", "b"), missing=("",), nullable=False, required=False),
    ),
)
CONTRACTS = {"diabetes": DIABETES, "loan": LOAN, "wide": WIDE}
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 1100),
    st.integers(),
    st.floats(-3, 1100),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "unknown", "employed", "a", "b", "c"]),
)


def accepted(contract: Contract, row: dict[str, Any]) -> bool:
    try:
        canonicalise(contract, row)
    except InvalidRow:
        return False
    return True


@pytest.mark.parametrize("name", CONTRACTS)
@given(data=st.data())
def test_the_schema_accepts_exactly_what_the_service_accepts(name: str, data: st.DataObject) -> None:
    contract = CONTRACTS[name]
    row = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys((*contract.feature_names, "else"), VALUES)))
    assert Draft202012Validator(row_schema(contract)).is_valid(row) == accepted(contract, row)


@pytest.mark.parametrize("name", CONTRACTS)
def test_the_example_is_accepted(name: str) -> None:
    for path in ("/predict", "/v1/predict"):
        content = document(CONTRACTS[name], "title", 1000)["paths"][path]["post"]["requestBody"]["content"]
        assert accepted(CONTRACTS[name], content["application/json"]["example"])


@pytest.mark.parametrize("name", CONTRACTS)
def test_every_example_of_a_feature_fits_its_schema(name: str) -> None:
    for schema in row_schema(CONTRACTS[name])["properties"].values():
        assert Draft202012Validator(schema).is_valid(schema["examples"][0])


@pytest.mark.parametrize("name", IDENTIFIERS)
def test_only_the_new_door_takes_a_patient_and_an_order(name: str) -> None:
    paths = document(DIABETES, "title", 1000)["paths"]
    taken = {
        path: name in paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
        for path in ("/predict", "/v1/predict")
    }
    assert taken == {"/predict": False, "/v1/predict": True}


def test_descriptions_units_and_missing_codes_are_told() -> None:
    glucose = row_schema(DIABETES)["properties"]["Glucose"]
    assert glucose["description"].endswith("Unit: mg/dL.")
    assert [0] in [choice.get("enum") for choice in glucose["anyOf"]]
