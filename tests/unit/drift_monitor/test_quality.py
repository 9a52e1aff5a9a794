"""Bad data: which faults are found, how large and how sure they must be, and when the alarm follows them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from driftloop.common.contract import Feature, Quality
from driftloop.common.profile import categorical_reference, numeric_reference
from driftloop.common.statistics.cells import Counts
from driftloop.drift_monitor.domain.evaluation import QUALITY, Alarms, Watch, WindowResult, evaluate
from driftloop.drift_monitor.domain.fold.quality import middle, of_reference, support
from driftloop.drift_monitor.domain.fold.rows import Column, PredictionRows
from driftloop.drift_monitor.domain.fold.scale import distance_when_rescaled
from driftloop.drift_monitor.domain.fold.scale import of_reference as of_values
from driftloop.drift_monitor.domain.panes import Window
from driftloop.drift_monitor.domain.quality import SAME_SHAPE, Fault, faults, two_proportions, worst_fault
from tests.unit.drift_monitor.builders import Rows, at, mixed_watch, rows_of, watch_of, window_of, with_contract

LIMITS = Quality()
RNG = np.random.default_rng(7)
# Glucose in mg/dL: between 56 and 160, or so.
REFERENCE = RNG.normal(105, 15, size=(768, 2)).round(1)
QUIET = RNG.normal(105, 15, size=(500, 2)).round(1)
WATCH = watch_of(REFERENCE)


def counts_of(
    rows: int, missing: int = 0, invalid: int = 0, out: int = 0, unseen: int = 0, outlying: int = 0
) -> Counts:
    return np.array([rows, missing, invalid, out, unseen, 0, outlying], dtype=np.int64)


def found_in(reference: Counts, window: Counts, limits: Quality = LIMITS) -> list[Fault]:
    return faults(limits, {"x": reference}, {"x": window}, {"x": 0.05})


def severity(reference: Counts, window: Counts, limits: Quality = LIMITS) -> str:
    worst = worst_fault(found_in(reference, window, limits))
    return "GOOD" if worst is None else worst.severity


def judged(rows: Rows, watch: Watch = WATCH) -> WindowResult:
    return evaluate(watch, Alarms(), window_of(watch, rows))[0]


def bad(result: WindowResult) -> list[Fault]:
    """The faults that raise an alarm; single bad values occur in every population."""
    return [one for one in result.faults if one.severity != "GOOD"]


def with_missing(share: float) -> Rows:
    rows = QUIET.copy()
    rows[: round(share * len(rows)), 0] = np.nan
    return rows


# --- the test


def test_p_is_that_of_the_pooled_two_proportion_test() -> None:
    """351 of 605 against 41 of 195: z = 8.99 in textbooks."""
    assert stats.norm.isf(two_proportions(351, 605, 41, 195)) == pytest.approx(8.99, abs=0.005)


@given(st.integers(1, 300), st.integers(1, 300), st.data())
def test_p_squared_is_that_of_chi_square_without_correction(n: int, m: int, data: st.DataObject) -> None:
    count, reference = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    p = two_proportions(count, n, reference, m)
    if 0 < count + reference < n + m:
        two_sided = stats.chi2_contingency([[count, n - count], [reference, m - reference]], correction=False).pvalue
        assert 2 * min(p, 1 - p) == pytest.approx(two_sided, abs=1e-9)
        assert (p < 0.5) == (count / n > reference / m)
    else:
        assert p == 1.0


# --- the limits


@pytest.mark.parametrize(
    ("missing", "found"), [(14, "GOOD"), (15, "WARNING"), (49, "WARNING"), (50, "CRITICAL"), (500, "CRITICAL")]
)
def test_a_share_that_rose_by_three_points_is_a_warning_and_by_ten_critical(missing: int, found: str) -> None:
    assert severity(counts_of(768), counts_of(500, missing=missing)) == found


@pytest.mark.parametrize("was", [0, 10, 20, 41, 80])
def test_three_points_are_three_points_wherever_they_begin(was: int) -> None:
    """.83 − .8 is less than .03 in floating point."""
    reference = counts_of(100_000, missing=1000 * was)
    assert severity(reference, counts_of(10_000, missing=100 * was + 300)) == "WARNING"
    assert severity(reference, counts_of(10_000, missing=100 * was + 299)) == "GOOD"


def test_a_share_that_is_large_and_not_sure_is_no_fault() -> None:
    assert severity(counts_of(20), counts_of(20, missing=3)) == "GOOD"


def test_the_level_is_shared_among_the_features() -> None:
    reference, window = counts_of(200, missing=10), counts_of(100, missing=13)
    limits = Quality(alpha=1.01 * two_proportions(13, 100, 10, 200))
    one = faults(limits, {"x": reference}, {"x": window}, {})
    two = faults(limits, {"x": reference, "y": reference}, {"x": window, "y": counts_of(100)}, {})
    assert [fault.severity for fault in one if fault.count] == ["WARNING"]
    assert [fault.severity for fault in two if fault.count] == ["GOOD"]


def test_a_share_that_fell_is_no_fault() -> None:
    assert severity(counts_of(768, missing=400), counts_of(500)) == "GOOD"


@pytest.mark.parametrize("kind", ["missing", "invalid", "out", "unseen"])
def test_each_kind_of_fault_is_found_and_named(kind: str) -> None:
    found = found_in(counts_of(768), counts_of(500, **{kind: 100}))
    assert [(one.fault, one.severity) for one in found] == [({"out": "out_of_range"}.get(kind, kind), "CRITICAL")]


def test_a_fault_carries_the_numbers_that_it_was_found_by() -> None:
    (found,) = found_in(counts_of(768, missing=8), counts_of(500, missing=100))
    assert (found.count, found.n, found.reference_count, found.m, found.share) == (100, 500, 8, 768, 0.2)
    assert found.p == two_proportions(100, 500, 8, 768)


def test_a_few_bad_values_are_told_and_are_no_alarm() -> None:
    (found,) = found_in(counts_of(768), counts_of(500, out=2))
    assert (found.fault, found.count, found.severity) == ("out_of_range", 2, "GOOD")
    assert worst_fault([found]) is None


def test_the_worst_fault_is_the_largest_of_the_most_severe() -> None:
    window = counts_of(500, missing=30, invalid=90, unseen=60)
    worst = worst_fault(found_in(counts_of(768), window))
    assert worst is not None
    assert worst.fault == "invalid"


def test_without_rows_on_either_side_nothing_is_said() -> None:
    assert found_in(counts_of(768), counts_of(0)) == []
    assert found_in(counts_of(0), counts_of(500, missing=500)) == []
    assert faults(LIMITS, {"x": counts_of(768)}, {"x": None}, {}) == []


def test_few_values_prove_no_other_unit() -> None:
    assert severity(counts_of(768), counts_of(1, outlying=1)) == "GOOD"
    assert severity(counts_of(768), counts_of(29, outlying=29)) == "GOOD"
    assert severity(counts_of(768), counts_of(30, outlying=30)) == "CRITICAL"


@pytest.mark.parametrize(("outlying", "found"), [(400, "GOOD"), (401, "CRITICAL")])
def test_outlying_values_are_a_share_of_those_that_have_a_value(outlying: int, found: str) -> None:
    reference = counts_of(1000, missing=300, invalid=200)
    window = counts_of(1000, missing=300, invalid=200, outlying=outlying)
    assert severity(reference, window) == found


def test_outlying_values_are_held_against_no_share_of_the_reference() -> None:
    found = found_in(counts_of(768), counts_of(500, outlying=500))[-1]
    assert (found.count, found.n, found.reference_count, found.m, found.p) == (500, 500, 0, 0, None)


# --- the reference itself


def test_the_reference_has_the_faults_that_it_has() -> None:
    feature = Feature(name="x", type="number", minimum=2, maximum=5)
    found = of_reference(feature, numeric_reference("x", [1, 1, 2, 5, 6, None]))
    assert found.tolist() == counts_of(6, missing=1, out=3).tolist()
    assert of_reference(feature, categorical_reference("x", ("a",), ["a", None])).tolist() == [2, 1, 0, 0, 0, 0, 0]


def test_the_middle_leaves_the_outermost_hundredths_out() -> None:
    assert middle(numeric_reference("x", [*range(1, 101), 10_000])) == (2, 100)
    assert middle(numeric_reference("x", [None])) == (None, None)


def test_the_support_is_from_the_least_to_the_greatest_value() -> None:
    assert support(numeric_reference("x", [3, 1, None, 2])) == (1, 3)
    assert support(numeric_reference("x", [None])) == (None, None)
    assert support(categorical_reference("x", ("a",), ["a"])) == (None, None)


# --- windows of rows


def test_a_quiet_window_has_no_fault() -> None:
    result = judged(QUIET)
    assert (worst_fault(result.faults), result.quality) == (None, "GOOD")


def test_a_fifth_missing_is_critical_and_names_its_feature() -> None:
    result = judged(with_missing(0.2))
    worst = worst_fault(result.faults)
    assert worst is not None
    assert (worst.feature, worst.fault, worst.count, result.quality) == ("x0", "missing", 100, "CRITICAL")


def test_an_empty_column_is_missing_and_nothing_else() -> None:
    (found,) = bad(judged(with_missing(1.0)))
    assert (found.feature, found.fault, found.share, found.severity) == ("x0", "missing", 1.0, "CRITICAL")


@pytest.mark.parametrize("factor", [18.0, 1 / 18.0])
def test_another_unit_lies_elsewhere(factor: float) -> None:
    rows = QUIET.copy()
    rows[:, 0] = (rows[:, 0] * factor).round(1)
    (found,) = bad(judged(rows))
    assert (found.feature, found.fault, found.share, found.severity) == ("x0", "outlying", 1.0, "CRITICAL")


def test_another_unit_is_found_where_most_values_are_missing() -> None:
    rows = (18 * QUIET).round(1)
    rows[:300, 0] = np.nan
    assert [one.fault for one in bad(judged(rows)) if one.feature == "x0"] == ["missing", "outlying"]


@pytest.mark.parametrize("factor", [18.0, 1 / 18.0, 2.2046, 10.0])
@pytest.mark.parametrize("wild", [0.5, 240.0, 2000.0, 5000.0])
def test_a_wild_value_of_the_reference_does_not_hide_another_unit(wild: float, factor: float) -> None:
    reference = REFERENCE.copy()
    reference[:4] = wild
    result = judged((factor * QUIET).round(1), watch_of(reference))
    assert {(one.fault, one.severity) for one in result.faults} == {("outlying", "CRITICAL")}


@pytest.mark.parametrize("low", [1, 5])
def test_a_population_that_lies_elsewhere_and_has_another_shape_is_no_fault(low: float) -> None:
    """Patients from 42 on, after those up to 30: none of them was there, and no unit makes the one of the other."""
    watch = watch_of(RNG.integers(21, 31, size=(768, 1)).astype(np.float64) * low)
    rows = np.concatenate([RNG.integers(42, 60, size=(400, 1)), RNG.integers(60, 82, size=(100, 1))]) * low
    result = judged(rows.astype(np.float64), watch)
    assert (result.features[0].foreign, result.quality) == (500, "GOOD")


@pytest.mark.parametrize("sigmas", [0.6, 2.0])
def test_another_population_is_no_fault_of_the_data(sigmas: float) -> None:
    assert judged((QUIET + 15 * sigmas).round(1)).quality == "GOOD"


def test_a_constant_column_is_no_fault_of_the_data() -> None:
    assert judged(np.full((500, 2), 100.0)).quality == "GOOD"


def test_a_reference_that_never_varies_has_no_room_for_other_values() -> None:
    watch = watch_of(np.full((768, 1), 3.0))
    assert judged(np.full((500, 1), 3.0), watch).quality == "GOOD"
    assert judged(np.full((500, 1), 4.0), watch).quality == "CRITICAL", "a factor, for all that can be seen"


def test_values_beyond_the_contracts_limits_are_out_of_range() -> None:
    assert kinds(mixed_rows({"x": 11.0}, bad=100)) == {"out_of_range": "CRITICAL"}


def test_texts_where_numbers_belong_are_invalid() -> None:
    rows = mixed_rows({}, bad=0)
    invalid = np.arange(500) < 100
    columns = dict(rows.columns) | {"x": Column(np.where(invalid, np.nan, 2.0), invalid)}
    assert kinds(PredictionRows(columns, rows.scores, rows.predictions)) == {"invalid": "CRITICAL"}


def test_categories_that_the_contract_lacks_are_unseen() -> None:
    assert kinds(mixed_rows({"c": "z"}, bad=100)) == {"unseen": "CRITICAL"}


@pytest.mark.parametrize("rows", [0, 1, 499])
def test_a_window_of_few_rows_has_no_fault_and_moves_no_alarm(rows: int) -> None:
    before = Alarms()
    result, after = evaluate(WATCH, before, window_of(WATCH, with_missing(1.0)[:rows]))
    assert (result.faults, result.quality, after.signals) == ((), "GOOD", before.signals)


def test_a_feature_that_was_counted_for_a_few_rows_of_the_window_is_not_judged() -> None:
    """Its limits were changed while the window was open: one row of the new meaning is no test."""
    before = with_contract(WATCH, features=tuple(Feature(name=f"x{n}", type="number", minimum=1) for n in (0, 1)))
    one_missing = np.array([[np.nan, 105.0]])
    state = window_of(before, QUIET).state.merge(window_of(WATCH, one_missing).state)
    result, _ = evaluate(WATCH, Alarms(), Window(at(0), at(60), 501, state, {}))
    assert (result.sufficient, result.faults, result.quality) == (True, (), "GOOD")


# --- the alarm


def levels(*windows: Rows) -> list[str]:
    """The quality's severity after each window."""
    alarms, found = Alarms(), []
    for number, rows in enumerate(windows):
        result, alarms = evaluate(WATCH, alarms, window_of(WATCH, rows, number))
        found.append(result.quality)
    return found


def test_the_alarm_opens_at_once_and_two_quiet_windows_clear_it() -> None:
    bad, good = with_missing(0.2), QUIET
    assert levels(good, bad, good, bad, good, good) == ["GOOD", *["CRITICAL"] * 4, "GOOD"]


def test_a_window_of_few_rows_does_not_clear_it() -> None:
    assert levels(with_missing(0.2), QUIET, QUIET[:100], QUIET[:100]) == ["CRITICAL"] * 4


def test_the_alarm_is_part_of_the_verdict() -> None:
    result, alarms = evaluate(WATCH, Alarms(), window_of(WATCH, with_missing(0.2)))
    assert (result.severity, alarms.signal(QUALITY).since) == ("CRITICAL", at(0))


def test_quiet_streams_of_the_default_limits_raise_no_alarm() -> None:
    """Values that are missing in a tenth of all rows, in 200 windows."""
    rng = np.random.default_rng(3)
    watch = watch_of(np.where(rng.random((768, 5)) < 0.1, np.nan, rng.normal(size=(768, 5)).round(1)))
    references = watch.reference_quality
    for _ in range(200):
        values = np.where(rng.random((500, 5)) < 0.1, np.nan, 0.0)
        state = watch.predictions.add(rows_of(values))
        window = {one.feature: state.part(one.frame) for one in watch.quality}
        assert worst_fault(faults(LIMITS, references, window, {})) is None


def mixed_rows(bad_row: dict[str, Any], bad: int) -> PredictionRows:
    """500 rows of x and c, `bad` of them with these values."""
    columns = {}
    for name, usual in (("x", 2.0), ("c", "a")):
        values = [bad_row.get(name, usual)] * bad + [usual] * (500 - bad)
        columns[name] = Column(np.array(values)) if name == "x" else Column(np.array(values, dtype=np.object_))
    return PredictionRows(columns, np.full(500, 0.25), np.zeros(500, dtype=np.bool_))


def kinds(rows: PredictionRows) -> dict[str, str]:
    """The faults of a window of these rows, and how bad each is."""
    watch = mixed_watch((1, 2, 4) * 256)
    window = Window(at(0), at(60), len(rows), watch.predictions.add(rows), {})
    return {one.fault: one.severity for one in evaluate(watch, Alarms(), window)[0].faults}


# --- another unit


@pytest.mark.parametrize("factor", [1 / 18.016, 2.2046, 1 / 2.54, 10.0, 703.0])
def test_another_unit_has_the_same_shape(factor: float) -> None:
    converted = (RNG.normal(105, 15, 500).round(1) * factor).round(1)
    assert rescaled(REFERENCE[:, 0], converted) <= SAME_SHAPE


@pytest.mark.parametrize("sigmas", [3.5, 4.5])
def test_a_population_that_moved_far_has_another(sigmas: float) -> None:
    assert rescaled(REFERENCE[:, 0], RNG.normal(105 + 15 * sigmas, 15, 500)) > SAME_SHAPE


def test_without_positive_values_no_unit_can_be_told() -> None:
    assert rescaled(REFERENCE[:, 0], -REFERENCE[:, 0]) == 1.0
    assert rescaled(np.zeros(5), REFERENCE[:, 0]) == 1.0


def rescaled(reference: Rows, window: Rows) -> float:
    return distance_when_rescaled(by_logarithm(reference), by_logarithm(window))


def by_logarithm(values: Rows) -> Counts:
    return of_values(numeric_reference("x", values.tolist()))
