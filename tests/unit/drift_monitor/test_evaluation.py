"""One closed window, judged."""

import json

import msgspec
import numpy as np
import pytest
from scipy import stats

from driftloop.common.contract import Drift, Feature
from driftloop.common.profile import categorical_reference, numeric_reference
from driftloop.common.statistics.comparison import Comparison
from driftloop.drift_monitor.domain.alarm import FeatureAlarm, Signal
from driftloop.drift_monitor.domain.evaluation import (
    CONCEPT,
    DECLINE,
    INSUFFICIENT,
    QUALITY,
    Alarms,
    Watch,
    WindowResult,
    changed_since,
    evaluate,
    features_changed,
    verdict,
)
from driftloop.drift_monitor.domain.panes import Window
from driftloop.drift_monitor.domain.severity import Severity, corrected, raw_severity, sizeable, worst
from tests.unit.drift_monitor.builders import (
    Rows,
    at,
    in_turn,
    scored,
    state_of,
    watch_of,
    watch_of_column,
    window_of,
    window_of_column,
    with_contract,
    with_profile,
)

DRIFT = Drift()
RNG = np.random.default_rng(11)
REFERENCE = RNG.normal(size=(768, 2)).round(1)
QUIET = RNG.normal(size=(500, 2)).round(1)
WATCH = watch_of(REFERENCE)


def shifted(by: float) -> Rows:
    """Quiet rows whose first feature has moved."""
    rows = QUIET.copy()
    rows[:, 0] = (rows[:, 0] + by).round(1)
    return rows


def judged(rows: Rows, watch: Watch = WATCH) -> WindowResult:
    return evaluate(watch, Alarms(), window_of(watch, rows))[0]


def compared(p: float, psi: float, statistic: float = 0.0) -> Comparison:
    return Comparison("x", "numeric", statistic, p, psi, 0.05, 500, 768, 0)


# --- one feature, by itself


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


@pytest.mark.parametrize(("d", "psi", "large"), [(0.085, 0.0, True), (0.0, 0.1, True), (0.084, 0.099, False)])
def test_a_shift_is_sizeable_by_d_or_by_psi(d: float, psi: float, large: bool) -> None:
    assert sizeable(DRIFT, compared(0.01, psi, d)) is large


def test_benjamini_and_hochberg_judge_the_smallest_of_five_as_one_of_five() -> None:
    p = [0.04, 0.2, 0.5, 0.7, 0.9]
    assert corrected(DRIFT, p) == p
    assert corrected(Drift(correction="benjamini-hochberg"), p) == pytest.approx([0.2, 0.5, 0.5 / 3 * 5, 0.875, 0.9])
    assert corrected(Drift(correction="benjamini-hochberg"), []) == []


def test_the_correction_moves_the_severity_and_not_the_reported_p() -> None:
    rows = np.concatenate([shifted(0.3)[:380], QUIET[380:]])
    plain, strict = judged(rows), judged(rows, with_contract(WATCH, drift=Drift(correction="benjamini-hochberg")))
    assert 0.025 < plain.features[0].p < 0.05 < plain.features[1].p, "the case that this test needs"
    assert plain.features[0].raw_severity == "WARNING"
    assert strict.features[0].raw_severity == "GOOD"
    assert strict.features[0].p == plain.features[0].p


# --- a window


def test_a_quiet_window_is_good_and_has_the_numbers_of_its_rows() -> None:
    result = judged(QUIET)
    assert (result.severity, result.raw_severity, result.sufficient, result.n) == ("GOOD", "GOOD", True, 500)
    for place, feature in enumerate(result.features):
        expected = stats.ks_2samp(REFERENCE[:, place], QUIET[:, place])
        assert feature.statistic == pytest.approx(expected.statistic, abs=1e-12)
        assert feature.p == pytest.approx(expected.pvalue, abs=1e-9)
        assert (feature.name, feature.n, feature.m, feature.missing) == (f"x{place}", 500, 768, 0)
    assert result.score.name == "score"


def test_only_the_feature_that_moved_is_critical_and_the_second_window_makes_it_the_verdict() -> None:
    first, after = evaluate(WATCH, Alarms(), window_of(WATCH, shifted(2.0), 0))
    assert (first.severity, first.raw_severity) == ("GOOD", "CRITICAL")
    second, after = evaluate(WATCH, after, window_of(WATCH, shifted(2.0), 1))
    assert second.severity == "CRITICAL"
    assert [feature.severity for feature in second.features] == ["CRITICAL", "GOOD"]
    assert (changed_since(after), features_changed(after)) == (at(60), True)


@pytest.mark.parametrize("rows", [0, 1, 499])
def test_a_window_of_few_rows_is_reported_and_moves_no_alarm(rows: int) -> None:
    before = Alarms(features={"x0": FeatureAlarm(critical_run=1), "x1": FeatureAlarm()})
    result, after = evaluate(WATCH, before, window_of(WATCH, shifted(5.0)[:rows]))
    assert (result.n, result.sufficient, result.raw_severity) == (rows, False, INSUFFICIENT)
    assert {feature.raw_severity for feature in (*result.features, result.score)} == {INSUFFICIENT}
    assert after == before


def test_a_feature_that_was_counted_for_few_rows_is_reported_and_moves_no_alarm() -> None:
    """Its cuts were changed while the window was open."""
    references = WATCH.profile.features
    before = with_profile(WATCH, features=(numeric_reference("x0", [0, 1, 2]), references[1]))
    state = state_of(before, shifted(5.0)[:300]).merge(state_of(WATCH, shifted(5.0)[300:]))
    result, after = evaluate(WATCH, Alarms(), Window(at(0), at(60), 500, state, {}))
    assert [(one.n, one.raw_severity) for one in result.features] == [(200, INSUFFICIENT), (500, "GOOD")]
    assert after.features == {"x0": FeatureAlarm(), "x1": FeatureAlarm()}


def test_counts_of_which_none_fit_the_reference_are_a_window_that_says_nothing() -> None:
    other = watch_of(REFERENCE + 0.05)
    result, after = evaluate(WATCH, Alarms(), window_of(other, shifted(5.0)))
    assert (result.severity, result.raw_severity) == ("GOOD", INSUFFICIENT)
    assert [(one.n, one.statistic, one.p, one.psi) for one in result.features] == [(0, 0.0, 1.0, 0.0)] * 2
    assert verdict(after) is Severity.GOOD


def test_the_scores_distribution_is_reported_and_raises_no_alarm() -> None:
    after = Alarms()
    for number in range(3):
        result, after = evaluate(WATCH, after, window_of(WATCH, QUIET, number, np.full(500, 0.99)))
    assert result.score.raw_severity == "CRITICAL"
    assert (result.severity, set(after.features)) == ("GOOD", {"x0", "x1"})


def test_a_feature_that_is_called_as_the_score_is_keeps_its_own_cuts_and_values() -> None:
    watch = watch_of_column(numeric_reference("score", [1, 2, 3] * 256), Feature(name="score", type="number"))
    result, _ = evaluate(watch, Alarms(), window_of_column(watch, "score", np.full(500, 9.0)))
    assert result.features[0].cuts_digest != result.score.cuts_digest
    assert (result.features[0].foreign, result.score.foreign) == (500, 0)


def test_the_estimate_is_that_of_the_windows_scores_where_it_can_be_made() -> None:
    watch = with_profile(WATCH, calibration=scored(in_turn(400), np.repeat([0, 1, 1, 1], 100)))
    found = judged(QUIET, watch).estimated
    assert judged(QUIET).estimated is None
    assert found is not None
    assert (found.n, found.calibration_rows) == (500, 400)


@pytest.mark.parametrize("rows", [0, 1])
def test_an_estimate_of_no_row_is_none_and_of_one_row_is_one(rows: int) -> None:
    watch = with_profile(WATCH, calibration=scored(in_turn(400), np.repeat([0, 1, 1, 1], 100)))
    found = judged(QUIET[:rows], watch).estimated
    assert (found.n if found else 0) == rows


# --- columns of every kind


def test_an_empty_column_has_no_distance_and_a_fault_of_the_data() -> None:
    rows = QUIET.copy()
    rows[:, 0] = np.nan
    result = judged(rows)
    assert (result.features[0].n, result.features[0].missing) == (0, 500)
    assert (result.features[0].statistic, result.features[0].p) == (0.0, 1.0)
    assert (result.features[1].raw_severity, result.quality) == ("GOOD", "CRITICAL")


def test_a_constant_column_is_as_far_away_as_scipy_says() -> None:
    rows = QUIET.copy()
    rows[:, 0] = 0.5
    feature = judged(rows).features[0]
    assert feature.statistic == pytest.approx(stats.ks_2samp(REFERENCE[:, 0], rows[:, 0]).statistic, abs=1e-12)
    assert feature.raw_severity == "CRITICAL"


def test_a_reference_without_any_value_has_no_distance_and_says_what_is_missing() -> None:
    feature = judged(QUIET[:, :1], watch_of(np.full((768, 1), np.nan))).features[0]
    assert (feature.n, feature.m, feature.statistic, feature.p) == (500, 0, 0.0, 1.0)
    assert [one[1:] for one in feature.bins] == [(0, 500), (768, 0)]


def test_a_reference_that_never_varied_is_met_by_the_same_value_alone() -> None:
    watch = watch_of(np.full((768, 1), 3.0))
    same, other = judged(np.full((500, 1), 3.0), watch), judged(np.full((500, 1), 4.0), watch)
    assert (same.features[0].statistic, same.raw_severity) == (0.0, "GOOD")
    assert (other.features[0].statistic, other.raw_severity) == (1.0, "CRITICAL")


@pytest.mark.parametrize("far", [-1e300, 100.0, 1e300])
def test_disjoint_ranges_are_as_far_apart_as_can_be(far: float) -> None:
    rows = QUIET.copy()
    rows[:, 0] += far
    feature = judged(rows).features[0]
    assert (feature.statistic, feature.foreign, feature.raw_severity) == (1.0, 500, "CRITICAL")
    assert feature.p < 1e-200


def test_a_category_that_never_varies_has_no_critical_value_and_is_valid_json() -> None:
    watch = watch_of_column(
        categorical_reference("c", ("a", "b"), ["a"] * 50), Feature(name="c", type="category", categories=("a", "b"))
    )
    result, _ = evaluate(watch, Alarms(), window_of_column(watch, "c", np.array(["a"] * 500, dtype=np.object_)))
    assert result.features[0].psi_critical is None
    assert json.dumps(msgspec.to_builtins(result), allow_nan=False)


@pytest.mark.parametrize("rows", [0, 1, 500])
def test_every_result_is_valid_json_and_comes_back_as_it_was_stored(rows: int) -> None:
    result = judged(shifted(1.0)[:rows])
    assert json.dumps(msgspec.to_builtins(result), allow_nan=False)
    assert msgspec.json.decode(msgspec.json.encode(result), type=WindowResult) == result


def test_alarms_that_were_stored_are_the_same() -> None:
    _, alarms = evaluate(WATCH, Alarms(), window_of(WATCH, shifted(2.0)))
    assert msgspec.json.decode(msgspec.json.encode(alarms), type=Alarms) == alarms


# --- all alarms together


def test_the_worst_of_none_is_good() -> None:
    assert worst([]) is Severity.GOOD
    assert verdict(Alarms()) is Severity.GOOD


@pytest.mark.parametrize("name", [QUALITY, CONCEPT, DECLINE])
def test_the_verdict_is_the_worst_of_the_features_and_of_the_signals(name: str) -> None:
    features = {"a": FeatureAlarm(), "b": FeatureAlarm(severity=1)}
    assert verdict(Alarms(features=features)) is Severity.WARNING
    assert verdict(Alarms(features=features, signals={name: Signal(severity=2)})) is Severity.CRITICAL
    assert verdict(Alarms(signals={name: Signal(severity=1)})) is Severity.WARNING


def test_the_population_is_new_since_the_latest_second_window_of_the_open_alarms() -> None:
    opened = FeatureAlarm(severity=2, critical_run=2, second_critical=at(60))
    later = FeatureAlarm(severity=2, critical_run=2, second_critical=at(180))
    pending = FeatureAlarm(severity=1, critical_run=1, second_critical=at(600))
    assert changed_since(Alarms(features={"a": opened, "b": later, "c": pending})) == at(180)
    assert changed_since(Alarms(features={"c": pending})) is None


def test_where_no_feature_has_changed_it_is_new_since_labels_proved_it() -> None:
    signals = {CONCEPT: Signal(severity=2, since=at(120)), DECLINE: Signal(severity=2, since=at(60))}
    feature = FeatureAlarm(severity=2, critical_run=2, second_critical=at(300))
    assert changed_since(Alarms(signals=signals)) == at(60)
    assert changed_since(Alarms(signals=signals, features={"a": feature})) == at(300)


@pytest.mark.parametrize("name", [QUALITY, CONCEPT, DECLINE])
def test_bad_data_and_warnings_are_no_new_population(name: str) -> None:
    signal = Signal(severity=2 if name == QUALITY else 1, since=at(60))
    assert changed_since(Alarms(signals={name: signal}, features={"a": FeatureAlarm(severity=1)})) is None


@pytest.mark.parametrize(("severities", "changed"), [([], False), ([0, 1], False), ([2], True), ([0, 2], True)])
def test_features_have_changed_where_one_is_critical(severities: list[int], changed: bool) -> None:
    features = {str(place): FeatureAlarm(severity=severity) for place, severity in enumerate(severities)}
    assert features_changed(Alarms(features=features)) is changed
