"""`drift-monitor replay` on a real topic: what was counted is computed anew, and what was changed is found."""

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import msgspec
import numpy as np
import pytest
import yaml
from confluent_kafka import Producer, TopicPartition
from typer.testing import CliRunner

from driftloop.common.contract import load_contract
from driftloop.common.envelope import Envelope, encode_event
from driftloop.common.events import PredictionMade, type_name
from driftloop.common.kafka.consumer import ConsumerLoop
from driftloop.common.kafka.reader import bounds, read_ranges
from driftloop.common.settings import Secret
from driftloop.common.topics import PREDICTIONS, partition_for
from driftloop.drift_monitor.cli import app
from driftloop.drift_monitor.domain.fold.base import State
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
            kafka_bootstrap_servers=house.stack.bootstrap_servers,
            database_url=Secret(house.database_url("drift_monitor")),
            contracts=(path,),
            trusted_keys=house.trusted_keys,
            namespace=house.namespace.prefix,
            keep_days=100_000,
        )
        self._service = build(self._settings)
        self._running = Running(self._worker(ConsumerLoop))
        self._next = dict.fromkeys(range(PREDICTIONS.partitions), 0)

    def close(self) -> None:
        self._running.end()
        for closer in self._service.closers:
            closer()

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

    def records(self, made: Sequence[PredictionMade]) -> list[Raw]:
        """Predictions as one predictor would send them, each partition's numbered densely."""
        found: list[Raw] = []
        for one in made:
            partition = partition_for(one.prediction_id, PREDICTIONS.partitions)
            number, self._next[partition] = self._next[partition], self._next[partition] + 1
            envelope = Envelope(one.prediction_id, "predictor/1", type_name(type(one)), one.predicted_at, number)
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
            "KAFKA_BOOTSTRAP_SERVERS": self._settings.kafka_bootstrap_servers,
            "DATABASE_URL": self._settings.database_url.value,
            "DRIFTLOOP_CONTRACTS": str(self._settings.contracts[0]),
            "DRIFTLOOP_NAMESPACE": self._settings.namespace,
        }
        result = CliRunner().invoke(app, ["replay", "--json", *arguments], env=environment)
        assert result.stdout, result.output
        return result.exit_code, json.loads(result.stdout)


@pytest.fixture
def watched(house: House) -> Iterator[Watched]:
    watched = Watched(house)
    yield watched
    watched.close()


@pytest.fixture
def three(watched: Watched) -> Watched:
    """A monitor that has closed three windows."""
    watched.serve()
    watched.produce(watched.records([one for second in range(3) for one in watched.made(second)]))
    watched.judge()
    return watched


def outcomes(document: dict[str, Any]) -> list[str]:
    return [one["outcome"] for one in document["windows"]]


def abort_transaction(watched: Watched, records: Sequence[Raw]) -> None:
    """Records that are in the log and never hold, and the marker that says so."""
    servers = watched.house.stack.bootstrap_servers
    producer = Producer({"bootstrap.servers": servers, "transactional.id": watched.topic})
    producer.init_transactions(15)
    producer.begin_transaction()
    for value, key, headers, partition in records:
        producer.produce(watched.topic, value, key, headers=list(headers), partition=partition or 0)
    producer.abort_transaction(15)


def test_windows_are_the_same_bit_for_bit_whatever_else_was_in_the_log(watched: Watched) -> None:
    watched.produce(watched.records([*watched.made(0), *watched.made(1, WINDOW // 2)]))
    in_vain = watched.records(watched.made(1, 30))
    watched.produce(in_vain)
    watched.expire(in_vain)
    watched.serve()
    watched.judge()
    abort_transaction(watched, watched.records(watched.made(1, 6)))
    again = watched.records(watched.made(2))
    others = [
        *watched.made(2, 20, variant="canary", model_version=3),
        *watched.made(2, 20, model_version=2),
        *watched.made(2, 20, model_name="another"),
    ]
    watched.produce([*again, (b"garbage", "g", (), 3), *in_vain, *watched.records(others), *again])
    late = [*watched.made(0, 10), *watched.made(1, 10)]
    watched.produce(watched.records([*late, *reversed(watched.made(3))]))
    watched.judge()
    watched.produce(watched.records(watched.made(3, 10)))
    status, document = watched.replay()
    assert (status, document["outcomes"]) == (0, {"equal": 3})
    assert [one["n"] for one in document["windows"]] == [WINDOW, WINDOW // 2 + 10 + WINDOW, WINDOW]


def test_a_changed_count_is_found_and_named(three: Watched) -> None:
    ((data,),) = three.rows("SELECT state FROM windows WHERE number = 2")
    state = State.from_bytes(data)
    counts = state.counts.copy()
    cell = int(np.flatnonzero(counts)[0])
    counts[cell] += 1
    three.change("UPDATE windows SET state = %s WHERE number = 2", replace(state, counts=counts).to_bytes())
    status, document = three.replay()
    assert (status, outcomes(document)) == (1, ["equal", "different", "equal"])
    assert document["windows"][1]["difference"] == {
        "what": "cells:income", "cell": cell, "stored": int(counts[cell]), "replayed": int(counts[cell]) - 1,
    }  # fmt: skip


def test_damaged_counts_are_a_difference_of_their_window_alone(three: Watched) -> None:
    three.change("UPDATE windows SET state = %s WHERE number = 2", b"damaged")
    status, document = three.replay()
    assert (status, outcomes(document)) == (1, ["equal", "different", "equal"])
    assert document["windows"][1]["difference"]["what"] == "the stored counts"


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        ("{features,0,psi}", "0.5", "features[income].psi"),
        ("{features,1,severity}", '"CRITICAL"', "features[employment].severity"),
    ],
)
def test_a_changed_figure_is_found_and_named(three: Watched, path: str, value: str, what: str) -> None:
    three.change("UPDATE windows SET result = jsonb_set(result, %s, %s) WHERE number = 3", path, value)
    status, document = three.replay()
    assert (status, outcomes(document)) == (1, ["equal", "equal", "different"])
    assert document["windows"][2]["difference"]["what"] == what


def test_a_window_whose_records_were_deleted_is_not_reproducible_and_the_others_are(three: Watched) -> None:
    ((bounds_,),) = three.rows("SELECT offsets FROM windows WHERE number = 1")
    first = bounds_["0"][0]
    three.house.admin.delete_records([TopicPartition(three.topic, 0, first + 1)])
    wait_until(lambda: three.bounds()[0][0] > first, "the record is deleted")
    status, document = three.replay()
    assert (status, outcomes(document)) == (3, ["not reproducible", "equal", "equal"])
    assert document["windows"][0]["reason"] == (
        f"partition 0 begins at offset {first + 1} by now, the window at {first}: beyond retention"
    )


def test_a_topic_that_was_made_anew_is_not_what_was_counted(three: Watched) -> None:
    three.change("UPDATE windows SET topic_id = 'another' WHERE number < 3")
    status, document = three.replay()
    assert (status, outcomes(document)) == (3, ["not reproducible", "not reproducible", "equal"])


def test_a_part_of_the_windows_is_replayed_without_those_before(three: Watched) -> None:
    # From the second one on: what alarms were before is not known then.
    three.change("UPDATE windows SET result = jsonb_set(result, '{features,1,severity}', '\"CRITICAL\"')")
    status, document = three.replay("--from", "2026-03-01T13:00:01+01:00", "--to", "2026-03-01T12:00:02Z")
    assert (status, [one["number"] for one in document["windows"]]) == (0, [2])


def test_ranges_end_where_they_are_told_to_and_at_markers(watched: Watched) -> None:
    watched.produce([(b"garbage", "g", (), 0)] * 3)
    abort_transaction(watched, [(b"never", None, (), 0)] * 2)
    servers = watched.house.stack.bootstrap_servers
    for end in (2, 6):
        found = [one.offset for some in read_ranges(servers, "tests", watched.topic, {0: (1, end)}) for one in some]
        assert found == list(range(1, min(end, 3)))
