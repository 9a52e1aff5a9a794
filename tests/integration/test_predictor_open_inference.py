"""Triton's own client asks a predictor's process, and what it is answered is in the log."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from driftloop.common.access.issuing import create_key
from driftloop.common.events import PredictionMade
from driftloop.common.pseudonyms import pseudonym
from driftloop.common.topics import PREDICTIONS
from tests.support.artifacts import small_bundle
from tests.support.bad_bodies import ROW
from tests.support.house import House
from tests.support.predictors import DIABETES, PSEUDONYM_KEY, predictor

MODEL = DIABETES.name
ROWS = 250


class Client:
    """Triton's client, with a key of the installation."""

    def __init__(self, url: str, key: str) -> None:
        self.triton = InferenceServerClient(url.removeprefix("http://"))
        self.headers = {"x-api-key": key}

    def infer(
        self, columns: Mapping[str, np.ndarray[Any, Any]], binary: bool, outputs: Sequence[str] = (), **more: Any
    ) -> InferResult:
        """Answer to columns that are sent, and wanted back, as bytes or in JSON."""
        inputs = []
        for name, values in columns.items():
            inputs.append(InferInput(name, values.shape, np_to_triton_dtype(values.dtype)))
            inputs[-1].set_data_from_numpy(values, binary_data=binary)
        wanted = [InferRequestedOutput(name, binary_data=binary) for name in outputs]
        return self.triton.infer(MODEL, inputs, outputs=wanted or None, headers=self.headers, **more)


@pytest.fixture
def client(house: House) -> Iterator[Client]:
    house.serve(1, house.register(small_bundle(DIABETES)), MODEL, 1)
    keys = house.folder / "keys.json"
    key = create_key(keys, "clinic", ["predict"], datetime.now(UTC)).text
    process, url = predictor(house, ACCESS="on", API_KEYS=str(keys))
    process.wait_ready()
    client = Client(url, key)
    yield client
    client.triton.close()


def logged(house: House) -> dict[str, PredictionMade]:
    events = [event for _envelope, event in house.events(PREDICTIONS)]
    return {event.prediction_id: event for event in events if isinstance(event, PredictionMade)}


def columns(dtype: type[np.floating[Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """Rows that differ in their age, with a patient each."""
    found: dict[str, np.ndarray[Any, Any]] = {name: np.full(ROWS, value, dtype) for name, value in ROW.items()}
    found["Age"] = (20 + np.arange(ROWS) % 90).astype(dtype)
    return found | {"patient_id": np.array([f"MRN-{row}" for row in range(ROWS)], np.object_)}


def test_the_client_finds_server_and_model(client: Client) -> None:
    triton, headers = client.triton, client.headers
    assert triton.is_server_live(headers)
    assert triton.is_server_ready(headers)
    assert triton.is_model_ready(MODEL, headers=headers)
    assert triton.is_model_ready(MODEL, "1", headers=headers)
    assert not triton.is_model_ready(MODEL, "2", headers=headers)
    assert not triton.is_model_ready("another", headers=headers)
    assert "binary_tensor_data" in triton.get_server_metadata(headers)["extensions"]
    metadata = triton.get_model_metadata(MODEL, "1", headers=headers)
    assert [one["name"] for one in metadata["inputs"]] == [*ROW, "patient_id", "order_id"]
    assert not triton.is_server_live({})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("binary", [False, True])
def test_a_batch_is_answered_row_by_row_and_logged(
    house: House, client: Client, dtype: type[np.floating[Any]], binary: bool
) -> None:
    outputs = ("prediction_id", "probability", "prediction", "model_version", "variant")
    result = client.infer(columns(dtype), binary, outputs, request_id="order-17")
    assert (result.get_response()["id"], result.get_response()["model_version"]) == ("order-17", "1")
    # In JSON texts are texts, after it they are bytes.
    ids = [one.decode() if binary else one for one in result.as_numpy("prediction_id")]
    events = logged(house)
    assert set(ids) == set(events)
    made = [events[one] for one in ids]
    assert [one.features for one in made] == [ROW | {"Age": 20 + row % 90} for row in range(ROWS)]
    key = PSEUDONYM_KEY.encode()
    assert [one.subject for one in made] == [pseudonym(key, f"MRN-{row}") for row in range(ROWS)]
    assert result.as_numpy("probability").tolist() == [one.score for one in made]
    assert result.as_numpy("prediction").tolist() == [one.prediction for one in made]
    assert result.as_numpy("model_version").tolist() == [1] * ROWS
    assert len(result.as_numpy("variant")) == ROWS


def test_one_matrix_is_answered_with_all_outputs(house: House, client: Client) -> None:
    matrix = np.array([list(ROW.values())] * 3, np.float32)
    result = client.infer({"predict": matrix}, binary=True, model_version="1")
    assert [one["name"] for one in result.get_response()["outputs"]] == [
        "probability", "prediction", "prediction_id", "model_version", "variant",
    ]  # fmt: skip
    assert [event.features for event in logged(house).values()] == [ROW] * 3


def test_an_error_reaches_the_client_as_a_sentence(house: House, client: Client) -> None:
    wrong = columns(np.float64)
    wrong["Age"][249] = 500
    with pytest.raises(InferenceServerException, match="row 249: Age: must be between 1 and 120 years") as caught:
        client.infer(wrong, binary=True)
    assert caught.value.status() == "400"
    with pytest.raises(InferenceServerException, match="version 2 of model 'diabetes' does not serve: version 1 does"):
        client.infer(wrong, binary=True, model_version="2")
    with pytest.raises(InferenceServerException, match="content-encoding 'gzip' is not read here"):
        client.infer(wrong, binary=True, request_compression_algorithm="gzip")
    assert logged(house) == {}
