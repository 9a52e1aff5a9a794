"""The spool of a predictor that is gone is brought into the log by a command, and nothing of it is lost or changed."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from driftloop.common.envelope import Outgoing
from driftloop.common.kafka.config import producer_config
from driftloop.common.kafka.producer import DeliveryProducer
from driftloop.common.kafka.publisher import Publisher
from driftloop.common.kafka.reader import bounds
from driftloop.common.topics import PREDICTIONS
from driftloop.devstack.ports import free_port
from driftloop.predictor.spool import Spool, SpooledRecord
from tests.support.house import House
from tests.support.predictions import prediction
from tests.support.predictors import DIABETES
from tests.support.waiting import wait_until

SOURCE = "predictor/tests/gone"
COMMAND = [sys.executable, "-m", "driftloop.predictor.emptying"]
Process = subprocess.Popen[str]


class Volume:
    """The volume of a predictor that was scaled away, with the command that empties it."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.root = house.folder / "spool"
        self.processes: list[Process] = []
        self._producer = DeliveryProducer(producer_config(house.stack.bootstrap_servers, "tests"))
        self._publisher = Publisher(self._producer, house.namespace, SOURCE)

    def fill(self, worker: int, count: int) -> Spool:
        """A worker's spool with so many inferences in it, still open."""
        made = [prediction(DIABETES, {}, prediction_id=f"{worker}-{number}") for number in range(count)]
        events = [
            Outgoing(PREDICTIONS.name, one.prediction_id, one, one.prediction_id, one.predicted_at) for one in made
        ]
        records = [SpooledRecord(*one, spooled_at=time.time()) for one in self._publisher.stamp(events)]
        spool = Spool.open(self.root / f"worker-{worker}", 64 * 2**20)
        for start in range(0, count, 1000):
            spool.append(records[start : start + 1000])
        return spool

    def start(self, **changed: str) -> Process:
        """The command in a process of its own."""
        own = {
            "KAFKA_BOOTSTRAP_SERVERS": self.house.stack.bootstrap_servers,
            "DRIFTLOOP_SPOOL": str(self.root),
        }
        process = subprocess.Popen(
            COMMAND, env=os.environ | own | changed, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.processes.append(process)
        return process

    def run(self, **changed: str) -> tuple[int, str, str]:
        """How the command ends, and what it says."""
        process = self.start(**changed)
        said, complained = process.communicate(timeout=120)
        return process.returncode, said, complained

    def logged(self) -> list[tuple[int, bytes, bytes]]:
        """Partition, sequence and id of what is in the log; all of it is the predictor's that is gone."""
        records = self.house.records(PREDICTIONS)
        assert {record.headers["ce_source"].decode() for record in records} <= {SOURCE}
        return [(record.partition, record.headers["ce_sequence"], record.headers["ce_id"]) for record in records]

    def segments(self) -> list[Path]:
        """What is left on the volume."""
        return list(self.root.glob("worker-*/*.spool"))

    def in_the_log(self) -> int:
        """How many predictions the log holds, without reading them."""
        topic = self.house.namespace.topic(PREDICTIONS)
        return sum(high - low for low, high in bounds(self.house.stack.bootstrap_servers, "tests", topic).values())

    def close(self) -> None:
        """End what still runs."""
        for process in self.processes:
            process.kill()
            process.communicate()
        self._producer.close(1)


@pytest.fixture
def volume(house: House) -> Iterator[Volume]:
    """A volume with nothing on it."""
    volume = Volume(house)
    volume.root.mkdir()
    yield volume
    volume.close()


def test_every_workers_spool_is_brought_into_the_log_and_deleted(volume: Volume) -> None:
    for worker, count in ((0, 30), (2, 12)):
        volume.fill(worker, count).close()
    status, said, complained = volume.run()
    assert (status, complained) == (0, "")
    assert "30 inferences are in the log, 0 are left" in said
    assert "12 inferences are in the log, 0 are left" in said
    assert {id_.decode() for _partition, _sequence, id_ in volume.logged()} == {
        *(f"0-{number}" for number in range(30)), *(f"2-{number}" for number in range(12)),
    }  # fmt: skip
    assert volume.segments() == []
    assert volume.run()[:2] == (0, f"{volume.root}: nothing is left in it\n")
    assert len(volume.logged()) == 42


def test_killed_in_the_middle_and_run_again_it_loses_nothing_and_repeats_what_is_known(volume: Volume) -> None:
    volume.fill(0, 20_000).close()
    process = volume.start()
    wait_until(lambda: volume.in_the_log() > 500, "some are in the log", pause=0.0)
    process.kill()
    process.wait()
    assert volume.segments()
    assert volume.run()[0] == 0
    logged = volume.logged()
    assert len({id_ for _partition, _sequence, id_ in logged}) == 20_000
    # What came twice has the number that it had: a source's number in a partition is one event.
    assert len(set(logged)) == 20_000
    assert volume.segments() == []


def test_a_living_predictors_spool_is_left_alone_and_the_others_are_emptied(volume: Volume) -> None:
    volume.fill(0, 3).close()
    living = volume.fill(1, 5)
    status, said, complained = volume.run()
    assert status == 1
    assert "worker-0: 3 inferences are in the log" in said
    assert "worker-1 belongs to another live process" in complained
    assert (len(volume.logged()), living.records) == (3, 5)
    living.close()
    assert volume.run()[0] == 0
    assert len(volume.logged()) == 8


def test_without_a_broker_it_says_so_and_all_is_kept(volume: Volume) -> None:
    volume.fill(0, 3).close()
    status, _said, complained = volume.run(KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{free_port()}")
    assert status == 1
    assert "Connection refused" in complained
    assert volume.segments()
    assert volume.run()[0] == 0
    assert len(volume.logged()) == 3


def test_a_damaged_place_is_told_and_all_else_is_in_the_log(volume: Volume) -> None:
    volume.fill(0, 10).close()
    (segment,) = volume.segments()
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 0xFF
    segment.write_bytes(data)
    status, _said, complained = volume.run()
    assert status == 1
    assert "1 damaged places were left out" in complained
    assert len(volume.logged()) == 9
    assert list(volume.root.glob("worker-0/*.damaged"))


def test_a_folder_that_is_not_there_is_a_mistake_and_no_success(volume: Volume) -> None:
    status, _said, complained = volume.run(DRIFTLOOP_SPOOL=str(volume.root / "elsewhere"))
    assert status == 1
    assert "is no folder" in complained
