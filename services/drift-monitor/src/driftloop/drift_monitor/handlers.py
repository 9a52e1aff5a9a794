"""One function per event: predictions and labels are counted into panes, serving states bring profiles."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np

from driftloop.common import metrics
from driftloop.common.clock import Clock
from driftloop.common.contract import Contract
from driftloop.common.events import ModelUpdated, PredictionLabeled, PredictionMade, ServedVersion
from driftloop.common.profile import ReferenceProfile
from driftloop.common.statistics.cells import Counts, Layout, layout_of
from driftloop.drift_monitor.domain.panes import pane_start
from driftloop.drift_monitor.domain.performance import SIZE, count_label
from driftloop.drift_monitor.store import UNPARKED, Store, Version

logger = logging.getLogger(__name__)

FetchProfile = Callable[[str, ServedVersion], ReferenceProfile]


class ParkingFull(RuntimeError):
    """Too many predictions wait for a profile; reading must wait with them."""


class Layouts(Protocol):
    """Finds the layout of a version's counts."""

    def __call__(self, store: Store, version: Version) -> Layout | None:
        """The layout, or None while the version's profile is unknown."""
        ...


@dataclass(frozen=True)
class Placed:
    """An event and the partition that it was read from."""

    event: PredictionMade
    partition: int


def cached_layouts(contracts: Mapping[str, Contract]) -> Layouts:
    """Layouts by version; a version never changes, so that each profile is read once."""
    known: dict[Version, Layout] = {}

    def find(store: Store, version: Version) -> Layout | None:
        if version not in known and version[0] in contracts:
            profile = store.profile(version)
            if profile is not None:
                known[version] = layout_of(profile, contracts[version[0]].drift.max_distinct)
        return known.get(version)

    return find


def on_predictions(
    store: Store,
    contracts: Mapping[str, Contract],
    layouts: Layouts,
    topic: str,
    max_parked: int,
    batch: Sequence[Placed],
) -> None:
    """Count predictions into the panes of their own time; those of an unknown version are parked.

    Raises ParkingFull.
    """
    by_version: defaultdict[Version, list[Placed]] = defaultdict(list)
    for one in batch:
        # A shadow's scores answer nobody: they are no part of what the population met.
        if one.event.model_name in contracts and one.event.variant != "shadow":
            by_version[one.event.model_name, one.event.model_version].append(one)
    # One order everywhere: two consumers that lock several versions must not deadlock.
    for version, placed in sorted(by_version.items()):
        layout = layouts(store, version)
        if layout is None:
            if store.parked() + len(placed) > max_parked:
                raise ParkingFull(
                    f"{max_parked} predictions wait for the profile of version {version[1]} of {version[0]}"
                )
            store.park(one.event for one in placed)
        else:
            fold(store, contracts[version[0]], layout, version, placed)
    for partition, latest in _latest(batch).items():
        store.advance_watermark(topic, partition, latest)


def fold(store: Store, contract: Contract, layout: Layout, version: Version, placed: Sequence[Placed]) -> None:
    """Count predictions of one version into its panes; those of closed windows are counted as late."""
    closed = store.tiled_until(version)
    panes: defaultdict[tuple[datetime, int], list[PredictionMade]] = defaultdict(list)
    late: defaultdict[int, int] = defaultdict(int)
    for one in placed:
        starts = pane_start(one.event.predicted_at, contract.drift.pane_seconds)
        if closed is not None and starts < closed:
            late[one.partition] += 1
        else:
            panes[starts, one.partition].append(one.event)
    for (starts, partition), events in sorted(panes.items()):
        store.add_to_pane(version, starts, partition, len(events), _count(contract, layout, events), layout)
    for partition, n in late.items():
        store.add_late(version, partition, n)
        metrics.LATE_PREDICTIONS.labels(version[0]).inc(n)


def unpark(store: Store, contract: Contract, layout: Layout, version: Version, limit: int = 5_000) -> int:
    """Count what was parked before the version's profile was known. Returns how many there were.

    The evaluation's lock makes it one at a time: all of them write the same panes.
    """
    store.lock_evaluation(version)
    events = store.unpark(version, limit)
    if events:
        fold(store, contract, layout, version, [Placed(event, UNPARKED) for event in events])
    return len(events)


def on_labels(store: Store, contracts: Mapping[str, Contract], batch: Iterable[tuple[PredictionLabeled, int]]) -> None:
    """Count outcomes into the panes of their predictions; an amended label is taken away and added anew."""
    counts: dict[tuple[Version, datetime, int], Counts] = {}
    for event, partition in batch:
        contract = contracts.get(event.model_name)
        if contract is None or event.variant == "shadow":
            continue
        starts = pane_start(event.predicted_at, contract.drift.pane_seconds)
        key = ((event.model_name, event.model_version), starts, partition)
        total = counts.setdefault(key, np.zeros(SIZE, dtype=np.int64))
        if event.previous_label is not None:
            count_label(total, event.score, event.prediction, event.previous_label, -1)
        count_label(total, event.score, event.prediction, event.label)
    for (version, starts, partition), total in sorted(counts.items(), key=lambda item: item[0]):
        store.add_labels(version, starts, partition, total)


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


def _latest(batch: Sequence[Placed]) -> dict[int, datetime]:
    latest: dict[int, datetime] = {}
    for one in batch:
        latest[one.partition] = max(latest.get(one.partition, one.event.predicted_at), one.event.predicted_at)
    return latest


def _count(contract: Contract, layout: Layout, events: Sequence[PredictionMade]) -> Counts:
    columns: list[list[object]] = [[event.features.get(name) for event in events] for name in contract.feature_names]
    return layout.count([*columns, [event.score for event in events]])
