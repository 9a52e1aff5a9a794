"""Closed windows computed anew from the topic: the records that they were closed over, folded again and compared.

A window holds what its version answered in [starts, ends), each event once and of retries the first, of the offsets
that its evaluation saw. So the same log gives the same counts, bit for bit, however many replicas counted it and
whatever came later.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from typing import Literal

import msgspec

from driftloop.common.events import PredictionMade
from driftloop.common.kafka.admin import admin_client, identities
from driftloop.common.kafka.batches import Delivery, decode
from driftloop.common.kafka.config import Brokers
from driftloop.common.kafka.deadletter import HEADER_PREFIX
from driftloop.common.kafka.reader import bounds, offsets_since, read_ranges
from driftloop.common.kafka.records import Record
from driftloop.common.topics import DLQ_SUFFIX, PREDICTIONS
from driftloop.drift_monitor.domain.evaluation import Alarms, Watch, evaluate
from driftloop.drift_monitor.domain.fold.base import EMPTY, State, UnreadableState
from driftloop.drift_monitor.domain.fold.rows import prediction_rows
from driftloop.drift_monitor.domain.panes import EPOCH, Window
from driftloop.drift_monitor.domain.replay import Difference, count_difference, figure_difference, selected
from driftloop.drift_monitor.domain.retries import Retries
from driftloop.drift_monitor.pane_store import Version
from driftloop.drift_monitor.store import StoredWindow

CLIENT = "driftloop-drift-monitor-replay"
FOLD_ROWS = 5_000
# A record that waited in vain for its version's profile: its sequence number and its id count as seen all the same.
EXPIRED = b"UnknownVersion"
# One that was erased while it waited counts as seen likewise.
ERASED = b"SubjectErased"
# Predictors' clocks may differ by so much, from each other and from when they say that they produced.
CLOCKS = timedelta(hours=1)
# So many ids that may be repeated are remembered before those whose time is over are looked for.
REMEMBERED = 1_000_000

Outcome = Literal["equal", "different", "not reproducible"]
# Records read so far, and offsets to read.
Progress = Callable[[int, int], None]
# Partition and offset of each dead letter → the kind of its error.
Letters = Mapping[tuple[int, int], bytes]


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one window: `n` rows are stored of it; `reason` says why it is not reproducible."""

    number: int
    starts: datetime
    ends: datetime
    n: int
    outcome: Outcome
    reason: str = ""
    difference: Difference | None = None


@dataclass(frozen=True)
class Log:
    """Where the predictions are: the brokers, and the topic's name there."""

    brokers: Brokers | str
    topic: str


@dataclass(frozen=True)
class Extent:
    """What the topic is now: its id, and of each partition the first offset that it holds, and that after the last."""

    topic_id: str
    bounds: Mapping[int, tuple[int, int]]


@dataclass(eq=False)
class _Target:
    """A window to compute anew. Counts are kept as bytes: of thousands of windows all arrays would fill the memory."""

    window: StoredWindow
    damage: str
    hindrance: str
    n: int = 0
    replayed: bytes | None = None


def replay(
    log: Log,
    watch: Watch,
    version: Version,
    windows: Iterable[StoredWindow],
    progress: Progress,
    erased: Iterable[tuple[int, int]] = (),
) -> list[Replayed]:
    """Compute a version's windows, ascending and in one run, anew from the log, and compare each with what is stored.

    `erased`: partition and offset of the records that were erased before they were counted.

    Raises TopicsError where the topic or that of its dead letters does not exist, KafkaException or TimeoutError where
    the brokers do not answer.
    """
    extent = _extent(log)
    targets = [_target(one, watch, extent) for one in windows]
    wanted = [one for one in targets if not one.hindrance and not one.damage]
    back = timedelta()
    if wanted:
        letters = {**dict.fromkeys(erased, ERASED), **_dead_letters(log)}
        back = _refold(_Reading(log, letters, version[0], progress), watch, version, wanted)
        # What was deleted while it was read.
        extent = _extent(log)
    return list(_compare(watch, targets, lambda one: _loss(one, extent) or _loss_before(log, one, back, extent)))


# --- what can be reproduced


def _extent(log: Log) -> Extent:
    names = (log.topic, log.topic + DLQ_SUFFIX)
    topics = identities(admin_client(log.brokers, CLIENT), names)
    return Extent(topics[log.topic].topic_id, bounds(log.brokers, CLIENT, log.topic))


def _target(window: StoredWindow, watch: Watch, extent: Extent) -> _Target:
    """The window with what is wrong with its stored counts, and why it cannot be computed anew."""
    try:
        frames = State.from_bytes(window.counts).frames
    except UnreadableState as error:
        return _Target(window, str(error), "")
    unknown = [frame.name for frame in frames if frame not in watch.predictions.frames]
    if unknown:
        reason = f"another contract or release gave {', '.join(unknown)} another meaning: replay with that one"
        return _Target(window, "", reason)
    return _Target(window, "", _loss(window, extent))


def _loss(window: StoredWindow, extent: Extent) -> str:
    """What the log does not hold of a window; empty where it holds all."""
    seen = window.seen
    if not seen.bounds:
        return "no offsets are stored with it"
    if seen.topic_id != extent.topic_id:
        return f"the topic was made anew: its id was {seen.topic_id or 'not stored'}, it is {extent.topic_id}"
    for partition, (first, end) in sorted(seen.bounds.items()):
        if partition not in extent.bounds:
            return f"partition {partition} holds nothing any more, the window begins there at offset {first}"
        low, high = extent.bounds[partition]
        if low > first:
            return f"partition {partition} begins at offset {low} by now, the window at {first}: beyond retention"
        if high < end:
            return f"partition {partition} ends at offset {high}, the window at {end}: the log was cut"
    return ""


def _loss_before(log: Log, window: StoredWindow, back: timedelta, extent: Extent) -> str:
    """What the log does not hold of what may have been repeated in a window; empty where it holds all."""
    if not back:
        return ""
    since = _since(log, window.seen.bounds, window, back)
    for partition in sorted(window.seen.bounds):
        low, _high = extent.bounds[partition]
        if low > 0 and since.get(partition) == low:
            return (
                f"partition {partition} begins at offset {low} by now, and what clients repeated in the window may "
                "have come before: beyond retention"
            )
    return ""


# --- reading and folding


def _refold(reading: "_Reading", watch: Watch, version: Version, targets: Sequence[_Target]) -> timedelta:
    """Read each partition once, for all windows together; where clients may have retried, again and from further back.

    Returns how far before a window's start lies what may have been repeated in it; nothing where nothing can have been.
    """
    ranges: dict[int, tuple[int, int]] = {}
    for one in targets:
        for partition, (first, end) in one.window.seen.bounds.items():
            low, high = ranges.get(partition, (first, end))
            ranges[partition] = min(low, first), max(high, end)
    try:
        _fold_all(reading.counted(ranges, None), watch, version, targets)
        return timedelta()
    except _MayRepeat as found:
        back = found.back
    since = _since(reading.log, ranges, targets[0].window, back)
    widened = {number: (min(low, since.get(number, low)), high) for number, (low, high) in ranges.items()}
    _fold_all(reading.counted(widened, Retries({})), watch, version, targets)
    return back


def _since(log: Log, partitions: Iterable[int], window: StoredWindow, back: timedelta) -> dict[int, int]:
    """Where the log begins to hold what was made later than `back` before a window: nothing is logged before."""
    instant = window.starts - min(back, window.starts - EPOCH)
    return offsets_since(log.brokers, CLIENT, log.topic, partitions, instant)


def _fold_all(
    counted: Iterable[tuple[Record, PredictionMade]], watch: Watch, version: Version, targets: Sequence[_Target]
) -> None:
    refold = _Refold(watch, version, targets)
    for record, event in counted:
        refold.take(record, event)
    refold.finish()


def _dead_letters(log: Log) -> Letters:
    """The places of the records that were not counted because nobody could."""
    topic = log.topic + DLQ_SUFFIX
    found = {}
    batches = read_ranges(log.brokers, CLIENT, topic, bounds(log.brokers, CLIENT, topic))
    for record in chain.from_iterable(batches):
        why = {
            name.removeprefix(HEADER_PREFIX): value
            for name, value in record.headers.items()
            if name.startswith(HEADER_PREFIX)
        }
        place = why.get("partition", b""), why.get("offset", b"")
        if why.get("topic") == log.topic.encode() and place[0].isdigit() and place[1].isdigit():
            found[int(place[0]), int(place[1])] = why.get("exception.class.name", b"")
    return found


class _MayRepeat(Exception):
    """A prediction may be a retry of what came up to `back` before it."""

    def __init__(self, back: timedelta) -> None:
        super().__init__(back)
        self.back = back


@dataclass(frozen=True)
class _Reading:
    """Reads the records that had an effect on a model's counts, as the consumer decides it."""

    log: Log
    letters: Letters
    model: str
    progress: Progress

    def counted(
        self, ranges: Mapping[int, tuple[int, int]], retries: Retries | None
    ) -> Iterator[tuple[Record, PredictionMade]]:
        """No dead letter, and of duplicates and retries the first.

        Retries are told from others where all is read that they may repeat; without that the first that may be one
        raises _MayRepeat.
        """
        latest = dict.fromkeys(ranges, EPOCH)
        room = REMEMBERED
        for record, event, effective in self._fresh(ranges):
            latest[record.partition] = max(latest[record.partition], event.predicted_at)
            if event.repeatable_until is not None and event.model_name == self.model:
                if retries is None:
                    raise _MayRepeat(event.repeatable_until - event.predicted_at + CLOCKS)
                if not retries.counts(event):
                    continue
                if len(retries) > room:
                    # As upkeep does: behind all partitions.
                    retries.forget(min(latest.values()))
                    room = max(REMEMBERED, 2 * len(retries))
            if effective:
                yield record, event

    def _fresh(self, ranges: Mapping[int, tuple[int, int]]) -> Iterator[tuple[Record, PredictionMade, bool]]:
        """The records that the handler got, each once, and whether they had an effect or waited in vain for it."""
        batches = read_ranges(self.log.brokers, CLIENT, self.log.topic, ranges)
        total = sum(end - first for first, end in ranges.values())
        seen = Sequences()
        read = 0
        for batch in batches:
            read += len(batch)
            self.progress(read, total)
            for item in decode(batch, PREDICTIONS):
                if not isinstance(item, Delivery):
                    continue
                record, envelope = item.record, item.envelope
                letter = self.letters.get((record.partition, record.offset))
                if letter not in (None, EXPIRED, ERASED):
                    continue
                sequence = envelope.sequence
                first = sequence is None or seen.add(record.partition, envelope.source, sequence)
                if first and isinstance(item.event, PredictionMade):
                    yield record, item.event, letter is None


class Sequences:
    """Which numbers of each source and partition have come: as intervals, for they are dense."""

    def __init__(self) -> None:
        self._edges: defaultdict[tuple[int, str], list[int]] = defaultdict(list)

    def add(self, partition: int, source: str, number: int) -> bool:
        """Whether a number comes for the first time."""
        # The intervals [low, high) of a source one after the other; after an odd number of edges one is inside.
        edges = self._edges[partition, source]
        place = bisect_right(edges, number)
        if place % 2:
            return False
        after_one = place > 0 and edges[place - 1] == number
        before_one = place < len(edges) and edges[place] == number + 1
        edges[place - after_one : place + before_one] = [
            *([] if after_one else [number]),
            *([] if before_one else [number + 1]),
        ]
        return True


class _Refold:
    """Counts events into the windows that held them, from nothing. Only what was counted last is kept as arrays."""

    def __init__(self, watch: Watch, version: Version, targets: Sequence[_Target]) -> None:
        self._watch = watch
        self._version = version
        self._targets = targets
        for one in targets:
            one.n, one.replayed = 0, None
        self._starts = [one.window.starts for one in targets]
        self._waiting: defaultdict[int, list[PredictionMade]] = defaultdict(list)
        self._rows = 0
        self._open: dict[int, State] = {}

    def take(self, record: Record, event: PredictionMade) -> None:
        """Count an event, if one of the windows held it."""
        if (event.model_name, event.model_version) != self._version:
            return
        place = bisect_right(self._starts, event.predicted_at) - 1
        if place < 0:
            return
        window = self._targets[place].window
        first, end = window.seen.bounds.get(record.partition, (0, 0))
        if event.predicted_at >= window.ends or not first <= record.offset < end:
            return
        self._waiting[place].append(event)
        self._rows += 1
        if self._rows >= FOLD_ROWS:
            self._fold()

    def finish(self) -> None:
        """Put what was counted into the windows."""
        self._fold()
        self._close(list(self._open))

    def _fold(self) -> None:
        for place, events in self._waiting.items():
            target = self._targets[place]
            added = self._watch.predictions.add(prediction_rows(self._watch.contract, events))
            before = self._open.get(place)
            if before is None and target.replayed is not None:
                before = State.from_bytes(target.replayed)
            self._open[place] = added if before is None else before.merge(added)
            target.n += len(events)
        self._close([place for place in self._open if place not in self._waiting])
        self._waiting.clear()
        self._rows = 0

    def _close(self, places: Sequence[int]) -> None:
        for place in places:
            self._targets[place].replayed = self._open.pop(place).to_bytes()


# --- comparing


def _compare(watch: Watch, targets: Sequence[_Target], loss_of: Callable[[StoredWindow], str]) -> Iterator[Replayed]:
    """Each window's outcome. Alarms depend on all windows before: they are compared where the first one is there."""
    alarms = Alarms() if targets and targets[0].window.number == 1 else None
    for target in targets:
        window = target.window
        found = Replayed(number=window.number, starts=window.starts, ends=window.ends, n=window.n, outcome="equal")
        if target.damage:
            alarms = None
            what = Difference(what="the stored counts", stored=target.damage, replayed=None)
            yield msgspec.structs.replace(found, outcome="different", difference=what)
            continue
        if target.hindrance:
            alarms = _past(watch, alarms, target)
            yield msgspec.structs.replace(found, outcome="not reproducible", reason=target.hindrance)
            continue
        difference, alarms = _difference(watch, alarms, target)
        if difference is None:
            yield found
        elif loss := loss_of(window):
            yield msgspec.structs.replace(found, outcome="not reproducible", reason=loss)
        else:
            yield msgspec.structs.replace(found, outcome="different", difference=difference)


def _past(watch: Watch, alarms: Alarms | None, target: _Target) -> Alarms | None:
    """The alarms after a window of which only the stored counts are left; None where they mean something else now."""
    state = State.from_bytes(target.window.counts)
    if alarms is None or any(frame not in watch.predictions.frames for frame in state.frames):
        return None
    return evaluate(watch, alarms, _window(target.window, target.window.n, state))[1]


def _difference(watch: Watch, alarms: Alarms | None, target: _Target) -> tuple[Difference | None, Alarms | None]:
    """The first difference of a window from what is stored, None if there is none; and the alarms after it."""
    window, stored = target.window, State.from_bytes(target.window.counts)
    replayed = selected(EMPTY if target.replayed is None else State.from_bytes(target.replayed), stored)
    if replayed.to_bytes() != target.window.counts:
        return count_difference(stored, replayed), _past(watch, alarms, target)
    if target.n != window.n:
        return Difference(what="n", stored=window.n, replayed=target.n), _past(watch, alarms, target)
    result, after = evaluate(watch, alarms or Alarms(), _window(window, target.n, replayed))
    difference = figure_difference(window.result, result, with_alarms=alarms is not None)
    if difference is not None and alarms is not None:
        # A version that serves again begins with quiet alarms.
        result, quiet = evaluate(watch, Alarms(), _window(window, target.n, replayed))
        if figure_difference(window.result, result, with_alarms=True) is None:
            return None, quiet
    return difference, None if alarms is None else after


def _window(window: StoredWindow, n: int, state: State) -> Window:
    return Window(window.starts, window.ends, n, state, {})
