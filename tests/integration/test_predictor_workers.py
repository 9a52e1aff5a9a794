"""Several workers behind one port: each answers, one that dies is replaced unnoticed, and figures are of all."""

import os
import signal
import time
from importlib.metadata import version

import httpx
import psutil
import pytest

from driftloop.common.envelope import Outgoing
from driftloop.common.events import PredictionMade
from driftloop.common.kafka.config import producer_config
from driftloop.common.kafka.producer import DeliveryProducer
from driftloop.common.kafka.publisher import Publisher
from driftloop.common.topics import PREDICTIONS
from driftloop.devstack.processes import ServiceProcess
from driftloop.predictor.spool import Spool, SpooledRecord
from tests.support.artifacts import small_bundle
from tests.support.bad_bodies import ROW
from tests.support.house import House
from tests.support.predictions import prediction
from tests.support.predictors import DIABETES, asking, metric, predictor, statuses, worker_processes
from tests.support.waiting import wait_until

NAMES = {"predictor/0", "predictor/1"}


@pytest.fixture
def serving(house: House) -> tuple[ServiceProcess, str]:
    """Two ready workers that serve version 1."""
    serve(house, 1)
    process, url = predictor(house, WORKERS="2")
    process.wait_ready()
    wait_until(lambda: answering(url) == NAMES, "both workers")
    return process, url


def serve(house: House, version: int) -> None:
    house.serve(version, house.register(small_bundle(DIABETES, version)), DIABETES.name, version)


def answering(url: str) -> set[str]:
    """Who answers one of a few new connections."""
    with httpx.Client(limits=httpx.Limits(max_keepalive_connections=0)) as client:
        return {client.get(f"{url}/v1/model").json()["replica"] for _ in range(8)}


def logged_ids(house: House) -> list[str]:
    events = [event for _envelope, event in house.events(PREDICTIONS)]
    return [event.prediction_id for event in events if isinstance(event, PredictionMade)]


def test_every_worker_answers_and_the_figures_are_of_all(house: House, serving: tuple[ServiceProcess, str]) -> None:
    process, url = serving
    with asking([url]) as asked:
        wait_until(lambda: len(asked.all) > 300, "answers")
    assert asked.broken == []
    assert {answer.status_code for answer in asked.all} == {200}
    assert sorted(logged_ids(house)) == sorted(asked.ids())
    assert metric(process, "driftloop_predictions_total", result="ok") == len(asked.all)
    assert metric(process, "driftloop_prediction_seconds_count") == len(asked.all)
    # Not their sum: what a worker serves is no count.
    assert metric(process, "driftloop_model_version") == 1
    assert metric(process, "driftloop_build_info", version=version("driftloop-common")) == 1
    assert metric(process, "driftloop_ready") == 1
    assert metric(process, "driftloop_worker_up") == 2
    assert metric(process, "process_resident_memory_bytes", worker="worker-1") > 10_000_000


def test_a_new_model_reaches_every_worker(house: House, serving: tuple[ServiceProcess, str]) -> None:
    process, url = serving
    with asking([url]) as asked:
        serve(house, 2)
        wait_until(lambda: metric(process, "driftloop_model_version") == 2, "version 2 in both")
    assert {answer.status_code for answer in asked.all} == {200}
    # They say so in a thread of its own.
    wait_until(lambda: all(statuses(house, name)[-1].revision == 2 for name in NAMES), "a status of both")


def test_a_worker_that_is_killed_is_replaced_and_only_its_own_connections_break(
    house: House, serving: tuple[ServiceProcess, str]
) -> None:
    process, url = serving
    clients = 8
    with asking([url], clients) as asked:
        wait_until(lambda: len(asked.all) > 200, "answers")
        victim = worker_processes(process)[0]
        victim.kill()
        wait_until(lambda: metric(process, "driftloop_worker_restarts_total") == 1, "its successor")
        # Whoever comes meanwhile is answered by the other one.
        assert process.problem() is None
        wait_until(lambda: answering(url) == NAMES, "both workers")
    assert len(asked.broken) <= clients
    assert {answer.status_code for answer in asked.all} == {200}
    ids = logged_ids(house)
    assert asked.ids() <= set(ids)
    assert len(set(ids)) == len(ids)
    # What the dead one had counted stays counted.
    assert metric(process, "driftloop_predictions_total", result="ok") >= len(asked.all)


def test_workers_whose_parent_is_killed_end_and_make_room(house: House, serving: tuple[ServiceProcess, str]) -> None:
    process, url = serving
    left = worker_processes(process)
    process.kill()
    _gone, alive = psutil.wait_procs(left, timeout=60)
    assert alive == []
    process.start()
    process.wait_ready()
    assert httpx.post(f"{url}/v1/predict", json=ROW, timeout=10).status_code == 200


def test_a_worker_that_hangs_is_no_secret(serving: tuple[ServiceProcess, str]) -> None:
    process, _url = serving
    # A worker is given some time to start before it is judged.
    wait_until(lambda: time.time() - worker_processes(process)[1].create_time() > 11, "the end of its start")
    victim = worker_processes(process)[1]
    victim.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: "worker-1" in (process.problem() or ""), "the news")
        health = httpx.get(f"http://127.0.0.1:{process.management_port}/healthz", timeout=10)
        assert (health.status_code, list(health.json()["failing"])) == (503, ["worker-1"])
    finally:
        victim.send_signal(signal.SIGCONT)
    wait_until(lambda: process.problem() is None, "health")


def test_asked_to_stop_all_end_in_order(house: House, serving: tuple[ServiceProcess, str]) -> None:
    process, url = serving
    left = worker_processes(process)
    with asking([url]) as asked:
        wait_until(lambda: len(asked.all) > 100, "answers")
        assert process.terminate() == 0
    assert {answer.status_code for answer in asked.all} == {200}
    assert asked.ids() <= set(logged_ids(house))
    assert not any(one.is_running() for one in left)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_cuts_no_request_off(
    house: House, serving: tuple[ServiceProcess, str], number: signal.Signals
) -> None:
    process, url = serving
    assert process.pid is not None
    with asking([url]) as asked:
        wait_until(lambda: len(asked.all) > 100, "answers")
        os.killpg(process.pid, number)
        assert process.wait_or_kill() == 0
    assert {answer.status_code for answer in asked.all} == {200}
    assert asked.ids() <= set(logged_ids(house))
    assert "Traceback" not in process.log_path.read_text()


def test_workers_that_cannot_start_end_the_whole_and_say_why(house: House) -> None:
    with_spool = Spool.open(house.folder / "spool" / "predictor" / "worker-1", 2**20)
    try:
        process, _url = predictor(house, WORKERS="2")
        wait_until(lambda: process.returncode is not None, "its end")
    finally:
        with_spool.close()
    assert process.returncode == 1
    log = process.log_path.read_text()
    assert "worker 1: DRIFTLOOP_SPOOL=" in log
    assert "belongs to another live process" in log


def test_what_more_workers_have_left_is_brought_into_the_log_by_fewer(house: House) -> None:
    serve(house, 1)
    producer = DeliveryProducer(producer_config(house.stack.bootstrap_servers, "tests"))
    event = prediction(DIABETES, {}, prediction_id="left-behind")
    publisher = Publisher(producer, house.namespace, "predictor/tests/earlier")
    outgoing = Outgoing(PREDICTIONS.name, event.prediction_id, event, event.prediction_id, event.predicted_at)
    [stamped] = publisher.stamp([outgoing])
    producer.close(1)
    spool = Spool.open(house.folder / "spool" / "predictor" / "worker-3", 2**20)
    spool.append([SpooledRecord(*stamped, spooled_at=time.time())])
    spool.close()
    process, _url = predictor(house, WORKERS="2")
    process.wait_ready()
    wait_until(lambda: logged_ids(house) == ["left-behind"], "the inference that was left")
    wait_until(lambda: metric(process, "driftloop_spool_records", spool="worker-3") == 0, "an empty spool")
