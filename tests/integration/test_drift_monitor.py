"""The drift monitor on a real database: what is counted, what is closed, and what is said of it."""

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pytest
from scipy import stats

from driftloop.common import metrics
from driftloop.common.contract import Contract, load_contract
from driftloop.common.envelope import Envelope, encode_event
from driftloop.common.events import (
    DriftDetected,
    Event,
    LabelRetracted,
    ModelUpdated,
    PredictionMade,
    ServedVersion,
    type_name,
)
from driftloop.common.kafka.batches import Delivery
from driftloop.common.kafka.deadletter import DeadLetter
from driftloop.common.kafka.records import Record
from driftloop.common.postgres import offsets
from driftloop.common.postgres.pool import Pool
from driftloop.common.rows import Row
from driftloop.drift_monitor import handlers
from driftloop.drift_monitor.api import create_app
from driftloop.drift_monitor.evaluating import Evaluator, Pace, Topics
from driftloop.drift_monitor.exporting import Exporter
from driftloop.drift_monitor.handlers import Limits
from driftloop.drift_monitor.judging import supersede
from driftloop.drift_monitor.pane_store import PREDICTIONS
from driftloop.drift_monitor.store import Store
from driftloop.drift_monitor.upkeep import Ages, Upkeep
from tests.support.artifacts import small_bundle
from tests.support.asgi import ask
from tests.support.house import House
from tests.support.paths import MODELS
from tests.support.predictions import START, labeled, prediction, profile_of, rows_like

LOAN = msgspec.structs.replace(
    load_contract(MODELS / "loan" / "contract.yaml"),
    drift=msgspec.structs.replace(load_contract(MODELS / "loan" / "contract.yaml").drift, pane_seconds=1.0),
)
CONTRACTS = {LOAN.name: LOAN}
TOPIC, LABEL_TOPIC = "predictions", "labeled-predictions"
DAY = timedelta(days=1)
RNG = np.random.default_rng(5)
REFERENCE = rows_like(LOAN, RNG, 400)
SCORES = RNG.random(400).round(6)


@dataclass
class Monitor:
    """The monitor's parts without its process: time and the broker's ends are the test's to say."""

    house: House
    pool: Pool
    now: datetime = START + timedelta(hours=1)
    ends: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0})
    watches: handlers.Watches = field(default_factory=lambda: handlers.cached_watches(CONTRACTS))
    letters: list[DeadLetter] = field(default_factory=list)
    exporter: Exporter = field(default_factory=Exporter)
    keep: timedelta = 400 * DAY
    offsets: Iterator[int] = field(default_factory=itertools.count)

    def learn(self, version: int = 1, revision: int | None = None) -> None:
        """A serving state with one version arrives."""
        bundle = small_bundle(LOAN, version)
        artifact = self.house.register(bundle)
        event = ModelUpdated(
            model_name=LOAN.name,
            revision=revision or version,
            decided_at=START,
            champion=version,
            versions=(ServedVersion(version=version, artifact=artifact),),
        )
        with self.pool.connection() as connection:
            gone = handlers.on_model_updated(
                Store(connection), lambda _m, served: profile_of(LOAN, REFERENCE, SCORES, served.version),
                lambda: self.now, event,
            )  # fmt: skip
            for one in gone:
                supersede(connection, one, version, self.now)

    def placed(self, events: Sequence[Event], topic: str, partition: int) -> list[Delivery]:
        """Events as they come out of the log, each at its own offset."""
        found = []
        for event in events:
            envelope = Envelope("id", "source", type_name(type(event)), START)
            record = Record(topic, partition, next(self.offsets), b"key", encode_event(event), dict(envelope.headers()))
            found.append(Delivery(event, envelope, record))
        return found

    def count(self, events: Sequence[PredictionMade], partition: int = 0, max_parked: int = 10_000) -> None:
        """A batch of predictions arrives."""
        limits = Limits(max_parked, timedelta(minutes=5), self.keep)
        with self.pool.connection() as connection:
            placed = self.placed(events, TOPIC, partition)
            handlers.on_predictions(Store(connection), CONTRACTS, self.watches, limits, self.now, placed)

    def label(self, events: Sequence[Event], partition: int = 0) -> None:
        """A batch of labels arrives."""
        limits = Limits(10_000, timedelta(minutes=5), self.keep)
        with self.pool.connection() as connection:
            placed = self.placed(events, LABEL_TOPIC, partition)
            handlers.on_labels(Store(connection), CONTRACTS, self.watches, limits, self.now, placed)

    def evaluator(self, contracts: Mapping[str, Contract] = CONTRACTS) -> Evaluator:
        return Evaluator(
            pool=self.pool, contracts=contracts, watches=self.watches,
            topics=Topics("drift-monitor", TOPIC, LABEL_TOPIC, lambda: dict(self.ends)),
            pace=Pace(1, timedelta(seconds=2), self.keep, 120 * DAY),
            replica="here", clock=lambda: self.now, published=lambda: None, exporter=self.exporter,
        )  # fmt: skip

    def upkeep(self, parked: timedelta = 7 * DAY) -> Upkeep:
        ages = Ages(timedelta(hours=48), 30 * DAY, self.keep, parked)
        return Upkeep(pool=self.pool, ages=ages, clock=lambda: self.now, send=self.letters.extend)

    def report(self, windows: int = 20) -> dict[str, object]:
        response = ask(create_app(self.pool, CONTRACTS, self.watches), "GET", "/v1/report", params={"windows": windows})
        assert response.status_code == 200, response.text
        found: dict[str, object] = response.json()
        return found

    def outbox(self) -> list[DriftDetected]:
        with self.pool.connection() as connection:
            rows = connection.execute("SELECT value FROM outbox ORDER BY id").fetchall()
        return [msgspec.json.decode(value, type=DriftDetected) for (value,) in rows]


@pytest.fixture
def monitor(house: House) -> Monitor:
    return Monitor(house, house.pool("drift_monitor", max_size=8))


def spread(rows: Sequence[Row], start: datetime = START, seconds: float = 1.0) -> list[PredictionMade]:
    """Predictions of these rows, evenly over `seconds`."""
    step = timedelta(seconds=seconds) / max(1, len(rows))
    scores = RNG.random(len(rows)).round(6).tolist()
    return [prediction(LOAN, row, start + step * i, score=scores[i]) for i, row in enumerate(rows)]


def version_of(report: Mapping[str, object], number: int = 1) -> dict[str, object]:
    versions = report["versions"]
    assert isinstance(versions, list)
    found: dict[str, object] = next(one for one in versions if one["model_version"] == number)
    return found


def listed(monitor: Monitor, name: str) -> list[dict[str, Any]]:
    """A list of version 1's report."""
    found: list[dict[str, Any]] = version_of(monitor.report())[name]  # type: ignore[assignment]
    return found


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


def test_predictions_of_shadows_and_of_other_models_are_not_counted(monitor: Monitor) -> None:
    monitor.learn()
    shadow = msgspec.structs.replace(prediction(LOAN, REFERENCE[0]), variant="shadow")
    other = msgspec.structs.replace(prediction(LOAN, REFERENCE[0]), model_name="another")
    monitor.count([shadow, other, prediction(LOAN, REFERENCE[0])])
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


# --- what is kept


def rows_in_panes(monitor: Monitor, kind: int = PREDICTIONS) -> int:
    with monitor.pool.connection() as connection:
        return Store(connection).panes.rows_since((LOAN.name, 1), kind, None)


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


# --- labels


def test_a_retraction_takes_its_label_away(monitor: Monitor) -> None:
    monitor.learn()
    made = spread(rows_like(LOAN, RNG, 4))
    monitor.label([labeled(one, 1) for one in made])
    monitor.label([retracted(made[0], 1)], partition=1)
    report = version_of(monitor.report())
    assert report["labelled"] == 3
    assert report["performance"]["n"] == 3  # type: ignore[index]


def retracted(made: PredictionMade, previous: int) -> LabelRetracted:
    return LabelRetracted(
        prediction_id=made.prediction_id, model_name=made.model_name, model_version=made.model_version,
        predicted_at=made.predicted_at, score=made.score, prediction=made.prediction, variant=made.variant,
        previous_label=previous, label_revision=2, retracted_at=START + timedelta(days=1),
    )  # fmt: skip


def with_truth(rows: Sequence[Row], start: datetime, flip: float = 0.0) -> tuple[list[PredictionMade], list[int]]:
    """Predictions of scores that are calibrated, and labels drawn by them; `flip` of the labels are the other one."""
    made = spread(rows, start)
    drawn = RNG.random(len(made))
    return made, [int((draw < one.score) != (RNG.random() < flip)) for one, draw in zip(made, drawn, strict=True)]


def stream(monitor: Monitor, seconds: Sequence[int], flip: float = 0.0, shift: float = 0.0) -> None:
    """500 predictions in each of these seconds, with all their labels."""
    for second in seconds:
        made, labels = with_truth(rows_like(LOAN, RNG, 500, shift), START + timedelta(seconds=second), flip)
        monitor.count(made, second % 2)
        monitor.label([labeled(one, label) for one, label in zip(made, labels, strict=True)], second % 3)


def test_labelled_windows_say_how_the_model_does_and_what_was_estimated(monitor: Monitor) -> None:
    monitor.learn()
    stream(monitor, range(2))
    monitor.evaluator().round()
    (window,) = listed(monitor, "performance_windows")
    assert (window["n"], window["labelled"], window["coverage"]) == (1000, 1000, 1.0)
    assert window["realised"]["accuracy"] == pytest.approx(0.75, abs=0.05)
    assert window["estimated"]["accuracy"] == pytest.approx(window["realised"]["accuracy"], abs=0.05)
    assert not window["concept"]["concept"]
    assert not window["decline"]["declined"]
    assert window["sets"]["coverage"] == pytest.approx(0.9, abs=0.04)
    assert monitor.outbox() == []


def test_a_changed_law_is_concept_drift_and_proven(monitor: Monitor) -> None:
    monitor.learn()
    stream(monitor, range(2), flip=0.3)
    monitor.evaluator().round()
    (event,) = monitor.outbox()
    assert (event.change, event.severity, event.attribution, event.proven) == ("opened", "CRITICAL", "concept", True)
    assert event.changed_since == START + timedelta(seconds=1)
    assert {one.name for one in event.signals} == {"concept", "performance"}
    report = monitor.report()
    assert report["verdict"] == "CRITICAL"
    assert "concept drift" in report["attribution"]["sentence"]  # type: ignore[index]


def test_a_labelled_window_that_is_well_again_clears_what_was_proven(monitor: Monitor) -> None:
    monitor.learn()
    stream(monitor, range(2), flip=0.3)
    monitor.evaluator().round()
    stream(monitor, range(2, 4))
    monitor.evaluator().round()
    opened, cleared = monitor.outbox()
    assert (cleared.change, cleared.verdict, cleared.closes) == ("cleared", "GOOD", "drift:loan:1:2.1:opened")
    assert opened.closes is None


# --- data quality


def without(rows: Sequence[Row], name: str, share: float) -> list[Row]:
    return [row | {name: None} if place < share * len(rows) else row for place, row in enumerate(rows)]


def test_missing_values_are_a_fault_of_the_data_and_block_retraining(monitor: Monitor) -> None:
    monitor.learn()
    monitor.count(spread(without(rows_like(LOAN, RNG, 500), "income", 0.2)))
    monitor.evaluator().round()
    (event,) = monitor.outbox()
    assert (event.severity, event.attribution, event.retraining_blocked) == ("CRITICAL", "quality", True)
    assert "income" in event.explanation


def test_a_drift_that_remains_when_the_data_are_well_is_told_anew(monitor: Monitor) -> None:
    monitor.learn()
    for second in range(2):
        rows = without(rows_like(LOAN, RNG, 500, shift=1), "income", 0.2)
        monitor.count(spread(rows, START + timedelta(seconds=second)))
    for second in range(2, 4):
        monitor.count(spread(rows_like(LOAN, RNG, 500, shift=1), START + timedelta(seconds=second)))
    monitor.evaluator().round()
    blocked, free = monitor.outbox()
    assert (blocked.retraining_blocked, blocked.attribution) == (True, "quality")
    assert (free.change, free.severity, free.retraining_blocked) == ("opened", "CRITICAL", False)
    assert free.reason == "the data are well again, the drift remains"
    assert free.changed_since is not None


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


def test_the_report_says_what_a_roll_out_did(monitor: Monitor) -> None:
    monitor.learn(1)
    stream(monitor, range(2), flip=0.3, shift=1)
    monitor.evaluator().round()
    monitor.learn(2)
    monitor.now += timedelta(seconds=10)
    after = [
        msgspec.structs.replace(one, model_version=2)
        for one in spread(rows_like(LOAN, RNG, 500), START + timedelta(seconds=10))
    ]
    monitor.count(after)
    monitor.evaluator().round()
    rollout = monitor.report()["rollout"]
    assert (rollout["from"], rollout["to"], rollout["drift_went_down"]) == (1, 2, True)  # type: ignore[index]
    assert rollout["performance_came_back"] is None  # type: ignore[index]
    *_, cleared = monitor.outbox()
    assert cleared.reason == "version 2 serves"
    assert cleared.closes is not None
