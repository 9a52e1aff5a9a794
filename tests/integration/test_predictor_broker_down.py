"""The broker goes away and comes back, and predictors with it: every answer of theirs is in the log in the end."""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from driftloop import devstack
from driftloop.common.events import PredictionMade
from driftloop.common.kafka.config import DELIVERY_TIMEOUT_MS
from driftloop.common.topics import PREDICTIONS, Namespace
from driftloop.devstack.processes import ServiceProcess
from tests.support.artifacts import small_bundle
from tests.support.bad_bodies import ROW
from tests.support.house import House
from tests.support.own_stack import OWN_SERVERS
from tests.support.predictors import DIABETES, Asked, asking, metric, predictor, worker_processes
from tests.support.waiting import wait_until

# From the first answer to the broker's return: longer than workers that start together let requests wait.
OUTAGE_SECONDS = 13.0

pytestmark = [
    OWN_SERVERS,
    pytest.mark.xdist_group("predictor-broker-down"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("stack")
    yield folder
    devstack.stop(folder, purge=True)


@pytest.fixture
def own_house(folder: Path, tmp_path: Path) -> Iterator[House]:
    """A house whose broker may be killed; its folder is purged after the last test."""
    found = devstack.start(folder, fsync=False)
    if found.kind != "local":
        pytest.skip("the broker runs in a container here")
    house = House(found, Namespace(f"t{uuid.uuid4().hex[:12]}"), tmp_path)
    house.prepare()
    house.serve(1, house.register(small_bundle(DIABETES)), DIABETES.name, 1)
    yield house
    house.end()


def logged_ids(house: House) -> list[str]:
    events = [event for _envelope, event in house.events(PREDICTIONS)]
    return [event.prediction_id for event in events if isinstance(event, PredictionMade)]


def notes(process: ServiceProcess) -> dict[str, str]:
    """What a ready predictor has to say of itself: also of each worker that takes no requests yet."""
    said = httpx.get(f"http://127.0.0.1:{process.management_port}/readyz").json()
    found: dict[str, str] = said.get("notes", {})
    return found


def all_there(house: House, asked: Asked) -> bool:
    return asked.ids() <= set(logged_ids(house))


@contextmanager
def asking_until_without_a_broker(url: str, folder: Path, answers: int) -> Iterator[Asked]:
    """Clients that ask without a pause; the block begins when the broker is gone and so many were answered since."""
    with asking([url]) as asked:
        wait_until(lambda: len(asked.all) > 50, "answers")
        devstack.kill_kafka(folder)
        so_far = len(asked.all)
        wait_until(lambda: len(asked.all) > so_far + answers, "answers without a broker")
        yield asked


def test_without_a_broker_clients_are_answered_and_with_it_again_all_is_in_the_log(
    own_house: House, folder: Path
) -> None:
    process, url = predictor(own_house)
    process.wait_ready()
    with asking_until_without_a_broker(url, folder, 300) as asked:
        assert "inferences wait in the spool for the broker" in notes(process)["spool"]
        devstack.restart_kafka(folder)
        so_far = len(asked.all)
        wait_until(lambda: len(asked.all) > so_far + 100, "answers with a broker")
    assert asked.broken == []
    assert {answer.status_code for answer in asked.all} == {200}
    assert max(answer.elapsed.total_seconds() for answer in asked.all) < DELIVERY_TIMEOUT_MS / 1000
    wait_until(lambda: all_there(own_house, asked), "every answer in the log")
    wait_until(lambda: metric(process, "driftloop_spool_records") == 0, "an empty spool")
    assert metric(process, "driftloop_inferences_replayed_total") > 300


def test_killed_without_a_broker_its_successor_brings_what_it_answered_into_the_log(
    own_house: House, folder: Path
) -> None:
    process, url = predictor(own_house)
    process.wait_ready()
    with asking_until_without_a_broker(url, folder, 100) as asked:
        process.kill()
        wait_until(lambda: asked.broken, "a broken request")
    assert {answer.status_code for answer in asked.all} == {200}
    devstack.restart_kafka(folder)
    process.start()
    process.wait_ready()
    wait_until(lambda: all_there(own_house, asked), "every answer in the log")


@pytest.mark.slow("the broker is away for longer than workers that start together let requests wait")
def test_of_what_workers_answered_while_one_was_killed_without_a_broker_each_is_in_the_log_once(
    own_house: House, folder: Path
) -> None:
    process, url = predictor(own_house, WORKERS="2")
    process.wait_ready()
    # One is enough for that; the other one cannot learn its model without a broker either.
    wait_until(lambda: not notes(process), "the second worker")
    began = time.monotonic()
    with asking_until_without_a_broker(url, folder, 200) as asked:
        worker_processes(process)[0].kill()
        wait_until(lambda: metric(process, "driftloop_worker_restarts_total") == 1, "its successor")
        wait_until(lambda: time.monotonic() - began > OUTAGE_SECONDS, "the end of the outage", 2 * OUTAGE_SECONDS)
        answers = {httpx.post(f"{url}/v1/predict", json=ROW, timeout=10).status_code for _ in range(20)}
        assert (answers, process.problem()) == ({200}, None)
        devstack.restart_kafka(folder)
        so_far = len(asked.all)
        wait_until(lambda: len(asked.all) > so_far + 200, "answers with a broker")
    # The successor, which cannot learn its model without a broker, leaves all requests to the other one.
    assert {answer.status_code for answer in asked.all} == {200}
    wait_until(lambda: all_there(own_house, asked), "every answer in the log")
    wait_until(lambda: metric(process, "driftloop_spool_records") == 0, "empty spools")
    # What was sent again has the number that it had: consumers count it once.
    numbers: dict[str, set[tuple[bytes, bytes]]] = {}
    for record in own_house.records(PREDICTIONS):
        id_ = record.headers["ce_id"].decode()
        numbers.setdefault(id_, set()).add((record.headers["ce_source"], record.headers["ce_sequence"]))
    assert {id_: found for id_, found in numbers.items() if len(found) > 1} == {}


def test_stopped_without_a_broker_it_answers_what_it_has_taken_and_ends_soon(own_house: House, folder: Path) -> None:
    process, url = predictor(own_house)
    process.wait_ready()
    with asking_until_without_a_broker(url, folder, 50) as asked:
        assert process.terminate() == 0
    assert {answer.status_code for answer in asked.all} == {200}
    devstack.restart_kafka(folder)
    process.start()
    process.wait_ready()
    wait_until(lambda: all_there(own_house, asked), "every answer in the log")


def test_without_a_broker_and_with_a_full_spool_clients_are_told_so(own_house: House, folder: Path) -> None:
    process, url = predictor(own_house, SPOOL_MAX_BYTES=str(1024 * 1024))
    process.wait_ready()
    devstack.kill_kafka(folder)
    with asking([url]) as asked:
        wait_until(lambda: len(asked.of_status(503)) >= 8, "refusals")
        # While nobody asks, it would soon be ready to try again.
        wait_until(lambda: metric(process, "driftloop_ready") == 0, "what its metrics say")
    refusals = asked.of_status(503)
    assert {answer.headers.get("retry-after") for answer in refusals} == {"1"}
    assert "the spool is full" in refusals[-1].json()["detail"]
    assert "the spool is full" in (process.problem() or "")
    assert metric(process, "driftloop_inferences_rejected_total") >= len(refusals)
    assert metric(process, "driftloop_spool_capacity_bytes") == 1024 * 1024
    devstack.restart_kafka(folder)
    wait_until(lambda: httpx.post(f"{url}/v1/predict", json=ROW).status_code == 200, "an answer")
    wait_until(lambda: all_there(own_house, asked), "every answer in the log")
    wait_until(lambda: process.problem() is None, "that it is ready")


def test_started_before_the_broker_it_waits_and_then_serves(own_house: House, folder: Path) -> None:
    devstack.kill_kafka(folder)
    process, url = predictor(own_house)

    def waits() -> bool:
        return "the brokers at" in (process.problem() or "")

    wait_until(waits, "the reason why it is not ready")
    assert httpx.post(f"{url}/predict", json=ROW, timeout=5).status_code == 503
    devstack.restart_kafka(folder)
    process.wait_ready()
    assert httpx.post(f"{url}/predict", json=ROW, timeout=10).status_code == 200
