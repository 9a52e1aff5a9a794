"""The alarm policies: the exact window at which an alarm opens, rises, falls and clears."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.common.contract import Drift
from driftloop.drift_monitor.domain.alarm import FeatureAlarm, Signal, raise_or_clear, step
from driftloop.drift_monitor.domain.severity import Severity
from tests.unit.drift_monitor.builders import at

# One letter a window: critical, warning, small warning (significant and no more), good.
RAW = {"C": Severity.CRITICAL, "W": Severity.WARNING, "w": Severity.WARNING, "-": Severity.GOOD}


def states(letters: str, drift: Drift | None = None) -> list[FeatureAlarm]:
    """The alarm after each window; window i starts at second i."""
    alarm, after = FeatureAlarm(), []
    for place, letter in enumerate(letters):
        alarm = step(alarm, drift or Drift(), RAW[letter], letter in "CW", at(place))
        after.append(alarm)
    return after


def alarms(letters: str, drift: Drift | None = None) -> str:
    """The alarm's severity after each window."""
    return "".join("-WC"[alarm.severity] for alarm in states(letters, drift))


# --- a feature's alarm


@pytest.mark.parametrize(
    ("raw", "alarm"),
    [
        ("C-C-C-", "------"),
        ("-CC", "--C"),
        ("WWW", "--W"),
        ("WW-WW-", "------"),
        ("WCW", "--W"),
        ("wwww", "----"),
        ("WwWWW", "----W"),
        ("WWWCC", "--WWC"),
        ("CC-C-C", "-CCCCC"),
        ("CC--", "-CC-"),
        ("CCWW", "-CCW"),
        ("CCW-", "-CC-"),
        ("CCww", "-CC-"),
        ("WWW--W---", "--WWWWWW-"),
        ("WWWwww", "--WWW-"),
        ("CCWW---", "-CCWWW-"),
    ],
)
def test_an_alarm_follows_what_holds(raw: str, alarm: str) -> None:
    assert alarms(raw) == alarm


def test_the_numbers_of_windows_are_the_contracts() -> None:
    assert alarms("CCCC---", Drift(windows_critical=3, windows_warning=4)) == "--CCCC-"
    assert alarms("C-W-", Drift(windows_critical=1, windows_warning=1)) == "C-W-"


def test_critical_is_never_too_small_to_warn_as_well() -> None:
    alarm = FeatureAlarm()
    for place in range(3):
        alarm = step(alarm, Drift(windows_critical=5), Severity.CRITICAL, False, at(place))
    assert alarm.severity == Severity.WARNING


def test_the_second_critical_window_of_the_run_is_remembered() -> None:
    assert [alarm.second_critical for alarm in states("C-CC")] == [None, None, None, at(3)]


def test_it_is_the_second_window_even_where_three_open_the_alarm() -> None:
    assert states("CCC", Drift(windows_critical=3))[-1].second_critical == at(1)


def test_where_one_window_opens_the_alarm_it_stands_for_the_second() -> None:
    assert states("-C", Drift(windows_critical=1))[-1].second_critical == at(1)


def test_a_pause_or_a_second_run_within_an_open_alarm_does_not_move_it() -> None:
    assert [alarm.second_critical for alarm in states("CCWCC")][1:] == [at(1)] * 4


def test_it_is_forgotten_when_the_alarm_falls() -> None:
    assert states("CCWW")[-1].second_critical is None
    assert states("CC--CC")[-1].second_critical == at(5)


@given(st.text("CWw-", max_size=40))
def test_an_alarm_that_was_stored_and_read_goes_on_as_if_it_had_not_been(letters: str) -> None:
    alarm = FeatureAlarm()
    for place, letter in enumerate(letters):
        alarm = msgspec.json.decode(msgspec.json.encode(alarm), type=FeatureAlarm)
        alarm = step(alarm, Drift(), RAW[letter], letter in "CW", at(place))
    assert alarm == ([FeatureAlarm(), *states(letters)])[-1]


@given(st.text("CWw-", max_size=40))
def test_an_open_critical_always_knows_where_the_new_population_begins(letters: str) -> None:
    assert all(alarm.second_critical for alarm in states(letters) if alarm.severity == Severity.CRITICAL)


# --- a signal


def signals(letters: str, calm_windows: int = 2) -> list[Signal]:
    """The signal after each window; window i starts at second i."""
    signal, after = Signal(), []
    for place, letter in enumerate(letters):
        signal = raise_or_clear(signal, RAW[letter], at(place), calm_windows)
        after.append(signal)
    return after


def levels(letters: str, calm_windows: int = 2) -> str:
    return "".join("-WC"[signal.severity] for signal in signals(letters, calm_windows))


@pytest.mark.parametrize(
    ("raw", "signal"),
    [
        ("----", "----"),
        ("W", "W"),
        ("-C", "-C"),
        ("WC", "WC"),
        ("C-", "CC"),
        ("C--", "CC-"),
        ("C-C--", "CCCC-"),
        ("CWW", "CCW"),
        ("CW-", "CC-"),
        ("C-W", "CCW"),
        ("CWWW--", "CCWWW-"),
        ("W-W-W--", "WWWWWW-"),
    ],
)
def test_a_signal_rises_at_once_and_falls_after_two_calm_windows_to_the_last_of_them(raw: str, signal: str) -> None:
    assert levels(raw) == signal


def test_a_signal_that_one_calm_window_clears_is_as_its_last_window() -> None:
    assert levels("C-CW-WC", calm_windows=1) == "C-CW-WC"


def test_a_signal_remembers_the_window_that_opened_it_until_it_is_quiet() -> None:
    since = [signal.since for signal in signals("-WCWW-C--C")]
    assert since == [None, *[at(1)] * 7, None, at(9)]


@given(st.text("CW-", max_size=40), st.integers(1, 4))
def test_a_signal_is_open_exactly_while_it_knows_since_when(letters: str, calm_windows: int) -> None:
    assert all((signal.severity > 0) == (signal.since is not None) for signal in signals(letters, calm_windows))


@given(st.text("CW-", max_size=40), st.integers(1, 4))
def test_a_signal_is_never_below_its_last_window(letters: str, calm_windows: int) -> None:
    after = signals(letters, calm_windows)
    assert all(signal.severity >= RAW[letter] for signal, letter in zip(after, letters, strict=True))


@given(st.text("CW-", max_size=40))
def test_a_signal_that_was_stored_and_read_goes_on_as_if_it_had_not_been(letters: str) -> None:
    signal = Signal()
    for place, letter in enumerate(letters):
        signal = msgspec.json.decode(msgspec.json.encode(signal), type=Signal)
        signal = raise_or_clear(signal, RAW[letter], at(place), 2)
    assert signal == ([Signal(), *signals(letters)])[-1]
