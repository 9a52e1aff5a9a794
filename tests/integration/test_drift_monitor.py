"""The drift monitor on a real database: what is counted, what is closed, and what is said of it."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec
import numpy as np
import pytest
from scipy import stats

from driftloop.common.contract import Contract, load_contract
from driftloop.common.events import DriftDetected, ModelUpdated, PredictionMade, ServedVersion
from driftloop.common.postgres import offsets
from driftloop.common.postgres.pool import Pool
from driftloop.common.rows import Row
from driftloop.drift_monitor import handlers
from driftloop.drift_monitor.api import create_app
from driftloop.drift_monitor.evaluating import Evaluator, supersede
from driftloop.drift_monitor.handlers import Placed
from driftloop.drift_monitor.store import Store
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
TOPIC = "predictions"
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
    layouts: handlers.Layouts = field(default_factory=lambda: handlers.cached_layouts(CONTRACTS))

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

    def count(self, events: Sequence[PredictionMade], partition: int = 0, max_parked: int = 10_000) -> None:
        """A batch of predictions arrives."""
        with self.pool.connection() as connection:
            handlers.on_predictions(
                Store(connection), CONTRACTS, self.layouts, TOPIC, max_parked,
                [Placed(event, partition) for event in events],
            )  # fmt: skip

    def evaluator(self, contracts: Mapping[str, Contract] = CONTRACTS) -> Evaluator:
        return Evaluator(
            pool=self.pool, contracts=contracts, layouts=self.layouts, end_offsets=lambda: dict(self.ends),
            topic=TOPIC, consumer="drift-monitor", clock=lambda: self.now, published=lambda: None,
            every_seconds=1, lateness_seconds=2,
        )  # fmt: skip

    def report(self, windows: int = 20) -> dict[str, object]:
        response = ask(create_app(self.pool, CONTRACTS), "GET", "/v1/report", params={"windows": windows})
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
    for second, shift in enumerate([0, 3, 3, 3, 0, 0]):
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
        monitor.count(spread(rows_like(LOAN, RNG, 150, 3), START + timedelta(seconds=second)))
    for _ in range(3):
        monitor.evaluator().round()
    assert len(monitor.outbox()) == 1
    assert version_of(monitor.report())["windows_closed"] == 3


def test_two_evaluators_at_once_close_each_window_once(monitor: Monitor) -> None:
    monitor.learn()
    for second in range(8):
        monitor.count(spread(rows_like(LOAN, RNG, 120, 3), START + timedelta(seconds=second)))
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
        monitor.count(spread(rows_like(LOAN, RNG, 120, 3), START + timedelta(seconds=second)))
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
    with monitor.pool.connection() as connection:
        store = Store(connection)
        handlers.on_labels(
            store, CONTRACTS, [(labeled(one, label), 0) for one, label in zip(made, [0, 1, 1, 1], strict=True)]
        )
        handlers.on_labels(store, CONTRACTS, [(labeled(made[1], 0, previous=1, revision=2), 1)])
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
    response = ask(create_app(monitor.pool, CONTRACTS), "GET", "/v1/report", params={"model": "nobody"})
    assert response.status_code == 404
    assert "['loan']" in response.json()["detail"]
