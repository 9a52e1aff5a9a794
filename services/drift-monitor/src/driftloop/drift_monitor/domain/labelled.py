"""Windows of labelled rows: what was realised, what had been estimated for the same rows, and what that proves."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from driftloop.common.contract import Performance as Limits
from driftloop.drift_monitor.domain.alarm import raise_or_clear
from driftloop.drift_monitor.domain.concept import ConceptTest, Estimated, concept_test, estimate
from driftloop.drift_monitor.domain.decline import Decline, decline
from driftloop.drift_monitor.domain.evaluation import CONCEPT, DECLINE, Alarms, Watch
from driftloop.drift_monitor.domain.fold.base import State
from driftloop.drift_monitor.domain.fold.labels import (
    LabelDelays,
    LabelledScores,
    SetCoverage,
    delay_quantile,
    joint_histogram,
)
from driftloop.drift_monitor.domain.fold.scores import LabelledCalibratedSums
from driftloop.drift_monitor.domain.performance import Performance, performance
from driftloop.drift_monitor.domain.severity import Severity


@dataclass(frozen=True)
class Closed:
    """A closed window: its rows, and how many of the predictions of its time are labelled by now."""

    number: int
    starts: datetime
    ends: datetime
    n: int
    labelled: int


class SetCoverageResult(msgspec.Struct, frozen=True, kw_only=True):
    """Of `n` labelled rows' prediction sets `covered` held the label; nominal is `level`. Beside it the sets' sizes."""

    level: float
    n: int
    covered: int
    coverage: float
    empty: int
    single: int
    both: int


class LabelledResult(msgspec.Struct, frozen=True, kw_only=True):
    """Labelled rows, judged. `coverage` is the share of the `n` rows that is labelled; `estimated` is of those alone.

    `delay_median_seconds` is an upper edge of the delays' histogram, None of none or beyond the last.
    """

    starts: datetime
    ends: datetime
    n: int
    labelled: int
    coverage: float
    realised: Performance
    estimated: Estimated | None
    concept: ConceptTest | None
    decline: Decline | None
    sets: SetCoverageResult | None
    delay_median_seconds: float | None = None


def tile_labels(
    windows: Sequence[Closed], limits: Limits, oldest: datetime
) -> tuple[list[tuple[Closed, ...]], datetime | None]:
    """Put closed windows, in order of time, together to windows of enough labels.

    One closes at the first window where it has `min_labels` labels and `min_coverage` of its rows are labelled. It
    begins where its coverage is best: first windows that stay unlabelled are left out, so that one week without a
    laboratory does not hold up all that follow. Returns them, and until when all is done: with them, or because it
    ended before `oldest`.
    """
    found: list[tuple[Closed, ...]] = []
    done: datetime | None = None
    pending = _Pending()
    for window in windows:
        pending.add(window)
        enough = pending.enough(limits)
        if enough is not None:
            found.append(enough)
            done, pending = window.ends, _Pending()
    for window in pending.windows:
        if window.ends > oldest:
            break
        done = window.ends
    return found, done


class _Pending:
    """Windows that wait for labels, with running sums: one look costs no more however many wait."""

    def __init__(self) -> None:
        self.windows: list[Closed] = []
        # Before each window: labels, and labels less what coverage asks for.
        self._labels = [0]
        self._surplus = [0.0]
        self._start = 0
        self._allowed = 0

    def add(self, window: Closed) -> None:
        """One more window, the newest."""
        self.windows.append(window)

    def enough(self, limits: Limits) -> tuple[Closed, ...] | None:
        """The newest windows from where coverage is best, if they have labels enough."""
        newest = self.windows[-1]
        self._labels.append(self._labels[-1] + newest.labelled)
        self._surplus.append(self._surplus[-1] + newest.labelled - limits.min_coverage * newest.n)
        while self._allowed < len(self.windows) and self._labels[-1] - self._labels[self._allowed] >= limits.min_labels:
            if self._surplus[self._allowed] < self._surplus[self._start]:
                self._start = self._allowed
            self._allowed += 1
        # Sums of shares: exactly enough may come out as a little less.
        if not self._allowed or self._surplus[-1] < self._surplus[self._start] - 1e-9:
            return None
        return tuple(self.windows[self._start :])


def with_labels(
    windows: Sequence[tuple[int, datetime, datetime, int]], labels: Sequence[tuple[datetime, int]]
) -> list[Closed]:
    """Closed windows (number, starts, ends, n) with the labels of their time; both in order of time."""
    found, place = [], 0
    for number, starts, ends, n in windows:
        labelled = 0
        while place < len(labels) and labels[place][0] < ends:
            labelled += labels[place][1] if labels[place][0] >= starts else 0
            place += 1
        found.append(Closed(number, starts, ends, n, labelled))
    return found


def judge_labels(
    watch: Watch, alarms: Alarms, windows: Sequence[Closed], state: State
) -> tuple[LabelledResult, Alarms]:
    """Judge the labelled rows of these windows, counted in `state`; returns the result and the alarms after it."""
    limits = watch.contract.performance
    result = labelled_result(watch, windows[0].starts, windows[-1].ends, sum(one.n for one in windows), state)
    signals = dict(alarms.signals)
    for name, found in (
        (CONCEPT, result.concept is not None and result.concept.concept),
        (DECLINE, result.decline is not None and result.decline.declined),
    ):
        severity = Severity.CRITICAL if found else Severity.GOOD
        # The change may lie anywhere in these windows: only the last of them is surely after it.
        signals[name] = raise_or_clear(alarms.signal(name), severity, windows[-1].starts, calm_windows=1)
    enough = result.labelled >= limits.min_labels
    return result, Alarms(features=alarms.features, signals=signals) if enough else alarms


def labelled_result(watch: Watch, starts: datetime, ends: datetime, n: int, state: State) -> LabelledResult:
    """The figures of labelled rows counted in `state`; `n` counts all rows of that time."""
    limits, threshold = watch.contract.performance, watch.contract.decision_threshold
    counts = watch.labels.counted_by(LabelledScores, state)
    realised = performance(counts)
    estimated = concept = declined = None
    if counts is not None and realised.n:
        joint = joint_histogram(counts)
        if watch.calibrators is not None:
            exact = watch.labels.counted_by(LabelledCalibratedSums, state)
            estimated = estimate(joint.sum(axis=1), watch.calibrators, exact)
            concept = concept_test(
                joint, watch.calibrators, exact, alpha=limits.concept_alpha, margin=limits.concept_margin
            )
        if watch.profile.heldout is not None:
            confusion = joint.sum(axis=2)
            declined = decline(
                watch.profile.heldout, threshold, confusion, alpha=limits.decline_alpha, least=limits.decline_min
            )
    delays = watch.labels.counted_by(LabelDelays, state)
    return LabelledResult(
        starts=starts,
        ends=ends,
        n=n,
        labelled=realised.n,
        coverage=realised.n / n if n else 0.0,
        realised=realised,
        estimated=estimated,
        concept=concept,
        decline=declined,
        sets=_sets(watch, state, realised.n),
        delay_median_seconds=None if delays is None else delay_quantile(delays, 0.5),
    )


def _sets(watch: Watch, state: State, n: int) -> SetCoverageResult | None:
    counts = watch.labels.counted_by(SetCoverage, state)
    if counts is None or n <= 0:
        return None
    covered, empty, single, both = (int(count) for count in counts)
    return SetCoverageResult(
        level=watch.contract.performance.interval_level,
        n=n,
        covered=covered,
        coverage=covered / n,
        empty=empty,
        single=single,
        both=both,
    )
