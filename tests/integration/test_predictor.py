"""A predictor's process on a real broker: what is answered is in the log, and what is refused is not."""

import hashlib
import hmac
import re
import socket
from collections.abc import Iterator

import httpx
import pytest

from driftloop.common.events import PredictionMade
from driftloop.common.topics import PREDICTIONS, partition_for
from driftloop.devstack.processes import ServiceProcess
from tests.support.artifacts import small_bundle
from tests.support.bad_bodies import BAD_BODIES, ROW, body
from tests.support.house import House
from tests.support.predictors import DIABETES, LOAN, PSEUDONYM_KEY, asking, metric, predictor
from tests.support.waiting import wait_until

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def serving(house: House) -> Iterator[tuple[ServiceProcess, httpx.Client]]:
    """A ready predictor with version 1 of diabetes, and a client of it."""
    house.serve(1, house.register(small_bundle(DIABETES)), DIABETES.name, 1)
    process, url = predictor(house)
    process.wait_ready()
    with httpx.Client(base_url=url, timeout=10) as client:
        yield process, client


def logged(house: House) -> list[PredictionMade]:
    return [event for _envelope, event in house.events(PREDICTIONS) if isinstance(event, PredictionMade)]


def test_of_all_bad_bodies_none_is_logged(house: House, serving: tuple[ServiceProcess, httpx.Client]) -> None:
    _process, client = serving
    too_large = b" " * 10_000_000
    for door in ("/predict", "/v1/predict"):
        refused = {client.post(door, content=content).status_code for content, _field, _reason in BAD_BODIES.values()}
        assert refused == {422}
        # With its length declared, and in chunks.
        assert client.post(door, content=too_large).status_code == 413
        assert client.post(door, content=iter([too_large])).status_code == 413
    good = client.post("/v1/predict", json=ROW).json()
    assert [event.prediction_id for event in logged(house)] == [good["prediction_id"]]


def test_a_record_is_a_cloud_event_in_the_requests_trace(
    house: House, serving: tuple[ServiceProcess, httpx.Client]
) -> None:
    _process, client = serving
    answer = client.post("/v1/predict", json=ROW | {"patient_id": "MRN-1"}, headers={"traceparent": PARENT}).json()
    [record] = house.records(PREDICTIONS)
    headers = {name: value.decode() for name, value in record.headers.items()}
    assert headers.pop("ce_source").startswith("predictor/")
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT[\d:.]+Z", headers.pop("ce_time"))
    assert re.fullmatch(r"00-0af7651916cd43dd8448eb211c80319c-[0-9a-f]{16}-01", headers.pop("traceparent"))
    assert headers == {
        "ce_specversion": "1.0",
        "ce_id": answer["prediction_id"],
        "ce_type": "driftloop.PredictionMade",
        "ce_sequence": "0",
        "content-type": "application/json",
    }
    assert record.key == answer["prediction_id"].encode()


def test_a_retry_goes_to_the_partition_of_the_first_try(
    house: House, serving: tuple[ServiceProcess, httpx.Client]
) -> None:
    headers = {"idempotency-key": "order-17"}
    first, second = (serving[1].post("/v1/predict", json=ROW, headers=headers).json() for _ in range(2))
    assert first["prediction_id"] == second["prediction_id"]
    wanted = partition_for(first["prediction_id"], PREDICTIONS.partitions)
    assert [record.partition for record in house.records(PREDICTIONS)] == [wanted, wanted]


def test_a_patient_is_in_the_log_by_pseudonym_only(house: House, serving: tuple[ServiceProcess, httpx.Client]) -> None:
    process, client = serving
    client.post("/v1/predict", json=ROW | {"patient_id": "MRN-4711"})
    client.post("/predict", json=ROW | {"patient_id": "MRN-4711"})
    [record] = house.records(PREDICTIONS)
    subject = hmac.new(PSEUDONYM_KEY.encode(), b"MRN-4711", hashlib.sha256).hexdigest()[:32]
    assert [event.subject for event in logged(house)] == [subject]
    metrics = httpx.get(f"http://127.0.0.1:{process.management_port}/metrics").text
    for place in (str(record), process.log_path.read_text(), metrics):
        assert "MRN-4711" not in place
        assert PSEUDONYM_KEY not in place


def test_both_doors_answer_the_same_decision(house: House, serving: tuple[ServiceProcess, httpx.Client]) -> None:
    _process, client = serving
    bare, full = client.post("/predict", json=ROW), client.post("/v1/predict", json=ROW)
    assert bare.content == b'{"diabetic":true}'
    assert full.json()["prediction"] is True
    assert [event.prediction_id for event in sorted(logged(house), key=lambda one: one.prediction_id)] == [
        bare.headers["x-prediction-id"],
        full.json()["prediction_id"],
    ]


def test_two_models_live_side_by_side(house: House) -> None:
    for contract in (DIABETES, LOAN):
        house.serve(1, house.register(small_bundle(contract)), contract.name, 1)
    processes = [predictor(house, contract.name, contract) for contract in (DIABETES, LOAN)]
    for process, _url in processes:
        process.wait_ready()
    loan = {"income": 31004, "employment": "unknown", "term": 36}
    answers = [
        httpx.post(f"{url}/v1/predict", json=row, timeout=10).json()
        for (_process, url), row in zip(processes, (ROW, loan), strict=True)
    ]
    assert [answer["model_name"] for answer in answers] == ["diabetes", "loan"]
    made = {event.model_name: event.features for event in logged(house)}
    assert made["loan"] == {"income": 31000, "employment": None, "term": 36}


def test_clients_that_hang_up_leave_nothing_behind(house: House) -> None:
    house.serve(1, house.register(small_bundle(DIABETES)), DIABETES.name, 1)
    process, url = predictor(house, MAX_IN_FLIGHT="20")
    process.wait_ready()
    port = int(url.rpartition(":")[2])
    head = b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: %s\r\n\r\n"
    for length, content in ((str(len(body())).encode(), body()), (b"500", body()), (b"500", b"")):
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(head % length + content)

    def answers() -> bool:
        return httpx.post(f"{url}/v1/predict", json=ROW, timeout=10).status_code == 200

    wait_until(answers, "an answer")
    with asking([url], clients=10) as asked:
        wait_until(lambda: len(asked.all) > 50, "answers")
    assert {answer.status_code for answer in asked.all} == {200}


def test_after_a_kill_all_that_was_answered_is_in_the_log(house: House) -> None:
    house.serve(1, house.register(small_bundle(DIABETES)), DIABETES.name, 1)
    process, url = predictor(house)
    process.wait_ready()
    with asking([url]) as asked:
        wait_until(lambda: len(asked.all) > 300, "answers")
        process.kill()
        wait_until(lambda: asked.broken, "a broken request")
    ids = [event.prediction_id for event in logged(house)]
    assert asked.ids() <= set(ids)
    assert len(set(ids)) == len(ids)


def test_the_sequence_numbers_of_each_partition_are_dense(house: House) -> None:
    house.serve(1, house.register(small_bundle(DIABETES)), DIABETES.name, 1)
    process, url = predictor(house)
    process.wait_ready()
    with asking([url]) as asked:
        wait_until(lambda: len(asked.all) > 300, "answers")
    for partition in range(PREDICTIONS.partitions):
        records = [record for record in house.records(PREDICTIONS) if record.partition == partition]
        # What was put off may come behind what followed it, and what was sent again twice.
        numbers = {int(record.headers["ce_sequence"]) for record in records}
        assert numbers == set(range(len(numbers)))


def test_asked_to_stop_it_answers_what_it_has_taken_and_ends_well(house: House) -> None:
    house.serve(1, house.register(small_bundle(DIABETES)), DIABETES.name, 1)
    process, url = predictor(house)
    process.wait_ready()
    with asking([url]) as asked:
        wait_until(lambda: len(asked.all) > 100, "answers")
        assert process.terminate() == 0
    assert {answer.status_code for answer in asked.all} == {200}
    # A connection that is open and idle is closed, one that is new is refused; no request is cut off half-way.
    assert {type(error) for error in asked.broken} <= {httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError}
    assert asked.ids() <= {event.prediction_id for event in logged(house)}


def test_answers_are_counted(serving: tuple[ServiceProcess, httpx.Client]) -> None:
    process, client = serving
    client.post("/predict", json=ROW)
    client.post("/predict", json={})
    found = {
        result: metric(process, "driftloop_predictions_total", result=result, model_version="1")
        for result in ("ok", "invalid", "unavailable")
    }
    assert found == {"ok": 1, "invalid": 1, "unavailable": 0}
    assert metric(process, "driftloop_prediction_seconds_count", model_name="diabetes") == 1


def test_a_predictor_without_a_model_is_alive_unready_and_answers_503(house: House) -> None:
    process, url = predictor(house)

    def problem() -> str | None:
        said = process.problem() or ""
        return said if "trainer train" in said else None

    wait_until(problem, "the reason")
    answer = httpx.post(f"{url}/predict", json=ROW, timeout=10)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert httpx.get(f"http://127.0.0.1:{process.management_port}/healthz").status_code == 200


def test_help_names_every_setting(house: House) -> None:
    process, _url = house.process("help", "driftloop.predictor.main", {})
    process.argv.append("--help")
    process.start()
    assert process.wait_or_kill(60) == 0
    assert re.search(r"DRIFTLOOP_PSEUDONYM_KEY +required", process.tail(100))
