"""Other people's tools read our topics: kcat sees the events and their CloudEvents headers."""

import json
import shutil
import subprocess

import pytest

from driftloop.common.contract import load_contract
from driftloop.common.topics import OUTCOMES, PREDICTIONS
from tests.support.house import House
from tests.support.paths import MODELS
from tests.support.predictions import prediction

pytestmark = pytest.mark.skipif(shutil.which("kcat") is None, reason="kcat is not installed: apt-get install kcat")


def kcat(house: House, *arguments: str, value: bytes | None = None) -> str:
    done = subprocess.run(
        ["kcat", "-b", house.stack.bootstrap_servers, *arguments],
        input=value,
        capture_output=True,
        timeout=30,
        check=True,
    )
    return done.stdout.decode()


def test_kcat_sees_the_cloudevents_headers(house: House) -> None:
    contract = load_contract(MODELS / "diabetes" / "contract.yaml")
    made = prediction(contract, {"Pregnancies": 1, "Glucose": 120.0, "BloodPressure": None, "BMI": 33.6, "Age": 50})
    house.publish(PREDICTIONS, [(made.prediction_id, made)])
    topic = house.namespace.topic(PREDICTIONS)
    line = kcat(house, "-t", topic, "-C", "-o", "beginning", "-e", "-q", "-f", "%h\t%k\t%s\n").strip()
    headers, key, value = line.split("\t")
    found = dict(pair.split("=", 1) for pair in headers.split(","))
    assert found["ce_specversion"] == "1.0"
    assert found["ce_type"] == "driftloop.PredictionMade"
    assert found["content-type"] == "application/json"
    assert {"ce_id", "ce_source", "ce_time"} <= set(found)
    assert key == made.prediction_id
    assert json.loads(value)["features"] == {
        "Pregnancies": 1, "Glucose": 120.0, "BloodPressure": None, "BMI": 33.6, "Age": 50
    }  # fmt: skip


def test_kcat_reports_an_outcome_as_a_laboratory_would(house: House) -> None:
    topic = house.namespace.topic(OUTCOMES)
    kcat(house, "-t", topic, "-P", value=b'{"prediction_id": "p-1", "label": 1}\n')
    (record,) = house.records(OUTCOMES)
    assert json.loads(record.value or b"") == {"prediction_id": "p-1", "label": 1}
