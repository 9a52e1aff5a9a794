"""Which versions' files may go: never one that somebody may need, and no more than asked for."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from driftloop.trainer.domain.retention import FINISHED, RECENT, KeptVersion, PastState, SeenReplica, expendable
from tests.support.predictions import START

NOW = START + timedelta(days=1000)
OLD = NOW - RECENT
ENDED = [status for statuses in FINISHED for status in statuses]


def version(number: int, status: str = "retired", created: datetime = OLD) -> KeptVersion:
    return KeptVersion(number, status, created)


def state(revision: int, champion: int, *others: int, decided: datetime = OLD) -> PastState:
    return PastState(revision, champion, (champion, *others), decided)


def gone(
    versions: Sequence[KeptVersion],
    states: Sequence[PastState] = (),
    replicas: Sequence[SeenReplica] = (),
    keep: int = 1,
    kept_revisions: int = 1,
) -> list[int]:
    return expendable(versions, states, replicas, keep=keep, kept_revisions=kept_revisions, now=NOW)


def test_no_more_go_than_there_are_too_many() -> None:
    versions = [version(number) for number in range(1, 6)]
    assert [gone(versions, keep=keep) for keep in (5, 4, 2)] == [[], [1], [1, 2, 3]]


def test_rejected_challengers_go_before_former_champions_and_the_oldest_first() -> None:
    versions = [version(1), version(2, "rejected"), version(3), version(4, "rolled-back"), version(5, "rejected")]
    assert gone(versions, keep=1) == [2, 4, 5, 1]


def test_what_is_still_to_be_decided_is_kept() -> None:
    versions = [version(1, "champion"), version(2, "canary"), version(3, "shadow"), version(4, "evaluated"), version(5)]
    assert gone(versions, keep=1) == [5]


def test_what_is_young_is_kept() -> None:
    versions = [version(1, created=OLD + timedelta(seconds=1)), version(2, "rejected", NOW), version(3)]
    assert gone(versions, keep=1) == [3]


def test_what_a_kept_revision_names_is_kept() -> None:
    versions = [version(number) for number in range(1, 8)]
    states = [state(1, 1), state(2, 2), state(3, 1, 3, 4), state(4, 5)]
    assert gone(versions, states, kept_revisions=2) == [2, 6, 7]


def test_a_revision_is_given_up_a_while_after_it_fell_out() -> None:
    """The log's compaction is late: who reads it from its beginning still sees what was tombstoned lately."""
    versions = [version(number) for number in range(1, 5)]
    states = [state(1, 1), state(2, 2), *(state(3 + n, 4, decided=NOW) for n in range(5))]
    assert gone(versions, states, kept_revisions=2) == [3]
    assert gone(versions, [*states[:2], *(state(3 + n, 4) for n in range(5))], kept_revisions=2) == [1, 3]


def test_what_a_replica_was_seen_with_is_kept_until_it_is_forgotten() -> None:
    versions = [version(number) for number in range(1, 6)]
    states = [state(1, 1, 2), state(2, 4), state(3, 4), state(4, 5)]
    assert gone(versions, states, [SeenReplica(1, 3, NOW)]) == []
    assert gone(versions, states, [SeenReplica(1, 3, OLD)]) == [1, 2, 3]


def test_the_champion_before_this_one_is_kept_however_long_ago_it_was() -> None:
    versions = [version(number) for number in range(1, 4)]
    states = [state(1, 1), state(2, 2), *(state(3 + n, 3) for n in range(9))]
    assert gone(versions, states) == [1]


VERSIONS = st.lists(st.sampled_from([*ENDED, "champion", "canary"]), max_size=8)
STATES = st.lists(st.lists(st.integers(1, 8), min_size=1, max_size=3), max_size=8)
AGES = st.integers(0, 60).map(lambda days: NOW - timedelta(days=days))


@given(statuses=VERSIONS, named=STATES, ages=st.data(), keep=st.integers(1, 8), kept=st.integers(1, 5))
def test_nothing_goes_that_may_be_needed(
    statuses: list[str], named: list[list[int]], ages: st.DataObject, keep: int, kept: int
) -> None:
    versions = [version(number, status, ages.draw(AGES)) for number, status in enumerate(statuses, 1)]
    decided = sorted(ages.draw(AGES) for _ in named)
    states = [state(n, *who, decided=when) for n, (who, when) in enumerate(zip(named, decided, strict=True), 1)]
    found = gone(versions, states, keep=keep, kept_revisions=kept)
    assert len(found) <= max(0, len(versions) - keep)
    newest = {one for past in states[-kept:] for one in past.versions}
    by_number = {one.version: one for one in versions}
    for number in found:
        assert number not in newest
        assert by_number[number].status in ENDED
        assert by_number[number].created_at <= OLD
