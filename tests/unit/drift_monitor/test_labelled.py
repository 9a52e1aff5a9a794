"""Windows of labelled rows: which rows they are made of, and what they prove."""

from datetime import datetime, timedelta

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.common.contract import Performance as Limits
from driftloop.drift_monitor.domain.alarm import FeatureAlarm, Signal
from driftloop.drift_monitor.domain.evaluation import (
    CONCEPT,
    DECLINE,
    QUALITY,
    Alarms,
    changed_since,
    verdict,
)
from driftloop.drift_monitor.domain.fold.base import EMPTY, State, merged
from driftloop.drift_monitor.domain.fold.rows import label_rows
from driftloop.drift_monitor.domain.labelled import (
    Closed,
    LabelledResult,
    judge_labels,
    labelled_result,
    tile_labels,
    with_labels,
)
from driftloop.drift_monitor.domain.performance import Performance
from driftloop.drift_monitor.domain.severity import Severity
from tests.support.predictions import labeled, prediction
from tests.unit.drift_monitor.builders import (
    at,
    labels_of,
    lawful_rows,
    mixed_watch,
    parts_of,
    retracted,
    scored,
    watch_of,
)

LIMITS = Limits(min_labels=100, min_coverage=0.5)
NEVER = datetime.min.replace(tzinfo=at(0).tzinfo)
# Rows of each window, and how many of them are labelled.
COVERAGE = st.lists(
    st.integers(1, 100).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n) | st.sampled_from([0, n]))),
    max_size=25,
)
Rows = list[tuple[int, int]]
WATCH = watch_of(
    np.array([[1.0], [2.0]]), calibration=scored(*lawful_rows(1, 1000)), heldout=scored(*lawful_rows(2, 1000))
)
MIXED = mixed_watch()


def closed(rows: Rows) -> list[Closed]:
    """Windows of a minute each."""
    return [Closed(place + 1, at(60 * place), at(60 * place + 60), *one) for place, one in enumerate(rows)]


def tiled(rows: Rows, limits: Limits = LIMITS, oldest: datetime = NEVER) -> tuple[list[tuple[int, ...]], float | None]:
    """The numbers of the windows that were put together, and how many minutes are done."""
    found, done = tile_labels(closed(rows), limits, oldest)
    numbers = [tuple(window.number for window in windows) for windows in found]
    return numbers, None if done is None else (done - at(0)) / timedelta(minutes=1)


# --- which windows


def test_no_window_and_no_label_make_nothing() -> None:
    assert tiled([]) == ([], None)
    assert tiled([(500, 0), (500, 0)]) == ([], None)


def test_a_window_of_labels_closes_where_labels_and_coverage_suffice_and_the_next_begins_with_the_next() -> None:
    assert tiled([(60, 50), (60, 60), (90, 99), (10, 5), (90, 70)]) == ([(1, 2), (3, 4)], 4)


@pytest.mark.parametrize(("labelled", "found"), [(99, []), (100, [(1,)])])
def test_fewer_labels_than_asked_for_are_too_few(labelled: int, found: list[tuple[int, ...]]) -> None:
    assert tiled([(100, labelled)])[0] == found


@pytest.mark.parametrize(("rows", "found"), [(201, []), (200, [(1,)])])
def test_a_lower_coverage_than_asked_for_is_too_low(rows: int, found: list[tuple[int, ...]]) -> None:
    assert tiled([(rows, 100)])[0] == found


def test_a_coverage_of_exactly_as_much_as_asked_for_is_enough_in_floating_point_too() -> None:
    """.55 · 20 is more than 11, and .07 · 100 more than 7."""
    assert tiled([(20, 11)] * 10, Limits(min_labels=110, min_coverage=0.55))[0] == [tuple(range(1, 11))]
    assert tiled([(100, 7)], Limits(min_labels=7, min_coverage=0.07))[0] == [(1,)]


def test_first_windows_that_stay_unlabelled_are_left_out() -> None:
    assert tiled([(500, 0), (500, 3), (60, 60), (60, 60)]) == ([(3, 4)], 4)


def test_an_unlabelled_window_between_is_part_of_it_where_the_labels_do_not_suffice_without() -> None:
    assert tiled([(90, 80), (50, 0), (90, 80)]) == ([(1, 2, 3)], 3)


def test_labels_that_come_later_are_found_by_a_later_look() -> None:
    before = [(100, 10), (100, 20)]
    assert tiled(before) == ([], None)
    assert tiled([(100, 90), (100, 95)]) == ([(1, 2)], 2)


def test_what_is_older_than_labels_take_is_not_waited_for() -> None:
    rows = [(100, 1), (100, 2), (100, 3)]
    assert tiled(rows, oldest=at(119)) == ([], 1)
    assert tiled(rows, oldest=at(120)) == ([], 2)
    assert tiled([(100, 100), *rows], oldest=at(180)) == ([(1,)], 3)


def test_what_is_old_and_labelled_is_judged_all_the_same() -> None:
    assert tiled([(100, 100), (100, 10)], oldest=at(10_000)) == ([(1,)], 2)


@given(COVERAGE, st.sampled_from([1, 50, 100]), st.sampled_from([0.25, 0.5, 1.0]))
def test_windows_of_labels_are_those_of_the_definition(rows: Rows, min_labels: int, min_coverage: float) -> None:
    limits = Limits(min_labels=min_labels, min_coverage=min_coverage)
    assert tiled(rows, limits)[0] == by_definition(rows, limits)


@given(COVERAGE)
def test_windows_of_labels_are_disjoint_in_order_and_have_what_is_asked_for(rows: Rows) -> None:
    found, _ = tiled(rows)
    assert [number for numbers in found for number in numbers] == sorted(set().union(*found))
    for numbers in found:
        chosen = [rows[number - 1] for number in numbers]
        assert sum(labelled for _, labelled in chosen) >= LIMITS.min_labels
        assert sum(labelled for _, labelled in chosen) >= LIMITS.min_coverage * sum(n for n, _ in chosen)


def by_definition(rows: Rows, limits: Limits) -> list[tuple[int, ...]]:
    """Try every start for every end: of those with labels enough the one of the best coverage, if that suffices."""
    found: list[tuple[int, ...]] = []
    first = 0
    for last in range(len(rows)):
        best: tuple[float, int] | None = None
        for start in range(first, last + 1):
            n = sum(rows[place][0] for place in range(start, last + 1))
            labelled = sum(rows[place][1] for place in range(start, last + 1))
            surplus = labelled - limits.min_coverage * n
            if labelled >= limits.min_labels and (best is None or surplus > best[0]):
                best = surplus, start
        if best is not None and best[0] >= 0:
            found.append(tuple(range(best[1] + 1, last + 2)))
            first = last + 1
    return found


# --- whose labels


def test_each_window_has_the_labels_of_its_time() -> None:
    windows = [(1, at(60), at(120), 10), (2, at(180), at(300), 20)]
    labels = [(at(0), 100), (at(60), 1), (at(90), 2), (at(120), 100), (at(240), 4), (at(300), 100)]
    assert with_labels(windows, labels) == [Closed(1, at(60), at(120), 10, 3), Closed(2, at(180), at(300), 20, 4)]


def test_windows_without_a_label_have_none() -> None:
    assert with_labels([(1, at(0), at(60), 10)], []) == [Closed(1, at(0), at(60), 10, 0)]
    assert with_labels([], [(at(0), 1)]) == []


# --- what they prove


def test_figures_of_no_label_are_none() -> None:
    result = labelled_result(WATCH, at(0), at(60), 500, EMPTY)
    assert result.realised == Performance(n=0)
    assert (result.labelled, result.coverage, result.sets, result.delay_median_seconds) == (0, 0.0, None, None)
    assert (result.estimated, result.concept, result.decline) == (None, None, None)


def test_figures_of_no_row_have_no_coverage() -> None:
    assert labelled_result(WATCH, at(0), at(60), 0, EMPTY).coverage == 0.0


def test_one_label_has_the_figures_that_one_label_can_have() -> None:
    result, alarms = judge(Alarms(), turned(1))
    assert result.sets is not None
    assert (result.labelled, result.sets.n, result.realised.n) == (1, 1, 1)
    assert alarms == Alarms()


def test_the_estimate_is_of_the_labelled_rows_alone() -> None:
    result = labelled_result(WATCH, at(0), at(60), 2000, lawful(1000))
    assert result.estimated is not None
    assert result.concept is not None
    assert (result.n, result.labelled, result.coverage) == (2000, 1000, 0.5)
    assert result.estimated.n == result.concept.n == result.realised.n == 1000
    assert result.estimated.accuracy == pytest.approx(result.realised.accuracy, abs=0.05)


def test_the_sets_coverage_and_the_delay_stand_beside() -> None:
    result = labelled_result(WATCH, at(0), at(60), 1000, lawful(1000))
    assert result.sets is not None
    assert (result.sets.level, result.sets.n) == (0.9, 1000)
    assert result.sets.coverage == result.sets.covered / 1000 == pytest.approx(0.9, abs=0.05)
    assert result.sets.empty + result.sets.single + result.sets.both == 1000
    assert result.delay_median_seconds == 60.0


def test_an_artifact_without_calibration_and_held_out_rows_has_realised_figures_only() -> None:
    watch = watch_of(np.array([[1.0], [2.0]]))
    result = labelled_result(watch, at(0), at(60), 4, watch.labels.add(labels_of([0.1, 0.9], [0, 1])))
    assert result.realised.accuracy == 1.0
    assert (result.estimated, result.concept, result.decline, result.sets) == (None, None, None, None)


def test_labels_whose_law_holds_raise_no_alarm() -> None:
    result, alarms = judge(Alarms(), lawful(1000))
    assert (result.concept is not None, result.decline is not None) == (True, True)
    assert (verdict(alarms), changed_since(alarms)) == (Severity.GOOD, None)


def test_labels_whose_law_has_changed_raise_concept_and_performance_alarms_at_once() -> None:
    result, alarms = judge(Alarms(), turned(1000))
    assert result.concept is not None
    assert result.decline is not None
    assert (result.concept.concept, result.decline.declined) == (True, True)
    assert [alarms.signal(name).severity for name in (CONCEPT, DECLINE)] == [Severity.CRITICAL] * 2
    assert (verdict(alarms), changed_since(alarms)) == (Severity.CRITICAL, at(0))


def test_one_good_labelled_window_clears_them() -> None:
    _, alarms = judge(Alarms(), turned(1000))
    _, alarms = judge(alarms, lawful(1000))
    assert [alarms.signal(name) for name in (CONCEPT, DECLINE)] == [Signal(), Signal()]
    assert verdict(alarms) is Severity.GOOD


def test_fewer_labels_than_asked_for_are_reported_and_move_no_alarm() -> None:
    _, before = judge(Alarms(), turned(1000))
    result, after = judge(before, lawful(999))
    assert (result.labelled, after) == (999, before)


def test_the_other_alarms_are_left_as_they_are() -> None:
    before = Alarms(features={"x": FeatureAlarm(severity=1)}, signals={QUALITY: Signal(severity=2, since=at(9))})
    _, after = judge(before, turned(1000))
    assert (after.features, after.signal(QUALITY)) == (before.features, before.signal(QUALITY))


def test_labels_of_several_windows_are_judged_together() -> None:
    windows = closed([(600, 500), (700, 500)])
    result, alarms = judge_labels(WATCH, Alarms(), windows, merged([turned(500), turned(500)]))
    assert (result.starts, result.ends, result.n, result.labelled) == (at(0), at(120), 1300, 1000)
    assert verdict(alarms) is Severity.CRITICAL


def test_rows_are_surely_of_the_new_law_since_the_last_of_the_windows_that_showed_it() -> None:
    _, alarms = judge_labels(WATCH, Alarms(), closed([(600, 500), (700, 500)]), turned(1000))
    assert changed_since(alarms) == at(60)


def test_a_result_that_was_stored_is_the_same() -> None:
    result, _ = judge(Alarms(), turned(1000))
    assert msgspec.json.decode(msgspec.json.encode(result), type=LabelledResult) == result


# --- amendments and retractions


def test_amended_labels_are_judged_as_if_they_had_come_right_at_first() -> None:
    """The first labels say that the law has changed; then the laboratory corrects them."""
    rng = np.random.default_rng(1)
    scores = rng.random(1000).round(6)
    right = (rng.random(1000) < scores).astype(int).tolist()
    made = [
        prediction(MIXED.contract, {}, score=score, prediction_id=f"p{n}") for n, score in enumerate(scores.tolist())
    ]
    first = [labeled(one, 1 - label) for one, label in zip(made, right, strict=True)]
    amended = [labeled(one, y, previous=1 - y, revision=2) for one, y in zip(made, right, strict=True)]
    both = merged(MIXED.labels.add(label_rows(events)) for events in (amended, first))
    at_first = MIXED.labels.add(label_rows([labeled(one, label) for one, label in zip(made, right, strict=True)]))
    assert parts_of(both) == parts_of(at_first)


def test_retracted_labels_leave_nothing_behind_but_that_they_came() -> None:
    made = [prediction(MIXED.contract, {}, score=score) for score in (0.1, 0.5, 0.9)]
    first = [labeled(one, 1) for one in made]
    state = MIXED.labels.add(label_rows([*[retracted(one, 1) for one in made], *first]))
    left = {frame.name: sum(map(abs, counts)) for frame, counts in parts_of(state).items()}
    assert left == {"labelled": 0, "calibrated": 0, "coverage": 0, "delays": 3}
    result = labelled_result(MIXED, at(0), at(60), 3, state)
    assert result.realised == Performance(n=0)
    assert (result.estimated, result.concept, result.decline, result.sets) == (None, None, None, None)


def lawful(rows: int) -> State:
    """Labels that are 1 as often as the scores say."""
    return WATCH.labels.add(labels_of(*lawful_rows(3, rows)))


def turned(rows: int) -> State:
    """Labels that are 0 as often as the scores say 1."""
    scores, labels = lawful_rows(3, rows)
    return WATCH.labels.add(labels_of(scores, 1 - labels))


def judge(alarms: Alarms, state: State) -> tuple[LabelledResult, Alarms]:
    """Judge labels of the first window's rows."""
    return judge_labels(WATCH, alarms, closed([(1200, 1000)]), state)
