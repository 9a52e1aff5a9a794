"""One closed window against its reference: every feature's statistics, the alarms after it, the verdict."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import msgspec

from driftloop.common.contract import Contract
from driftloop.common.profile import ReferenceProfile
from driftloop.common.statistics.cells import Counts
from driftloop.common.statistics.comparison import Comparison, compare_all
from driftloop.common.statistics.scores import BINS
from driftloop.drift_monitor.domain.alarm import FeatureAlarm, Signal, raise_or_clear, step
from driftloop.drift_monitor.domain.calibration import Calibrators, calibrators_of
from driftloop.drift_monitor.domain.concept import Estimated, estimate
from driftloop.drift_monitor.domain.fold.base import Fold
from driftloop.drift_monitor.domain.fold.cells import SCORE, CellCounts
from driftloop.drift_monitor.domain.fold.quality import FOREIGN, ROWS, QualityCounts, of_reference
from driftloop.drift_monitor.domain.fold.registry import label_fold, prediction_fold
from driftloop.drift_monitor.domain.fold.rows import LabelRows, PredictionRows
from driftloop.drift_monitor.domain.fold.scale import ScaleCounts, distance_when_rescaled
from driftloop.drift_monitor.domain.fold.scale import of_reference as scale_of_reference
from driftloop.drift_monitor.domain.fold.scores import CalibratedSums, ScoreHistogram
from driftloop.drift_monitor.domain.panes import Window
from driftloop.drift_monitor.domain.quality import Fault, faults, lies_elsewhere, worst_fault
from driftloop.drift_monitor.domain.severity import Severity, corrected, raw_severity, sizeable, worst

INSUFFICIENT = "INSUFFICIENT_DATA"
QUALITY, CONCEPT, DECLINE = "quality", "concept", "performance"


@dataclass(frozen=True, eq=False)
class Watch:
    """What one model version is watched by: its contract, its reference, and how rows are counted."""

    contract: Contract
    profile: ReferenceProfile

    @cached_property
    def predictions(self) -> Fold[PredictionRows]:
        """Counts predictions."""
        return prediction_fold(self.contract, self.profile)

    @cached_property
    def labels(self) -> Fold[LabelRows]:
        """Counts labels."""
        return label_fold(self.contract, self.profile)

    @cached_property
    def cells(self) -> tuple[CellCounts, ...]:
        """The features' cells in order, the score's last."""
        return tuple(one for one in self.predictions.accumulators if isinstance(one, CellCounts))

    @cached_property
    def quality(self) -> tuple[QualityCounts, ...]:
        """The features' faults in order."""
        return tuple(one for one in self.predictions.accumulators if isinstance(one, QualityCounts))

    @cached_property
    def reference_quality(self) -> Mapping[str, Counts]:
        """The faults that the reference itself has, by feature."""
        return {one.name: of_reference(self.contract.feature(one.name), one) for one in self.profile.features}

    @cached_property
    def reference_scale(self) -> Mapping[str, Counts]:
        """The reference's values by their logarithm, by feature."""
        return {reference.name: scale_of_reference(reference) for reference in self.profile.features}

    @cached_property
    def calibrators(self) -> Calibrators | None:
        """The curve that turns scores into probabilities, and its bootstrap; None: the artifact brought no data."""
        return calibrators_of(self.profile.calibration, BINS) if self.profile.calibration else None


class Alarms(msgspec.Struct, frozen=True, kw_only=True):
    """All alarms of one model version: its features', and those of quality, concept and performance."""

    features: dict[str, FeatureAlarm] = {}
    signals: dict[str, Signal] = {}

    def signal(self, name: str) -> Signal:
        """A signal's alarm, quiet where it never spoke."""
        return self.signals.get(name, Signal())


class FeatureResult(msgspec.Struct, frozen=True, kw_only=True):
    """One feature in one window. `severity` is the alarm's, `raw_severity` this window's alone.

    `statistic` is KS D for a number and the total variation distance for a category; `n` and `m` count the window's and
    the reference's non-missing rows. `p` is the test's own, before any correction. `psi_critical` is None where one bin
    leaves nothing to compare: JSON, and so the database, has no infinity. The fields from `at` on are what a person
    needs to compute D and PSI anew: see `Comparison`.
    """

    name: str
    kind: str
    statistic: float
    p: float
    psi: float
    psi_critical: float | None
    n: int
    m: int
    missing: int
    severity: str
    raw_severity: str
    error_bound: float = 0.0
    at: float | None = None
    window_at_most: int | None = None
    reference_at_most: int | None = None
    bins: tuple[tuple[float | str, int, int], ...] = ()
    cuts_digest: str = ""
    foreign: int = 0


class WindowResult(msgspec.Struct, frozen=True, kw_only=True):
    """A closed window, judged. `score` is the distribution of the model's own probability; it raises no alarm."""

    starts: datetime
    ends: datetime
    n: int
    sufficient: bool
    severity: str
    raw_severity: str
    features: tuple[FeatureResult, ...]
    score: FeatureResult
    faults: tuple[Fault, ...] = ()
    quality: str = Severity.GOOD.name
    estimated: Estimated | None = None


def evaluate(watch: Watch, alarms: Alarms, window: Window) -> tuple[WindowResult, Alarms]:
    """Judge a window; returns its result and the alarms after it.

    A window that closed by age with fewer than `min_samples` rows is reported and moves no alarm: at 50 rows a third of
    quiet windows have a PSI above .2. So does a feature that was counted for fewer (its reference's cuts were changed
    in the middle of the window, say).
    """
    drift = watch.contract.drift
    sufficient = window.n >= drift.min_samples
    comparisons, counted = _compare(watch, window)
    p_values = corrected(drift, [comparison.p for comparison in comparisons[:-1]])
    after, results = dict(alarms.features), []
    for place, comparison, p, rows in zip(watch.cells[:-1], comparisons[:-1], p_values, counted[:-1], strict=True):
        enough = rows >= drift.min_samples
        raw = raw_severity(drift, comparison, p)
        alarm = alarms.features.get(comparison.name, FeatureAlarm())
        if enough:
            alarm = step(alarm, drift, raw, sizeable(drift, comparison), window.starts)
        after[comparison.name] = alarm
        results.append(_result(watch, place, window, comparison, Severity(alarm.severity), raw if enough else None))
    found = _faults(watch, window)
    signals = dict(alarms.signals)
    if sufficient:
        signals[QUALITY] = _quality_alarm(alarms.signal(QUALITY), found, window)
    moved = Alarms(features=after, signals=signals)
    score_raw = raw_severity(drift, comparisons[-1]) if counted[-1] >= drift.min_samples else None
    raw_all = [Severity[one.raw_severity] for one in results if one.raw_severity != INSUFFICIENT]
    return (
        WindowResult(
            starts=window.starts,
            ends=window.ends,
            n=window.n,
            sufficient=sufficient,
            severity=verdict(moved).name,
            raw_severity=worst(raw_all).name if raw_all else INSUFFICIENT,
            features=tuple(results),
            score=_result(watch, watch.cells[-1], window, comparisons[-1], Severity.GOOD, score_raw),
            faults=tuple(found),
            quality=Severity(moved.signal(QUALITY).severity).name,
            estimated=_estimated(watch, window),
        ),
        moved,
    )


def verdict(alarms: Alarms) -> Severity:
    """The model's verdict: the worst alarm that is open."""
    features = [Severity(alarm.severity) for alarm in alarms.features.values()]
    return worst([*features, *(Severity(signal.severity) for signal in alarms.signals.values())])


def changed_since(alarms: Alarms) -> datetime | None:
    """From when on rows belong to the new population only.

    The latest second CRITICAL window of the features' open alarms; where none is open, the last of the windows in which
    concept or performance was first found to have changed.
    """
    starts = [
        alarm.second_critical
        for alarm in alarms.features.values()
        if alarm.severity == Severity.CRITICAL and alarm.second_critical is not None
    ]
    if starts:
        return max(starts)
    proven = [alarms.signal(name) for name in (CONCEPT, DECLINE)]
    return min((one.since for one in proven if one.severity == Severity.CRITICAL and one.since), default=None)


def features_changed(alarms: Alarms) -> bool:
    """Whether a feature's CRITICAL alarm is open."""
    return any(alarm.severity == Severity.CRITICAL for alarm in alarms.features.values())


def _compare(watch: Watch, window: Window) -> tuple[list[Comparison], list[int]]:
    """Each feature's comparison, the score's last; and how many rows were counted for each, missing ones included."""
    drift = watch.contract.drift
    parts = [window.state.part(one.frame) for one in watch.cells]
    counts = [one.cells.reference * 0 if part is None else part for one, part in zip(watch.cells, parts, strict=True)]
    comparisons = compare_all([one.cells for one in watch.cells], counts, drift.psi_bins, drift.psi_floor)
    return comparisons, [int(one.sum()) for one in counts]


def _faults(watch: Watch, window: Window) -> list[Fault]:
    """The faults of the features that were counted for `min_samples` rows: of one row no test would be right."""
    parts = {one.feature: window.state.part(one.frame) for one in watch.quality}
    least = watch.contract.drift.min_samples
    counted = {name: part for name, part in parts.items() if part is not None and part[ROWS] >= least}
    quality = watch.contract.quality
    elsewhere = [name for name, part in counted.items() if lies_elsewhere(quality, part)]
    distances = {name: _distance(watch, window, name) for name in elsewhere}
    return faults(quality, watch.reference_quality, counted, distances)


def _distance(watch: Watch, window: Window, feature: str) -> float:
    """How far a feature's values are from the reference's, in whatever unit."""
    inside = next(window.state.part(one.frame) for one in watch.cells if one.cells.name == feature)
    for one in watch.predictions.accumulators:
        if isinstance(one, ScaleCounts) and one.feature == feature:
            outside = window.state.part(one.frame)
            if inside is not None and outside is not None:
                return distance_when_rescaled(watch.reference_scale[feature], one.of_all(outside, inside))
    return 1.0


def _quality_alarm(signal: Signal, found: Sequence[Fault], window: Window) -> Signal:
    bad = worst_fault(found)
    severity = Severity.GOOD if bad is None else Severity[bad.severity]
    return raise_or_clear(signal, severity, window.starts, calm_windows=2)


def _estimated(watch: Watch, window: Window) -> Estimated | None:
    histogram = watch.predictions.counted_by(ScoreHistogram, window.state)
    if watch.calibrators is None or histogram is None or not histogram.sum():
        return None
    exact = watch.predictions.counted_by(CalibratedSums, window.state)
    return estimate(histogram.reshape(2, BINS), watch.calibrators, exact)


def _result(
    watch: Watch,
    place: CellCounts,
    window: Window,
    comparison: Comparison,
    severity: Severity,
    raw: Severity | None,
) -> FeatureResult:
    # A feature may be called as the score is.
    quality = () if place.name == SCORE else watch.quality
    foreign = [window.state.part(one.frame) for one in quality if one.feature == comparison.name]
    return FeatureResult(
        name=comparison.name,
        kind=comparison.kind,
        statistic=comparison.statistic,
        p=comparison.p,
        psi=comparison.psi,
        psi_critical=comparison.psi_critical if math.isfinite(comparison.psi_critical) else None,
        n=comparison.n,
        m=comparison.m,
        missing=comparison.missing,
        severity=severity.name,
        raw_severity=INSUFFICIENT if raw is None else raw.name,
        error_bound=comparison.error_bound,
        at=comparison.at,
        window_at_most=comparison.window_at_most,
        reference_at_most=comparison.reference_at_most,
        bins=comparison.bins,
        cuts_digest=place.cuts_digest,
        foreign=sum(int(counts[FOREIGN]) for counts in foreign if counts is not None),
    )
