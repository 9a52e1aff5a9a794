"""The alarm policy: one feature's alarm follows its raw severity only when that holds over consecutive windows.

Five features make more than one quiet window in five raw-WARN by chance; one feature three times in a row does not.
"""

from datetime import datetime

import msgspec

from driftloop.common.contract import Drift
from driftloop.drift_monitor.domain.severity import Severity


class FeatureAlarm(msgspec.Struct, frozen=True, kw_only=True):
    """One feature's alarm and its runs of windows up to now.

    `critical_run`, `warning_run` and `calm_run` count consecutive windows that were CRITICAL, WARNING or worse (and
    sizeable), and below the open alarm. `second_critical` is the start of the second window of the CRITICAL run.
    """

    severity: int = Severity.GOOD
    critical_run: int = 0
    warning_run: int = 0
    calm_run: int = 0
    second_critical: datetime | None = None


def step(alarm: FeatureAlarm, drift: Drift, raw: Severity, large: bool, window_start: datetime) -> FeatureAlarm:
    """The alarm after one more window of raw severity `raw`; `large` says that its shift is sizeable.

    An alarm opens, or rises, after `windows_critical` CRITICAL or `windows_warning` WARNING-or-worse windows; it falls
    after as many windows below it as would have opened it, to what those windows support.
    """
    critical_run = alarm.critical_run + 1 if raw is Severity.CRITICAL else 0
    warning_run = alarm.warning_run + 1 if raw is not Severity.GOOD and large else 0
    second = window_start if critical_run == 2 else (alarm.second_critical if critical_run > 2 else None)
    if critical_run == 1 and drift.windows_critical == 1:
        second = window_start
    open_now = Severity(alarm.severity)
    supported = _supported(drift, critical_run, warning_run)
    calm_run = alarm.calm_run + 1 if _below(raw, large, open_now) else 0
    if supported > open_now:
        open_now, calm_run = supported, 0
    elif calm_run and calm_run >= _windows(drift, open_now):
        open_now = supported
        calm_run = 0
    return FeatureAlarm(
        severity=int(open_now),
        critical_run=critical_run,
        warning_run=warning_run,
        calm_run=calm_run,
        second_critical=second,
    )


def _supported(drift: Drift, critical_run: int, warning_run: int) -> Severity:
    if critical_run >= drift.windows_critical:
        return Severity.CRITICAL
    return Severity.WARNING if warning_run >= drift.windows_warning else Severity.GOOD


def _below(raw: Severity, large: bool, open_now: Severity) -> bool:
    if open_now is Severity.CRITICAL:
        return raw < Severity.CRITICAL
    return open_now is Severity.WARNING and (raw is Severity.GOOD or not large)


def _windows(drift: Drift, severity: Severity) -> int:
    return drift.windows_critical if severity is Severity.CRITICAL else drift.windows_warning
