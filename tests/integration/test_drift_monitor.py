"""The drift monitor on a real database: what is counted, what is closed, and what is said of it."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import msgspec
import pytest
from scipy import stats

from driftloop.common import metrics
from driftloop.common.postgres import offsets
from driftloop.drift_monitor import handlers
from driftloop.drift_monitor.api import create_app
from driftloop.drift_monitor.store import Store
from tests.support.asgi import ask
from tests.support.monitored import (
    CONTRACTS,
    LOAN,
    REFERENCE,
    RNG,
    TOPIC,
    Monitor,
    listed,
    rows_in_panes,
    spread,
    version_of,
)
from tests.support.predictions import START, labeled, prediction, rows_like


def test_a_closed_window_says_what_scipy_says(monitor: Monitor) -> None:
    monitor.learn()
    rows = rows_like(LOAN, RNG, 120, shift=0.3)
    monitor.count(spread(rows[:50]), partition=0)
    monitor.count(spread(rows[50:]), partition=1)
    monitor.evaluator().round()
    report = monitor.report()
    features = {one["name"]: one for one in report["features"]}  # type: ignore[attr-defined]
    for name in ("income", "term"):
        expected = stats.ks_2samp([row[name] for row in REFERENCE], [row[name] for row in rows])
        assert features[name]["d"] == expected.statistic
        assert features[name]["p"] == pytest.approx(expected.pvalue, rel=1e-12)
        assert features[name]["n"] == 120
    assert features["employment"]["d"] is None
    assert version_of(report)["counted"] == 120


def test_two_critical_windows_open_an_alarm_and_two_others_clear_it(monitor: Monitor) -> None:
    monitor.learn()
    for second, shift in enumerate([0, 1.5, 1.5, 1.5, 0, 0]):
        monitor.count(spread(rows_like(LOAN, RNG, 150, shift), START + timedelta(seconds=second)))
    monitor.evaluator().round()
    opened, cleared = monitor.outbox()
    assert (opened.change, opened.severity, opened.verdict) == ("opened", "CRITICAL", "CRITICAL")
    assert opened.changed_since == START + timedelta(seconds=2)
    assert (cleared.change, cleared.severity) == ("cleared", "CRITICAL")
    windows = version_of(monitor.report())["windows"]
    assert [one["severity"] for one in reversed(windows)][:4] == ["GOOD", "GOOD", "CRITICAL", "CRITICAL"]  # type: ignore[call-overload]


def test_a_round_that_is_repeated_says_nothing_twice(monitor: Monitor) -> None:
    monitor.learn()
    for second in range(3):
        monitor.count(spread(rows_like(LOAN, RNG, 150, 1.5), START + timedelta(seconds=second)))
    for _ in range(3):
        monitor.evaluator().round()
    assert len(monitor.outbox()) == 1
    assert version_of(monitor.report())["windows_closed"] == 3


def test_two_evaluators_at_once_close_each_window_once(monitor: Monitor) -> None:
    monitor.learn()
    for second in range(8):
        monitor.count(spread(rows_like(LOAN, RNG, 120, 1.5), START + timedelta(seconds=second)))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda one: one.round(), [monitor.evaluator() for _ in range(4)]))
    report = version_of(monitor.report())
    assert report["windows_closed"] == 8
    assert sum(one["n"] for one in report["windows"]) == 960  # type: ignore[attr-defined]
    assert len(monitor.outbox()) == 1


def test_what_comes_after_its_window_had_closed_is_counted_as_late(monitor: Monitor) -> None:
    monitor.learn()
    monitor.count(spread(rows_like(LOAN, RNG, 120)))
    monitor.evaluator().round()
    monitor.count(spread(rows_like(LOAN, RNG, 7)))
    report = version_of(monitor.report())
    assert (report["counted"], report["late"]) == (127, 7)


def test_a_partition_with_a_backlog_holds_windows_open(monitor: Monitor) -> None:
    monitor.learn()
    monitor.count(spread(rows_like(LOAN, RNG, 120)), partition=0)
    with monitor.pool.connection() as connection:
        for partition in (0, 1):
            offsets.insert_offset(
                connection, "drift-monitor", (TOPIC, partition), offsets.StoredOffset(0, "cluster", "topic")
            )
    monitor.ends = {0: 0, 1: 40}
    monitor.evaluator().round()
    assert version_of(monitor.report())["windows_closed"] == 0
    with monitor.pool.connection() as connection:
        offsets.advance_offsets(connection, "drift-monitor", {(TOPIC, 1): (0, 40)})
    monitor.evaluator().round()
    assert version_of(monitor.report())["windows_closed"] == 1


def test_predictions_of_an_unknown_version_are_parked_and_counted_when_it_is_known(monitor: Monitor) -> None:
    monitor.count(spread(rows_like(LOAN, RNG, 60)), partition=0)
    monitor.count(spread(rows_like(LOAN, RNG, 60)), partition=1)
    assert monitor.report()["verdict"] == "INSUFFICIENT_DATA"
    monitor.learn()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda one: one.round(), [monitor.evaluator() for _ in range(4)]))
    report = version_of(monitor.report())
    assert (report["counted"], report["parked"], report["windows_closed"]) == (120, 0, 1)
    assert report["features"][0]["n"] == 120  # type: ignore[index]


def test_parked_predictions_of_a_version_that_serves_no_more_are_counted_too(monitor: Monitor) -> None:
    monitor.count(spread(rows_like(LOAN, RNG, 10)))
    monitor.learn(1)
    monitor.learn(2)
    monitor.evaluator().round()
    report = version_of(monitor.report(), 1)
    assert (report["counted"], report["parked"]) == (10, 0)


def test_parking_is_bounded(monitor: Monitor) -> None:
    with pytest.raises(handlers.ParkingFull, match="version 1 of loan"):
        monitor.count(spread(rows_like(LOAN, RNG, 11)), max_parked=10)


def test_a_promotion_clears_the_alarm_of_the_version_before(monitor: Monitor) -> None:
    monitor.learn(1)
    for second in range(2):
        monitor.count(spread(rows_like(LOAN, RNG, 120, 1.5), START + timedelta(seconds=second)))
    monitor.evaluator().round()
    monitor.learn(2)
    opened, cleared = monitor.outbox()
    assert (cleared.change, cleared.model_version, cleared.reason) == ("cleared", 1, "version 2 serves")
    assert opened.model_version == 1
    report = monitor.report()
    assert (report["champion"], report["verdict"]) == (2, "INSUFFICIENT_DATA")


def test_a_serving_state_that_goes_back_is_watched_again(monitor: Monitor) -> None:
    monitor.learn(1)
    monitor.count(spread(rows_like(LOAN, RNG, 120)))
    monitor.evaluator().round()
    monitor.learn(2)
    monitor.learn(1, revision=3)
    monitor.count(spread(rows_like(LOAN, RNG, 120), START + timedelta(seconds=1)))
    monitor.evaluator().round()
    report = monitor.report()
    assert report["champion"] == 1
    assert version_of(report, 1)["windows_closed"] == 2


def test_an_older_serving_state_changes_nothing(monitor: Monitor) -> None:
    monitor.learn(2, revision=5)
    monitor.learn(1, revision=4)
    assert monitor.report()["champion"] == 2


def test_labels_give_the_realised_accuracy_and_an_amended_one_is_taken_away(monitor: Monitor) -> None:
    monitor.learn()
    made = [prediction(LOAN, REFERENCE[0], score=score) for score in (0.1, 0.2, 0.8, 0.9)]
    monitor.count(made)
    monitor.label([labeled(one, label) for one, label in zip(made, [0, 1, 1, 1], strict=True)])
    monitor.label([labeled(made[1], 0, previous=1, revision=2)], partition=1)
    performance = version_of(monitor.report())["performance"]
    assert performance["n"] == 4  # type: ignore[index]
    assert performance["accuracy"] == 1.0  # type: ignore[index]


def test_predictions_of_other_models_are_not_counted(monitor: Monitor) -> None:
    monitor.learn()
    other = msgspec.structs.replace(prediction(LOAN, REFERENCE[0]), model_name="another")
    monitor.count([other, prediction(LOAN, REFERENCE[0])])
    assert version_of(monitor.report())["counted"] == 1


def test_a_report_of_a_model_that_nobody_watches_names_those_that_are(monitor: Monitor) -> None:
    response = ask(
        create_app(monitor.pool, CONTRACTS, monitor.watches), "GET", "/v1/report", params={"model": "nobody"}
    )
    assert response.status_code == 404
    assert "['loan']" in response.json()["detail"]


# --- event time


def test_late_events_are_counted_into_their_pane_and_their_window_stays_as_it_was(monitor: Monitor) -> None:
    monitor.learn()
    monitor.count(spread(rows_like(LOAN, RNG, 120)))
    monitor.evaluator().round()
    before = version_of(monitor.report())["windows"]
    monitor.count(spread(rows_like(LOAN, RNG, 7)))
    monitor.evaluator().round()
    assert version_of(monitor.report())["windows"] == before
    assert rows_in_panes(monitor) == 127


def test_a_prediction_from_the_future_is_refused_and_moves_nothing(monitor: Monitor) -> None:
    monitor.learn()
    with pytest.raises(handlers.FromTheFuture, match="ahead of this clock"):
        monitor.count(spread(rows_like(LOAN, RNG, 3), monitor.now + timedelta(minutes=6)))
    with monitor.pool.connection() as connection:
        assert Store(connection).panes.watermarks(TOPIC) == {}


def test_consecutive_windows_are_disjoint_and_hold_every_row_once(monitor: Monitor) -> None:
    monitor.learn()
    for second in range(7):
        monitor.count(spread(rows_like(LOAN, RNG, 70), START + timedelta(seconds=second)), partition=second % 2)
        monitor.evaluator().round()
    windows = listed(monitor, "windows")[::-1]
    assert [one["n"] for one in windows] == [140, 140, 140]
    assert all(one["ends"] <= following["starts"] for one, following in itertools.pairwise(windows))


def test_a_window_tells_from_which_records_it_was_made(monitor: Monitor) -> None:
    monitor.learn()
    with monitor.pool.connection() as connection:
        for partition in (0, 1):
            first = offsets.StoredOffset(0, "cluster", "topic")
            offsets.insert_offset(connection, "drift-monitor", (TOPIC, partition), first)
        offsets.advance_offsets(connection, "drift-monitor", {(TOPIC, 0): (0, 60), (TOPIC, 1): (0, 120)})
    monitor.count(spread(rows_like(LOAN, RNG, 60)), partition=0)
    monitor.count(spread(rows_like(LOAN, RNG, 60)), partition=1)
    monitor.ends = {0: 60, 1: 120}
    monitor.evaluator().round()
    (window,) = listed(monitor, "windows")
    assert window["offsets"] == {"0": [0, 60], "1": [60, 120]}


def test_a_future_event_of_another_model_is_another_monitors_affair(monitor: Monitor) -> None:
    monitor.learn()
    (made,) = spread(rows_like(LOAN, RNG, 1), monitor.now + timedelta(days=1000))
    monitor.count([msgspec.structs.replace(made, model_name="another")])
    with monitor.pool.connection() as connection:
        assert Store(connection).panes.watermarks(TOPIC) == {}


def test_the_gauges_of_a_version_that_serves_no_more_are_taken_down(monitor: Monitor) -> None:
    monitor.exporter.clear()
    monitor.learn(1)
    monitor.count(spread(rows_like(LOAN, RNG, 120)))
    monitor.evaluator().round()
    assert shown() == {"1"}
    monitor.learn(2)
    monitor.evaluator().round()
    assert shown() == {"2"}


def shown() -> set[str]:
    """The versions whose verdict is shown."""
    (family,) = metrics.DRIFT_VERDICT.collect()
    return {sample.labels["model_version"] for sample in family.samples}


# --- the history


def test_the_history_shows_the_windows_of_a_time(monitor: Monitor) -> None:
    monitor.learn()
    for second in range(4):
        monitor.count(spread(rows_like(LOAN, RNG, 120), START + timedelta(seconds=second)))
    monitor.evaluator().round()
    app = create_app(monitor.pool, CONTRACTS, monitor.watches)
    since, until = (START + timedelta(seconds=number) for number in (1, 3))
    query = {"from": since.isoformat(), "to": until.isoformat()}
    found = ask(app, "GET", "/v1/report/history", params=query).json()
    assert [one["number"] for one in found["windows"]] == [3, 2]
    assert ask(app, "GET", "/v1/report/history", params={"from": "2026-03-01T12:00:00"}).status_code == 422
    assert ask(app, "GET", "/v1/report", params={"version": "7"}).status_code == 404
