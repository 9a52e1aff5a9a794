"""The label rule: of several results the highest holds, in whatever order and however often they arrive."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.label_ingest.domain.labels import Change, Fate, Labels, Result, publish, take

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

results = st.builds(
    Result,
    version=st.integers(1, 3),
    observed_at=st.none() | st.sampled_from([NOON, NOON + timedelta(hours=1)]),
    result_id=st.none() | st.sampled_from(["", "a", "b"]),
    label=st.integers(0, 1),
)


def result(version: int = 1, label: int = 1, hour: int | None = None, result_id: str | None = None) -> Result:
    return Result(version, None if hour is None else NOON + timedelta(hours=hour), result_id, label)


def taken(arrivals: Sequence[Result]) -> tuple[Labels, list[Fate]]:
    """The labels after these results, and what each did; nothing is published."""
    labels, fates = Labels(), []
    for one in arrivals:
        labels, fate = take(labels, one)
        fates.append(fate)
    return labels, fates


def history(arrivals: Sequence[Result], predicted_after: int) -> tuple[Labels, list[Change]]:
    """What is published when the prediction comes after so many results."""
    labels, changes = Labels(), []
    for place in range(len(arrivals) + 1):
        if place:
            labels, _fate = take(labels, arrivals[place - 1])
        if place >= predicted_after:
            labels, change = publish(labels)
            changes += [change] if change else []
    return labels, changes


@st.composite
def arrivals_and_reordered(draw: st.DrawFn) -> tuple[list[Result], list[Result]]:
    """Some results, and the same results in another order, some of them several times."""
    arrivals = draw(st.lists(results, min_size=1, max_size=8))
    again = draw(st.lists(st.sampled_from(arrivals), max_size=8))
    return arrivals, draw(st.permutations([*arrivals, *again]))


@given(arrivals_and_reordered())
def test_order_and_repetition_change_nothing(pair: tuple[list[Result], list[Result]]) -> None:
    arrivals, reordered = pair
    (first, _), (second, _) = taken(arrivals), taken(reordered)
    assert first.holds is not None
    assert second.holds is not None
    assert first.holds.rank == second.holds.rank
    assert first.contested == second.contested


@given(st.lists(results, min_size=1, max_size=8))
def test_the_highest_result_holds(arrivals: list[Result]) -> None:
    held = taken(arrivals)[0].holds
    assert held is not None
    assert held.rank == max(one.rank for one in arrivals)


@given(st.lists(results, min_size=1, max_size=8))
def test_a_label_is_contested_exactly_where_the_newest_version_came_with_both(arrivals: list[Result]) -> None:
    newest = max(one.version for one in arrivals)
    both = len({one.label for one in arrivals if one.version == newest}) == 2
    assert taken(arrivals)[0].contested is both


@given(st.lists(results, min_size=1, max_size=8), st.integers(0, 8))
def test_what_was_published_adds_up_to_the_label_that_holds(arrivals: list[Result], predicted_after: int) -> None:
    labels, changes = history(arrivals, min(predicted_after, len(arrivals)))
    assert labels.holds is not None
    assert sum(change.label - (change.previous or 0) for change in changes) == labels.holds.label
    assert [change.revision for change in changes] == list(range(1, len(changes) + 1))
    assert [change.previous for change in changes] == [None, *[change.label for change in changes[:-1]]]


@given(st.lists(results, min_size=1, max_size=8))
def test_a_prediction_that_comes_last_is_published_once(arrivals: list[Result]) -> None:
    labels, changes = history(arrivals, len(arrivals))
    assert labels.holds is not None
    assert changes == [Change(labels.holds.label, None, 1)]


@pytest.mark.parametrize(
    ("held", "arriving", "fate"),
    [
        (result(1), result(1), Fate.DUPLICATE),
        (result(1), result(2), Fate.HOLDS),
        (result(1, label=1), result(2, label=0), Fate.HOLDS),
        (result(2), result(1), Fate.SUPERSEDED),
        (result(2, label=1), result(1, label=0, hour=3), Fate.SUPERSEDED),
        (result(1, label=1), result(1, label=0), Fate.CONFLICT),
        (result(1, label=0), result(1, label=1), Fate.CONFLICT),
        (result(1, hour=1), result(1, hour=2), Fate.HOLDS),
        (result(1, hour=1), result(1), Fate.DUPLICATE),
        (result(1, hour=1, result_id="b"), result(1, hour=1, result_id="a"), Fate.DUPLICATE),
        (result(1, result_id=""), result(1), Fate.DUPLICATE),
    ],
)
def test_each_arrival_is_told_what_it_did(held: Result, arriving: Result, fate: Fate) -> None:
    assert taken([held, arriving])[1][-1] is fate


def test_the_later_observation_of_one_version_holds_though_it_came_first() -> None:
    labels, _ = taken([result(hour=2, label=0), result(hour=1, label=1)])
    assert labels.holds == result(hour=2, label=0)


def test_of_two_that_differ_in_nothing_but_the_label_the_higher_holds() -> None:
    assert [taken(order)[0].holds for order in ([result(label=0), result()], [result(), result(label=0)])] == [
        result(label=1),
        result(label=1),
    ]


def test_a_newer_version_ends_a_conflict() -> None:
    assert taken([result(1, 0), result(1, 1)])[0].contested
    assert not taken([result(1, 0), result(1, 1), result(2, 0)])[0].contested


def test_an_amendment_with_the_same_label_publishes_nothing() -> None:
    _, changes = history([result(1), result(2), result(3)], 0)
    assert changes == [Change(1, None, 1)]


def test_an_amendment_that_turns_the_label_says_what_it_was() -> None:
    _, changes = history([result(1, 1), result(2, 0), result(3, 1)], 0)
    assert changes == [Change(1, None, 1), Change(0, 1, 2), Change(1, 0, 3)]
