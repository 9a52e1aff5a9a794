"""One function per event: predictions and labels are counted into panes, serving states bring profiles."""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from driftloop.common import metrics
from driftloop.common.clock import Clock
from driftloop.common.contract import Contract
from driftloop.common.events import (
    LabelRetracted,
    ModelUpdated,
    PredictionLabeled,
    PredictionMade,
    ServedVersion,
    SubjectErased,
)
from driftloop.common.kafka.batches import Delivery
from driftloop.common.profile import ReferenceProfile
from driftloop.drift_monitor.domain.evaluation import Watch
from driftloop.drift_monitor.domain.fold.rows import label_rows, prediction_rows
from driftloop.drift_monitor.domain.panes import EPOCH, MICROSECONDS, instant, pane_starts
from driftloop.drift_monitor.domain.retries import Key, Retries, key_of
from driftloop.drift_monitor.pane_store import LABEL_TOTALS, LABELS, PREDICTIONS, Addition, ParkedRecord, Tally, Version
from driftloop.drift_monitor.store import Store

logger = logging.getLogger(__name__)

KINDS = {PREDICTIONS: "predictions", LABELS: "labels"}
FetchProfile = Callable[[str, ServedVersion], ReferenceProfile]
LabelEvent = PredictionLabeled | LabelRetracted


class ParkingFull(RuntimeError):
    """Too many records wait for a profile; reading must wait with them."""


class FromTheFuture(ValueError):
    """A prediction says that it was made later than now: counted, it would hold a window open until then."""


class Watches(Protocol):
    """Finds what a version is watched by."""

    def __call__(self, store: Store, version: Version) -> Watch | None:
        """The watch, or None while the version's profile is unknown."""
        ...


@dataclass(frozen=True)
class Limits:
    """What counting is bounded by: parked records, how far ahead of now an event may be, how long panes are kept."""

    max_parked: int
    ahead: timedelta
    keep: timedelta


def cached_watches(contracts: Mapping[str, Contract]) -> Watches:
    """Watches by version; a version never changes, so that each profile is read once."""
    known: dict[Version, Watch] = {}

    def find(store: Store, version: Version) -> Watch | None:
        if version not in known and version[0] in contracts:
            profile = store.profile(version)
            if profile is not None:
                known[version] = Watch(contracts[version[0]], profile)
        return known.get(version)

    return find


def on_predictions(
    store: Store,
    contracts: Mapping[str, Contract],
    watches: Watches,
    limits: Limits,
    now: datetime,
    batch: Sequence[Delivery],
) -> int:
    """Count predictions into the panes of their own time; those of an unknown version are parked.

    Returns how many are retries of what had been counted. Raises ParkingFull, and FromTheFuture for a prediction that
    no clock of ours can have made.
    """
    ours: list[Delivery] = []
    latest: dict[tuple[str, int], datetime] = {}
    horizon = now + limits.ahead
    for one in batch:
        event: Any = one.event
        time, place = event.predicted_at, (one.record.topic, one.record.partition)
        if event.model_name in contracts:
            ours.append(one)
        if time > horizon:
            if event.model_name in contracts:
                raise FromTheFuture(
                    f"predicted_at is {(time - now).total_seconds():.0f} s ahead of this clock, "
                    f"{limits.ahead.total_seconds():g} s are allowed: set the predictor's clock, or this one"
                )
        elif place not in latest or time > latest[place]:
            latest[place] = time
    # Before anything is parked: what is taken out of `parked` is counted as it is.
    counted = _without_retries(store, ours)
    _count_all(store, watches, limits, now, PREDICTIONS, counted)
    store.panes.advance_watermarks(latest)
    return len(ours) - len(counted)


def _without_retries(store: Store, placed: Sequence[Delivery]) -> Sequence[Delivery]:
    """Each prediction that its client may have asked for again once: of all tries the first that is read."""
    tries: dict[Key, datetime] = {}
    for one in placed:
        event: Any = one.event
        if event.repeatable_until is not None:
            key = key_of(event)
            tries[key] = max(event.repeatable_until, tries.get(key, event.repeatable_until))
    if not tries:
        return placed
    retries = Retries(store.panes.remember(tries))
    return [one for one in placed if isinstance(one.event, PredictionMade) and retries.counts(one.event)]


def on_labels(
    store: Store,
    contracts: Mapping[str, Contract],
    watches: Watches,
    limits: Limits,
    now: datetime,
    batch: Sequence[Delivery],
) -> None:
    """Count outcomes into the panes of their predictions; an amended label is taken away and added anew.

    An erasure changes no count: only what is parked of the subject is deleted. Raises ParkingFull.
    """
    on_erased(store, [one.event for one in batch if isinstance(one.event, SubjectErased)], now)
    ours = [one for one in batch if isinstance(one.event, LabelEvent) and one.event.model_name in contracts]
    _count_all(store, watches, limits, now, LABELS, ours)


def on_erased(store: Store, events: Sequence[SubjectErased], now: datetime) -> None:
    """Delete the parked records of erased subjects; what was counted of them is in sums that name nobody."""
    if not events:
        return
    # The later of two erasures of one subject means more.
    subjects = {one.subject: one.erased_at for one in sorted(events, key=lambda event: event.erased_at)}
    records = store.panes.erase(subjects, now)
    logger.info("subjects were erased", extra={"subjects": len(subjects), "parked_records": records})


def _count_all(
    store: Store,
    watches: Watches,
    limits: Limits,
    now: datetime,
    kind: int,
    counted: Sequence[Delivery],
) -> None:
    by_version: defaultdict[Version, list[Delivery]] = defaultdict(list)
    for one in counted:
        event: Any = one.event
        by_version[event.model_name, event.model_version].append(one)
    additions: list[Addition] = []
    for version, placed in sorted(by_version.items()):
        watch = watches(store, version)
        if watch is None:
            _park(store, version, kind, placed, limits.max_parked, now)
        else:
            additions += fold(store, watch, version, kind, placed, now - limits.keep)
    store.panes.add(additions)


def _park(
    store: Store, version: Version, kind: int, placed: Sequence[Delivery], max_parked: int, now: datetime
) -> None:
    """Keep records until their version's profile is known, but none that was to be erased before it was read."""
    subjects = {event.subject for one in placed if (event := _subjected(one)).subject is not None}
    erased = store.panes.erased_subjects(subjects) if subjects else {}
    kept, gone = [], []
    for one in placed:
        event, record = _subjected(one), one.record
        if event.subject in erased and event.predicted_at < erased[event.subject]:
            gone.append((record.topic, record.partition, record.offset))
        else:
            kept.append(ParkedRecord(record, kind, version))
    if store.panes.parked() + len(kept) > max_parked:
        raise ParkingFull(f"{max_parked} records wait for the profile of version {version[1]} of {version[0]}")
    store.panes.park(kept, now)
    if gone:
        store.panes.note_erased(gone, now)


def _subjected(one: Delivery) -> PredictionMade | LabelEvent:
    event = one.event
    assert isinstance(event, PredictionMade | LabelEvent)
    return event


def fold(
    store: Store, watch: Watch, version: Version, kind: int, placed: Sequence[Delivery], oldest: datetime
) -> list[Addition]:
    """What records of one version add to its panes; what is older than any pane is only counted."""
    length = round(watch.contract.drift.pane_seconds * MICROSECONDS)
    edge = round(oldest.timestamp() * MICROSECONDS)
    events: list[Any] = [one.event for one in placed]
    rows = prediction_rows(watch.contract, events) if kind == PREDICTIONS else None
    additions, n, beyond = [], Counter[int](), Counter[int]()
    totals: dict[int, Addition] = {}
    for start, partition, members in _groups(placed, events, length):
        chosen = [events[place] for place in members.tolist()]
        count = len(chosen) if kind == PREDICTIONS else _net(chosen)
        n[partition] += count
        if start + length <= edge:
            beyond[partition] += count
            metrics.BEYOND_RETENTION.labels(version[0], KINDS[kind]).inc(len(chosen))
            continue
        state = watch.labels.add(label_rows(chosen)) if rows is None else watch.predictions.add(rows.take(members))
        first = min(placed[place].record.offset for place in members.tolist())
        seconds = length / MICROSECONDS
        additions.append(Addition(version, kind, instant(start), seconds, partition, count, first, state))
        if kind == LABELS:
            totals[partition] = _with(totals.get(partition), additions[-1])
    store.panes.count(Tally(version, kind, partition, n[partition], beyond[partition]) for partition in n)
    return additions + list(totals.values())


def _with(total: Addition | None, one: Addition) -> Addition:
    """The running total of a partition's labels, whatever their time: no report can add up the panes of weeks."""
    if total is None:
        return replace(one, kind=LABEL_TOTALS, starts=EPOCH, seconds=0.0)
    return replace(
        total,
        n=total.n + one.n,
        first_offset=min(total.first_offset, one.first_offset),
        state=total.state.merge(one.state),
    )


def _groups(
    placed: Sequence[Delivery], events: Sequence[Any], length: int
) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
    """The events of each pane and partition: the pane's start in microseconds, the partition, the events' places."""
    starts = pane_starts((event.predicted_at for event in events), length)
    partitions = np.array([one.record.partition for one in placed], dtype=np.int64)
    # One number for both: sorting rows of two would take ten times as long.
    width = int(partitions.max()) + 1
    keys, which = np.unique(starts // length * width + partitions, return_inverse=True)
    for number, key in enumerate(keys.tolist()):
        yield key // width * length, key % width, np.flatnonzero(which == number)


def unpark(store: Store, watch: Watch, version: Version, placed: Sequence[Delivery], oldest: datetime) -> None:
    """Count what was parked before the version's profile was known."""
    for kind in (PREDICTIONS, LABELS):
        chosen = [one for one in placed if isinstance(one.event, PredictionMade) == (kind == PREDICTIONS)]
        if chosen:
            store.panes.add(fold(store, watch, version, kind, chosen, oldest))


def on_model_updated(store: Store, fetch: FetchProfile, clock: Clock, event: ModelUpdated) -> list[Version]:
    """Learn the profiles of a serving state. Returns the versions that it superseded.

    Raises what `fetch` raises; then nothing of the state is taken.
    """
    for served in event.versions:
        if store.profile((event.model_name, served.version)) is None:
            store.add_version(served, fetch(event.model_name, served), clock())
    if not store.set_champion(event.model_name, event.revision, event.champion):
        return []
    store.reopen((event.model_name, event.champion))
    return store.open_evaluations(event.model_name, besides=event.champion)


def _net(events: Sequence[LabelEvent]) -> int:
    """How many more predictions are labelled after these events: a first label one more, a retraction one less."""
    first = sum(isinstance(event, PredictionLabeled) and event.previous_label is None for event in events)
    return first - sum(isinstance(event, LabelRetracted) for event in events)
