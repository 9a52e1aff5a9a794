"""One closed window, judged."""

import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from driftloop.common.contract import Drift
from driftloop.common.profile import ReferenceProfile, categorical_reference, numeric_reference
from driftloop.common.statistics.cells import layout_of
from driftloop.common.statistics.comparison import Comparison
from driftloop.drift_monitor.domain.alarm import FeatureAlarm
from driftloop.drift_monitor.domain.evaluation import WindowResult, changed_since, evaluate, verdict
from driftloop.drift_monitor.domain.panes import Window
from driftloop.drift_monitor.domain.severity import Severity, corrected, raw_severity, sizeable, worst
from tests.unit.drift_monitor.builders import at, counted_rows, numeric_layout

DRIFT = Drift()
RNG = np.random.default_rng(11)
REFERENCE = RNG.normal(size=(768, 2)).round(1)
QUIET = RNG.normal(size=(500, 2)).round(1)
LAYOUT = numeric_layout(REFERENCE)


def window(rows: NDArray[np.float64], number: int = 0) -> Window:
    return Window(at(60 * number), at(60 * number + 60), len(rows), counted_rows(LAYOUT, rows))


def shifted(by: float) -> NDArray[np.float64]:
    """Quiet rows whose first feature has moved."""
    rows = QUIET.copy()
    rows[:, 0] = (rows[:, 0] + by).round(1)
    return rows


def compared(p: float, psi: float, statistic: float = 0.0) -> Comparison:
    return Comparison("x", "numeric", statistic, p, psi, 0.05, 500, 768, 0)


@pytest.mark.parametrize(
    ("p", "psi", "severity"),
    [
        (0.049, 0.20, Severity.CRITICAL),
        (0.050, 0.20, Severity.WARNING),
        (0.049, 0.199, Severity.WARNING),
        (0.900, 0.10, Severity.WARNING),
        (0.049, 0.00, Severity.WARNING),
        (0.050, 0.099, Severity.GOOD),
    ],
)
def test_raw_severity_at_the_limits(p: float, psi: float, severity: Severity) -> None:
    assert raw_severity(DRIFT, compared(p, psi)) is severity


@pytest.mark.parametrize(("d", "psi", "large"), [(0.08, 0.0, True), (0.0, 0.1, True), (0.079, 0.099, False)])
def test_a_shift_is_sizeable_by_d_or_by_psi(d: float, psi: float, large: bool) -> None:
    assert sizeable(DRIFT, compared(0.01, psi, d)) is large


def test_the_worst_of_none_is_good() -> None:
    assert worst([]) is Severity.GOOD
    assert verdict({}) is Severity.GOOD


def test_a_quiet_window_is_good_and_has_the_numbers_of_its_rows() -> None:
    result, _ = evaluate(LAYOUT, DRIFT, {}, window(QUIET))
    expected = stats.ks_2samp(REFERENCE[:, 1], QUIET[:, 1])
    assert (result.severity, result.sufficient, result.n) == ("GOOD", True, 500)
    assert (result.features[1].statistic, result.features[1].p) == (expected.statistic, expected.pvalue)
    assert [feature.name for feature in result.features] == ["x0", "x1"]
    assert result.score.name == "score"


def test_only_the_feature_that_moved_is_critical_and_the_second_window_makes_it_the_verdict() -> None:
    first, after = evaluate(LAYOUT, DRIFT, {}, window(shifted(2.0), 0))
    assert (first.severity, first.raw_severity) == ("GOOD", "CRITICAL")
    second, after = evaluate(LAYOUT, DRIFT, after, window(shifted(2.0), 1))
    assert second.severity == "CRITICAL"
    assert [feature.severity for feature in second.features] == ["CRITICAL", "GOOD"]
    assert changed_since(after) == at(60)


def test_the_population_is_new_since_the_latest_second_window_of_the_open_alarms() -> None:
    opened = FeatureAlarm(severity=2, critical_run=2, second_critical=at(60))
    later = FeatureAlarm(severity=2, critical_run=2, second_critical=at(180))
    pending = FeatureAlarm(severity=1, critical_run=1, second_critical=at(600))
    assert changed_since({"a": opened, "b": later, "c": pending}) == at(180)
    assert changed_since({"c": pending}) is None


@pytest.mark.parametrize("rows", [0, 1, 499])
def test_a_window_of_few_rows_is_reported_and_moves_no_alarm(rows: int) -> None:
    before = {"x0": FeatureAlarm(critical_run=1), "x1": FeatureAlarm()}
    result, after = evaluate(LAYOUT, DRIFT, before, window(shifted(5.0)[:rows]))
    assert not result.sufficient
    assert after == before


def test_the_scores_distribution_is_reported_and_raises_no_alarm() -> None:
    counts = LAYOUT.count([*QUIET.T.tolist(), [0.99] * 500])
    after: dict[str, FeatureAlarm] = {}
    for number in range(3):
        result, after = evaluate(LAYOUT, DRIFT, after, replace(window(QUIET, number), counts=counts))
    assert result.score.raw_severity == "CRITICAL"
    assert (result.severity, set(after)) == ("GOOD", {"x0", "x1"})


def test_benjamini_and_hochberg_judge_the_smallest_of_five_as_one_of_five() -> None:
    p = [0.04, 0.2, 0.5, 0.7, 0.9]
    assert corrected(DRIFT, p) == p
    assert corrected(Drift(correction="benjamini-hochberg"), p) == pytest.approx([0.2, 0.5, 0.5 / 3 * 5, 0.875, 0.9])
    assert corrected(Drift(correction="benjamini-hochberg"), []) == []


def test_the_correction_moves_the_severity_and_not_the_reported_p() -> None:
    rows = np.concatenate([shifted(0.3)[:380], QUIET[380:]])
    plain, _ = evaluate(LAYOUT, DRIFT, {}, window(rows))
    strict, _ = evaluate(LAYOUT, Drift(correction="benjamini-hochberg"), {}, window(rows))
    assert 0.025 < plain.features[0].p < 0.05 < plain.features[1].p, "the case that this test needs"
    assert plain.features[0].raw_severity == "WARNING"
    assert strict.features[0].raw_severity == "GOOD"
    assert strict.features[0].p == plain.features[0].p


def test_a_category_that_never_varies_has_no_critical_value_and_is_valid_json() -> None:
    profile = ReferenceProfile(
        "m", 1, "training", 50,
        (categorical_reference("c", ("a", "b"), ["a"] * 50),), numeric_reference("score", [0.5]),
    )  # fmt: skip
    layout = layout_of(profile)
    counts = layout.count([["a"] * 500, [0.5] * 500])
    result, _ = evaluate(layout, DRIFT, {}, Window(at(0), at(60), 500, counts))
    assert result.features[0].psi_critical is None
    assert json.dumps(msgspec.to_builtins(result), allow_nan=False)


def test_a_result_that_was_stored_is_the_same() -> None:
    result, _ = evaluate(LAYOUT, DRIFT, {}, window(shifted(1.0)))
    assert msgspec.json.decode(msgspec.json.encode(result), type=WindowResult) == result
