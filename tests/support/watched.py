"""A drift monitor whose consumer reads a real topic in a thread of the test, and which a test may restart."""

import itertools
import json
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import msgspec
import numpy as np
import yaml
from typer.testing import CliRunner

from driftloop.common.contract import load_contract
from driftloop.common.envelope import Envelope, encode_event
from driftloop.common.events import PredictionMade, type_name
from driftloop.common.kafka.consumer import ConsumerLoop
from driftloop.common.kafka.reader import bounds
from driftloop.common.kafka.settings import KafkaSettings
from driftloop.common.settings import Secret
from driftloop.common.topics import PREDICTIONS, partition_for
from driftloop.drift_monitor.cli import app
from driftloop.drift_monitor.evaluating import Evaluator
from driftloop.drift_monitor.main import build
from driftloop.drift_monitor.settings import Settings
from driftloop.drift_monitor.upkeep import Upkeep
from tests.support.artifacts import small_bundle
from tests.support.counting import Raw, Running
from tests.support.house import House
from tests.support.paths import MODELS
from tests.support.predictions import START, prediction, profile_of, rows_like
from tests.support.waiting import wait_until

WINDOW = 100
RNG = np.random.default_rng(11)
T = TypeVar("T")


class Watched:
    """A drift monitor whose consumer runs, and whose windows close when the test says so."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.topic = house.namespace.topic(PREDICTIONS)
        path = house.folder / "contract.yaml"
        document = yaml.safe_load((MODELS / "loan" / "contract.yaml").read_text())
        document["drift"] = {"min_samples": WINDOW, "pane_seconds": 1, "max_age_seconds": 1e9}
        path.write_text(yaml.safe_dump(document))
        self.contract = load_contract(path)
        profile = profile_of(self.contract, rows_like(self.contract, RNG, 400), RNG.random(400).round(6))
        self._artifact = house.register(msgspec.structs.replace(small_bundle(self.contract), profile=profile))
        self._settings = Settings(
            kafka=KafkaSettings(kafka_bootstrap_servers=house.stack.bootstrap_servers),
            database_url=Secret(house.database_url("drift_monitor")),
            contracts=(path,),
            trusted_keys=house.trusted_keys,
            namespace=house.namespace.prefix,
            keep_days=100_000,
        )
        self._begin()
        self._numbers: defaultdict[tuple[str, int], Iterator[int]] = defaultdict(itertools.count)

    def close(self) -> None:
        self._running.end()
        for closer in self._service.closers:
            closer()

    def restart(self) -> None:
        """End it, and begin anew with what it has stored."""
        self.close()
        self._begin()

    def _begin(self) -> None:
        self._service = build(self._settings)
        self._running = Running(self._worker(ConsumerLoop))

    def _worker(self, kind: type[T]) -> T:
        return next(one for one in self._service.workers if isinstance(one, kind))

    def serve(self) -> None:
        """Version 1 serves, and the monitor knows it."""
        self.house.serve(1, self._artifact, self.contract.name, 1)
        wait_until(lambda: bool(self.rows("SELECT 1 FROM models")), "the serving state is known")

    def made(self, second: int, n: int = WINDOW, **rest: Any) -> list[PredictionMade]:
        """Predictions of one second, which is a pane; a hundred are a window."""
        start, step = START + timedelta(seconds=second), timedelta(seconds=1) / n
        scores = RNG.random(n).round(6).tolist()
        made = [
            prediction(self.contract, row, start + step * place, score=scores[place])
            for place, row in enumerate(rows_like(self.contract, RNG, n))
        ]
        return [msgspec.structs.replace(one, **rest) for one in made]

    def records(self, made: Sequence[PredictionMade], source: str = "predictor/1") -> list[Raw]:
        """Predictions as one predictor would send them, each partition's numbered densely."""
        found: list[Raw] = []
        for one in made:
            partition = partition_for(one.prediction_id, PREDICTIONS.partitions)
            number = next(self._numbers[source, partition])
            envelope = Envelope(one.prediction_id, source, type_name(type(one)), one.predicted_at, number)
            found.append((encode_event(one), one.prediction_id, envelope.headers(), partition))
        return found

    def produce(self, records: Sequence[Raw]) -> None:
        """Put records into the log and wait until the monitor has read them."""
        self.house.produce_all(PREDICTIONS, records)
        ends = {partition: end for partition, (_low, end) in self.bounds().items()}

        def read() -> bool:
            stored = dict(self.rows("SELECT partition, next FROM offsets WHERE topic = %s", self.topic))
            return all(stored.get(partition) == end for partition, end in ends.items())

        wait_until(read, f"the monitor has read {ends}")

    def bounds(self) -> dict[int, tuple[int, int]]:
        return bounds(self.house.stack.bootstrap_servers, "tests", self.topic)

    def judge(self) -> None:
        """Close what can be closed."""
        self._worker(Evaluator).round()

    def expire(self, records: Sequence[Raw]) -> None:
        """These, which are parked, have waited so long that they become dead letters."""
        keys = [key.encode() for _value, key, _headers, _partition in records if key]
        self.change("UPDATE parked SET parked_at = parked_at - interval '1 year' WHERE key = ANY(%s)", keys)
        self._worker(Upkeep).round(threading.Event())

    def rows(self, query: str, *values: object) -> list[Any]:
        with self.house.database("drift_monitor") as connection:
            return connection.execute(query.encode(), values).fetchall()

    def change(self, statement: str, *values: object) -> None:
        with self.house.database("drift_monitor") as connection:
            connection.execute(statement.encode(), values)

    def replay(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """The command's exit status and document."""
        environment = {
            "KAFKA_BOOTSTRAP_SERVERS": self._settings.kafka.kafka_bootstrap_servers,
            "DATABASE_URL": self._settings.database_url.value,
            "DRIFTLOOP_CONTRACTS": str(self._settings.contracts[0]),
            "DRIFTLOOP_NAMESPACE": self._settings.namespace,
        }
        result = CliRunner().invoke(app, ["replay", "--json", *arguments], env=environment)
        assert result.stdout, result.output
        return result.exit_code, json.loads(result.stdout)
