"""One closed window against its reference: every feature's statistics, the alarms after it, the verdict."""

import math
from collections.abc import Mapping
from datetime import datetime

import msgspec

from driftloop.common.contract import Drift
from driftloop.common.statistics.cells import Layout
from driftloop.common.statistics.comparison import Comparison, compare
from driftloop.drift_monitor.domain.alarm import FeatureAlarm, step
from driftloop.drift_monitor.domain.panes import Window
from driftloop.drift_monitor.domain.severity import Severity, corrected, raw_severity, sizeable, worst

Alarms = Mapping[str, FeatureAlarm]
SCORE = "score"


class FeatureResult(msgspec.Struct, frozen=True, kw_only=True):
    """One feature in one window. `severity` is the alarm's, `raw_severity` this window's alone.

    `statistic` is KS D for a number and the total variation distance for a category; `n` counts non-missing rows. `p`
    is the test's own, before any correction. `psi_critical` is None where one bin leaves nothing to compare: JSON, and
    so the database, has no infinity.
    """

    name: str
    kind: str
    statistic: float
    p: float
    psi: float
    psi_critical: float | None
    n: int
    missing: int
    severity: str
    raw_severity: str
    error_bound: float = 0.0


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


def evaluate(
    layout: Layout, drift: Drift, alarms: Alarms, window: Window
) -> tuple[WindowResult, dict[str, FeatureAlarm]]:
    """Judge a window; returns its result and the alarms after it.

    A window that closed by age with fewer than `min_samples` rows is reported and moves no alarm: at 50 rows a third of
    quiet windows have a PSI above .2.
    """
    sufficient = window.n >= drift.min_samples
    comparisons = [
        compare(cells, layout.part(window.counts, place), drift.psi_bins) for place, cells in enumerate(layout.cells)
    ]
    after = dict(alarms)
    results = []
    judged = corrected(drift, [comparison.p for comparison in comparisons[:-1]])
    for comparison, p in zip(comparisons[:-1], judged, strict=True):
        raw = raw_severity(drift, comparison, p)
        alarm = alarms.get(comparison.name, FeatureAlarm())
        if sufficient:
            alarm = step(alarm, drift, raw, sizeable(drift, comparison), window.starts)
        after[comparison.name] = alarm
        results.append(_result(comparison, Severity(alarm.severity), raw))
    score_raw = raw_severity(drift, comparisons[-1])
    return (
        WindowResult(
            starts=window.starts,
            ends=window.ends,
            n=window.n,
            sufficient=sufficient,
            severity=verdict(after).name,
            raw_severity=worst(Severity[result.raw_severity] for result in results).name,
            features=tuple(results),
            score=_result(comparisons[-1], Severity.GOOD, score_raw),
        ),
        after,
    )


def verdict(alarms: Alarms) -> Severity:
    """The model's verdict: the worst feature's alarm."""
    return worst(Severity(alarm.severity) for alarm in alarms.values())


def changed_since(alarms: Alarms) -> datetime | None:
    """From when on rows belong to the new population only: the latest second CRITICAL window of the open alarms."""
    starts = [
        alarm.second_critical
        for alarm in alarms.values()
        if alarm.severity == Severity.CRITICAL and alarm.second_critical is not None
    ]
    return max(starts, default=None)


def _result(comparison: Comparison, severity: Severity, raw: Severity) -> FeatureResult:
    return FeatureResult(
        name=comparison.name,
        kind=comparison.kind,
        statistic=comparison.statistic,
        p=comparison.p,
        psi=comparison.psi,
        psi_critical=comparison.psi_critical if math.isfinite(comparison.psi_critical) else None,
        n=comparison.n,
        missing=comparison.missing,
        severity=severity.name,
        raw_severity=raw.name,
        error_bound=comparison.error_bound,
    )
