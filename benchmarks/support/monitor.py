"""A drift monitor as it is installed: its own process on a real broker and a real database, and events to feed it."""

import itertools
import random
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

import psycopg
from confluent_kafka import KafkaError
from psycopg import Connection, sql

from benchmarks.harness import ROOT
from driftloop import devstack
from driftloop.common.contract import baseline_path, load_contract
from driftloop.common.envelope import Outgoing
from driftloop.common.events import PredictionMade
from driftloop.common.kafka.config import producer_config
from driftloop.common.kafka.producer import DeliveryProducer, ProducerFull
from driftloop.common.kafka.publisher import Publisher
from driftloop.common.rows import read_baseline
from driftloop.common.topics import PREDICTIONS
from driftloop.common.tracing import child_traceparent
from driftloop.demo.installation import Installation, prepare
from driftloop.devstack.processes import ProcessFailed, ServiceProcess

CONTRACT = ROOT / "models" / "diabetes" / "contract.yaml"
SERVICE = "drift-monitor"
# What a monitor knows of models, which it need not learn anew for each measurement.
LEARNED = ("schema_migrations", "versions", "models", "offsets")
# Two workers of one predictor.
WORKERS = 2
LOOK_SECONDS = 0.005
TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True)
class Monitor:
    """One drift monitor's installation; its process is started by whoever measures it."""

    installation: Installation
    process: ServiceProcess

    @property
    def bootstrap_servers(self) -> str:
        """The broker."""
        return self.installation.stack.bootstrap_servers

    @property
    def topic(self) -> str:
        """The inference log's name on the broker."""
        return self.installation.namespace.topic(PREDICTIONS)

    @cached_property
    def _database(self) -> Connection:
        schema = self.installation.namespace.schema("drift_monitor")
        return psycopg.connect(
            self.installation.stack.database_url, autocommit=True, options=f"-c search_path={schema}"
        )

    def committed(self) -> int:
        """How many records of the inference log the stored offsets have behind them."""
        return self._number("SELECT coalesce(sum(next), 0)::bigint FROM offsets WHERE topic = %s", self.topic)

    def counted(self) -> int:
        """How many predictions are in the panes."""
        return self._number("SELECT coalesce(sum(n), 0)::bigint FROM panes")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have the process wait for the lock of its offsets, so that nothing of the log is counted in this block."""
        with self._database.transaction():
            self._database.execute("SELECT FROM offsets WHERE topic = %s FOR UPDATE", [self.topic])
            yield

    def forget(self) -> None:
        """Have the next process read the inference log from its beginning, as if it never had."""
        rows = self._database.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND NOT tablename = ANY(%s)",
            [list(LEARNED)],
        ).fetchall()
        tables = sql.SQL(", ").join(sql.Identifier(name) for (name,) in rows)
        self._database.execute(sql.SQL("TRUNCATE {}").format(tables))
        self._database.execute("UPDATE offsets SET next = 0 WHERE topic = %s", [self.topic])

    def learn(self) -> None:
        """Run once, until the model's first version is known and the inference log, which is empty, is held."""
        self.process.start()
        self.process.wait_ready()
        self.wait_until(lambda: self._number("SELECT count(*) FROM versions") == 1)
        self.wait_until(lambda: self._number("SELECT count(*) FROM offsets WHERE topic = %s", self.topic) > 0)
        self.process.terminate()

    def wait_until(self, look: Callable[[], bool]) -> None:
        """Look until it is so. Raises TimeoutError, and ProcessFailed as soon as the process has ended."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not look():
            if self.process.returncode is not None:
                raise ProcessFailed(f"the monitor ended with {self.process.returncode}:\n{self.process.tail()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.committed():,} records are committed after {TIMEOUT_SECONDS:g} s")
            time.sleep(LOOK_SECONDS)

    def _number(self, query: str, *arguments: object) -> int:
        row = self._database.execute(query.encode(), arguments).fetchone()
        return int(row[0]) if row else 0


@contextmanager
def installed() -> Iterator[Monitor]:
    """A monitor that has learned the shipped model's version 1; broker, database and files go with the block."""
    with tempfile.TemporaryDirectory(prefix="driftloop-bench-") as name:
        folder = Path(name)
        # PostgreSQL, which does not run as root, must be able to get there.
        folder.chmod(0o755)
        stack = devstack.start(folder / "stack")
        try:
            installation = prepare(folder, stack, [CONTRACT], namespace=f"b{secrets.token_hex(4)}", predictors=0)
            monitor = Monitor(installation, installation.process(SERVICE))
            monitor.learn()
            try:
                yield monitor
            finally:
                monitor.process.kill()
        finally:
            devstack.stop(folder / "stack", purge=True)


def publish(monitor: Monitor, count: int, first: datetime, every: timedelta) -> None:
    """Put predictions into the log as a predictor does: baseline rows, one `every` so long from `first` on."""
    contract = load_contract(CONTRACT)
    rows, _labels = read_baseline(contract, baseline_path(CONTRACT, contract))
    chance, failures = random.Random(0), list[KafkaError]()
    producer = DeliveryProducer(producer_config(monitor.bootstrap_servers, "bench", 60_000))
    publishers = [
        Publisher(producer, monitor.installation.namespace, f"predictor/bench/{secrets.token_hex(6)}")
        for _ in range(WORKERS)
    ]
    for number, publisher in zip(range(count), itertools.cycle(publishers), strict=False):
        score = round(chance.random(), 6)
        made = PredictionMade(
            prediction_id=secrets.token_hex(16), model_name=contract.name, model_version=1, revision=1,
            predicted_at=first + number * every, features=dict(rows[number % len(rows)]), score=score,
            prediction=score >= contract.decision_threshold,
        )  # fmt: skip
        outgoing = Outgoing(
            PREDICTIONS.name, made.prediction_id, made, made.prediction_id, made.predicted_at, child_traceparent()
        )
        _send(publisher, outgoing, failures)
    lost = producer.close(60)
    if lost or failures:
        raise RuntimeError(f"{lost + len(failures)} of {count} predictions did not get into the log: {failures[:1]}")


def _send(publisher: Publisher, outgoing: Outgoing, failures: list[KafkaError]) -> None:
    while True:
        try:
            return publisher.publish(outgoing, lambda error: failures.append(error) if error else None)
        except ProducerFull:
            time.sleep(LOOK_SECONDS)
