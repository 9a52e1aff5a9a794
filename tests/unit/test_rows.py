"""Rows in a contract's terms: canonical values, refusals, the model's input."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.common.contract import Contract, ContractError, Feature, baseline_path, load_contract
from driftloop.common.rows import (
    InvalidRow,
    Row,
    RowValidator,
    canonical_score,
    canonical_scores,
    canonicalise,
    encode,
    read_baseline,
    validator,
)
from tests.support.paths import MODELS

DIABETES = load_contract(MODELS / "diabetes" / "contract.yaml")
LOAN = load_contract(MODELS / "loan" / "contract.yaml")
PATIENT: Row = {"Pregnancies": 6, "Glucose": 148.0, "BloodPressure": 72, "BMI": 33.6, "Age": 50}
BORROWER: Row = {"income": 42_000, "employment": "retired", "term": 24}


def reasons(contract: Contract, row: Mapping[str, object]) -> dict[str, str]:
    with pytest.raises(InvalidRow) as caught:
        canonicalise(contract, row)
    return {error.field: error.reason for error in caught.value.errors}


def test_values_are_rounded_to_their_resolution_and_typed() -> None:
    row = canonicalise(DIABETES, PATIENT | {"Glucose": 148, "BMI": 33.61999, "Age": 50.0})
    assert row == {"Pregnancies": 6, "Glucose": 148.0, "BloodPressure": 72.0, "BMI": 33.6, "Age": 50}
    assert [type(value) for value in row.values()] == [int, float, float, float, int]


def test_a_missing_code_and_null_are_none_and_a_zero_elsewhere_is_zero() -> None:
    row = canonicalise(DIABETES, PATIENT | {"Glucose": 0, "BMI": None, "Pregnancies": 0})
    assert (row["Glucose"], row["BMI"], row["Pregnancies"]) == (None, None, 0)
    assert canonicalise(LOAN, BORROWER | {"employment": "unknown"})["employment"] is None


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("Age", "50", "must be a whole number"),
        ("Age", True, "must be a whole number"),
        ("Age", 50.5, "must be a whole number"),
        ("Age", 121, "must be between 1 and 120 years"),
        ("Age", None, "must not be null"),
        ("Age", 10**400, "must be between 1 and 120 years"),
        ("Glucose", False, "must be a number"),
        ("Glucose", "148", "must be a number"),
        ("Glucose", [148], "must be a number"),
        ("Glucose", 5, "must be between 10 and 1000 mg/dL, or 0 for missing"),
        ("Glucose", math.nan, "must be a finite number"),
        ("Glucose", math.inf, "must be a finite number"),
    ],
)
def test_a_wrong_number_is_refused_with_its_range(field: str, value: object, reason: str) -> None:
    assert reasons(DIABETES, PATIENT | {field: value}) == {field: reason}


def test_an_unseen_category_is_refused_with_those_that_there_are() -> None:
    listed = "must be one of ['employed', 'self-employed', 'retired', 'unemployed']"
    assert reasons(LOAN, BORROWER | {"employment": "astronaut"}) == {"employment": listed}


def test_every_wrong_field_is_named_at_once() -> None:
    row: dict[str, object] = {"Pregnancies": -1, "Glucose": "high", "BloodPressure": 70, "BMI": 30.0, "Shoe": 42}
    assert set(reasons(DIABETES, row)) == {"Pregnancies", "Glucose", "Age", "Shoe"}


def test_an_error_carries_the_value_but_its_text_does_not() -> None:
    with pytest.raises(InvalidRow) as caught:
        canonicalise(DIABETES, PATIENT | {"Glucose": 1234.5})
    assert caught.value.errors[0].value == 1234.5
    assert "1234" not in str(caught.value)


def test_a_hostile_row_gives_a_short_error() -> None:
    hostile: dict[str, object] = {f"x{index}": "y" * 10_000 for index in range(5_000)}
    with pytest.raises(InvalidRow) as caught:
        canonicalise(DIABETES, PATIENT | hostile | {"Age": "z" * 1_000_000})
    assert len(caught.value.errors) < 30
    assert all(len(str(error.value)) <= 101 for error in caught.value.errors)


@given(st.floats(5, 100))
def test_canonical_values_stay_as_they_are(bmi: float) -> None:
    once = canonicalise(DIABETES, PATIENT | {"BMI": bmi})
    assert canonicalise(DIABETES, once) == once


@given(
    st.sampled_from(["integer", "number"]),
    st.sampled_from([None, 0.1, 0.25, 1.0, 3.0]),
    st.sampled_from([(), (0.0,), (-1.0, 7.5)]),
    st.one_of(
        st.floats(), st.integers(), st.floats(-12, 12), st.integers(-12, 12), st.booleans(), st.none(), st.text()
    ),
)
def test_a_usual_value_takes_a_short_way_to_where_the_long_one_leads(
    kind: Literal["integer", "number"], step: float | None, missing: tuple[float, ...], value: object
) -> None:
    step = step if step is None or kind == "number" or step.is_integer() else None
    near = Feature(name="x", type=kind, minimum=-9.0, maximum=9.0, resolution=step, missing=missing)
    # So far a range has no short way, and its values are the same where both have them.
    far = msgspec.structs.replace(near, minimum=-1e300, maximum=1e300)
    found = [_canonical(one, value) for one in (near, far)]
    if found[0] is not REFUSED:
        assert found[0] == found[1]
        assert type(found[0]) is type(found[1])
    elif found[1] is not REFUSED:
        assert isinstance(value, int | float)
        assert not -9 <= value <= 9


REFUSED = object()


def _canonical(feature: Feature, value: object) -> object:
    contract = msgspec.structs.replace(LOAN, features=(feature,))
    try:
        return RowValidator(contract).canonicalise({"x": value})["x"]
    except InvalidRow:
        return REFUSED


@given(st.integers(50, 1000))
def test_a_passage_through_float32_changes_no_canonical_value(tenths: int) -> None:
    narrow = float(np.float32(tenths / 10))
    assert canonicalise(DIABETES, PATIENT | {"BMI": narrow})["BMI"] == tenths / 10


def test_the_matrix_has_nan_for_missing_and_ordinal_codes_for_categories() -> None:
    rows: list[Row] = [
        BORROWER,
        {"income": None, "employment": None, "term": 12},
        {"income": 1.0, "employment": "new", "term": 1},
    ]
    matrix = encode(LOAN, rows)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, [[42_000, 2, 24], [np.nan, -1, 12], [1, -1, 1]])
    assert encode(LOAN, []).shape == (0, 3)


def test_exact_values_keep_the_decimal_grid_that_float32_loses() -> None:
    exact = validator(DIABETES).values([PATIENT])
    assert exact[0, 3] == 33.6
    assert float(encode(DIABETES, [PATIENT])[0, 3]) != 33.6


def test_an_even_vote_summed_in_float32_is_still_a_half() -> None:
    narrow = np.array([0.49999997, 0.5000001, 1 / 3], dtype=np.float32)
    np.testing.assert_array_equal(canonical_scores(narrow), [0.5, 0.5, 0.333333])


def test_one_score_is_made_canonical_as_many_are() -> None:
    found = np.random.default_rng(7).random(20_000, dtype=np.float32)
    odd = [0.0, 1.0, 0.5, 0.0000005, 0.0000015, 0.4999995, 1 / 3, math.nan, math.inf, -0.0]
    every = np.concatenate([found.astype(np.float64), np.array(odd)])
    alone = np.array([canonical_score(value) for value in every.tolist()])
    np.testing.assert_array_equal(alone, canonical_scores(every))


def test_one_row_is_encoded_as_many_are() -> None:
    rows: list[Row] = [BORROWER, {"income": None, "employment": None, "term": 12}]
    together = validator(LOAN).values(rows)
    alone = np.concatenate([validator(LOAN).values([row]) for row in rows])
    np.testing.assert_array_equal(alone, together)


def test_the_diabetes_baseline_is_the_documented_one() -> None:
    rows, labels = read_baseline(DIABETES, baseline_path(MODELS / "diabetes" / "contract.yaml", DIABETES))
    missing = {name: sum(row[name] is None for row in rows) for name in DIABETES.feature_names}
    assert (len(rows), int(labels.sum())) == (768, 268)
    assert missing == {"Pregnancies": 0, "Glucose": 5, "BloodPressure": 35, "BMI": 11, "Age": 0}
    assert rows[0] == {"Pregnancies": 6, "Glucose": 148.0, "BloodPressure": 72.0, "BMI": 33.6, "Age": 50}


def test_a_baseline_with_texts_as_labels_and_empty_cells_is_read() -> None:
    rows, labels = read_baseline(LOAN, MODELS / "loan" / "baseline.csv")
    assert (len(rows), int(labels.sum())) == (400, 109)
    assert any(row["employment"] is None for row in rows)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("income,employment,term,status\n", "needs rows with the columns"),
        ("income,term,status\n1,2,repaid\n", "no values for ['employment']"),
        ("income,employment,term,status\n1,retired,2,repaid\n1,retired,2,maybe\n", "line 3, status = 'maybe'"),
        ("income,employment,term,status\nrich,retired,2,repaid\n", "line 2, income = 'rich': must be a number"),
    ],
)
def test_a_bad_baseline_is_refused_by_line_and_column(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "baseline.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ContractError) as caught:
        read_baseline(LOAN, path)
    assert says in str(caught.value)
