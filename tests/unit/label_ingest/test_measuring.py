"""What a measurement says to a label policy, up to the edges of the limits."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.common.contract import Labels, LabelTest, Limit, load_contract
from driftloop.common.events import Comparator
from driftloop.label_ingest.domain.measuring import abnormal, reading_problem
from tests.support.paths import MODELS

POLICY = load_contract(MODELS / "diabetes" / "contract.yaml").labels
HBA1C, FASTING, TWO_HOURS, SODIUM = "4548-4", "1558-6", "1518-0", "2951-2"
COMPARATORS: tuple[Comparator, ...] = ("<", "<=", ">=", ">")


def policy(comparator: Comparator, threshold: float, unit: str = "mmol/L") -> Labels:
    """A policy of one test, sodium, whose possible values are 100 to 200."""
    limit = Limit(unit=unit, threshold=threshold, minimum=100, maximum=200)
    return Labels(tests=(LabelTest(name="sodium", loinc=(SODIUM,), comparator=comparator, limits=(limit,)),))


def problem(analyte: str, value: float, unit: str | None, comparator: Comparator | None = None) -> str:
    said = reading_problem([POLICY], analyte, value, unit, comparator)
    assert said is not None
    assert abnormal(POLICY, analyte, value, unit, comparator) is None
    return said


@pytest.mark.parametrize(
    ("analyte", "at_the_limit", "below", "unit"),
    [
        (HBA1C, 6.5, 6.4, "%"),
        (HBA1C, 48.0, 47.9, "mmol/mol"),
        (HBA1C, 48.0, 47.9, "mmol/mol{Hb}"),
        (HBA1C, 0.048, 0.0479, "mol/mol"),
        (FASTING, 126.0, 125.9, "mg/dL"),
        (FASTING, 126.0, 125.9, "MG/DL"),
        (FASTING, 1.26, 1.259, "g/L"),
        (FASTING, 0.126, 0.1259, "g/dL"),
        (FASTING, 7.0, 6.99, "mmol/L"),
        (FASTING, 7000.0, 6999.0, "\N{MICRO SIGN}mol/L"),
        (TWO_HOURS, 200.0, 199.9, "mg/dL"),
        (TWO_HOURS, 2.0, 1.999, "g/L"),
        (TWO_HOURS, 11.1, 11.09, "mmol/L"),
        (TWO_HOURS, 0.0111, 0.01109, "mol/L"),
    ],
)
def test_a_value_is_abnormal_exactly_from_the_limit_on(
    analyte: str, at_the_limit: float, below: float, unit: str
) -> None:
    assert abnormal(POLICY, analyte, at_the_limit, unit, None) is True
    assert abnormal(POLICY, analyte, below, unit, None) is False
    assert reading_problem([POLICY], analyte, below, unit, None) is None


@pytest.mark.parametrize(
    ("comparator", "value", "expected"),
    [
        (">", 14.0, True),
        (">", 6.5, True),
        (">=", 6.5, True),
        (">", 6.4, None),
        (">=", 6.4, None),
        (">", 5.0, None),
        ("<", 4.0, False),
        ("<", 6.5, False),
        ("<=", 6.4, False),
        ("<=", 6.5, None),
        ("<", 6.6, None),
    ],
)
def test_a_bound_counts_where_it_decides(comparator: Comparator, value: float, expected: bool | None) -> None:
    assert abnormal(POLICY, HBA1C, value, "%", comparator) is expected
    assert (reading_problem([POLICY], HBA1C, value, "%", comparator) is None) == (expected is not None)


@given(
    st.sampled_from(COMPARATORS),
    st.sampled_from((None, *COMPARATORS)),
    st.integers(110, 190),
    st.integers(110, 190),
)
def test_a_verdict_is_that_of_every_value_which_a_bound_allows(
    rule: Comparator, comparator: Comparator | None, threshold: int, value: int
) -> None:
    def holds(x: float, sign: Comparator, y: float) -> bool:
        return {"<": x < y, "<=": x <= y, ">=": x >= y, ">": x > y}[sign]

    halves = [half / 2 for half in range(200, 401)]
    allowed = [x for x in halves if (x == value if comparator is None else holds(x, comparator, value))]
    verdicts = {holds(x, rule, threshold) for x in allowed}
    expected = verdicts.pop() if len(verdicts) == 1 else None
    assert abnormal(policy(rule, threshold), SODIUM, value, "mmol/L", comparator) is expected


def test_an_unknown_analyte_is_told_the_known_ones() -> None:
    said = problem(SODIUM, 140.0, "mmol/L")
    assert said.startswith("analyte: ")
    assert "4548-4 (HbA1c)" in said
    assert "1558-6 (fasting glucose)" in said


def test_where_no_measurement_makes_labels_the_label_is_asked_for() -> None:
    assert reading_problem([Labels()], HBA1C, 6.0, "%", None) == (
        "analyte: no model here makes labels of measurements: send the label itself"
    )


@pytest.mark.parametrize("unit", ["furlong", "mg/dL", "g/L", "", None])
def test_a_unit_that_cannot_be_used_is_told_those_that_can(unit: str | None) -> None:
    assert problem(HBA1C, 6.5, unit) == (
        "unit: cannot be converted to any that HbA1c is judged in: send one of '%', 'mmol/mol'"
    )


@pytest.mark.parametrize(
    ("value", "unit"), [(1.9, "%"), (25.1, "%"), (-6.5, "%"), (0.5, "mmol/mol"), (2.51e2, "mmol/mol")]
)
def test_an_impossible_value_is_told_the_bounds_and_is_not_repeated(value: float, unit: str) -> None:
    said = problem(HBA1C, value, unit)
    assert said.startswith("value: HbA1c is impossible outside of ")
    assert said.endswith(f" {unit}: check the value and its unit")
    assert f"{value:g}" not in said


def test_the_ifcc_scale_is_never_read_as_percent() -> None:
    only_percent = LabelTest(
        name="HbA1c", loinc=(HBA1C,), limits=(Limit(unit="%", threshold=6.5, minimum=2, maximum=25),)
    )
    assert abnormal(Labels(tests=(only_percent,)), HBA1C, 48.0, "mmol/mol", None) is None
    assert "impossible" in problem(HBA1C, 48.0, "%")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_no_measurement(value: float) -> None:
    assert problem(HBA1C, value, "%") == "value: must be a finite number"


def test_a_bound_that_leaves_it_open_is_told_the_rule() -> None:
    assert problem(HBA1C, 5.0, "%", ">") == (
        "comparator: leaves open whether HbA1c is >= 6.5 %: send the value itself, or a closer bound"
    )


def test_one_policy_that_can_use_a_measurement_is_enough() -> None:
    assert reading_problem([policy(">=", 130), policy(">=", 150)], SODIUM, 145.0, "mmol/L", ">") is None
    assert reading_problem([Labels(), POLICY], HBA1C, 6.0, "%", None) is None


def test_what_several_policies_say_alike_is_said_once() -> None:
    said = reading_problem([policy(">=", 150), policy(">=", 150), policy(">=", 160)], SODIUM, 145.0, "mmol/L", ">")
    assert said is not None
    assert said.split("; ") == [
        "comparator: leaves open whether sodium is >= 150 mmol/L: send the value itself, or a closer bound",
        "comparator: leaves open whether sodium is >= 160 mmol/L: send the value itself, or a closer bound",
    ]


def test_a_limit_without_bounds_calls_nothing_impossible() -> None:
    open_ended = LabelTest(name="sodium", loinc=(SODIUM,), limits=(Limit(unit="mmol/L", threshold=145),))
    assert abnormal(Labels(tests=(open_ended,)), SODIUM, 1e9, "mmol/L", None) is True
    overflowing = abnormal(Labels(tests=(open_ended,)), SODIUM, 1e308, "kmol/L", None)
    assert overflowing is None
    assert "any to any mmol/L" in str(reading_problem([Labels(tests=(open_ended,))], SODIUM, 1e308, "kmol/L", None))


def test_a_limit_in_a_unit_of_its_own_takes_exactly_that_unit() -> None:
    unit = "mL/min/{1.73_m2}"
    filtration = policy("<", 160, unit)
    assert abnormal(filtration, SODIUM, 150.0, unit, None) is True
    assert abnormal(filtration, SODIUM, 150.0, "mL/min", None) is None
