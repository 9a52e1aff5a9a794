"""What clients of the predictor see, and what is logged of it."""

import hashlib
import hmac
import re
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
from confluent_kafka import KafkaError
from prometheus_client import REGISTRY

from driftloop.common.events import PredictionMade
from driftloop.common.pseudonyms import order_pseudonym
from driftloop.common.rows import RowValidator
from driftloop.predictor.body import IDENTIFIERS
from tests.support.artifacts import logistic_answer
from tests.support.bad_bodies import BAD_BODIES, ROW, body
from tests.unit.predictor.builders import DIABETES, KEY, LOAN, NOW, Running, running, serving

LOAN_ROW = {"income": 31004, "employment": "retired", "term": 36}
DOORS = ["/predict", "/v1/predict"]
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def diabetes() -> Iterator[Running]:
    with running(DIABETES) as found:
        yield found


@pytest.fixture
def loan() -> Iterator[Running]:
    with running(LOAN) as found:
        yield found


def logged(found: Running) -> PredictionMade:
    event = found.log.taken[-1].event
    assert isinstance(event, PredictionMade)
    return event


def refused(answer: httpx.Response) -> list[dict[str, Any]]:
    """The fields that an answer names, in either form of an error."""
    said: list[dict[str, Any]] = answer.json().get("errors") or answer.json()["detail"]
    return said


def counted(found: Running, result: str) -> float:
    labels = {"model_name": found.replica.model, "model_version": str(found.replica.version), "result": result}
    return REGISTRY.get_sample_value("driftloop_predictions_total", labels) or 0.0


def test_what_breaks_in_a_door_counts_as_the_services_error(diabetes: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(RowValidator, "encode", broken)
    before = counted(diabetes, "failed")
    with pytest.raises(RuntimeError, match="a bug"):
        diabetes.client.post("/v1/predict", json=ROW)
    assert counted(diabetes, "failed") == before + 1


# --- the service that this one replaces


def test_the_root_says_what_the_replaced_service_said(diabetes: Running) -> None:
    assert diabetes.client.get("/").content == b'{"message":"Diabetes Prediction API is live"}'


def test_the_root_names_the_contracts_model(loan: Running) -> None:
    assert loan.client.get("/").json() == {"message": "Loan Prediction API is live"}


def test_predict_answers_what_the_replaced_service_answered_and_nothing_else(diabetes: Running) -> None:
    answer = diabetes.client.post("/predict", json=ROW)
    assert (answer.status_code, answer.content) == (200, b'{"diabetic":true}')
    assert answer.headers["content-type"] == "application/json"


def test_predict_calls_the_decision_what_the_contract_calls_it(loan: Running) -> None:
    assert loan.client.post("/predict", json=LOAN_ROW).json() == {"defaults": True}


def test_a_target_without_a_title_gives_its_name() -> None:
    contract = msgspec.structs.replace(LOAN, target=msgspec.structs.replace(LOAN.target, title=""))
    with running(contract) as found:
        assert found.client.post("/predict", json=LOAN_ROW).json() == {"status": True}


def test_predict_says_in_headers_what_is_new(diabetes: Running) -> None:
    headers = diabetes.client.post("/predict", json=ROW).headers
    assert headers["x-prediction-id"] == logged(diabetes).prediction_id
    assert (headers["x-model-name"], headers["x-model-version"]) == ("diabetes", "1")
    assert headers["x-driftloop-revision"] == "1"


def test_whole_numbers_are_taken_for_fractional_ones(diabetes: Running) -> None:
    assert diabetes.client.post("/predict", json=ROW | {"Glucose": 130, "BMI": 33}).status_code == 200


@pytest.mark.parametrize("name", IDENTIFIERS)
def test_predict_takes_no_identifier(diabetes: Running, name: str) -> None:
    answer = diabetes.client.post("/predict", json=ROW | {name: "MRN-1"})
    assert answer.status_code == 422
    assert refused(answer)[0]["loc"] == ["body", name]
    assert "MRN-1" not in answer.text


# --- the new door


def test_v1_predict_answers_all_that_is_known(diabetes: Running) -> None:
    answer = diabetes.client.post("/v1/predict", json=ROW)
    assert answer.json() == {
        "prediction_id": logged(diabetes).prediction_id,
        "probability": 1.0,
        "prediction": True,
        "model_name": "diabetes",
        "model_version": 1,
        "revision": 1,
        "variant": "champion",
        "prediction_set": None,
        "outside_reference": ["Glucose", "BloodPressure", "BMI", "Age"],
    }


def test_the_probability_is_rounded_to_six_decimals(loan: Running) -> None:
    loan.replica.serving = serving(LOAN, weight=1e-5)
    answer = loan.client.post("/v1/predict", json=LOAN_ROW).json()
    assert answer["probability"] == round(logistic_answer((31000.0, 2.0, 36.0), 1e-5), 6)
    assert answer["probability"] == logged(loan).score


@pytest.mark.parametrize(("threshold", "decision"), [(0.6, False), (0.5, True)])
def test_a_probability_at_the_threshold_is_positive(threshold: float, decision: bool) -> None:
    contract = msgspec.structs.replace(LOAN, decision_threshold=threshold)
    with running(contract) as found:
        found.replica.serving = serving(contract, weight=0.0)
        assert found.client.post("/v1/predict", json=LOAN_ROW).json()["prediction"] is decision


def test_a_category_reaches_the_model_by_its_place_in_the_contract(loan: Running) -> None:
    scores = [
        loan.client.post("/v1/predict", json={"income": 0, "employment": name, "term": 1}).json()["probability"]
        for name in ("employed", "unemployed")
    ]
    assert scores == pytest.approx([logistic_answer((0.0, 0.0, 1.0)), logistic_answer((0.0, 3.0, 1.0))], abs=1e-6)


# --- what is logged


def test_what_is_logged_are_canonical_values(loan: Running) -> None:
    loan.client.post("/v1/predict", json=LOAN_ROW)
    event = logged(loan)
    assert event.features == {"income": 31000.0, "employment": "retired", "term": 36}
    assert (event.model_name, event.model_version, event.revision, event.variant) == ("loan", 1, 1, "champion")
    assert event.predicted_at == NOW


def test_the_event_is_keyed_and_named_by_its_prediction(diabetes: Running) -> None:
    answer = diabetes.client.post("/v1/predict", json=ROW).json()
    outgoing = diabetes.log.taken[-1]
    assert (outgoing.topic, outgoing.key, outgoing.id) == ("predictions", answer["prediction_id"], outgoing.key)
    assert outgoing.time == NOW


def test_the_event_continues_the_requests_trace(diabetes: Running) -> None:
    diabetes.client.post("/predict", json=ROW, headers={"traceparent": PARENT})
    traceparent = diabetes.log.taken[-1].traceparent or ""
    assert re.fullmatch(r"00-0af7651916cd43dd8448eb211c80319c-[0-9a-f]{16}-01", traceparent)
    assert traceparent != PARENT


def test_a_malformed_trace_is_not_continued(diabetes: Running) -> None:
    diabetes.client.post("/predict", json=ROW, headers={"traceparent": "00-zz"})
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", diabetes.log.taken[-1].traceparent or "")


def test_two_requests_have_two_ids(diabetes: Running) -> None:
    ids = {diabetes.client.post("/v1/predict", json=ROW).json()["prediction_id"] for _ in range(20)}
    assert len(ids) == 20


# --- patients and orders


def test_a_patient_is_logged_under_a_keyed_pseudonym(diabetes: Running) -> None:
    diabetes.client.post("/v1/predict", json=ROW | {"patient_id": "MRN-1"})
    assert logged(diabetes).subject == hmac.new(KEY, b"MRN-1", hashlib.sha256).hexdigest()[:32]


def test_an_order_is_logged_under_a_keyed_pseudonym(diabetes: Running) -> None:
    diabetes.client.post("/v1/predict", json=ROW | {"order_id": "A-17"})
    assert logged(diabetes).order == order_pseudonym(KEY, "A-17")


def test_a_patient_and_an_order_of_one_name_have_two_pseudonyms(diabetes: Running) -> None:
    diabetes.client.post("/v1/predict", json=ROW | {"patient_id": "17", "order_id": "17"})
    event = logged(diabetes)
    assert None is not event.subject != event.order is not None


@pytest.mark.parametrize("name", IDENTIFIERS)
def test_an_identifier_appears_in_no_answer_and_in_no_event(diabetes: Running, name: str) -> None:
    answer = diabetes.client.post("/v1/predict", json=ROW | {name: "MRN-1"})
    assert "MRN-1" not in answer.text + str(answer.headers) + repr(diabetes.log.taken)


@pytest.mark.parametrize("named", [{}, {"patient_id": None, "order_id": None}])
def test_without_a_patient_and_an_order_there_is_no_pseudonym(diabetes: Running, named: dict[str, None]) -> None:
    diabetes.client.post("/v1/predict", json=ROW | named)
    assert (logged(diabetes).subject, logged(diabetes).order) == (None, None)


@pytest.mark.parametrize("name", IDENTIFIERS)
@pytest.mark.parametrize("given", ["", "x" * 201, 17, True, ["MRN-1"], {"id": "MRN-1"}])
def test_an_identifier_that_is_no_short_text_is_refused_and_not_echoed(
    diabetes: Running, name: str, given: object
) -> None:
    answer = diabetes.client.post("/v1/predict", json=ROW | {name: given})
    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {
            "type": "value_error",
            "loc": ["body", name],
            "msg": "must be a text of 1 to 200 characters",
            "input": None,
        }
    ]


@pytest.mark.parametrize("name", IDENTIFIERS)
def test_an_identifier_may_hold_any_character(diabetes: Running, name: str) -> None:
    answer = diabetes.client.post("/v1/predict", json=ROW | {name: 'München:/"0\x00' + "é" * 180})
    assert answer.status_code == 200


# --- bad input


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_bad_body_is_refused_with_a_readable_reason(diabetes: Running, door: str, name: str) -> None:
    content, field, reason = BAD_BODIES[name]
    answer = diabetes.client.post(door, content=content)
    first = refused(answer)[0]
    assert answer.status_code == 422
    assert first["loc"] == (["body"] if field is None else ["body", field])
    assert reason in first["msg"]


@pytest.mark.parametrize("name", BAD_BODIES)
def test_of_a_bad_body_nothing_is_published(diabetes: Running, name: str) -> None:
    diabetes.client.post("/v1/predict", content=BAD_BODIES[name][0])
    assert diabetes.log.taken == []


def test_a_refusal_shows_the_value_that_came(diabetes: Running) -> None:
    answer = diabetes.client.post("/predict", json=ROW | {"Glucose": 2000.5})
    assert answer.json()["detail"][0]["input"] == 2000.5


def test_every_wrong_field_is_named_at_once(diabetes: Running) -> None:
    answer = diabetes.client.post("/predict", json={"Glucose": 5000, "Insulin": 1})
    named = {error["loc"][1] for error in answer.json()["detail"]}
    assert named == {"Pregnancies", "Glucose", "BloodPressure", "BMI", "Age", "Insulin"}


def test_a_body_of_ten_megabytes_is_too_large(diabetes: Running) -> None:
    answer = diabetes.client.post("/v1/predict", content=b" " * 10_000_000 + body())
    assert answer.status_code == 413
    assert "larger than 65536 bytes" in answer.json()["detail"]


def test_a_thousand_unknown_fields_get_a_short_answer(diabetes: Running) -> None:
    answer = diabetes.client.post("/predict", json=ROW | {f"x{number}": 1 for number in range(1000)})
    assert answer.status_code == 422
    assert len(answer.content) < 10_000


def test_a_category_that_the_contract_does_not_know_is_refused(loan: Running) -> None:
    answer = loan.client.post("/v1/predict", json=LOAN_ROW | {"employment": "pirate\n\x00é"})
    assert answer.status_code == 422
    assert refused(answer)[0]["input"] == "pirate\n\x00é"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_another_method_is_told_which_one_there_is(diabetes: Running, method: str) -> None:
    answer = diabetes.client.request(method, "/predict")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_another_path_is_not_found(diabetes: Running) -> None:
    assert diabetes.client.post("/v2/predict", json=ROW).status_code == 404


# --- when it cannot answer


def unavailable(answer: httpx.Response) -> bool:
    return answer.status_code == 503 and answer.headers["retry-after"] == "1" and "again" in answer.json()["detail"]


@pytest.mark.parametrize("door", DOORS)
def test_without_a_model_the_client_is_told_to_come_again(diabetes: Running, door: str) -> None:
    diabetes.replica.serving = None
    assert unavailable(diabetes.client.post(door, json=ROW))


@pytest.mark.parametrize(
    "trouble", [{"full": True}, {"failure": KafkaError(KafkaError._MSG_TIMED_OUT)}, {"silent": True}]
)
def test_when_the_log_does_not_confirm_the_spool_keeps_what_is_answered(
    diabetes: Running, trouble: dict[str, Any]
) -> None:
    for name, value in trouble.items():
        setattr(diabetes.log, name, value)
    answer = diabetes.client.post("/v1/predict", json=ROW)
    assert answer.status_code == 200
    [(_position, record)] = diabetes.inferences.spool.read(10)
    assert record.key.decode() == answer.json()["prediction_id"]


def test_above_the_limit_the_client_is_told_to_come_again() -> None:
    with running(DIABETES, max_in_flight=0) as found:
        assert unavailable(found.client.post("/predict", json=ROW))
        assert found.log.taken == []


def test_a_model_that_gives_no_probability_is_an_error_of_ours_and_nothing_is_published(diabetes: Running) -> None:
    answer = diabetes.client.post("/predict", json=ROW | {"Glucose": 0})
    assert (answer.status_code, diabetes.log.taken) == (500, [])
    assert "promote a version" in answer.json()["detail"]


# --- counts


@pytest.mark.parametrize(
    ("result", "content", "loaded"), [("ok", body(), True), ("invalid", b"{}", True), ("unavailable", body(), False)]
)
def test_each_answer_is_counted_by_its_result(diabetes: Running, result: str, content: bytes, loaded: bool) -> None:
    if not loaded:
        diabetes.replica.serving = None
    before = counted(diabetes, result)
    diabetes.client.post("/predict", content=content)
    assert counted(diabetes, result) == before + 1


def test_without_a_model_what_serves_is_unavailable(diabetes: Running) -> None:
    diabetes.replica.serving = None
    answer = diabetes.client.get("/v1/model")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["detail"] == "no model is loaded yet: try again later"


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("DELETE", "/v1/model", 405)])
def test_what_is_not_there_is_a_problem_too(diabetes: Running, method: str, path: str, status: int) -> None:
    answer = diabetes.client.request(method, path)
    assert (answer.status_code, answer.json()["status"]) == (status, status)
    assert answer.headers["content-type"] == "application/problem+json"


# --- the documentation


def test_the_description_has_every_door(diabetes: Running) -> None:
    assert set(diabetes.client.get("/openapi.json").json()["paths"]) == {
        "/",
        "/predict",
        "/v1/predict",
        "/v1/predict/batch",
        "/v1/model",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/{model}",
        "/v2/models/{model}/ready",
        "/v2/models/{model}/infer",
        "/v2/models/{model}/versions/{version}",
        "/v2/models/{model}/versions/{version}/ready",
        "/v2/models/{model}/versions/{version}/infer",
    }
