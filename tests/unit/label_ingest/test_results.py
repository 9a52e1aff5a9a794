"""Of a result's versions the newest counts, in whatever order and however often they arrive."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.common.events import ResultStatus
from driftloop.label_ingest.domain.results import Fate, Result, Version, take

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

STATUSES: list[ResultStatus] = ["preliminary", "final", "corrected", "cancelled", "entered-in-error"]
versions = st.builds(
    Version,
    key=st.just("pp-1"),
    result=st.just("lab\x1fL-1"),
    subject=st.none(),
    model_name=st.none(),
    version=st.integers(1, 3),
    reported_at=st.none() | st.sampled_from([NOON, NOON + timedelta(hours=1)]),
    status=st.sampled_from(STATUSES),
    observed_at=st.none() | st.sampled_from([NOON, NOON + timedelta(hours=1)]),
    label=st.none() | st.integers(0, 1),
    value=st.none() | st.sampled_from([5.0, 7.0]),
)


def version(
    number: int = 1,
    label: int = 1,
    hour: int | None = None,
    reported: int | None = None,
    status: ResultStatus = "final",
) -> Version:
    at = [None if one is None else NOON + timedelta(hours=one) for one in (reported, hour)]
    return Version("pp-1", "\x1f", None, None, number, at[0], status, at[1], label)


def taken(arrivals: Sequence[Version]) -> tuple[Result, list[Fate]]:
    """The result after these versions, and what each did."""
    result, fates = None, []
    for one in arrivals:
        result, fate = take(result, one)
        fates.append(fate)
    assert result is not None
    return result, fates


@st.composite
def arrivals_and_reordered(draw: st.DrawFn) -> tuple[list[Version], list[Version]]:
    """Some versions, and the same in another order, some of them several times."""
    arrivals = draw(st.lists(versions, min_size=1, max_size=8))
    again = draw(st.lists(st.sampled_from(arrivals), max_size=8))
    return arrivals, draw(st.permutations([*arrivals, *again]))


@given(arrivals_and_reordered())
def test_order_and_repetition_change_nothing(pair: tuple[list[Version], list[Version]]) -> None:
    first, second = (taken(arrivals)[0] for arrivals in pair)
    assert first.holds.rank == second.holds.rank
    assert first.contested == second.contested


@given(st.lists(versions, min_size=1, max_size=8))
def test_a_result_is_contested_exactly_where_what_is_newest_came_with_two_contents(arrivals: list[Version]) -> None:
    newest = max(one.age for one in arrivals)
    contents = {one.says for one in arrivals if one.age == newest}
    assert taken(arrivals)[0].contested is (len(contents) > 1)


@pytest.mark.parametrize(
    ("held", "arriving", "fate"),
    [
        (version(1), version(1), Fate.DUPLICATE),
        (version(1), version(2), Fate.HOLDS),
        (version(1, label=1), version(2, label=0), Fate.HOLDS),
        (version(2), version(1), Fate.SUPERSEDED),
        (version(2, label=1), version(1, label=0, hour=3), Fate.SUPERSEDED),
        (version(2), version(1, status="entered-in-error"), Fate.SUPERSEDED),
        (version(1, label=1), version(1, label=0), Fate.CONFLICT),
        (version(1, label=0), version(1, label=1), Fate.CONFLICT),
        (version(1, hour=1), version(1, hour=2), Fate.HOLDS),
        (version(1, hour=1), version(1), Fate.DUPLICATE),
        (version(1, reported=1), version(1, reported=2), Fate.HOLDS),
        (version(1, reported=2), version(1, reported=1), Fate.SUPERSEDED),
        (version(2, reported=1), version(1, reported=2), Fate.SUPERSEDED),
        (version(1, status="preliminary"), version(1), Fate.HOLDS),
        (version(1), version(1, status="preliminary"), Fate.SUPERSEDED),
        (version(1), version(1, status="corrected"), Fate.HOLDS),
        (version(1), version(1, status="cancelled"), Fate.HOLDS),
        (version(1, status="preliminary", reported=1), version(1), Fate.HOLDS),
        (version(1, status="corrected", reported=1), version(1, reported=2), Fate.SUPERSEDED),
        (version(1, status="corrected"), version(1, status="entered-in-error", reported=1), Fate.HOLDS),
        (version(1, status="corrected", reported=1), version(1, status="entered-in-error"), Fate.HOLDS),
        (version(1, status="entered-in-error", reported=1), version(1, status="corrected", reported=2), Fate.HOLDS),
        (version(1, status="entered-in-error", reported=2), version(1, status="corrected"), Fate.SUPERSEDED),
        (version(1, status="entered-in-error", reported=1), version(1, reported=2), Fate.SUPERSEDED),
    ],
)
def test_each_arrival_is_told_what_it_did(held: Version, arriving: Version, fate: Fate) -> None:
    assert taken([held, arriving])[1][-1] is fate


def test_the_later_specimen_of_one_version_holds_though_it_came_first() -> None:
    assert taken([version(hour=2, label=0), version(hour=1, label=1)])[0].holds == version(hour=2, label=0)


def test_of_two_that_differ_in_nothing_but_the_label_the_higher_holds() -> None:
    orders = ([version(label=0), version()], [version(), version(label=0)])
    assert [taken(order)[0].holds for order in orders] == [version(label=1)] * 2


def test_a_newer_version_ends_a_conflict() -> None:
    assert taken([version(1, 0), version(1, 1)])[0].contested
    assert not taken([version(1, 0), version(1, 1), version(2, 0)])[0].contested
