"""The broker goes away and comes back: 503 in time, no restart, an orderly end."""

import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from driftloop import devstack
from driftloop.common.events import PredictionMade
from driftloop.common.topics import PREDICTIONS, Namespace
from tests.support.artifacts import small_bundle
from tests.support.bad_bodies import ROW
from tests.support.house import House
from tests.support.predictors import DIABETES, asking, predictor
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(
        "KAFKA_BOOTSTRAP_SERVERS" in os.environ or "DATABASE_URL" in os.environ,
        reason="a broker from the environment is not this test's to kill",
    ),
    pytest.mark.xdist_group("predictor-broker-down"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("stack")
    yield folder
    devstack.stop(folder, purge=True)


@pytest.fixture
def own_house(folder: Path, tmp_path: Path) -> House:
    """A house whose broker may be killed; its folder is purged after the last test."""
    found = devstack.start(folder, fsync=False)
    if found.kind != "local":
        pytest.skip("the broker runs in a container here")
    house = House(found, Namespace(f"t{uuid.uuid4().hex[:12]}"), tmp_path)
    house.prepare()
    house.serve(1, house.register(small_bundle(DIABETES)), DIABETES.name, 1)
    return house


def logged_ids(house: House) -> list[str]:
    events = [event for _envelope, event in house.events(PREDICTIONS)]
    return [event.prediction_id for event in events if isinstance(event, PredictionMade)]


def test_without_a_broker_the_client_is_told_in_time_and_with_it_again_all_is_well(
    own_house: House, folder: Path
) -> None:
    process, url = predictor(own_house)
    process.wait_ready()
    with asking([url]) as asked:
        wait_until(lambda: len(asked.all) > 50, "answers")
        devstack.kill_kafka(folder)
        wait_until(lambda: len(asked.of_status(503)) >= 8, "refusals", 15)
        devstack.restart_kafka(folder)
        so_far = len(asked.of_status(200))
        wait_until(lambda: len(asked.of_status(200)) > so_far + 50, "answers again", 20)
    assert asked.broken == []
    assert {answer.status_code for answer in asked.all} == {200, 503}
    assert {answer.headers.get("retry-after") for answer in asked.of_status(503)} == {"1"}
    assert max(answer.elapsed.total_seconds() for answer in asked.all) < 5
    assert process.problem() is None
    ids = logged_ids(own_house)
    assert asked.ids() <= set(ids)
    assert len(set(ids)) == len(ids)
    process.kill()


def test_without_a_broker_few_requests_wait_and_it_ends_well_and_soon(own_house: House, folder: Path) -> None:
    process, url = predictor(own_house, MAX_IN_FLIGHT="3")
    process.wait_ready()
    devstack.kill_kafka(folder)
    with asking([url]) as asked:
        began = time.monotonic()
        assert process.terminate(timeout=15) == 0
        took = time.monotonic() - began
    assert took < 12
    details = [answer.json()["detail"] for answer in asked.all if answer.elapsed.total_seconds() < 1]
    assert "3 requests wait for the log already: try again later" in details


def test_started_before_the_broker_it_waits_and_then_serves(own_house: House, folder: Path) -> None:
    devstack.kill_kafka(folder)
    process, url = predictor(own_house)

    def waits() -> bool:
        return "no broker answers" in (process.problem() or "")

    wait_until(waits, "the reason why it is not ready", 15)
    assert httpx.post(f"{url}/predict", json=ROW, timeout=5).status_code == 503
    devstack.restart_kafka(folder)
    process.wait_ready(20)
    assert httpx.post(f"{url}/predict", json=ROW, timeout=10).status_code == 200
    process.kill()
