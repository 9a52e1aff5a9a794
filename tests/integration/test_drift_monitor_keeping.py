"""What the drift monitor keeps, for how long, and what becomes of what nobody can count."""

import threading
from datetime import timedelta

import numpy as np

from driftloop.drift_monitor.pane_store import PREDICTIONS
from driftloop.drift_monitor.store import Store
from tests.support.monitored import LABEL_TOPIC, LOAN, RNG, TOPIC, Monitor, rows_in_panes, spread, version_of
from tests.support.predictions import START, labeled, rows_like


def panes_of(monitor: Monitor, kind: int = PREDICTIONS) -> list[float]:
    """The lengths of the panes, in seconds."""
    with monitor.pool.connection() as connection:
        found = Store(connection).panes.panes((LOAN.name, 1), kind)
    return [(one.ends - one.starts).total_seconds() for one in found]


def test_panes_become_hours_and_then_days_and_lose_no_row(monitor: Monitor) -> None:
    monitor.learn()
    monitor.now = START + timedelta(days=4)
    for minute in [*range(0, 180, 20), 3 * 24 * 60]:
        monitor.count(spread(rows_like(LOAN, RNG, 120), START + timedelta(minutes=minute)))
    monitor.evaluator().round()
    rows, _ = before = state_of(monitor)
    monitor.upkeep().round(threading.Event())
    assert panes_of(monitor) == [3600.0] * 3 + [1.0]
    assert state_of(monitor) == before
    monitor.count(spread(rows_like(LOAN, RNG, 5), START))
    monitor.upkeep().round(threading.Event())
    assert panes_of(monitor) == [3600.0] * 3 + [1.0]
    monitor.now = START + timedelta(days=40)
    monitor.upkeep().round(threading.Event())
    assert panes_of(monitor) == [86_400.0, 1.0]
    assert (rows_in_panes(monitor), state_of(monitor)[0]) == (rows + 5, rows + 5)
    report = version_of(monitor.report())
    assert (report["counted"], report["late"]) == (rows + 5, 5)


def state_of(monitor: Monitor) -> tuple[int, int]:
    """How many predictions all panes' score histograms hold, and their weighted sum: a fingerprint of the counts."""
    with monitor.pool.connection() as connection:
        store = Store(connection)
        panes = store.panes.panes((LOAN.name, 1), PREDICTIONS)
        watch = monitor.watches(store, (LOAN.name, 1))
    assert watch is not None
    histogram = next(one for one in watch.predictions.accumulators if one.name == "scores")
    parts = [pane.state.part(histogram.frame) for pane in panes]
    total = np.sum([part for part in parts if part is not None], axis=0)
    return int(total.sum()), int((total * np.arange(len(total))).sum())


def test_minutes_that_no_window_has_judged_are_not_rolled_up(monitor: Monitor) -> None:
    monitor.learn()
    monitor.count(spread(rows_like(LOAN, RNG, 10)))
    monitor.now = START + timedelta(days=3)
    monitor.upkeep().round(threading.Event())
    assert panes_of(monitor) == [1.0]


def test_what_is_older_than_any_pane_is_counted_and_no_more(monitor: Monitor) -> None:
    monitor.learn()
    monitor.count(spread(rows_like(LOAN, RNG, 120)))
    monitor.evaluator().round()
    monitor.now = START + timedelta(days=401)
    monitor.upkeep().round(threading.Event())
    monitor.count(spread(rows_like(LOAN, RNG, 3)))
    assert panes_of(monitor) == []
    report = version_of(monitor.report())
    assert (report["counted"], report["beyond_retention"], report["late"]) == (123, 3, 0)


def test_a_record_whose_profile_never_comes_becomes_a_dead_letter(monitor: Monitor) -> None:
    made = spread(rows_like(LOAN, RNG, 3))
    monitor.count(made)
    monitor.label([labeled(made[0], 1)])
    monitor.upkeep().round(threading.Event())
    assert monitor.letters == []
    monitor.now += timedelta(days=8)
    monitor.upkeep().round(threading.Event())
    assert [letter.error for letter in monitor.letters] == ["UnknownVersion"] * 4
    assert {letter.record.topic for letter in monitor.letters} == {TOPIC, LABEL_TOPIC}
    assert all(letter.record.headers["ce_id"] == b"id" and letter.record.value for letter in monitor.letters)
    monitor.learn()
    monitor.evaluator().round()
    assert version_of(monitor.report())["counted"] == 0


def test_labels_of_an_unknown_version_wait_for_it_too(monitor: Monitor) -> None:
    made = spread(rows_like(LOAN, RNG, 3))
    monitor.label([labeled(one, 1) for one in made])
    monitor.learn()
    monitor.evaluator().round()
    assert version_of(monitor.report())["labelled"] == 3
