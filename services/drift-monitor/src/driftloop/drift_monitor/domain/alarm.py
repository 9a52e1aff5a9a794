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
    sizeable), and below the open alarm. `second_critical` is the start of the second window of the CRITICAL run that
    opened the alarm, and stays for as long as that is CRITICAL.
    """

    severity: int = Severity.GOOD
    critical_run: int = 0
    warning_run: int = 0
    calm_run: int = 0
    second_critical: datetime | None = None


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """The alarm of a signal with a strict test of its own: it opens at once, and falls after calm windows.

    `since` is the start of the window that opened it.
    """

    severity: int = Severity.GOOD
    calm_run: int = 0
    since: datetime | None = None


def raise_or_clear(signal: Signal, raw: Severity, window_start: datetime, calm_windows: int) -> Signal:
    """The signal after one more window: it rises at once, and falls to the last one's after `calm_windows` below it."""
    if raw > signal.severity:
        return Signal(severity=int(raw), since=signal.since or window_start)
    if raw == signal.severity:
        return Signal(severity=signal.severity, since=signal.since)
    calm = signal.calm_run + 1
    if calm < calm_windows:
        return Signal(severity=signal.severity, calm_run=calm, since=signal.since)
    return Signal(severity=int(raw), since=signal.since if raw else None)


def step(alarm: FeatureAlarm, drift: Drift, raw: Severity, large: bool, window_start: datetime) -> FeatureAlarm:
    """The alarm after one more window of raw severity `raw`; `large` says that its shift is sizeable.

    An alarm opens, or rises, after `windows_critical` CRITICAL or `windows_warning` WARNING-or-worse windows; it falls
    after as many windows below it as would have opened it, to what those windows support.
    """
    critical_run = alarm.critical_run + 1 if raw is Severity.CRITICAL else 0
    warning_run = alarm.warning_run + 1 if _holds_warning(raw, large) else 0
    open_now = Severity(alarm.severity)
    second = _second_critical(alarm, drift, critical_run, window_start)
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
        second_critical=second if critical_run or open_now is Severity.CRITICAL else None,
    )


def _supported(drift: Drift, critical_run: int, warning_run: int) -> Severity:
    if critical_run >= drift.windows_critical:
        return Severity.CRITICAL
    return Severity.WARNING if warning_run >= drift.windows_warning else Severity.GOOD


def _second_critical(alarm: FeatureAlarm, drift: Drift, critical_run: int, window_start: datetime) -> datetime | None:
    """An open CRITICAL keeps what it opened with; where one window opens it, that one stands for the second."""
    if alarm.severity != Severity.CRITICAL and critical_run == min(2, drift.windows_critical):
        return window_start
    return alarm.second_critical


def _holds_warning(raw: Severity, large: bool) -> bool:
    """CRITICAL counts whatever its size: its own PSI limit has judged that."""
    return raw is Severity.CRITICAL or (raw is Severity.WARNING and large)


def _below(raw: Severity, large: bool, open_now: Severity) -> bool:
    if open_now is Severity.CRITICAL:
        return raw < Severity.CRITICAL
    return open_now is Severity.WARNING and not _holds_warning(raw, large)


def _windows(drift: Drift, severity: Severity) -> int:
    return drift.windows_critical if severity is Severity.CRITICAL else drift.windows_warning
