"""The label rule: what the results of a prediction make of it under a policy, and what is published of that."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.common.contract import Labels, load_contract
from driftloop.label_ingest.domain.labels import Change, Decision, Published, decide, publish
from driftloop.label_ingest.domain.results import Result, Version
from tests.support.paths import MODELS

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SINGLE = load_contract(MODELS / "diabetes" / "contract.yaml").labels
CONFIRMED = msgspec.structs.replace(SINGLE, decide="confirmed", confirm_within_days=90, version=7)
HBA1C, FASTING, TWO_HOURS = "4548-4", "1558-6", "1518-0"


def result(name: str = "a", day: float | None = 0, **changes: Any) -> Result:
    observed_at = None if day is None else NOON + timedelta(days=day)
    plain = Version("pp-1", f"\x1f{name}", None, None, 1, None, "final", observed_at, None)
    contested = changes.pop("contested", False)
    return Result(msgspec.structs.replace(plain, **changes), contested, matched=True)


def measured(value: float, name: str = "a", day: float | None = 0, analyte: str = HBA1C, unit: str = "%") -> Result:
    return result(name, day, analyte=analyte, value=value, unit=unit)


def label(policy: Labels | None, *results: Result) -> int | None:
    """The label, which is the same in whatever order the results are looked at."""
    decisions = {decide(policy, order) for order in itertools.permutations(results)}
    (decision,) = decisions
    return decision.label


@pytest.mark.parametrize(
    ("value", "unit", "analyte", "expected"),
    [
        (6.5, "%", HBA1C, 1), (6.4, "%", HBA1C, 0), (48, "mmol/mol", HBA1C, 1), (47, "mmol/mol", HBA1C, 0),
        (126, "mg/dL", FASTING, 1), (125, "mg/dL", FASTING, 0),
        (7.0, "mmol/L", FASTING, 1), (6.9, "mmol/L", FASTING, 0),
        (200, "mg/dL", TWO_HOURS, 1), (199, "mg/dL", TWO_HOURS, 0), (11.1, "mmol/L", TWO_HOURS, 1),
        (11.0, "mmol/L", TWO_HOURS, 0),
    ],
)  # fmt: skip
def test_the_shipped_cut_off_points_hold_in_both_unit_systems(
    value: float, unit: str, analyte: str, expected: Literal[0, 1]
) -> None:
    decision = decide(SINGLE, [measured(value, analyte=analyte, unit=unit)])
    assert decision == Decision(expected, policy_version=SINGLE.version)


def test_a_single_abnormal_result_is_enough_whatever_the_others_say() -> None:
    assert label(SINGLE, measured(5.0), measured(7.0, "b", 1), measured(5.0, "c", 2)) == 1
    assert label(SINGLE, measured(5.0), measured(5.5, "b", 1)) == 0


def test_a_confirmed_label_needs_two_abnormal_results_within_the_window() -> None:
    assert label(CONFIRMED, measured(7.0), measured(7.1, "b", 90)) == 1
    assert label(CONFIRMED, measured(7.0), measured(7.1, "b", 91)) is None
    assert label(CONFIRMED, measured(7.0), measured(150, "b", 0, FASTING, "mg/dL")) == 1
    assert label(CONFIRMED, measured(7.0), measured(7.1, "b", 91), measured(7.0, "c", 120)) == 1


def test_one_abnormal_result_waits_until_it_is_confirmed_or_followed_by_a_normal_one() -> None:
    assert label(CONFIRMED, measured(7.0)) is None
    assert label(CONFIRMED, measured(5.0), measured(7.0, "b", 1)) is None
    assert label(CONFIRMED, measured(7.0), measured(5.0, "b", 1)) == 0
    assert label(CONFIRMED, measured(5.0)) == 0
    assert decide(CONFIRMED, [measured(7.0)]).waits == "a second abnormal result within 90 days"


def test_what_a_laboratory_states_goes_before_what_it_measured() -> None:
    stated = decide(SINGLE, [measured(9.0), result("b", -5, label=0)])
    assert (stated.label, stated.policy_version) == (0, None)


def test_of_stated_labels_that_of_the_latest_specimen_holds_then_of_the_highest_version() -> None:
    assert label(SINGLE, result("a", 2, label=0), result("b", 1, label=1, version=9)) == 0
    assert label(SINGLE, result("a", label=0, version=2), result("b", label=1, version=1)) == 0
    assert label(SINGLE, result("a", None, label=0), result("b", 1, label=1)) == 1
    assert label(SINGLE, result("a", label=0), result("b", label=1)) == 1
    assert decide(SINGLE, [result("a", label=0), result("b", label=1)]).contested
    assert not decide(SINGLE, [result("a", label=1), result("b", label=1)]).contested


def test_of_stated_labels_of_one_version_that_which_was_issued_last_holds_before_any_name() -> None:
    early, late = (NOON + timedelta(hours=hours) for hours in (1, 2))
    assert label(SINGLE, result("a", label=0, reported_at=late), result("b", label=1, reported_at=early)) == 0
    assert label(SINGLE, result("a", label=0, reported_at=early), result("b", label=1)) == 0
    assert label(SINGLE, result("a", label=0, reported_at=late), result("b", label=1, version=2)) == 1


def test_a_version_with_two_contents_makes_its_label_contested() -> None:
    assert decide(SINGLE, [result(label=1, contested=True)]).contested
    assert decide(SINGLE, [msgspec.structs.replace(measured(7.0), contested=True)]).contested


@pytest.mark.parametrize("status", ["preliminary", "cancelled", "entered-in-error"])
def test_only_final_and_corrected_results_count(status: str) -> None:
    assert label(SINGLE, result(label=1, status=status)) is None
    assert label(SINGLE, result(label=1, status=status), result("b", label=0, status="corrected")) == 0


def test_without_a_policy_a_measurement_waits_and_a_stated_label_does_not() -> None:
    assert label(None, measured(9.0)) is None
    assert label(None, result(label=1)) == 1
    assert label(Labels(), measured(9.0)) is None


def test_without_results_there_is_no_label() -> None:
    assert decide(SINGLE, []).label is None


labels = st.none() | st.integers(0, 1)


@given(st.lists(labels, max_size=8))
def test_what_is_published_adds_up_to_the_label_that_holds(story: list[int | None]) -> None:
    published, changes = Published(), []
    for one in story:
        change = publish(published, Decision(one))
        if change is not None:
            changes.append(change)
            published = Published(change.label, change.revision)
    assert [one.revision for one in changes] == list(range(1, len(changes) + 1))
    assert [one.previous for one in changes] == [None, *(one.label for one in changes[:-1])][: len(changes)]
    assert published.label == (story[-1] if story else None)


def test_a_label_that_goes_is_a_change_to_none() -> None:
    assert publish(Published(1, 3), Decision(None)) == Change(None, 1, 4)
    assert publish(Published(None, 4), Decision(None)) is None
