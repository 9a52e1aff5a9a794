"""Which spellings of a unit are known, and what is never converted."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.label_ingest.domain import units
from driftloop.label_ingest.domain.units import convert

finite = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("value", "unit", "to", "expected"),
    [
        (1.26, "g/L", "mg/dL", 126.0),
        (126.0, "mg/dL", "g/L", 1.26),
        (0.126, "g/dL", "mg/dL", 126.0),
        (7000.0, "umol/L", "mmol/L", 7.0),
        (0.0111, "mol/L", "mmol/L", 11.1),
        (11.1, "umol/mL", "mmol/L", 11.1),
        (48.0, "umol/mmol", "mmol/mol", 48.0),
        (0.048, "mol/mol", "mmol/mol", 48.0),
        (30.0, "mg/g", "ug/mg", 30.0),
        (4.5, "10*9/L", "10*3/uL", 4.5),
        (4500.0, "/uL", "10*9/L", 4.5),
        (4500.0, "{cells}/uL", "10^9/L", 4.5),
        (2.5, "m[iU]/L", "u[IU]/mL", 2.5),
        (2.5, "mIU/L", "m[iU]/L", 2.5),
        (90.0, "mL/min", "L/min", 0.09),
        (120.0, "mm[Hg]", "mmHg", 120.0),
    ],
)
def test_units_of_the_same_kind_are_converted_to_the_digit(value: float, unit: str, to: str, expected: float) -> None:
    assert convert(value, unit, to) == expected


@pytest.mark.parametrize(
    ("unit", "meant"),
    [
        ("mg/dl", "mg/dL"),
        ("MG/DL", "mg/dL"),
        (" mg/dL ", "mg/dL"),
        ("mg/dL{plasma}", "mg/dL"),
        ("mmol/l", "mmol/L"),
        ("MMOL/L", "mmol/L"),
        ("g/l", "g/L"),
        ("G/L", "g/L"),
        ("\N{MICRO SIGN}mol/L", "umol/L"),
        ("\N{GREEK SMALL LETTER MU}mol/L", "umol/L"),
        ("UMOL/L", "umol/L"),
        ("mcg/mL", "ug/mL"),
        ("MCG/ML", "ug/mL"),
        ("mmol/mol{Hb}", "mmol/mol"),
        ("MMOL/MOL", "mmol/mol"),
        ("%{Hb}", "%"),
        ("U/l", "U/L"),
        ("U/ML", "U/mL"),
    ],
)
def test_a_unit_is_known_in_every_spelling_that_laboratories_use(unit: str, meant: str) -> None:
    assert convert(5.4, unit, meant) == 5.4


@pytest.mark.parametrize(
    ("unit", "to"),
    [
        ("mg/dL", "mmol/L"),  # needs a molar mass
        ("mmol/mol", "%"),  # 48 mmol/mol HbA1c are 6.5 %, not 4.8 %
        ("%", "mmol/mol"),
        ("mmol/mol{Hb}", "%{Hb}"),
        ("g/g", "%"),
        ("1", "%"),
        ("g", "g/L"),
        ("U/L", "[iU]/L"),
        ("eq/L", "mol/L"),
    ],
)
def test_units_of_different_kinds_are_never_converted(unit: str, to: str) -> None:
    assert convert(48.0, unit, to) is None


@pytest.mark.parametrize(
    "unit",
    [
        "",
        " ",
        "{score}",
        "{",
        "mg",
        "mg/",
        "mg//dL",
        "mg/dL/dL",
        "mg dL",
        "mg%",
        "Mg/dL",
        "mg/DL",
        "mmol/mol Hb",
        "furlong/L",
        "10*999/L",
        "10*\N{SUPERSCRIPT TWO}/L",
    ],
)
def test_what_is_no_concentration_that_is_known_is_not_guessed(unit: str) -> None:
    assert convert(1.0, unit, "mg/dL") is None
    assert convert(1.0, "mg/dL", unit) is None


def test_upper_case_leaves_no_two_units_in_one_spelling() -> None:
    assert all(units._UPPER_CASE_TERMS[term.upper()] == meaning for term, meaning in units._TERMS.items())


@given(finite)
def test_a_value_in_its_own_unit_stays_as_it_is(value: float) -> None:
    assert convert(value, "mg/dl", "mg/dL") == value


@given(st.decimals(min_value=0, max_value=10_000, places=3))
def test_the_way_there_and_back_loses_nothing(value: object) -> None:
    number = float(str(value))
    there = convert(number, "g/L", "mg/dL")
    assert there is not None
    assert convert(there, "mg/dL", "g/L") == number


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_text_breaks_it(unit: str, to: str) -> None:
    converted = convert(1.0, unit, to)
    assert converted is None or converted > 0


def test_a_value_that_is_no_number_stays_none() -> None:
    assert math.isnan(convert(math.nan, "g/L", "mg/dL") or 0.0)
    assert convert(math.inf, "g/L", "mg/dL") == math.inf
    assert convert(1e308, "kg/L", "fg/L") == math.inf
