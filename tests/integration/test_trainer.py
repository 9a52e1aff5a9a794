"""The trainer on a real database and broker: requests, first versions and serving states."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import httpx
import msgspec
import pytest

from driftloop.common.events import DriftDetected, ModelStatus, ModelUpdated
from driftloop.common.postgres.pool import Pool
from driftloop.common.topics import DRIFT_EVENTS, MODEL_UPDATES
from driftloop.common.tracing import span
from driftloop.trainer import handlers
from driftloop.trainer.first import FirstVersion, train_first
from driftloop.trainer.request_store import RequestStore
from driftloop.trainer.serving import highest_published, revision_of
from driftloop.trainer.store import Store
from tests.support.asgi import ask
from tests.support.collector import recording
from tests.support.house import House
from tests.support.paths import MODELS
from tests.support.predictions import START
from tests.support.trainers import BASELINE, CONTRACT, LOAN, NAME, Trainer, alarm
from tests.support.waiting import wait_until

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def first(house: House, pool: Pool, published: int = 0) -> FirstVersion:
    artifacts = Trainer(house, pool).artifacts
    return train_first(pool, CONTRACT, BASELINE, artifacts, lambda _m: published, lambda: START, lambda _t: None)


@pytest.fixture
def pool(house: House) -> Pool:
    assert house.signing_key.key_id  # made before several threads ask for it
    return house.pool("trainer", max_size=6)


def drift(pool: Pool, event: DriftDetected, event_id: str = "drift:1", traceparent: str | None = None) -> None:
    with pool.connection() as connection:
        handlers.on_drift(connection, lambda: START, event_id, event, traceparent)


def requests(pool: Pool) -> list[dict[str, object]]:
    with pool.connection() as connection:
        found: list[dict[str, object]] = Store(connection).overview(NAME)["requests"]
        return found


# --- version 1


def test_the_first_version_is_registered_and_made_champion_with_its_event(house: House, pool: Pool) -> None:
    made = first(house, pool)
    assert (made.model.champion, made.model.revision) == (1, 1)
    with pool.connection() as connection:
        (value,) = connection.execute("SELECT value FROM outbox").fetchone() or (b"",)
    state = msgspec.json.decode(value, type=ModelUpdated)
    bundle = Trainer(house, pool).artifacts.fetch(state.served(1).artifact, NAME, 1)
    assert bundle.profile.rows == len(LOAN.labels)
    assert state.champion == 1


def test_trainers_that_start_at_once_make_one_first_version(house: House, pool: Pool) -> None:
    with ThreadPoolExecutor(3) as executor:
        results = list(executor.map(lambda _: first(house, pool), range(3)))
    assert sum(one.card is not None for one in results) == 1
    with pool.connection() as connection:
        assert connection.execute("SELECT count(*) FROM outbox").fetchone() == (1,)


def test_a_restored_database_goes_on_above_what_the_topic_holds(house: House, pool: Pool) -> None:
    assert first(house, pool, published=41).model.revision == 42


def test_the_highest_revision_in_the_topic_is_that_of_the_model_asked_for(house: House) -> None:
    for key in (f"{NAME}/7", f"{NAME}/12", "other/99", f"{NAME}/x", NAME, f"{NAME}/-3"):
        house.produce(MODEL_UPDATES, b"{}", key)
    highest = highest_published(house.stack.bootstrap_servers, house.namespace, "tests")
    assert (highest(NAME), highest("other"), highest("nobody")) == (12, 99, 0)


@pytest.mark.parametrize("key", [None, b"", b"loan/", b"loan/1234567890123", b"\xff/1"])
def test_a_key_that_is_none_of_ours_has_no_revision(key: bytes | None) -> None:
    assert revision_of("loan", key) == 0


# --- requests


def test_a_critical_alarm_of_the_champion_opens_one_request_however_often_it_comes(house: House, pool: Pool) -> None:
    first(house, pool)
    drift(pool, alarm())
    drift(pool, alarm())
    drift(pool, alarm(), "drift:2")
    (request,) = requests(pool)
    assert (request["state"], request["changed_since"]) == ("awaiting-labels", START)


def test_alarms_that_are_not_critical_or_of_another_version_open_none(house: House, pool: Pool) -> None:
    first(house, pool)
    drift(pool, alarm(severity="WARNING"))
    drift(pool, alarm(version=7))
    assert requests(pool) == []


def test_a_cleared_alarm_takes_the_request_back(house: House, pool: Pool) -> None:
    first(house, pool)
    drift(pool, alarm())
    drift(pool, alarm(change="cleared", verdict="GOOD"), "drift:2")
    (request,) = requests(pool)
    assert request["state"] == "withdrawn"


def test_the_trace_of_an_alarm_is_kept_for_its_retraining(house: House, pool: Pool) -> None:
    first(house, pool)
    drift(pool, alarm(), traceparent=TRACE)
    with pool.connection() as connection:
        request = RequestStore(connection).current(NAME)
    assert request is not None
    assert request.traceparent == TRACE


def test_a_promotion_is_published_in_the_trace_of_what_led_to_it(house: House, pool: Pool) -> None:
    with recording() as spans, span("retrain", "internal", TRACE, {}):
        first(house, pool)
    created, retraining = spans.get_finished_spans()
    assert created.name == "create model-updates"
    assert created.parent is not None
    assert retraining.context is not None
    assert created.parent.span_id == retraining.context.span_id
    with pool.connection() as connection:
        (published,) = connection.execute("SELECT traceparent FROM outbox").fetchall()
    assert published[0][:36] == TRACE[:36]


# --- replicas and the API


def test_an_older_report_of_a_replica_never_replaces_a_newer_one(house: House, pool: Pool) -> None:
    def status(revision: int, minutes: int) -> ModelStatus:
        time = START + timedelta(minutes=minutes)
        return ModelStatus(
            model_name=NAME, replica="p-1", revision=revision, model_version=revision, since=time, reported_at=time
        )

    with pool.connection() as connection:
        handlers.on_status(Store(connection), [status(2, 5), status(1, 3)])
    response = ask(Trainer(house, pool).api, "GET", f"/v1/models/{NAME}")
    assert [one["revision"] for one in response.json()["replicas"]] == [2]


def test_the_api_shows_the_card_and_names_what_it_does_not_have(house: House, pool: Pool) -> None:
    first(house, pool)
    app = Trainer(house, pool).api
    card = ask(app, "GET", f"/v1/models/{NAME}/versions/1").json()
    assert card["metrics"]["baseline_holdout"]["rows"] == CONTRACT.baseline.holdout_rows
    assert ask(app, "GET", f"/v1/models/{NAME}/versions/2").status_code == 404
    assert "['loan']" in ask(app, "GET", "/v1/models/nobody").json()["detail"]


# --- the process


def environment(house: House) -> dict[str, str]:
    assert house.signing_key.key_id
    return {
        "DATABASE_URL": house.database_url("trainer"),
        "DRIFTLOOP_CONTRACTS": str(MODELS / "loan" / "contract.yaml"),
        "DRIFTLOOP_SIGNING_KEY": str(house.folder / "keys" / "signing.pem"),
    }


def test_the_command_trains_the_first_version_once_and_publishes_it(house: House) -> None:
    for expected in ("loan: version 1, accuracy", "loan: version 1 serves already"):
        process, _ = house.process("train", "driftloop.trainer.cli", environment(house))
        process.argv.append("train")
        process.start()
        assert process.wait_or_kill(120) == 0, process.tail()
        assert expected in process.tail()
    ((envelope, state),) = house.events(MODEL_UPDATES)
    assert isinstance(state, ModelUpdated)
    assert (envelope.id, state.champion) == ("model-updated:loan/1", 1)


def test_the_service_takes_an_alarm_from_the_topic_and_waits_visibly(house: House, pool: Pool) -> None:
    first(house, pool)
    process, url = house.process("trainer", "driftloop.trainer.main", environment(house))
    process.start()
    process.wait_ready()
    house.publish(DRIFT_EVENTS, [(NAME, alarm())])

    def says_who_is_away() -> bool:
        requests = httpx.get(f"{url}/v1/models/{NAME}", timeout=30).json()["requests"]
        return bool(requests) and "label-ingest" in requests[0]["reason"]

    # There is no label-ingest here: what is away is waited for, and said.
    wait_until(says_who_is_away, "a request that says what it waits for")
    assert process.terminate() == 0
