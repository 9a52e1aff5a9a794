"""What events say, by column: every value that may come has a defined answer."""

from datetime import timedelta
from typing import Any

import msgspec
import numpy as np
import pytest

from driftloop.common.envelope import UndecodableMessage, decode_event, encode_event
from driftloop.common.events import PredictionMade
from driftloop.drift_monitor.domain.evaluation import Watch
from driftloop.drift_monitor.domain.fold.quality import NAMES
from driftloop.drift_monitor.domain.fold.rows import Column, PredictionRows, label_rows, prediction_rows
from tests.support.predictions import START, labeled, prediction
from tests.unit.drift_monitor.builders import mixed_watch, retracted

WATCH = mixed_watch()
NAN = float("nan")
INFINITE = float("inf")
HUGE = 2**63 - 1


def made(features: dict[str, Any], score: float = 0.25) -> PredictionMade:
    return msgspec.structs.replace(prediction(WATCH.contract, {}, score=score), features=features)


def rows(*features: dict[str, Any]) -> PredictionRows:
    return prediction_rows(WATCH.contract, [made(one) for one in features])


def faults(feature: str, value: object, watch: Watch = WATCH) -> dict[str, int]:
    """Which counts of quality one row moves, the rows left out."""
    state = watch.predictions.add(rows({"x": 2, "c": "a"} | {feature: value}))
    (quality,) = (one for one in watch.quality if one.feature == feature)
    counts = state.part(quality.frame)
    assert counts is not None
    return {name: count for name, count in zip(NAMES, counts.tolist(), strict=True) if count and name != "rows"}


def cell(feature: int, value: object) -> int:
    """The cell of the value of x (0) or c (1) in a row."""
    accumulator = WATCH.cells[feature]
    counts = WATCH.predictions.add(rows({"x": 2, "c": "a"} | {"xc"[feature]: value})).part(accumulator.frame)
    assert counts is not None
    assert counts.sum() == 1
    return int(counts.argmax())


# --- numbers


@pytest.mark.parametrize("others", [[], [1, 2.5], [1, None]], ids=["alone", "among numbers", "among missing"])
@pytest.mark.parametrize(
    ("value", "number", "invalid"),
    [
        (3, 3.0, False),
        (3.5, 3.5, False),
        (-0.0, 0.0, False),
        (HUGE, 2.0**63, False),
        (-(2**63), -(2.0**63), False),
        (None, NAN, False),
        (NAN, NAN, False),
        (INFINITE, NAN, True),
        (-INFINITE, NAN, True),
        ("3", NAN, True),
        ("", NAN, True),
        (True, NAN, True),
        (False, NAN, True),
    ],
    ids=repr,
)
def test_a_number_is_a_number_is_missing_or_is_invalid(
    value: object, number: float, invalid: bool, others: list[object]
) -> None:
    column = rows({"x": value}, *({"x": other} for other in others)).columns["x"]
    np.testing.assert_array_equal(column.values[0], number)
    assert bool(column.invalid is not None and column.invalid[0]) is invalid


def test_what_is_wrong_with_one_row_leaves_the_others_as_they_are() -> None:
    column = rows({"x": 1}, {"x": INFINITE}, {"x": "2"}, {"x": 2}, {"x": None}).columns["x"]
    np.testing.assert_array_equal(column.values, np.array([1, NAN, NAN, 2, NAN]))
    assert column.invalid is not None
    assert column.invalid.tolist() == [False, True, True, False, False]


@pytest.mark.parametrize(
    ("value", "counted"),
    [
        (2, {}),
        (None, {"missing": 1}),
        (NAN, {"missing": 1}),
        (INFINITE, {"invalid": 1}),
        ("2", {"invalid": 1}),
        (True, {"invalid": 1}),
        (HUGE, {"out_of_range": 1, "foreign": 1, "outlying": 1}),
        (-1, {"out_of_range": 1, "foreign": 1, "outlying": 1}),
        (10.5, {"out_of_range": 1, "foreign": 1, "outlying": 1}),
        (0, {"foreign": 1, "outlying": 1}),
        (10, {"foreign": 1, "outlying": 1}),
        (3, {}),
    ],
    ids=repr,
)
def test_each_number_counts_as_what_is_wrong_with_it(value: object, counted: dict[str, int]) -> None:
    assert faults("x", value) == counted


@pytest.mark.parametrize(
    ("limit", "value", "out"),
    [("minimum", -1, 0), ("minimum", 11, 1), ("maximum", -1, 1), ("maximum", 11, 0)],
)
def test_a_limit_that_the_contract_does_not_give_excludes_nothing(limit: str, value: float, out: int) -> None:
    limits: dict[str, Any] = {limit: None}
    assert faults("x", value, mixed_watch(**limits)).get("out_of_range", 0) == out


@pytest.mark.parametrize(
    ("value", "place"),
    [(0.5, 0), (-HUGE, 0), (1, 1), (3, 4), (HUGE, 6), (None, 7), (INFINITE, 7), ("2", 7), (True, 7)],
    ids=repr,
)
def test_each_number_has_a_cell_and_what_is_none_is_missing(value: object, place: int) -> None:
    assert cell(0, value) == place


# --- categories


@pytest.mark.parametrize(
    ("value", "counted", "place"),
    [
        ("a", {}, 0),
        ("b", {}, 1),
        ("z", {"unseen": 1}, 2),
        ("", {"unseen": 1}, 2),
        ("A", {"unseen": 1}, 2),
        (1, {"unseen": 1}, 2),
        (1.5, {"unseen": 1}, 2),
        (INFINITE, {"unseen": 1}, 2),
        (HUGE, {"unseen": 1}, 2),
        (True, {"unseen": 1}, 2),
        (None, {"missing": 1}, 3),
    ],
    ids=repr,
)
def test_a_category_is_known_is_missing_or_is_unseen(value: object, counted: dict[str, int], place: int) -> None:
    assert faults("c", value) == counted
    assert cell(1, value) == place


# --- rows


def test_a_feature_that_an_event_lacks_is_missing() -> None:
    found = rows({"c": "a"}, {"x": 1})
    np.testing.assert_array_equal(found.columns["x"].values, np.array([NAN, 1]))
    assert found.columns["c"].values.tolist() == ["a", None]


def test_a_feature_that_the_contract_lacks_is_left_out() -> None:
    assert set(rows({"x": 1, "c": "a", "z": "extra"}).columns) == {"x", "c"}


def test_scores_and_answers_are_those_of_the_events() -> None:
    events = [made({}, score=0.5), msgspec.structs.replace(made({}, score=0.9), prediction=False)]
    found = prediction_rows(WATCH.contract, events)
    assert (found.scores.tolist(), found.predictions.tolist()) == ([0.5, 0.9], [True, False])


def test_no_event_makes_no_row_and_counts_nothing() -> None:
    found = rows()
    assert (len(found), set(found.columns)) == (0, {"x", "c"})
    assert WATCH.predictions.add(found).counts.sum() == 0


def test_chosen_rows_are_those_rows_in_every_column() -> None:
    found = rows({"x": 1, "c": "a"}, {"x": "bad", "c": "b"}, {"x": 3, "c": None}).take(np.array([2, 1]))
    np.testing.assert_array_equal(found.columns["x"].values, np.array([3, NAN]))
    assert found.columns["x"].invalid is not None
    assert found.columns["x"].invalid.tolist() == [False, True]
    assert (found.columns["c"].values.tolist(), len(found)) == ([None, "b"], 2)


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "1e999", "1" + "0" * 400, str(2**63), "true", "[1]", "{}", r'"\ud800"']
)
def test_what_json_can_say_and_no_array_can_hold_is_no_event(value: str) -> None:
    event = encode_event(made({"x": 0.125})) or b""
    with pytest.raises(UndecodableMessage):
        decode_event("driftloop.PredictionMade", event.replace(b"0.125", value.encode()))


# --- labels


def test_a_first_label_comes_to_hold_and_says_how_long_it_took() -> None:
    event = msgspec.structs.replace(labeled(made({}, score=0.75), 1), labeled_at=START + timedelta(days=3))
    found = label_rows([event])
    assert (found.scores.tolist(), found.predictions.tolist()) == ([0.75], [True])
    assert (found.labels.tolist(), found.signs.tolist(), found.delays.tolist()) == ([1], [1], [3 * 86_400.0])
    assert list(found.identities) == [event.prediction_id]


def test_an_amended_label_ceases_to_hold_and_the_new_one_does() -> None:
    found = label_rows([labeled(made({}), 1, previous=0, revision=2)])
    assert (found.labels.tolist(), found.signs.tolist()) == ([0, 1], [-1, 1])
    assert np.isnan(found.delays).all()


def test_a_retracted_label_ceases_to_hold() -> None:
    found = label_rows([retracted(made({}), 1)])
    assert (found.labels.tolist(), found.signs.tolist()) == ([1], [-1])


def test_a_label_that_comes_after_a_retraction_is_no_first_one() -> None:
    found = label_rows([labeled(made({}), 1, revision=3)])
    assert (found.signs.tolist(), bool(np.isnan(found.delays).all())) == ([1], True)


def test_no_event_changes_no_label() -> None:
    assert len(label_rows([])) == 0
    assert WATCH.labels.add(label_rows([])).counts.sum() == 0


def test_the_numbers_outside_limits_come_ascending_and_without_the_missing() -> None:
    column = Column(np.array([3.0, np.nan, -1.0, 9.0, 2.0, 7.0, 0.0]))
    assert column.outside(0.0, 3.0).tolist() == [-1.0, 7.0, 9.0]
    assert column.outside(2.0, 8.0).tolist() == [-1.0, 0.0, 9.0]
    assert column.outside(-np.inf, np.inf).tolist() == []
    assert column.take(np.array([0, 6])).outside(1.0, 2.0).tolist() == [0.0, 3.0]
