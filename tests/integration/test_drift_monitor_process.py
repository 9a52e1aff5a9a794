"""The drift monitor as its users run it: real processes, killed and started again, sharing the partitions."""

from datetime import timedelta

import httpx
import msgspec
import numpy as np
import yaml

from driftloop.common.contract import load_contract
from driftloop.common.events import DriftDetected
from driftloop.common.topics import DRIFT_EVENTS, LABELED_PREDICTIONS, PREDICTIONS
from driftloop.devstack.processes import ServiceProcess
from tests.support.artifacts import small_bundle
from tests.support.house import House
from tests.support.paths import MODELS
from tests.support.predictions import START, labeled, prediction, profile_of, rows_like
from tests.support.waiting import wait_until

ROWS = 2_000


def contract_with_quick_panes(house: House) -> str:
    """The loan contract with panes of a second, in the test's folder."""
    source = MODELS / "loan"
    document = yaml.safe_load((source / "contract.yaml").read_text())
    document["drift"]["pane_seconds"] = 1
    (house.folder / "baseline.csv").write_bytes((source / "baseline.csv").read_bytes())
    path = house.folder / "contract.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


def start(house: House, name: str, contract: str) -> tuple[ServiceProcess, str]:
    process, url = house.process(
        name,
        "driftloop.drift_monitor.main",
        {"DATABASE_URL": house.database_url("drift_monitor"), "DRIFTLOOP_CONTRACTS": contract},
    )
    process.start()
    return process, url


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
        found: dict[str, object] = httpx.get(f"{url}/v1/report", timeout=10).raise_for_status().json()
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

    version = wait_until(all_counted, "every prediction and label counted", timeout=60)
    assert version["counted"] == ROWS
    assert version["performance"]["n"] == ROWS  # type: ignore[index]
    assert version["performance"]["accuracy"] == 0.5  # type: ignore[index]
    (_, event) = house.wait_for_events(DRIFT_EVENTS, 1)[0]
    assert isinstance(event, DriftDetected)
    assert (event.change, event.severity, event.model_version) == ("opened", "CRITICAL", 1)
    assert second.terminate() == 0
    assert first.terminate() == 0
