"""The Open Inference Protocol: what its clients see, and what is logged of what they send."""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from prometheus_client import REGISTRY

from driftloop.common.contract import Contract
from driftloop.common.events import Canary
from driftloop.common.pseudonyms import order_pseudonym, pseudonym
from driftloop.predictor.api import Limits
from driftloop.predictor.serving import Serving
from tests.support.bad_bodies import ROW
from tests.unit.predictor.builders import DIABETES, KEY, LOAN, NOW, Running, artifact, loaded, running, state
from tests.unit.predictor.tensors import INFER, LENGTH, columns, content_of, infer, packed, read, rows, tensor

MATRIX = list(ROW.values())
LOAN_INFER = "/v2/models/loan/infer"
OUTPUTS = ["probability", "prediction", "prediction_id", "model_version", "variant"]


@pytest.fixture
def diabetes() -> Iterator[Running]:
    with running(DIABETES, max_in_flight=500) as found:
        yield found


@pytest.fixture
def loan() -> Iterator[Running]:
    with running(LOAN) as found:
        yield found


def error(answer: httpx.Response, status: int = 400) -> str:
    """What an answer says is wrong, in the protocol's own form."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json"), answer.text
    said: dict[str, str] = answer.json()
    assert list(said) == ["error"]
    return said["error"]


# --- what the server and the model are


def test_the_server_says_what_it_is(diabetes: Running) -> None:
    said = diabetes.client.get("/v2").json()
    assert (said["name"], said["extensions"]) == ("driftloop-predictor", ["binary_tensor_data"])
    assert said["version"]


@pytest.mark.parametrize("path", ["/v2/models/diabetes", "/v2/models/diabetes/versions/1"])
def test_the_model_says_what_it_takes_and_answers(diabetes: Running, path: str) -> None:
    said = diabetes.client.get(path).json()
    assert (said["name"], said["versions"], said["platform"]) == ("diabetes", ["1"], "onnx")
    assert [one["name"] for one in said["inputs"]] == [*ROW, "patient_id", "order_id"]
    assert {(one["datatype"], *one["shape"]) for one in said["inputs"][:-2]} == {("FP64", -1)}
    assert [one["parameters"] for one in said["inputs"][-2:]] == [{"optional": True}] * 2
    described = {one["name"]: one["datatype"] for one in said["outputs"]}
    assert described == dict(zip(OUTPUTS, ["FP64", "BOOL", "BYTES", "INT64", "BYTES"], strict=True))


def test_a_category_is_a_text(loan: Running) -> None:
    inputs = {one["name"]: one["datatype"] for one in loan.client.get("/v2/models/loan").json()["inputs"]}
    identifiers = {"patient_id": "BYTES", "order_id": "BYTES"}
    assert inputs == {"income": "FP64", "employment": "BYTES", "term": "FP64"} | identifiers


def test_an_optional_feature_is_said_to_be_optional(optional: Running) -> None:
    inputs = {one["name"]: one.get("parameters") for one in optional.client.get("/v2/models/loan").json()["inputs"]}
    identifiers = {"patient_id": {"optional": True}, "order_id": {"optional": True}}
    assert inputs == {"income": None, "employment": {"optional": True}, "term": None} | identifiers


READY = ["/v2/health/ready", "/v2/models/diabetes/ready", "/v2/models/diabetes/versions/1/ready"]


@pytest.mark.parametrize("path", READY)
def test_a_replica_with_a_model_is_ready(diabetes: Running, path: str) -> None:
    answer = diabetes.client.get(path)
    assert (answer.status_code, answer.json()["ready"]) == (200, True)


@pytest.mark.parametrize("path", READY)
@pytest.mark.parametrize("unread", [None, "model-updates is not read to its end"])
def test_a_replica_that_cannot_answer_is_not_ready_and_says_why(
    diabetes: Running, path: str, unread: str | None
) -> None:
    diabetes.replica.serving, diabetes.replica.unread = None, unread
    assert (unread or "trainer train") in error(diabetes.client.get(path))
    assert diabetes.client.get("/v2/health/live").json() == {"live": True}


@pytest.mark.parametrize("path", ["", "/ready", "/infer", "/versions/1", "/versions/1/ready", "/versions/1/infer"])
def test_another_model_is_not_found(diabetes: Running, path: str) -> None:
    method = "POST" if path.endswith("infer") else "GET"
    said = error(diabetes.client.request(method, f"/v2/models/{'x' * 200}{path}"), 404)
    assert said == f"model '{'x' * 100}…' is not served here: 'diabetes' is"


@pytest.mark.parametrize("path", ["", "/ready", "/infer"])
@pytest.mark.parametrize("version", ["3", "01", "champion"])
def test_another_version_than_the_champion_is_not_found(diabetes: Running, path: str, version: str) -> None:
    method = "POST" if path == "/infer" else "GET"
    said = error(diabetes.client.request(method, f"/v2/models/diabetes/versions/{version}{path}"), 404)
    assert said == f"version {version} of model 'diabetes' does not serve: version 1 does"


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v2/nothing", 404), ("GET", INFER, 405)])
def test_what_is_not_there_is_said_as_the_protocol_says_it(
    diabetes: Running, method: str, path: str, status: int
) -> None:
    assert error(diabetes.client.request(method, path), status)


# --- inference


@pytest.mark.parametrize("shape", [[2], [2, 1]])
@pytest.mark.parametrize("datatype", ["FP64", "FP32"])
def test_rows_come_as_a_tensor_of_each_feature(diabetes: Running, shape: list[int], datatype: str) -> None:
    sent = rows(2, Glucose=[130.5, 90.5])
    answer = infer(diabetes, [tensor(name, one, datatype, shape) for name, one in sent.items()], id="order-17")
    said = answer.json()
    assert (said["model_name"], said["model_version"], said["id"]) == ("diabetes", "1", "order-17")
    assert [(one["name"], one["shape"]) for one in said["outputs"]] == [(name, [2]) for name in OUTPUTS]
    found = read(answer)
    assert found["prediction_id"] == [event.prediction_id for event in diabetes.logged]
    assert found["probability"] == [event.score for event in diabetes.logged]
    assert (found["prediction"], found["model_version"], found["variant"]) == ([True] * 2, [1] * 2, ["champion"] * 2)
    assert [event.features for event in diabetes.logged] == [ROW, ROW | {"Glucose": 90.5}]


def test_a_tensor_answers_what_its_rows_answer_by_themselves(diabetes: Running) -> None:
    sent = rows(250, Age=[20 + row % 90 for row in range(250)], Glucose=[60 + row % 100 for row in range(250)])
    found = read(infer(diabetes, columns(sent)))
    alone = [dict(zip(sent, values, strict=True)) for values in zip(*sent.values(), strict=True)]
    results = diabetes.client.post("/v1/predict/batch", json={"rows": alone}).json()["results"]
    assert found["probability"] == [one["probability"] for one in results]


@pytest.mark.parametrize("data", [[*MATRIX, *MATRIX], [MATRIX, MATRIX]])
@pytest.mark.parametrize("name", ["predict", "Age"])
def test_rows_come_as_one_matrix_in_the_contracts_order(diabetes: Running, data: list[Any], name: str) -> None:
    read(infer(diabetes, [tensor(name, data, "FP32", [2, 5])]))
    assert [event.features for event in diabetes.logged] == [ROW, ROW]


def test_a_matrix_is_told_apart_from_the_only_feature_that_there_is() -> None:
    alone = msgspec.structs.replace(DIABETES, features=DIABETES.features[4:])
    with running(alone) as found:
        for name in ("Age", "predict"):
            read(infer(found, [tensor(name, [51], "FP64", [1, 1])]))
        assert [event.features for event in found.logged] == [{"Age": 51}, {"Age": 51}]


def test_a_matrix_has_no_place_for_a_category(loan: Running) -> None:
    said = error(infer(loan, [tensor("predict", [1, 2, 3], "FP64", [1, 3])], LOAN_INFER))
    assert said == "input 'predict' is no feature of this model: send one of each of ['income', 'employment', 'term']"


def test_what_the_protocol_lets_clients_add_or_leave_null_is_ignored(diabetes: Running) -> None:
    inputs = [one | {"parameters": {"content_type": "np"}} for one in columns(rows())]
    inputs[0]["parameters"] = None
    read(infer(diabetes, inputs, id=None, outputs=None, parameters={"priority": 1, "timeout": 5}))


@pytest.fixture
def optional() -> Iterator[Running]:
    with running(without_employment(LOAN)) as found:
        yield found


def without_employment(contract: Contract) -> Contract:
    features = [
        msgspec.structs.replace(one, required=one.name != "employment", missing=()) for one in contract.features
    ]
    return msgspec.structs.replace(contract, features=tuple(features))


def test_an_optional_feature_may_be_left_out(optional: Running) -> None:
    read(infer(optional, columns({"income": [31004], "term": [36]}), LOAN_INFER))
    assert optional.logged[0].features == {"income": 31000, "employment": None, "term": 36}


@pytest.mark.parametrize("employment", ["retired", "self-employed"])
@pytest.mark.parametrize("binary", [False, True])
def test_a_category_comes_as_a_text(loan: Running, employment: str, binary: bool) -> None:
    inputs = columns({"income": [31004], "employment": [employment], "term": [36]})
    content, headers = packed(inputs) if binary else (json.dumps({"inputs": inputs}).encode(), {})
    read(loan.client.post(LOAN_INFER, content=content, headers=headers))
    assert loan.logged[0].features == {"income": 31000, "employment": employment, "term": 36}


def test_outputs_are_those_that_are_asked_for(diabetes: Running) -> None:
    answer = infer(diabetes, columns(rows()), outputs=[{"name": "variant"}, {"name": "probability"}])
    assert list(read(answer)) == ["variant", "probability"]


# --- bytes


@pytest.mark.parametrize("datatype", ["FP64", "FP32"])
def test_tensors_come_and_go_as_bytes(diabetes: Running, datatype: str) -> None:
    content, headers = packed(columns(rows(3), datatype), parameters={"binary_data_output": True}, id="b")
    answer = diabetes.client.post(INFER, content=content, headers=headers)
    assert answer.headers["content-type"] == "application/octet-stream"
    found = read(answer)
    assert json.loads(answer.content[: int(answer.headers[LENGTH])])["id"] == "b"
    assert found["prediction_id"] == [event.prediction_id for event in diabetes.logged]
    assert (found["probability"], found["prediction"]) == ([1.0] * 3, [True] * 3)
    assert [event.features for event in diabetes.logged] == [ROW] * 3


def test_each_output_may_be_in_the_json_or_after_it(diabetes: Running) -> None:
    outputs = [{"name": "prediction", "parameters": {"binary_data": False}}, {"name": "variant"}]
    answer = infer(diabetes, columns(rows()), outputs=outputs, parameters={"binary_data_output": True})
    head = json.loads(answer.content[: int(answer.headers[LENGTH])])
    assert ["data" in one for one in head["outputs"]] == [True, False]
    assert read(answer) == {"prediction": [True], "variant": ["champion"]}


def test_inputs_may_be_in_the_json_and_after_it(diabetes: Running) -> None:
    content, headers = packed(columns(rows()))
    length = int(headers[LENGTH])
    head = json.loads(content[:length])
    head["inputs"][1] = tensor("Glucose", [90])
    new = json.dumps(head).encode()
    rest = content[length : length + 8] + content[length + 16 :]
    read(diabetes.client.post(INFER, content=new + rest, headers={LENGTH: str(len(new))}))
    assert diabetes.logged[0].features == ROW | {"Glucose": 90}


@pytest.mark.parametrize("datatype", ["INT8", "INT32", "INT64", "UINT8", "UINT64"])
@pytest.mark.parametrize("binary", [False, True])
def test_whole_numbers_may_be_of_any_width(diabetes: Running, datatype: str, binary: bool) -> None:
    inputs = columns(rows(2))
    inputs[4] = tensor("Age", [51, 120], datatype)
    content, headers = packed(inputs) if binary else (json.dumps({"inputs": inputs}).encode(), {})
    read(diabetes.client.post(INFER, content=content, headers=headers))
    assert [event.features["Age"] for event in diabetes.logged] == [51, 120]


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_32_bits_mean_the_shortest_number_that_they_hold(value: float) -> None:
    contract = msgspec.structs.replace(LOAN, features=(msgspec.structs.replace(LOAN.features[0], **OPEN),))
    meant = float(str(np.float32(value)))
    with running(contract) as found:
        for content, headers in (
            packed([tensor("income", [value], "FP32")]),
            (json.dumps({"inputs": [tensor("income", [value], "FP32")]}).encode(), {}),
        ):
            # The model gives no probability for what is too large for it.
            answer = found.client.post(LOAN_INFER, content=content, headers=headers)
            assert answer.status_code in (200, 500)
        assert all(event.features == {"income": meant} for event in found.logged)


OPEN: dict[str, Any] = {"minimum": None, "maximum": None, "resolution": None}


def test_nan_and_null_are_missing(diabetes: Running) -> None:
    content, headers = packed(columns(rows(1, Pregnancies=[math.nan])))
    for answer in (
        diabetes.client.post(INFER, content=content, headers=headers),
        infer(diabetes, columns(rows(1, Pregnancies=[None]), "FP32")),
    ):
        assert error(answer) == "row 0: Pregnancies: must not be null"
    # The small model of the tests has no probability where a number is missing.
    before = counted("failed")
    infer(diabetes, columns(rows(1, BMI=[None])))
    assert counted("failed") == before + 1


def counted(result: str) -> float:
    labels = {"model_name": "diabetes", "model_version": "1", "result": result}
    return REGISTRY.get_sample_value("driftloop_predictions_total", labels) or 0.0


# --- patients, orders, retries and traces


@pytest.mark.parametrize(
    ("name", "field", "named"), [("patient_id", "subject", pseudonym), ("order_id", "order", order_pseudonym)]
)
def test_patients_and_orders_are_logged_under_pseudonyms(
    diabetes: Running, name: str, field: str, named: Callable[[bytes, str], str]
) -> None:
    for content, headers in (
        packed([*columns(rows(2)), tensor(name, ["MRN:1", ""], "BYTES")]),
        (json.dumps({"inputs": columns(rows(2, **{name: ["MRN:1", None]}))}).encode(), {}),
    ):
        answer = diabetes.client.post(INFER, content=content, headers=headers)
        assert "MRN" not in answer.text
    assert [getattr(event, field) for event in diabetes.logged] == [named(KEY, "MRN:1"), None] * 2


def test_a_retry_with_the_same_key_has_the_same_ids(diabetes: Running) -> None:
    for _ in range(2):
        diabetes.client.post(INFER, json={"inputs": columns(rows(2))}, headers={"idempotency-key": "one"})
    ids = [event.prediction_id for event in diabetes.logged]
    assert ids[:2] == ids[2:]
    assert ids[0] != ids[1]


def test_the_events_continue_the_requests_trace(diabetes: Running) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    diabetes.client.post(INFER, json={"inputs": columns(rows())}, headers={"traceparent": parent})
    assert (diabetes.log.taken[-1].traceparent or "").startswith(parent[:35])


# --- versions


def with_canary(weight: float) -> Serving:
    served = state(1, 1, canary=Canary(version=2, weight=weight))
    models = {1: loaded(DIABETES, 1), 2: loaded(DIABETES, 2, -0.1)}
    return Serving(served, {version: (artifact(version), model) for version, model in models.items()}, NOW)


def test_a_canary_answers_its_share_of_the_rows(diabetes: Running) -> None:
    diabetes.replica.serving = with_canary(0.5)
    found = read(infer(diabetes, columns(rows(200, patient_id=[f"MRN-{row}" for row in range(200)]))))
    assert 50 < found["model_version"].count(2) < 150
    assert {(1, "champion", 1.0), (2, "canary", 0.0)} == set(
        zip(found["model_version"], found["variant"], found["probability"], strict=True)
    )


def test_who_asks_for_the_champion_meets_no_canary_and_the_canary_is_heard(diabetes: Running) -> None:
    diabetes.replica.serving = with_canary(1.0)
    answer = infer(diabetes, columns(rows()), "/v2/models/diabetes/versions/1/infer")
    assert (answer.json()["model_version"], read(answer)["model_version"]) == ("1", [1])
    [event] = diabetes.logged
    assert (event.model_version, event.variant, [one.model_version for one in event.shadows]) == (1, "champion", [2])
    assert read(infer(diabetes, columns(rows())))["variant"] == ["canary"]


# --- what is refused


def test_one_bad_row_refuses_all_and_nothing_is_logged(diabetes: Running) -> None:
    sent = rows(250, Age=[51] * 249 + [500], Glucose=[100] * 249 + [5000])
    assert error(infer(diabetes, columns(sent))) == (
        "row 249: Glucose: must be between 10 and 1000 mg/dL, or 0 for missing; Age: must be between 1 and 120 years"
    )
    assert diabetes.log.taken == []


BAD: dict[str, tuple[Any, str]] = {
    "no inputs": ({"inputs": []}, "has no input"),
    "no list": ({"inputs": {}}, "Expected `array`"),
    "no object": ([], "Expected `object`"),
    "an id that is no text": ({"id": 1, "inputs": columns(rows())}, "$.id"),
    "a feature is missing": ({"inputs": columns(rows())[:-1]}, "the inputs ['Age'] are missing"),
    "no feature": ({"inputs": [*columns(rows()), tensor("Insulin", [1])]}, "'Insulin' is no feature"),
    "twice": ({"inputs": [*columns(rows()), tensor("Age", [1])]}, "'Age' is given more than once"),
    "other counts": ({"inputs": [*columns(rows(2))[:-1], tensor("Age", [1])]}, "'Age' has 1 rows"),
    "an unknown output": ({"inputs": columns(rows()), "outputs": [{"name": "risk"}]}, "no output 'risk'"),
    "an output twice": (
        {"inputs": columns(rows()), "outputs": [{"name": "variant"}] * 2},
        "'variant' is asked for more than once",
    ),
    "no flag": ({"inputs": columns(rows()), "parameters": {"binary_data_output": "yes"}}, "true or false"),
    "a matrix too narrow": ({"inputs": [tensor("x", [1] * 4, "FP64", [1, 4])]}, "or one [n, 5]"),
    "a patient who is too long": (
        {"inputs": columns(rows(1, patient_id=["x" * 201]))},
        "row 0: patient_id: must be a text of 1 to 200 characters",
    ),
    "patients that are no texts": ({"inputs": [*columns(rows()), tensor("patient_id", [1])]}, "send BYTES"),
    "an order that is too long": (
        {"inputs": columns(rows(1, order_id=["x" * 201]))},
        "row 0: order_id: must be a text of 1 to 200 characters",
    ),
    "orders that are no texts": ({"inputs": [*columns(rows()), tensor("order_id", [1])]}, "send BYTES"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_request_that_is_wrong_is_refused_with_a_readable_reason(diabetes: Running, name: str) -> None:
    body, reason = BAD[name]
    assert reason in error(diabetes.client.post(INFER, json=body))
    assert diabetes.log.taken == []


AGE: dict[str, tuple[dict[str, Any], str]] = {
    "no data": ({"data": None}, "has no data"),
    "data that are no list": ({"data": 51}, "has no data"),
    "too many": ({"data": [51, 52]}, "has 2 values: the shape [1] takes 1"),
    "nested too deeply": ({"data": [[51]]}, "not nested as the shape"),
    "nested unevenly": ({"data": [[51, 52]], "shape": [1, 1]}, "not nested as the shape"),
    "a text": ({"data": ["51"]}, "takes numbers, or null for missing"),
    "a truth value": ({"data": [True]}, "takes numbers"),
    "not whole": ({"data": [51.5], "datatype": "INT32"}, "takes whole numbers"),
    "null among whole numbers": ({"data": [None], "datatype": "INT32"}, "takes whole numbers"),
    "out of the type's range": ({"data": [300], "datatype": "INT8"}, "whole numbers from -128 to 127"),
    "of too many digits": ({"data": [10**400], "datatype": "FP32"}, "so many digits"),
    "infinite": ({"data": [10**39], "datatype": "FP32"}, "Age: must be a finite number"),
    "a huge whole number": ({"data": [10**400]}, "Age: must be between 1 and 120 years"),
    "16 bits": ({"datatype": "FP16"}, "datatype FP16: send one of"),
    "truth values": ({"data": [True], "datatype": "BOOL"}, "datatype BOOL: send one of"),
    "texts": ({"data": ["51"], "datatype": "BYTES"}, "datatype BYTES: send one of"),
    "no datatype": ({"datatype": "F" * 500}, "F" * 100 + "…: send"),
    "no dimension": ({"shape": []}, "has the shape []"),
    "too many dimensions": ({"shape": [1, 1, 1]}, "has the shape [1, 1, 1]"),
    "a negative dimension": ({"shape": [-1]}, "has the shape [-1]"),
    "no rows": ({"shape": [0], "data": []}, "has the shape [0]"),
    "two columns": ({"shape": [1, 2], "data": [51, 52]}, "has the shape [1, 2]"),
    "a dimension that is no number": ({"shape": ["1"]}, "$.inputs[0].shape[0]"),
    "a dimension of many digits": ({"shape": [10**400]}, "has too many rows"),
    "a second dimension of many digits": ({"shape": [1, 10**400]}, "000…"),
    "a size that is no number": ({"data": None, "parameters": {"binary_data_size": "8"}}, "must be a whole number"),
    "a negative size": ({"data": None, "parameters": {"binary_data_size": -8}}, "must be a whole number"),
    "bytes that are not there": ({"data": None, "parameters": {"binary_data_size": 8}}, "fewer bytes than"),
    "data and bytes": ({"parameters": {"binary_data_size": 8}}, "send its values once"),
}


@pytest.mark.parametrize("name", AGE)
def test_a_tensor_that_is_wrong_is_refused_with_a_readable_reason(diabetes: Running, name: str) -> None:
    changed, reason = AGE[name]
    said = error(infer(diabetes, [tensor("Age", [51]) | changed, *columns(rows())[:-1]]))
    assert reason in said
    assert len(said) < 500
    assert diabetes.log.taken == []


def test_a_category_that_comes_as_a_number_is_refused(loan: Running) -> None:
    said = error(infer(loan, columns({"income": [1], "employment": [1], "term": [1]}), LOAN_INFER))
    assert said == "input 'employment' has datatype FP64: send BYTES"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the body is empty"),
        (b"{", "send one JSON object"),
        (b'{"inputs": NaN}', "without NaN"),
        (b'{"inputs": [], "inputs": []}', "inputs: is given more than once"),
        (b'{"inputs": [{"name": "a", "shape": [1], "datatype": "FP64", "data": [1], "data": [2]}]}', "data: is given"),
        (b"\xff\xfe", "JSON"),
    ],
)
def test_a_body_that_is_no_request_is_refused(diabetes: Running, content: bytes, reason: str) -> None:
    assert reason in error(diabetes.client.post(INFER, content=content))


@pytest.mark.parametrize("length", ["", "-1", "1.5", "²", "9" * 19, "9" * 5000, "x"])
def test_a_header_length_that_is_no_number_is_refused(diabetes: Running, length: str) -> None:
    content, _headers = packed(columns(rows()))
    answer = diabetes.client.post(INFER, content=content, headers={LENGTH: length.encode()})
    assert "must be a number" in error(answer)


def test_bytes_that_are_cut_off_or_left_over_are_refused(diabetes: Running) -> None:
    content, headers = packed(columns(rows(2)))
    for sent, reason in ((content[:-1], "fewer bytes"), (content + b"x", "1 bytes follow the last input")):
        assert reason in error(diabetes.client.post(INFER, content=sent, headers=headers))
    for length, reason in ((len(content) + 1, "bytes only"), (len(content), "JSON"), (0, "empty")):
        assert reason in error(diabetes.client.post(INFER, content=content, headers={LENGTH: str(length)}))


def test_bytes_that_are_not_as_many_as_the_shape_takes_are_refused(diabetes: Running) -> None:
    inputs = columns(rows(2))
    inputs[0]["shape"] = [2, 1]
    inputs[0]["data"] = [1, 2, 3]
    content, headers = packed(inputs)
    said = error(diabetes.client.post(INFER, content=content, headers=headers))
    assert said == "input 'Pregnancies' has 24 bytes: FP64 [2, 1] takes 16"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "its 0 bytes are not 1 texts"),
        (b"\x01\x00\x00", "its 3 bytes"),
        (b"\x05\x00\x00\x00abc", "its 7 bytes"),
        (b"\xff\xff\xff\xffabc", "its 7 bytes"),
        (content_of("BYTES", ["a", "b"]), "its 10 bytes"),
        (b"\x01\x00\x00\x00\xff", "its element 0 is not UTF-8"),
    ],
)
def test_texts_that_are_cut_off_or_no_texts_are_refused(diabetes: Running, content: bytes, reason: str) -> None:
    patients = {"name": "patient_id", "shape": [1], "datatype": "BYTES"}
    head = {"inputs": [*columns(rows()), patients | {"parameters": {"binary_data_size": len(content)}}]}
    sent = json.dumps(head).encode()
    answer = diabetes.client.post(INFER, content=sent + content, headers={LENGTH: str(len(sent))})
    assert reason in error(answer)


@pytest.mark.parametrize(("encoding", "status"), [("gzip", 415), ("identity", 200)])
def test_a_body_that_is_compressed_is_refused(diabetes: Running, encoding: str, status: int) -> None:
    answer = diabetes.client.post(INFER, json={"inputs": columns(rows())}, headers={"content-encoding": encoding})
    assert answer.status_code == status
    if status == 415:
        assert error(answer, status) == "content-encoding 'gzip' is not read here: send plain bytes"


def test_there_is_a_limit_of_rows_and_one_of_bytes() -> None:
    with running(DIABETES, limits=Limits(body_bytes=100, batch_bytes=5000, batch_rows=3)) as found:
        read(infer(found, columns(rows(3))))
        assert "send 1 to 3" in error(infer(found, columns(rows(4))))
        assert found.client.post(INFER, content=b" " * 5001).status_code == 413
        assert found.client.post("/v2/models/diabetes", content=b" " * 101).status_code == 413


@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(0, 200)), st.booleans())
def test_no_bytes_break_the_door(noise: bytes, length: int | None, valid_head: bool) -> None:
    content, headers = packed(columns(rows()))
    body = content[: int(headers[LENGTH])] + noise if valid_head else noise
    with running(DIABETES) as found:
        sent = headers if length is None else {LENGTH: str(length)}
        assert found.client.post(INFER, content=body, headers=sent).status_code in (200, 400)


# --- when it cannot answer


@pytest.mark.parametrize(("method", "path"), [("POST", INFER), ("GET", "/v2/models/diabetes")])
def test_without_a_model_the_client_is_told_to_come_again(diabetes: Running, method: str, path: str) -> None:
    diabetes.replica.serving = None
    answer = diabetes.client.request(method, path)
    assert "try again later" in error(answer, 503)
    assert answer.headers["retry-after"] == "1"


def test_when_nothing_can_be_logged_the_client_is_told_to_come_again() -> None:
    with running(DIABETES, max_in_flight=0) as found:
        answer = infer(found, columns(rows(3)))
        assert "try again later" in error(answer, 503)
        assert (answer.headers["retry-after"], found.log.taken) == ("1", [])


def test_a_row_without_a_probability_is_an_error_of_ours(diabetes: Running) -> None:
    assert "promote a version" in error(infer(diabetes, columns(rows(2, Glucose=[165, 0]))), 500)


@pytest.mark.parametrize(
    ("result", "sent", "path"),
    [
        ("ok", rows(), INFER),
        ("invalid", rows(Age=[500]), INFER),
        ("invalid", rows(), "/v2/models/diabetes/versions/2/infer"),
        ("failed", rows(Glucose=[0]), INFER),
    ],
)
def test_each_request_is_counted_by_its_result(diabetes: Running, result: str, sent: dict[str, Any], path: str) -> None:
    before = counted(result)
    infer(diabetes, columns(sent), path)
    assert counted(result) == before + 1


# --- the documentation


def described(found: Running, method: str, path: str, answer: httpx.Response) -> None:
    """Check an answer against what the document says of it."""
    document = found.client.get("/openapi.json").json()
    media_type = answer.headers["content-type"]
    response = document["paths"][path][method]["responses"][str(answer.status_code)]
    schema = response["content"][media_type]["schema"] | {"components": document["components"]}
    if media_type.endswith("json"):
        Draft202012Validator(schema).validate(answer.json())


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/health/live",
        "/health/ready",
        "/models/{model}",
        "/models/{model}/ready",
        "/models/{model}/versions/{version}",
    ],
)
@pytest.mark.parametrize(("model", "loaded"), [("diabetes", True), ("diabetes", False), ("other", True)])
def test_what_is_asked_is_answered_as_it_is_described(diabetes: Running, path: str, model: str, loaded: bool) -> None:
    if not loaded:
        diabetes.replica.serving = None
    answer = diabetes.client.get("/v2" + path.format(model=model, version=1))
    described(diabetes, "get", "/v2" + path, answer)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"inputs": columns(rows())}, 200),
        ({"inputs": columns(rows()), "parameters": {"binary_data_output": True}}, 200),
        ({"inputs": []}, 400),
        ({"inputs": columns(rows(BMI=[0]))}, 500),
    ],
)
def test_an_inference_is_answered_as_it_is_described(diabetes: Running, sent: dict[str, Any], status: int) -> None:
    answer = diabetes.client.post(INFER, json=sent)
    assert answer.status_code == status
    described(diabetes, "post", "/v2/models/{model}/infer", answer)


@pytest.mark.parametrize("contract", [DIABETES, LOAN])
def test_the_examples_are_accepted_and_are_as_they_are_described(contract: Contract) -> None:
    with running(contract) as found:
        post = found.client.get("/openapi.json").json()["paths"]["/v2/models/{model}/infer"]["post"]
        content = post["requestBody"]["content"]["application/json"]
        for example in content["examples"].values():
            Draft202012Validator(content["schema"]).validate(example["value"])
            read(found.client.post(f"/v2/models/{contract.name}/infer", json=example["value"]))
