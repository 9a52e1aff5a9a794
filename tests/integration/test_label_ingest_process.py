"""label-ingest as its users run it: real processes, both doors, garbage, and death in mid-stream."""

import threading
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import httpx
import msgspec
import pytest

from driftloop.common.access import Scope
from driftloop.common.access.issuing import create_key
from driftloop.common.envelope import decode_envelope, decode_event
from driftloop.common.events import OutcomeReported, PredictionLabeled, PredictionMade
from driftloop.common.topics import LABELED_PREDICTIONS, OUTCOMES, PREDICTIONS
from driftloop.devstack.processes import ServiceProcess
from driftloop.trainer.label_rows import fetch_rows
from tests.support.house import House
from tests.support.label_ingest import DIABETES, LOAN, made, outcome
from tests.support.paths import MODELS
from tests.support.waiting import wait_until

CONTRACTS = ",".join(str(MODELS / name / "contract.yaml") for name in ("loan", "diabetes"))


def start(house: House, name: str = "label-ingest", **settings: str) -> tuple[ServiceProcess, str]:
    environment = {"DATABASE_URL": house.database_url("label_ingest"), "DRIFTLOOP_CONTRACTS": CONTRACTS}
    changed = {f"DRIFTLOOP_{setting}": value for setting, value in settings.items()}
    process, url = house.process(name, "driftloop.label_ingest.main", environment | changed)
    process.start()
    return process, url


def predict(house: House, predictions: Sequence[PredictionMade]) -> None:
    house.publish(PREDICTIONS, [(one.prediction_id, one) for one in predictions])


def report(house: House, outcomes: Sequence[OutcomeReported]) -> None:
    """As a laboratory does that knows nothing of us: bare JSON, no headers, any key or none."""
    house.produce_all(
        OUTCOMES,
        [
            (msgspec.json.encode(one), "the same for all" if place % 2 else None, (), place % OUTCOMES.partitions)
            for place, one in enumerate(outcomes)
        ],
    )


def labels(house: House, count: int) -> list[PredictionLabeled]:
    """The first events on `labeled-predictions`, when there are so many."""
    events = [event for _envelope, event in house.wait_for_events(LABELED_PREDICTIONS, count)]
    return [event for event in events if isinstance(event, PredictionLabeled)]


def test_outcomes_join_by_either_door_and_in_any_order(house: House) -> None:
    process, url = start(house)
    process.wait_ready()
    report(house, [outcome(f"p-{number}", number % 2) for number in range(0, 20)])
    predict(house, [made(f"p-{number}", number) for number in range(60)])
    report(house, [outcome(f"p-{number}", number % 2) for number in range(20, 40)])
    body = [{"prediction_id": f"p-{number}", "label": number % 2} for number in range(40, 60)]
    answers = httpx.post(f"{url}/v1/outcomes", json=body, timeout=10).json()["results"]
    assert {one["status"] for one in answers} <= {"joined", "parked"}

    events = labels(house, 60)
    assert sorted((one.prediction_id, one.label, one.label_revision) for one in events) == sorted(
        (f"p-{number}", number % 2, 1) for number in range(60)
    )
    with httpx.Client(base_url=url) as client:
        rows = fetch_rows(client, LOAN, limit=100, labelled=True)
        counts = client.get("/v1/summary", params={"model": "loan"}).json()
        assert client.get("/v1/summary", params={"model": DIABETES.name}).json()["predictions"] == 0
    assert rows.ids.tolist() == [f"p-{number}" for number in reversed(range(60))]
    assert (counts["predictions"], counts["labeled"], counts["parked"]) == (60, 60, 0)
    assert process.terminate() == 0


def test_a_malformed_outcome_becomes_a_dead_letter_and_the_consumer_goes_on(house: House) -> None:
    start(house)
    bad = {
        b"not json": "value",
        b'{"prediction_id": "p", "label": 2}': "schema",
        b'{"prediction_id": "p"}': "handler",
        b'{"label": 1}': "handler",
        b'{"prediction_id": "p", "label": 1, "result_id": "\\u0000"}': "handler",
        b'{"prediction_id": "p", "label": 1, "observed_at": "1200-01-01T00:00:00Z"}': "handler",
        b"\xff": "value",
    }
    predict(house, [made("p"), made("q", features={"income": "\0"}), made("r")])
    house.produce_all(OUTCOMES, [(value, "the lab's key", (), 0) for value in bad])
    report(house, [outcome("p"), outcome("r")])
    house.produce(OUTCOMES, b'{"prediction_id": "late", "label": 1, "a field of tomorrow": 1}')
    assert {one.prediction_id for one in labels(house, 2)} == {"p", "r"}
    # What is in other partitions may be read later.
    wait_until(lambda: parked(house) == [("late",)], "the outcome that waits for its prediction")
    (prediction,) = wait_until(lambda: house.dead_letters(PREDICTIONS), "the dead letter of a prediction")
    assert prediction.key == b"q"

    letters = house.dead_letters(OUTCOMES)
    assert {one.value: one.headers["__connect.errors.stage"].decode() for one in letters} == bad
    assert {one.key for one in letters} == {b"the lab's key"}
    assert b"label" in letters[1].headers["__connect.errors.exception.message"]


def parked(house: House) -> list[tuple[str]]:
    """The predictions that are not there yet, but their outcomes are."""
    with house.database("label_ingest") as connection:
        return connection.execute("SELECT prediction_id FROM joins WHERE model_name IS NULL").fetchall()


def test_two_replicas_that_are_killed_in_mid_stream_publish_each_label_once(house: House) -> None:
    count = 3_000
    ids = [f"p-{number}" for number in range(count)]
    first, _ = start(house, "label-ingest-1")
    second, url = start(house, "label-ingest-2")
    first.wait_ready()
    second.wait_ready()
    # Every fourth is amended; half of the predictions come after their outcome.
    outcomes = [outcome(id_) for id_ in ids] + [outcome(id_, 0, version=2) for id_ in ids[::4]]
    predict(house, [made(id_, minute) for minute, id_ in enumerate(ids[::2])])
    traffic = threading.Thread(target=report, args=(house, outcomes))
    traffic.start()

    def labeled(at_least: int) -> bool:
        with house.database("label_ingest") as connection:
            row = connection.execute("SELECT count(label) FROM labels").fetchone()
        return row is not None and row[0] >= at_least

    wait_until(lambda: labeled(100), "some labels")
    first.kill()
    second.kill()
    traffic.join()
    predict(house, [made(id_, minute) for minute, id_ in enumerate(ids[1::2])])
    first.start()
    second.start()
    first.wait_ready()
    second.wait_ready()
    wait_until(lambda: labeled(count), f"{count} labels")

    def settled() -> bool:
        with house.database("label_ingest") as connection:
            row = connection.execute("SELECT sum(1 - label), (SELECT count(*) FROM outbox) FROM labels").fetchone()
        return row == (len(ids[::4]), 0)

    wait_until(settled, "amendments and an empty outbox")
    seen: dict[tuple[str, int, int | None], PredictionLabeled] = {}
    for record in house.records(LABELED_PREDICTIONS):
        envelope = decode_envelope(record.headers, LABELED_PREDICTIONS.events)
        event = decode_event(envelope.type, record.value)
        assert isinstance(event, PredictionLabeled)
        seen.setdefault((envelope.source, record.partition, envelope.sequence), event)
    once = Counter((event.prediction_id, event.label_revision) for event in seen.values())
    assert set(once.values()) == {1}
    final: Counter[str] = Counter()
    for event in seen.values():
        final[event.prediction_id] += event.label - (event.previous_label or 0)
    assert final == {id_: 0 if place % 4 == 0 else 1 for place, id_ in enumerate(ids)}
    assert {id_ for id_, _revision in once} == set(ids)
    assert httpx.get(f"{url}/v1/summary", params={"model": "loan"}).json()["parked"] == 0
    assert "DeadlockDetected" not in first.log_path.read_text() + second.log_path.read_text()


def test_a_body_of_ten_megabytes_is_refused_and_the_service_goes_on(house: House) -> None:
    process, url = start(house)
    process.wait_ready()
    response = httpx.post(f"{url}/v1/outcomes", content=b" " * 10_000_000, timeout=10)
    assert response.status_code == 413
    assert "1048576 bytes" in response.json()["detail"]
    assert httpx.post(f"{url}/v1/outcomes", json={"prediction_id": "p", "label": 1}).status_code == 200


def test_readers_that_go_away_in_mid_stream_keep_no_connection(house: House) -> None:
    process, url = start(house)
    process.wait_ready()
    with house.database("label_ingest") as connection:
        connection.execute(
            "INSERT INTO predictions (prediction_id, model_name, model_version, predicted_at, score, prediction, "
            "variant, features) SELECT 'p-' || n, 'loan', 1, now(), 0.5, true, 'champion', '{}' "
            "FROM generate_series(1, 60000) n"
        )
    for _ in range(6):
        with httpx.stream("GET", f"{url}/v1/rows", params={"model": "loan", "limit": 60_000}) as response:
            assert next(response.iter_bytes(1_000))
    assert httpx.get(f"{url}/v1/summary", params={"model": "loan"}, timeout=10).json()["predictions"] == 60_000


def test_a_laboratory_may_report_and_a_reader_may_read(house: House) -> None:
    keys = house.folder / "keys.json"
    scopes: tuple[Scope, ...] = ("label", "rows")
    sent = [{}, *({"x-api-key": create_key(keys, scope, [scope], datetime.now(UTC)).text} for scope in scopes)]
    process, url = start(house, ACCESS="on", API_KEYS=str(keys))
    process.wait_ready()
    outcome = {"prediction_id": "p", "label": 1}
    reported = [httpx.post(f"{url}/v1/outcomes", json=outcome, headers=one).status_code for one in sent]
    read = [httpx.get(f"{url}/v1/summary", params={"model": "loan"}, headers=one).status_code for one in sent]
    assert (reported, read) == ([401, 200, 403], [401, 403, 200])


def test_without_a_file_of_keys_it_does_not_start(house: House) -> None:
    process, _ = start(house, ACCESS="on")
    assert process.wait_or_kill(60) == 1
    assert "DRIFTLOOP_API_KEYS is not set" in process.tail()


def test_a_contract_that_is_not_there_is_named_at_once(house: House) -> None:
    process, _ = house.process(
        "label-ingest", "driftloop.label_ingest.main",
        {"DATABASE_URL": house.database_url("label_ingest"), "DRIFTLOOP_CONTRACTS": str(house.folder / "none.yaml")},
    )  # fmt: skip
    process.start()
    assert process.wait_or_kill(60) == 1
    assert "none.yaml" in process.tail()


@pytest.mark.parametrize("name", ["KAFKA_BOOTSTRAP_SERVERS", "DATABASE_URL", "DRIFTLOOP_CONTRACTS"])
def test_a_setting_that_is_missing_is_named(house: House, name: str) -> None:
    process, _ = house.process(
        "label-ingest", "driftloop.label_ingest.main",
        {"DATABASE_URL": house.database_url("label_ingest"), "DRIFTLOOP_CONTRACTS": CONTRACTS} | {name: ""},
    )  # fmt: skip
    process.start()
    assert process.wait_or_kill(60) == 1
    assert f"{name} is not set" in process.tail()
