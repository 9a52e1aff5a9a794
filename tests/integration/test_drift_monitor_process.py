"""The drift monitor as its users run it: real processes, killed and started again, sharing the partitions."""

from datetime import timedelta
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from driftloop.common.contract import load_contract
from driftloop.common.events import DriftDetected
from driftloop.common.topics import DRIFT_EVENTS, LABELED_PREDICTIONS, PREDICTIONS
from driftloop.devstack.processes import ServiceProcess
from tests.support.artifacts import small_bundle
from tests.support.house import House
from tests.support.monitors import contract_with_quick_panes, pane_rows, serving, start
from tests.support.predictions import START, labeled, prediction, profile_of, rows_like
from tests.support.waiting import wait_until

ROWS = 2_000


def exports(process: ServiceProcess) -> bool:
    """Whether a replica shows the verdict's gauges."""
    text = httpx.get(f"http://127.0.0.1:{process.management_port}/metrics", timeout=30).text
    return "driftloop_drift_verdict{" in text


@pytest.mark.slow("sessions of killed group members run out one after the other")
def test_three_replicas_of_which_two_are_killed_again_and_again_count_each_event_once(house: House) -> None:
    path, contract, rng = serving(house)
    replicas = [start(house, f"monitor-{number}", path) for number in range(3)]
    for process, _ in replicas:
        process.wait_ready()
    rounds, each = 4, 1_500
    step = timedelta(milliseconds=5)
    for turn in range(rounds):
        rows = rows_like(contract, rng, each)
        made = [
            prediction(contract, row, START + step * (turn * each + place), score=0.75)
            for place, row in enumerate(rows)
        ]
        house.publish(PREDICTIONS, [(one.prediction_id, one) for one in made], copies=2)
        victims = [replicas[turn % 3][0], replicas[(turn + 1) % 3][0]]
        for process in victims:
            process.kill()
        house.publish(LABELED_PREDICTIONS, [(one.prediction_id, labeled(one, 1)) for one in made], copies=2)
        for process in victims:
            process.start()
        for process in victims:
            process.wait_ready()
    url = replicas[0][1]

    def version() -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{url}/v1/report", timeout=30).raise_for_status().json()["versions"][0]
        return found

    def all_there() -> dict[str, Any] | None:
        found = version()
        return found if found["counted"] >= rounds * each and found["labelled"] >= rounds * each else None

    found = wait_until(all_there, "every prediction and label counted", timeout=180)
    assert (found["counted"], found["labelled"]) == (rounds * each, rounds * each)
    assert found["performance"]["accuracy"] == 1.0
    assert pane_rows(house) == {"predictions": rounds * each, "labels": rounds * each}


def test_one_replica_shows_the_verdict_and_another_does_when_it_dies(house: House) -> None:
    path, contract, rng = serving(house)
    replicas = [start(house, f"monitor-{number}", path)[0] for number in range(2)]
    for process in replicas:
        process.wait_ready()
    made = [
        prediction(contract, row, START + timedelta(milliseconds=place))
        for place, row in enumerate(rows_like(contract, rng, 300))
    ]
    house.publish(PREDICTIONS, [(one.prediction_id, one) for one in made])
    wait_until(lambda: any(exports(one) for one in replicas), "a replica that shows the verdict")
    leader, other = sorted(replicas, key=exports, reverse=True)
    assert not exports(other)
    leader.kill()
    wait_until(lambda: exports(other), "the other replica shows the verdict")
    leader.start()
    leader.wait_ready()
    assert not exports(leader)


def test_two_replicas_of_which_one_is_killed_count_each_event_once(house: House) -> None:
    path = contract_with_quick_panes(house)
    contract = load_contract(house.folder / "contract.yaml")
    rng = np.random.default_rng(3)
    reference = rows_like(contract, rng, 400)
    bundle = msgspec.structs.replace(
        small_bundle(contract), profile=profile_of(contract, reference, rng.random(400).round(6))
    )
    house.serve(1, house.register(bundle), contract.name, 1)
    first, _ = start(house, "monitor-1", path)
    second, url = start(house, "monitor-2", path)
    first.wait_ready()
    second.wait_ready()

    step = timedelta(milliseconds=5)
    rows = rows_like(contract, rng, ROWS // 2) + rows_like(contract, rng, ROWS // 2, shift=2)
    made = [prediction(contract, row, START + step * i, score=0.75) for i, row in enumerate(rows)]
    house.publish(PREDICTIONS, [(one.prediction_id, one) for one in made[: ROWS // 2]])
    first.kill()
    house.publish(PREDICTIONS, [(one.prediction_id, one) for one in made[ROWS // 2 :]])
    house.publish(LABELED_PREDICTIONS, [(one.prediction_id, labeled(one, i % 2)) for i, one in enumerate(made)])
    first.start()

    def report() -> dict[str, object]:
        found: dict[str, object] = httpx.get(f"{url}/v1/report", timeout=30).raise_for_status().json()
        return found

    def all_counted() -> dict[str, object] | None:
        found = report()
        performance = found["performance"]
        if not isinstance(performance, dict) or performance["n"] < ROWS:
            return None
        versions = found["versions"]
        assert isinstance(versions, list)
        # A killed replica's partitions are handed over when its session has ended.
        return versions[0] if versions[0]["counted"] >= ROWS else None

    version = wait_until(all_counted, "every prediction and label counted")
    assert version["counted"] == ROWS
    assert version["performance"]["n"] == ROWS  # type: ignore[index]
    assert version["performance"]["accuracy"] == 0.5  # type: ignore[index]
    (_, event) = house.wait_for_events(DRIFT_EVENTS, 1)[0]
    assert isinstance(event, DriftDetected)
    assert (event.change, event.severity, event.model_version) == ("opened", "CRITICAL", 1)
    # It may still be starting: the other one has done its work meanwhile.
    first.wait_ready()
    assert second.terminate() == 0
    assert first.terminate() == 0
