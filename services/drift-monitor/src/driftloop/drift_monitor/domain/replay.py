"""Whether a window that was computed anew is the one that was stored; if not, what the first difference is."""

import math
from typing import Any

import msgspec
import numpy as np

from driftloop.drift_monitor.domain.evaluation import WindowResult
from driftloop.drift_monitor.domain.fold.base import EMPTY, State
from driftloop.drift_monitor.domain.severity import Severity


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The first thing in which a window differs: an accumulator's cell, or a figure (then `cell` is None)."""

    what: str
    cell: int | None = None
    stored: Any
    replayed: Any


def selected(state: State, like: State) -> State:
    """The counts of those accumulators that another state has, in its order; what no row reached is nothing."""
    parts = [state.part(frame) for frame in like.frames]
    counts = [
        np.zeros(frame.size, np.int64) if part is None else part for frame, part in zip(like.frames, parts, strict=True)
    ]
    return State(like.frames, np.concatenate(counts) if counts else EMPTY.counts)


def count_difference(stored: State, replayed: State) -> Difference:
    """The first cell of the first accumulator that differs; both states have the same frames."""
    place = int(np.flatnonzero(stored.counts != replayed.counts)[0])
    start = 0
    for frame in stored.frames:
        if place < start + frame.size:
            break
        start += frame.size
    return Difference(
        what=frame.name, cell=place - start, stored=int(stored.counts[place]), replayed=int(replayed.counts[place])
    )


def figure_difference(stored: WindowResult, replayed: WindowResult, *, with_alarms: bool) -> Difference | None:
    """The first figure that differs by more than another release of SciPy may make it.

    Labels may raise the verdict, of which the predictions tell nothing: it must be no better than their alarms.
    """
    if with_alarms and Severity[stored.severity] < Severity[replayed.severity]:
        return Difference(what="severity", stored=stored.severity, replayed=replayed.severity)
    return _differs("", _figures(stored, with_alarms), _figures(replayed, with_alarms))


def _figures(result: WindowResult, with_alarms: bool) -> dict[str, Any]:
    figures: dict[str, Any] = msgspec.to_builtins(result)
    del figures["severity"]
    if not with_alarms:
        del figures["quality"]
        for feature in figures["features"]:
            del feature["severity"]
    return figures


def _differs(path: str, stored: Any, replayed: Any) -> Difference | None:
    if isinstance(stored, dict) and isinstance(replayed, dict):
        pairs = [(f"{path}.{name}".lstrip("."), stored.get(name), replayed.get(name)) for name in stored | replayed]
    elif isinstance(stored, list | tuple) and isinstance(replayed, list | tuple) and len(stored) == len(replayed):
        both = zip(stored, replayed, strict=True)
        pairs = [(f"{path}[{_name(old, at)}]", old, new) for at, (old, new) in enumerate(both)]
    else:
        return None if _same(stored, replayed) else Difference(what=path, stored=stored, replayed=replayed)
    return next((found for pair in pairs if (found := _differs(*pair)) is not None), None)


def _name(value: Any, place: int) -> str:
    return str(value.get("name", place)) if isinstance(value, dict) else str(place)


def _same(stored: Any, replayed: Any) -> bool:
    if isinstance(stored, float) and isinstance(replayed, float | int):
        return math.isclose(stored, replayed, rel_tol=1e-9, abs_tol=1e-15)
    return bool(stored == replayed)
