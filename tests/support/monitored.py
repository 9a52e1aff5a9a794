"""A drift monitor on a real database: its parts without its process, so that time is the test's to say."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec
import numpy as np

from driftloop.common.contract import Contract, load_contract
from driftloop.common.envelope import Envelope, encode_event
from driftloop.common.events import (
    DriftDetected,
    Event,
    ModelUpdated,
    PredictionMade,
    ServedVersion,
    type_name,
)
from driftloop.common.kafka.batches import Delivery
from driftloop.common.kafka.deadletter import DeadLetter
from driftloop.common.kafka.records import Record
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
from tests.support.predictions import START, prediction, profile_of, rows_like

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


def rows_in_panes(monitor: Monitor, kind: int = PREDICTIONS) -> int:
    """What all panes of version 1 hold."""
    with monitor.pool.connection() as connection:
        return Store(connection).panes.rows_since((LOAN.name, 1), kind, None)
