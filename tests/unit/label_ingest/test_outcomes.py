"""What can never count as an outcome, and says why; and which result an outcome is."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from driftloop.common.contract import load_contract
from driftloop.common.events import OutcomeReported
from driftloop.common.pseudonyms import order_pseudonym, pseudonym
from driftloop.label_ingest.domain.outcomes import Terms, outcome_problem, version_of
from tests.support.paths import MODELS

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = b"a key of these tests alone"
DIABETES = load_contract(MODELS / "diabetes" / "contract.yaml").labels
CONFIRMED = msgspec.structs.replace(DIABETES, decide="confirmed")
ONE = Terms({"diabetes": DIABETES}, KEY)
TWO = Terms({"diabetes": DIABETES, "loan": load_contract(MODELS / "loan" / "contract.yaml").labels}, KEY)
MEASURED: dict[str, Any] = {"analyte": "4548-4", "value": 7.2, "unit": "%", "result_id": "L-1"}
PATIENT: dict[str, Any] = {"patient_id": "4711", "observed_at": NOW - timedelta(days=1), "result_id": "L-1"}


def problem(terms: Terms = ONE, **said: Any) -> str | None:
    return outcome_problem(OutcomeReported(**said), terms, NOW)


@pytest.mark.parametrize(
    "said",
    [
        {"prediction_id": "p", "label": 1},
        {"order_id": "A-1", **MEASURED},
        {**PATIENT, **MEASURED},
        {**PATIENT, "label": 0},
        {"order_id": "A-1", **PATIENT, **MEASURED, "comparator": ">"},
        {"prediction_id": "p", "status": "preliminary"},
        {"prediction_id": "p", "status": "entered-in-error"},
        {"patient_id": "4711", "status": "cancelled", "result_id": "L-1"},
        {"prediction_id": "p", "label": 1, "observed_at": NOW + timedelta(minutes=9)},
    ],
)
def test_what_can_count_is_no_problem(said: dict[str, Any]) -> None:
    assert problem(**said) is None


@pytest.mark.parametrize(
    ("said", "begins"),
    [
        ({"label": 1}, "prediction_id: missing"),
        ({"prediction_id": "p"}, "analyte: missing"),
        ({"prediction_id": "p", "analyte": "4548-4", "unit": "%"}, "value: missing"),
        ({"prediction_id": "p", "analyte": "4548-4", "value": 7.0}, "unit: missing"),
        ({"prediction_id": "p", "label": 1, "value": 7.0}, "label: comes with value"),
        ({"prediction_id": "p", **MEASURED, "analyte": "1-1"}, "analyte: no model here"),
        ({"prediction_id": "p", **MEASURED, "unit": "mg"}, "unit: cannot be converted"),
        ({"prediction_id": "p", **MEASURED, "value": 720.0}, "value: HbA1c is impossible outside of 2 to 25 %"),
        ({"prediction_id": "p", **MEASURED, "value": 5.0, "comparator": ">"}, "comparator: leaves open"),
        ({"prediction_id": "p", "label": 1, "observed_at": NOW + timedelta(days=1)}, "observed_at: is in the future"),
        ({"prediction_id": "p", "label": 1, "reported_at": NOW + timedelta(days=1)}, "reported_at: is in the future"),
        ({"prediction_id": "p", "label": 1, "observed_at": datetime(1899, 1, 1, tzinfo=UTC)}, "observed_at: must be"),
        ({"prediction_id": "p", "label": 1, "result_id": "a\0"}, "result_id: must not contain"),
        ({"prediction_id": "p", "label": 1, "source": "a\x1fb"}, "source: must not contain"),
        ({"order_id": "\ud800", "label": 1}, "order_id: must be text"),
        (
            {"prediction_id": "p", "label": 1, "model_name": "other"},
            "model_name: is none of those known here: ",
        ),
        ({"patient_id": "4711", **MEASURED}, "observed_at: missing"),
        ({"order_id": "A-1", "label": 1}, "result_id: missing"),
        ({**PATIENT, **MEASURED, "result_id": None}, "result_id: missing"),
        ({"prediction_id": "p", **MEASURED, "result_id": ""}, "result_id: missing"),
        ({"order_id": "A-1", "status": "cancelled"}, "result_id: missing"),
    ],
)
def test_what_can_never_count_names_its_field_and_the_remedy_and_no_value(said: dict[str, Any], begins: str) -> None:
    found = problem(**said)
    assert found is not None
    assert found.startswith(begins)
    assert "4711" not in found


def test_a_stated_label_of_an_order_must_say_whose_it_is_where_there_are_several_models() -> None:
    said: dict[str, Any] = {"order_id": "A-1", "label": 1, "result_id": "L-1"}
    assert problem(**said) is None
    assert (problem(TWO, **said) or "").startswith("model_name: missing")
    assert problem(TWO, **said, model_name="loan") is None


def test_without_a_key_orders_and_patients_cannot_be_named() -> None:
    found = problem(Terms(ONE.policies), **PATIENT | MEASURED)
    assert found is not None
    assert "DRIFTLOOP_PSEUDONYM_KEY" in found


def test_what_is_to_be_confirmed_needs_the_time_of_its_specimen() -> None:
    found = problem(Terms({"diabetes": CONFIRMED}, KEY), prediction_id="p", **MEASURED)
    assert found is not None
    assert found.startswith("observed_at: missing")


def test_an_outcome_is_known_by_what_it_names_first_and_by_source_and_id() -> None:
    every = {"prediction_id": "p", "order_id": "A-1", **PATIENT, "label": 1, "source": "lab", "result_id": "L-1"}
    by_id = version_of(OutcomeReported(**every), ONE)
    assert (by_id.key, by_id.result, by_id.subject) == ("pp", "lab\x1fL-1", None)
    by_order = version_of(OutcomeReported(**every | {"prediction_id": None}), ONE)
    assert (by_order.key, by_order.subject) == ("o" + order_pseudonym(KEY, "A-1"), pseudonym(KEY, "4711"))
    by_patient = version_of(OutcomeReported(**every | {"prediction_id": None, "order_id": None}), ONE)
    assert (by_patient.key, by_patient.subject) == ("s" + pseudonym(KEY, "4711"), pseudonym(KEY, "4711"))


def test_no_identifier_is_kept_as_it_was_sent() -> None:
    version = version_of(OutcomeReported(order_id="A-2026-0117", **PATIENT, label=1), ONE)
    assert "A-2026-0117" not in str(version)
    assert "4711" not in str(version).replace(pseudonym(KEY, "4711"), "")
