"""The trainer's real process, killed at each state: a request ends in a true state, and is published once or never."""

import random
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import yaml

from driftloop.common.events import ModelUpdated
from driftloop.common.topics import DRIFT_EVENTS, LABELED_PREDICTIONS, MODEL_UPDATES
from driftloop.devstack.processes import ServiceProcess
from tests.integration.test_trainer_rollouts import heard
from tests.support.house import House
from tests.support.paths import MODELS
from tests.support.row_server import serving_rows
from tests.support.trainers import NAME, LabelIngest, Trainer, alarm
from tests.support.waiting import TIMEOUT_SECONDS, wait_until


@pytest.fixture
def label_ingest() -> Iterator[str]:
    """The address at which rows are to be had, from which a challenger learns a new law."""
    with serving_rows(LabelIngest(700, lambda row: float(row["income"] or 0) >= 500_000)) as address:
        yield address


def contract_of(folder: Path, **changes: object) -> Path:
    """The loan model's contract, changed, beside its baseline."""
    source = MODELS / "loan"
    document = yaml.safe_load((source / "contract.yaml").read_text(encoding="utf-8"))
    document["gates"] |= {"train_labels": 600, "gate_labels": 100, "reference_rows_min": 50, "accepted_loss": 1.0}
    document["estimator"]["parameters"]["n_estimators"] = 5
    document |= {"retraining": {"cooldown_seconds": 0}} | changes
    (folder / "baseline.csv").write_bytes((source / "baseline.csv").read_bytes())
    path = folder / "contract.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def process_of(house: House, contract: Path, label_ingest: str, name: str = "trainer") -> tuple[ServiceProcess, str]:
    assert house.signing_key.key_id
    return house.process(
        name,
        "driftloop.trainer.main",
        {
            "DATABASE_URL": house.database_url("trainer"),
            "DRIFTLOOP_CONTRACTS": str(contract),
            "DRIFTLOOP_SIGNING_KEY": str(house.folder / "keys" / "signing.pem"),
            "DRIFTLOOP_LABEL_INGEST_URL": label_ingest,
            "DRIFTLOOP_CHECK_SECONDS": "0.1",
        },
    )


def states(house: House) -> list[ModelUpdated]:
    """The serving states in the log, each once, by revision."""
    events = [event for _envelope, event in house.events(MODEL_UPDATES)]
    found = {event.revision: event for event in events if isinstance(event, ModelUpdated)}
    return [found[revision] for revision in sorted(found)]


@pytest.mark.slow(reason="a trainer starts in three seconds, trains in three, and is killed four times")
def test_a_trainer_that_is_killed_again_and_again_promotes_once(house: House, label_ingest: str) -> None:
    trainer = Trainer(house, house.pool("trainer"))
    trainer.first()
    process, _url = process_of(house, contract_of(house.folder), label_ingest)
    house.publish(DRIFT_EVENTS, [(NAME, alarm())])
    chance = random.Random(7)
    process.start()
    for state in ("awaiting-labels", "training", "training", "evaluated"):
        # It starts, and trains in another process that starts: more than anything else that is waited for.
        wait_until(partial(reached, trainer, state), f"the request is {state}", 2 * TIMEOUT_SECONDS)
        threading.Event().wait(chance.uniform(0, 0.3))  # where in it the kill falls is left to chance
        process.kill()
        process.start()
    wait_until(lambda: ended(trainer), "the request ends", 2 * TIMEOUT_SECONDS)
    wait_until(lambda: not trainer.rows("SELECT 1 FROM outbox"), "everything is published")
    process.wait_ready()
    assert process.terminate() == 0
    *followers, request = trainer.requests()
    seen = [one["state"] for one in request["history"]]
    # Killed in the middle of two trainings, it may not have been given a third try.
    assert seen[-1] in ("promoted", "rejected")
    assert seen.count("training") <= 2
    champions = [state.champion for state in states(house)]
    assert champions == ([1, request["challenger"]] if seen[-1] == "promoted" else [1])
    assert len(followers) == (0 if seen[-1] == "promoted" else 1)


def reached(trainer: Trainer, state: str) -> bool:
    """Whether the first request is in a state, or has ended."""
    first = trainer.requests()[-1:]
    return any(one["state"] == state or one["closed_at"] for one in first)


def ended(trainer: Trainer) -> bool:
    return any(one["closed_at"] for one in trainer.requests())


def test_a_roll_out_ends_by_labels_on_the_topic_and_every_state_is_in_the_log(house: House, label_ingest: str) -> None:
    trainer = Trainer(house, house.pool("trainer"))
    trainer.first()
    rollout = {"steps": [{"weight": 0, "min_labels": 10}, {"weight": 0.2}], "min_labels": 30}
    process, url = process_of(house, contract_of(house.folder, rollout=rollout), label_ingest)
    house.publish(DRIFT_EVENTS, [(NAME, alarm())])
    process.start()
    wait_until(lambda: reached(trainer, "canary"), "the roll-out begins", 2 * TIMEOUT_SECONDS)
    labels = [heard(n, winner=2, subject=f"{n:032x}", answered_by=1 + n % 2) for n in range(60)]
    house.publish(LABELED_PREDICTIONS, [(one.prediction_id, one) for one in labels], copies=2)
    wait_until(lambda: reached(trainer, "promoted"), "it is promoted")
    wait_until(lambda: len(states(house)) == 4, "each state is in the log")
    process.wait_ready()
    assert [(one.champion, one.shadow, one.canary is not None) for one in states(house)] == [
        (1, None, False), (1, 2, False), (1, None, True), (2, None, False),
    ]  # fmt: skip
    again = httpx.get(f"{url}/v1/models/{NAME}/versions/2/decision", timeout=30).json()
    assert (again["same"], again["decision"]["promoted"]) == (True, True)
    assert process.terminate() == 0
