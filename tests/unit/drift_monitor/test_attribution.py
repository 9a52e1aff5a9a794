"""Which drift it is: one answer, in an order, with the numbers that it rests on."""

import json
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from driftloop.drift_monitor.domain.alarm import FeatureAlarm, Signal
from driftloop.drift_monitor.domain.attribution import EXTRAPOLATING, Attribution, attribute
from driftloop.drift_monitor.domain.evaluation import (
    CONCEPT,
    DECLINE,
    QUALITY,
    Alarms,
    FeatureResult,
    WindowResult,
    evaluate,
)
from driftloop.drift_monitor.domain.labelled import Closed, LabelledResult, judge_labels
from driftloop.drift_monitor.domain.quality import worst_fault
from tests.unit.drift_monitor.builders import Rows, at, labels_of, lawful_rows, scored, watch_of, window_of

RNG = np.random.default_rng(5)
WATCH = watch_of(
    RNG.normal(105, 15, size=(768, 3)).round(1),
    calibration=scored(*lawful_rows(1, 1000)),
    heldout=scored(*lawful_rows(2, 1000)),
)
QUIET = RNG.normal(105, 15, size=(500, 3)).round(1)
EVERY = ("x0", QUALITY, CONCEPT, DECLINE)


def window(rows: Rows) -> WindowResult:
    """A window that was judged after another one of the same rows."""
    _, alarms = evaluate(WATCH, Alarms(), window_of(WATCH, rows))
    return evaluate(WATCH, alarms, window_of(WATCH, rows, 1))[0]


def moved(**shifts: float) -> WindowResult:
    """A window whose features have moved."""
    return window(QUIET + np.array([shifts.get(f"x{place}", 0.0) for place in range(3)]))


def partly_missing(share: float) -> WindowResult:
    rows = QUIET.copy()
    rows[: round(share * 500), 0] = np.nan
    return window(rows)


def in_millimoles() -> WindowResult:
    return window((QUIET * np.array([1 / 18, 1, 1])).round(1))


def labels(turned: bool = True) -> LabelledResult:
    """Labels that the scores tell, or that they tell the wrong way round."""
    scores, told = lawful_rows(3, 1000)
    state = WATCH.labels.add(labels_of(scores, 1 - told if turned else told))
    return judge_labels(WATCH, Alarms(), [Closed(1, at(0), at(60), 1200, 1000)], state)[0]


def opened(*names: str, severity: int = 2) -> Alarms:
    """Open alarms, by the names of their features and signals."""
    return Alarms(
        features={name: FeatureAlarm(severity=severity if name in names else 0) for name in ("x0", "x1", "x2")},
        signals={name: Signal(severity=severity) for name in names if name in (QUALITY, CONCEPT, DECLINE)},
    )


def attributed(
    names: Sequence[str], result: WindowResult | None = None, told: LabelledResult | None = None
) -> Attribution:
    one, other = result or moved(x0=30), told or labels()
    return attribute(opened(*names), one.features, one.faults, other.concept, other.decline)


# --- the order


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        ([], "none"),
        (["x0"], "covariate"),
        ([DECLINE], "performance"),
        ([CONCEPT], "concept"),
        ([QUALITY], "quality"),
        (["x0", DECLINE], "covariate"),
        (["x0", CONCEPT], "concept"),
        ([CONCEPT, DECLINE], "concept"),
        ([QUALITY, CONCEPT], "quality"),
        ([QUALITY, "x0"], "quality"),
        (["x0", CONCEPT, DECLINE], "concept"),
        (EVERY, "quality"),
    ],
)
def test_bad_data_come_before_a_changed_law_before_a_changed_population_before_performance(
    names: Sequence[str], kind: str
) -> None:
    assert attributed(names).kind == kind


def test_a_warning_is_attributed_as_a_critical_alarm_is() -> None:
    result = moved(x0=30)
    assert attribute(opened("x0", severity=1), result.features, (), None, None).kind == "covariate"
    assert attribute(opened(QUALITY, severity=1), result.features, result.faults, None, None).kind == "quality"


def test_without_an_open_alarm_nothing_has_changed() -> None:
    found = attributed([], moved(), labels(turned=False))
    assert (found.kind, found.sentence, found.numbers) == ("none", "nothing has changed beyond chance", {})
    assert found.estimate_trusted


def test_without_features_and_labels_there_is_an_answer_all_the_same() -> None:
    for name in (CONCEPT, DECLINE, "x0"):
        assert attribute(opened(name), (), (), None, None).kind == "none"
    assert attribute(opened(QUALITY), (), (), None, None).kind == "quality"


# --- quality


def test_bad_data_are_told_with_their_feature_their_share_and_that_of_the_reference() -> None:
    found = attributed([QUALITY], partly_missing(0.2))
    assert found.sentence == "data quality: 20.0% of x0 are missing, 0.0% in the reference"
    assert (found.features, found.estimate_trusted) == (("x0",), False)
    p = found.numbers.pop("p")
    assert found.numbers == {"fault": "missing", "count": 100, "n": 500, "reference_count": 0, "m": 768}
    assert isinstance(p, float)
    assert p < 1e-20


def test_what_the_reference_lacked_too_is_told() -> None:
    fault = msgspec.structs.replace(partly_missing(0.2).faults[0], reference_count=192, m=768)
    found = attribute(opened(QUALITY), (), [fault], None, None)
    assert found.sentence == "data quality: 20.0% of x0 are missing, 25.0% in the reference"


def test_outlying_values_are_told_as_what_they_most_likely_are() -> None:
    found = attributed([QUALITY], in_millimoles())
    assert found.sentence == (
        "data quality: 100% of x0 lie outside the middle 98% of the reference "
        "and are shaped as it is: suspect that the unit was changed"
    )
    assert found.numbers["p"] is None


def test_the_worst_fault_is_told() -> None:
    result = partly_missing(0.3)
    worst = worst_fault(result.faults)
    assert worst is not None
    assert attributed([QUALITY], result).numbers["count"] == worst.count == 150


def test_an_alarm_whose_last_window_was_well_says_what_clears_it() -> None:
    found = attributed([QUALITY], moved())
    assert (
        found.sentence == "data quality: no fault in the last window; two such windows of enough rows clear the alarm"
    )
    assert (found.features, found.numbers, found.estimate_trusted) == ((), {}, False)


# --- concept


def test_a_changed_law_is_told_with_what_was_realised_and_what_was_estimated() -> None:
    told = labels()
    found = attributed([CONCEPT], told=told)
    test = told.concept
    assert test is not None
    assert f"of 1000 labelled rows {sum(test.realised):.1%} are wrong" in found.sentence
    assert f"where {sum(test.estimated):.1%} were estimated" in found.sentence
    assert f"χ² = {test.statistic:.1f}, limit 9.2" in found.sentence
    assert found.numbers == {
        "n": 1000,
        "false_positives": test.realised[0],
        "false_negatives": test.realised[1],
        "estimated_false_positives": test.estimated[0],
        "estimated_false_negatives": test.estimated[1],
        "statistic": test.statistic,
        "limit": test.limit,
        "p": test.p,
    }


def test_an_estimate_under_another_law_is_not_trusted() -> None:
    assert not attributed([CONCEPT], moved()).estimate_trusted


# --- covariate


def test_a_changed_population_is_told_by_the_feature_that_moved_most() -> None:
    result = moved(x0=9, x2=14)
    found = attributed(["x0", "x2"], result)
    worst = result.features[2]
    assert found.sentence == (
        f"covariate drift: x2 moved most (D = {worst.statistic:.3f}, PSI = {worst.psi:.3f}), 2 features in alarm"
    )
    assert found.features == ("x0", "x2")
    assert found.numbers == {
        "feature": "x2", "d": worst.statistic, "p": worst.p, "psi": worst.psi, "n": 500,
    }  # fmt: skip


def test_a_feature_without_an_alarm_is_not_told_however_far_it_moved() -> None:
    found = attributed(["x0"], moved(x0=12, x2=60))
    assert (found.features, found.numbers["feature"]) == (("x0",), "x0")
    assert "1 feature in alarm" in found.sentence


def test_a_critical_alarm_is_told_before_a_larger_warning() -> None:
    result = moved(x0=9, x2=14)
    small, large = (
        msgspec.structs.replace(result.features[place], severity=name)
        for place, name in ((0, "CRITICAL"), (2, "WARNING"))
    )
    found = attribute(opened("x0", "x2"), [small, large], (), None, None)
    assert small.psi < large.psi
    assert found.numbers["feature"] == "x0"


@pytest.mark.parametrize(("outside", "trusted"), [(0, True), (25, True), (26, False), (500, False)])
def test_where_more_than_a_twentieth_lies_outside_the_reference_the_estimate_is_not_trusted(
    outside: int, trusted: bool
) -> None:
    assert EXTRAPOLATING == 0.05
    found = attribute(opened("x0"), [with_foreign(outside)], (), None, None)
    assert found.estimate_trusted is trusted
    assert ("extrapolating in x0: the estimate is not trusted" in found.sentence) is not trusted


@pytest.mark.parametrize("name", [DECLINE, "nothing"])
def test_outside_the_reference_no_estimate_is_trusted_whatever_it_is(name: str) -> None:
    told = labels()
    found = attribute(opened(name), [with_foreign(100)], (), told.concept, told.decline)
    assert not found.estimate_trusted


def with_foreign(count: int) -> FeatureResult:
    return msgspec.structs.replace(moved(x0=12).features[0], foreign=count)


def test_a_feature_without_a_value_lies_nowhere() -> None:
    empty = msgspec.structs.replace(moved().features[0], n=0)
    assert attribute(opened(), [empty], (), None, None).estimate_trusted


# --- performance


def test_a_decline_that_nothing_explains_is_told_with_both_figures() -> None:
    told = labels()
    found = attributed([DECLINE], moved(), told)
    assert told.decline is not None
    accuracy = told.decline.accuracy
    assert (
        f"accuracy {accuracy.realised:.3f} on 1000 labelled rows, {accuracy.heldout:.3f} on the 1000" in found.sentence
    )
    assert found.numbers == {
        "realised": accuracy.realised, "n": 1000, "heldout": accuracy.heldout, "heldout_n": 1000, "p": accuracy.p,
    }  # fmt: skip


# --- all of them


@pytest.mark.parametrize("name", EVERY)
def test_every_attribution_is_valid_json_and_comes_back_as_it_was_stored(name: str) -> None:
    found = attributed([name])
    assert json.dumps(msgspec.to_builtins(found), allow_nan=False)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Attribution) == found
