"""Which versions' files may go: those that nobody can need any more, rejected challengers before former champions."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

# What is this young is looked at by people, and asked for by replicas and monitors that were away.
RECENT = timedelta(days=30)
# Statuses in which nothing is still to be decided, the first to go first. Of any other a version keeps its files.
FINISHED = (("rejected", "rolled-back", "abandoned"), ("retired",))


@dataclass(frozen=True)
class KeptVersion:
    """A version whose files are kept."""

    version: int
    status: str
    created_at: datetime


@dataclass(frozen=True)
class PastState:
    """A serving state that was published: who answered, and all versions that it names."""

    revision: int
    champion: int
    versions: Collection[int]
    decided_at: datetime


@dataclass(frozen=True)
class SeenReplica:
    """What a replica last said of itself."""

    revision: int
    version: int
    reported_at: datetime


def expendable(
    versions: Sequence[KeptVersion],
    states: Sequence[PastState],
    replicas: Sequence[SeenReplica],
    *,
    keep: int,
    kept_revisions: int,
    now: datetime,
) -> list[int]:
    """The versions of one model that are more than `keep` and that nobody can need, in the order in which they go.

    Needed is what these name: the newest `kept_revisions` states, which whoever reads the topic from its beginning
    fetches, counted from 30 days ago on, because the log gives up older ones late; the states of replicas that were
    heard of in 30 days; the champion before this one. And whatever is younger than 30 days.
    """
    needed = _needed(states, replicas, kept_revisions, now)
    rank = {status: place for place, statuses in enumerate(FINISHED) for status in statuses}
    free = [
        one for one in versions if one.status in rank and one.version not in needed and one.created_at <= now - RECENT
    ]
    free.sort(key=lambda one: (rank[one.status], one.version))
    return [one.version for one in free[: max(0, len(versions) - keep)]]


def _needed(
    states: Sequence[PastState], replicas: Iterable[SeenReplica], kept_revisions: int, now: datetime
) -> set[int]:
    since = now - RECENT
    settled = max((one.revision for one in states if one.decided_at <= since), default=0)
    heard = [one for one in replicas if one.reported_at > since]
    applied = {one.revision for one in heard}
    found = {one.version for one in heard} | _last_champions(states)
    for state in states:
        if state.revision > settled - kept_revisions or state.revision in applied:
            found.update(state.versions)
    return found


def _last_champions(states: Sequence[PastState]) -> set[int]:
    """The champion, and the one before it, to which one rolls back."""
    newest_first = dict.fromkeys(one.champion for one in sorted(states, key=lambda one: -one.revision))
    return set(list(newest_first)[:2])
