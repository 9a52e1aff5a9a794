"""A drift monitor as it is installed: its own process on a real broker and a real database, and events to feed it."""

import random
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg import sql

from benchmarks.support.service import CONTRACT, Service, installation, log_predictions
from driftloop.common.contract import baseline_path, load_contract
from driftloop.common.events import PredictionMade
from driftloop.common.rows import read_baseline
from driftloop.common.topics import PREDICTIONS

SERVICE = "drift-monitor"
# What a monitor knows of models, which it need not learn anew for each measurement.
LEARNED = ("schema_migrations", "versions", "models", "offsets")


@dataclass(frozen=True)
class Monitor(Service):
    """One drift monitor's installation; its process is started by whoever measures it."""

    @property
    def topic(self) -> str:
        """The inference log's name on the broker."""
        return self.topic_name(PREDICTIONS)

    def counted(self) -> int:
        """How many predictions are in the panes."""
        return self.number("SELECT coalesce(sum(n), 0)::bigint FROM panes")

    def forget(self) -> None:
        """Have the next process read the inference log from its beginning, as if it never had."""
        rows = self.database.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND NOT tablename = ANY(%s)",
            [list(LEARNED)],
        ).fetchall()
        tables = sql.SQL(", ").join(sql.Identifier(name) for (name,) in rows)
        self.database.execute(sql.SQL("TRUNCATE {}").format(tables))
        self.database.execute("UPDATE offsets SET next = 0 WHERE topic = %s", [self.topic])

    def learn(self) -> None:
        """Run once, until the model's first version is known and the inference log, which is empty, is held."""
        self.process.start()
        self.process.wait_ready()
        self.wait_until(lambda: self.number("SELECT count(*) FROM versions") == 1)
        self.wait_until(lambda: self.number("SELECT count(*) FROM offsets WHERE topic = %s", self.topic) > 0)
        self.process.terminate()


@contextmanager
def installed() -> Iterator[Monitor]:
    """A monitor that has learned the shipped model's version 1; broker, database and files go with the block."""
    with installation() as made:
        monitor = Monitor(made, made.process(SERVICE))
        monitor.learn()
        try:
            yield monitor
        finally:
            monitor.process.kill()


def publish(monitor: Monitor, count: int, first: datetime, every: timedelta) -> None:
    """Put predictions into the log as a predictor does: baseline rows, one `every` so long from `first` on."""
    log_predictions(monitor, _predictions(count, first, every))


def _predictions(count: int, first: datetime, every: timedelta) -> Iterator[PredictionMade]:
    contract = load_contract(CONTRACT)
    rows, _labels = read_baseline(contract, baseline_path(CONTRACT, contract))
    chance = random.Random(0)
    for number in range(count):
        score = round(chance.random(), 6)
        yield PredictionMade(
            prediction_id=secrets.token_hex(16), model_name=contract.name, model_version=1, revision=1,
            predicted_at=first + number * every, features=dict(rows[number % len(rows)]), score=score,
            prediction=score >= contract.decision_threshold,
        )  # fmt: skip
