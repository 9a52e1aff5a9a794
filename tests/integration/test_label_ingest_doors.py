"""One laboratory result, written in each of the formats that laboratories use, makes the same label by every door."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from driftloop.common.contract import load_contract
from driftloop.common.events import Event, LabelRetracted, PredictionLabeled, PredictionMade
from driftloop.common.pseudonyms import order_pseudonym, pseudonym
from driftloop.common.rows import Row
from driftloop.common.topics import LABELED_PREDICTIONS, OUTCOMES, PREDICTIONS
from driftloop.devstack.ports import free_port
from driftloop.devstack.processes import ServiceProcess
from tests.support.hl7 import Client
from tests.support.house import House
from tests.support.paths import MODELS
from tests.support.predictions import prediction
from tests.support.waiting import wait_until

CONTRACT = MODELS / "diabetes" / "contract.yaml"
KEY = "a key of these tests alone"
EXAMPLES = Path(__file__).parents[1] / "examples"
ROW: Row = {"Pregnancies": 2, "Glucose": 165.0, "BloodPressure": 72.0, "BMI": 33.6, "Age": 51}
PREDICTED = datetime(2026, 1, 20, 9, tzinfo=UTC)
OBSERVED = datetime(2026, 2, 3, 8, 15, tzinfo=UTC)


@dataclass(frozen=True)
class Laboratory:
    """What is sent to a running service, through whichever door."""

    house: House
    url: str
    mllp: int
    process: ServiceProcess

    def log(self) -> str:
        """All that the service has logged."""
        return self.process.log_path.read_text()

    def json(self, order: str, stage: str) -> None:
        said = _said(order, stage) | {"result_version": VERSIONS[stage]}
        response = httpx.post(f"{self.url}/v1/outcomes", json=said, timeout=30)
        assert response.json()["results"][0]["status"] in ("joined", "retracted"), response.text

    def topic(self, order: str, stage: str) -> None:
        said = _said(order, stage) | {"result_version": VERSIONS[stage]}
        self.house.produce(OUTCOMES, json.dumps(said).encode())

    def csv(self, order: str, stage: str) -> None:
        said = _said(order, stage) | {"result_version": VERSIONS[stage]}
        text = ",".join(said) + "\r\n" + ",".join(map(str, said.values())) + "\r\n"
        response = httpx.post(
            f"{self.url}/v1/outcomes.csv", content=text.encode(), headers={"content-type": "text/csv"}, timeout=30
        )
        assert response.json()["rejected"] == 0, response.text

    def fhir(self, order: str, stage: str) -> None:
        resource = json.loads((EXAMPLES / "fhir" / "observation-hba1c.json").read_text())
        value, status = READINGS[stage], {"final": "final", "corrected": "corrected", "wrong": "entered-in-error"}
        resource["identifier"] = [{"system": "https://lab.example/results", "value": f"L-{order}"}]
        resource["basedOn"] = [{"identifier": {"value": order}}]
        resource["meta"]["versionId"] = str(VERSIONS[stage])
        resource["effectiveDateTime"] = resource["issued"] = OBSERVED.isoformat()
        resource["status"] = status[stage]
        resource["valueQuantity"]["value"] = value
        response = httpx.post(f"{self.url}/fhir/Observation", json=resource, timeout=30, headers=FHIR)
        assert response.status_code == 201, response.text

    def hl7(self, order: str, stage: str) -> None:
        name = {"final": "hba1c-final", "corrected": "corrected", "wrong": "entered-in-error"}[stage]
        message = (EXAMPLES / "hl7" / f"{name}.hl7").read_bytes()
        message = message.replace(b"ORD-1", order.encode()).replace(b"FIL-1", f"F-{order}".encode())
        with Client(self.mllp) as client:
            acknowledgement = client.ask(message)
        assert acknowledgement[1][1] == "AA", acknowledgement


FHIR = {"content-type": "application/fhir+json"}
# What is measured at first, what it is corrected to, and that it was all wrong.
READINGS = {"final": 7.2, "corrected": 5.4, "wrong": 5.4}
STATUSES = {"final": "final", "corrected": "corrected", "wrong": "entered-in-error"}
VERSIONS = {"final": 1, "corrected": 2, "wrong": 3}
DOORS: dict[str, Callable[[Laboratory, str, str], None]] = {
    "json": Laboratory.json, "topic": Laboratory.topic, "csv": Laboratory.csv, "fhir": Laboratory.fhir,
    "hl7": Laboratory.hl7,
}  # fmt: skip


def _said(order: str, stage: str) -> dict[str, Any]:
    return {
        "order_id": order, "patient_id": "MRN-1", "analyte": "4548-4", "value": READINGS[stage], "unit": "%",
        "status": STATUSES[stage], "result_id": f"L-{order}", "source": "lab",
        "observed_at": OBSERVED.isoformat(),
    }  # fmt: skip


@pytest.fixture
def laboratory(house: House) -> Laboratory:
    return running(house)


def running(house: House, mllp_host: str = "127.0.0.1") -> Laboratory:
    mllp = free_port()
    process, url = house.process(
        "label-ingest",
        "driftloop.label_ingest.main",
        {
            "DATABASE_URL": house.database_url("label_ingest"),
            "DRIFTLOOP_CONTRACTS": str(CONTRACT),
            "DRIFTLOOP_PSEUDONYM_KEY": KEY,
            "DRIFTLOOP_MLLP_PORT": str(mllp),
            "DRIFTLOOP_MLLP_HOST": mllp_host,
        },
    )
    process.start()
    process.wait_ready()
    return Laboratory(house, url, mllp, process)


def made(name: str, **changes: Any) -> PredictionMade:
    names: dict[str, Any] = {"subject": pseudonym(KEY.encode(), "MRN-1"), "order": order_pseudonym(KEY.encode(), name)}
    plain = prediction(load_contract(CONTRACT), ROW, PREDICTED, prediction_id=f"p-{name}")
    return msgspec.structs.replace(plain, **names | changes)


def predict(laboratory: Laboratory, predictions: Sequence[PredictionMade]) -> None:
    """Predictions are made, and stored: an outcome that came before them would wait."""
    laboratory.house.publish(PREDICTIONS, [(one.prediction_id, one) for one in predictions])
    with httpx.Client(base_url=laboratory.url, timeout=30) as client:
        wait_until(lambda: client.get("/v1/summary").json()["predictions"] == len(predictions), "they are stored")


def stories(house: House) -> dict[str, list[tuple[int | None, int | None]]]:
    """What was published of each prediction, in order: the label, and the policy that made it."""
    found: dict[str, list[tuple[int | None, int | None]]] = {}
    for _envelope, event in house.events(LABELED_PREDICTIONS):
        assert isinstance(event, PredictionLabeled | LabelRetracted)
        found.setdefault(event.prediction_id, []).append(_label(event))
    return found


def _label(event: Event) -> tuple[int | None, int | None]:
    return (event.label, event.policy_version) if isinstance(event, PredictionLabeled) else (None, None)


def test_a_result_its_correction_and_its_withdrawal_say_the_same_by_every_door(
    house: House, laboratory: Laboratory
) -> None:
    predict(laboratory, [made(name) for name in DOORS])
    for place, stage in enumerate(READINGS):
        for name, report in DOORS.items():
            report(laboratory, name, stage)
        house.wait_for_events(LABELED_PREDICTIONS, (place + 1) * len(DOORS))
    assert stories(house) == {f"p-{name}": [(1, 1), (0, 1), (None, None)] for name in DOORS}


def test_the_patient_is_enough_where_the_order_is_not_known(house: House, laboratory: Laboratory) -> None:
    nobody: dict[str, Any] = {"order": None}
    predict(laboratory, [made("older", **nobody, predicted_at=PREDICTED - timedelta(days=9)), made("newer", **nobody)])
    laboratory.hl7("unknown", "final")
    house.wait_for_events(LABELED_PREDICTIONS, 1)
    assert stories(house) == {"p-newer": [(1, 1)]}


def test_nothing_that_names_a_patient_leaves_the_doors(house: House, laboratory: Laboratory) -> None:
    predict(laboratory, [made("the-order")])
    laboratory.hl7("the-order", "final")
    laboratory.json("the-order", "final")
    house.wait_for_events(LABELED_PREDICTIONS, 1)
    published = b"".join(record.value or b"" for record in house.records(LABELED_PREDICTIONS))
    with house.database("label_ingest") as connection:
        rows = connection.execute("SELECT to_jsonb(r) - 'result' FROM results AS r").fetchall()
        parts = connection.execute("SELECT to_jsonb(p) FROM predictions AS p").fetchall()
    said = f"{published!r} {rows} {parts} {laboratory.log()}".replace("p-the-order", "")
    # A laboratory's own name of a result is kept as it is, in the database alone.
    for identifier in ("MRN-1", "the-order", "Example"):
        assert identifier not in said


def test_readiness_says_that_anybody_may_write_by_mllp(house: House) -> None:
    laboratory = running(house, mllp_host="0.0.0.0")
    said = httpx.get(f"http://127.0.0.1:{laboratory.process.management_port}/readyz", timeout=30).json()
    assert said["status"] == "ok"
    assert "whoever reaches the MLLP port may write labels" in str(said["notes"])
    assert "DRIFTLOOP_MLLP_TLS_CLIENT_CA" in laboratory.log()
