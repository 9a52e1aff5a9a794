"""One service as it is installed: its own process on a real broker and a real database, which are made for it."""

import itertools
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import psutil
import psycopg
from confluent_kafka import KafkaError
from psycopg import Connection

from benchmarks.harness import ROOT
from driftloop import devstack
from driftloop.common.envelope import Outgoing
from driftloop.common.events import PredictionMade
from driftloop.common.kafka.config import producer_config
from driftloop.common.kafka.producer import DeliveryProducer, ProducerFull
from driftloop.common.kafka.publisher import Publisher
from driftloop.common.topics import PREDICTIONS, Topic
from driftloop.common.tracing import child_traceparent
from driftloop.demo.installation import Installation, prepare
from driftloop.devstack.processes import ProcessFailed, ServiceProcess

CONTRACT = ROOT / "models" / "diabetes" / "contract.yaml"
# Two workers of one predictor.
WORKERS = 2
LOOK_SECONDS = 0.005
TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True)
class Service:
    """One service of an installation; its process is started by whoever measures it."""

    installation: Installation
    process: ServiceProcess

    @property
    def bootstrap_servers(self) -> str:
        """The broker."""
        return self.installation.stack.bootstrap_servers

    def topic_name(self, topic: Topic) -> str:
        """A topic's name on the broker."""
        return self.installation.namespace.topic(topic)

    @cached_property
    def database(self) -> Connection:
        """The administrator's connection, whose search path is the service's schema."""
        schema = self.installation.namespace.schema(self.process.name.replace("-", "_"))
        return psycopg.connect(
            self.installation.stack.database_url, autocommit=True, options=f"-c search_path={schema}"
        )

    def cpu_seconds(self) -> float:
        """How long the process, which runs, has kept a processor busy."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def committed(self, topic: Topic = PREDICTIONS) -> int:
        """How many records of a topic the stored offsets have behind them."""
        return self.number(
            "SELECT coalesce(sum(next), 0)::bigint FROM offsets WHERE topic = %s", self.topic_name(topic)
        )

    @contextmanager
    def held(self, topic: Topic = PREDICTIONS) -> Iterator[None]:
        """Have the process wait for the lock of a topic's offsets, so that nothing of it counts in this block."""
        with self.database.transaction():
            self.database.execute("SELECT FROM offsets WHERE topic = %s FOR UPDATE", [self.topic_name(topic)])
            yield

    def wait_until(self, look: Callable[[], bool]) -> None:
        """Look until it is so. Raises TimeoutError, and ProcessFailed as soon as the process has ended."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not look():
            if self.process.returncode is not None:
                raise ProcessFailed(f"{self.process.name} ended with {self.process.returncode}:\n{self.process.tail()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.committed():,} predictions are committed after {TIMEOUT_SECONDS:g} s")
            time.sleep(LOOK_SECONDS)

    def number(self, query: str, *arguments: object) -> int:
        """The first column of the one row that a query gives, as a whole number; 0 where there is none."""
        row = self.database.execute(query.encode(), arguments).fetchone()
        return int(row[0]) if row else 0


@contextmanager
def installation() -> Iterator[Installation]:
    """An installation without predictors; broker, database and files go with the block."""
    with tempfile.TemporaryDirectory(prefix="driftloop-bench-") as name:
        folder = Path(name)
        # PostgreSQL, which does not run as root, must be able to get there.
        folder.chmod(0o755)
        stack = devstack.start(folder / "stack")
        try:
            yield prepare(folder, stack, [CONTRACT], namespace=f"b{secrets.token_hex(4)}", predictors=0)
        finally:
            devstack.stop(folder / "stack", purge=True)


def log_predictions(service: Service, predictions: Iterable[PredictionMade]) -> None:
    """Put predictions into the log as a predictor's workers do, and wait for all acks. Raises RuntimeError."""
    failures = list[KafkaError]()
    producer = DeliveryProducer(producer_config(service.bootstrap_servers, "bench", 60_000))
    publishers = [
        Publisher(producer, service.installation.namespace, f"predictor/bench/{secrets.token_hex(6)}")
        for _ in range(WORKERS)
    ]
    for made, publisher in zip(predictions, itertools.cycle(publishers), strict=False):
        outgoing = Outgoing(
            PREDICTIONS.name, made.prediction_id, made, made.prediction_id, made.predicted_at, child_traceparent()
        )
        _send(publisher, outgoing, failures)
    lost = producer.close(60)
    if lost or failures:
        raise RuntimeError(f"{lost + len(failures)} predictions did not get into the log: {failures[:1]}")


def _send(publisher: Publisher, outgoing: Outgoing, failures: list[KafkaError]) -> None:
    while True:
        try:
            return publisher.publish(outgoing, lambda error: failures.append(error) if error else None)
        except ProducerFull:
            time.sleep(LOOK_SECONDS)
