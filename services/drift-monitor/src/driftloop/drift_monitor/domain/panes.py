"""Panes: tumbling slices of event time that hold mergeable counts, and windows that tile them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from driftloop.drift_monitor.domain.fold.base import State, merged

MICROSECONDS = 1_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FOREVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Pane:
    """One pane of a version, all partitions merged: [starts, ends) in event time, its rows and counts.

    `first_offsets` says for each partition the least offset among its records.
    """

    starts: datetime
    ends: datetime
    n: int
    state: State
    first_offsets: dict[int, int]


@dataclass(frozen=True)
class Window:
    """Consecutive panes together: [starts, ends) in event time."""

    starts: datetime
    ends: datetime
    n: int
    state: State
    first_offsets: dict[int, int]


def pane_starts(times: Iterable[datetime], length: int) -> NDArray[np.int64]:
    """The start of the pane of `length` that each time falls into; all in microseconds of the epoch [n].

    Panes are aligned to the epoch. A float64 holds this century's instants to a quarter of a microsecond.
    """
    instants = np.rint(np.array([time.timestamp() for time in times]) * MICROSECONDS).astype(np.int64)
    starts: NDArray[np.int64] = instants - instants % length
    return starts


def instant(microseconds: int) -> datetime:
    """Microseconds of the epoch as a time."""
    return EPOCH + timedelta(microseconds=microseconds)


def tile(panes: Sequence[Pane], watermark: datetime, min_samples: int, max_age: float) -> list[Window]:
    """Close every window that can be closed.

    `panes` ascend in time and begin where the last closed window ended. Only panes wholly behind the `watermark` take
    part, so that the same panes give the same windows in whatever order they filled. A window closes at the first pane
    boundary where it has `min_samples` rows, or at the first that is `max_age` seconds or more after its start; the
    next starts with the next pane that has rows. Where the panes' length was changed, two may overlap: what one of them
    straddles is no boundary.
    """
    windows: list[Window] = []
    pending: list[Pane] = []
    rows, ends = 0, EPOCH
    following = [*(pane.starts for pane in panes[1:]), FOREVER]
    for pane, next_starts in zip(panes, following, strict=False):
        if pane.ends > watermark:
            break
        ends = max(pane.ends, ends) if pending else pane.ends
        pending.append(pane)
        rows += pane.n
        oldest = max(_oldest(pending[0], max_age), ends)
        if rows >= min_samples and ends <= next_starts:
            windows.append(_close(pending, ends))
            pending, rows = [], 0
        elif oldest <= min(next_starts, watermark):
            windows.append(_close(pending, oldest))
            pending, rows = [], 0
    return windows


def _oldest(first: Pane, max_age: float) -> datetime:
    """When a window that begins with this pane is too old, in whole panes: else its last one would be in no window."""
    length = first.ends - first.starts
    return first.starts + -(-timedelta(seconds=max_age) // length) * length


def _close(panes: Sequence[Pane], ends: datetime) -> Window:
    first_offsets: dict[int, int] = {}
    for pane in panes:
        for partition, offset in pane.first_offsets.items():
            first_offsets[partition] = min(offset, first_offsets.get(partition, offset))
    state = merged(pane.state for pane in panes)
    return Window(panes[0].starts, ends, sum(pane.n for pane in panes), state, first_offsets)
