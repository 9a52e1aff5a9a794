"""The FHIR R4 door over HTTP: what is kept, and which answer says so."""

import json
from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from psycopg import errors

from driftloop.label_ingest.reports import Answer, Status
from tests.support.asgi import ask
from tests.support.fhir import REFUSED_ANALYTE, Core, bundle, entry, example, observation

FHIR_JSON = {"content-type": "application/fhir+json"}
REFUSED = observation(
    identifier=[{"system": "https://lab.example/results", "value": "L-2"}],
    code={"coding": [{"system": "http://loinc.org", "code": REFUSED_ANALYTE}]},
)


def send(core: Core, path: str, resource: object, method: str = "POST", **headers: str) -> httpx.Response:
    content = resource if isinstance(resource, bytes) else json.dumps(resource).encode()
    response = ask(core.app(), method, path, content=content, headers=FHIR_JSON | headers)
    assert response.headers["content-type"] == "application/fhir+json"
    return response


def issues(response: httpx.Response) -> list[dict[str, Any]]:
    outcome = response.json()
    assert outcome["resourceType"] == "OperationOutcome"
    found: list[dict[str, Any]] = outcome["issue"]
    return found


def statuses(response: httpx.Response) -> list[str]:
    return [one["response"]["status"][:3] for one in response.json()["entry"]]


def rejections() -> float:
    return REGISTRY.get_sample_value("driftloop_outcomes_total", {"status": "rejected"}) or 0.0


class Saying(Core):
    """A core that gives the answer that it is told to give."""

    def __init__(self, status: Status, detail: str | None = None) -> None:
        super().__init__()
        self._answer = Answer(status, detail)

    def take(self, items: Any, traceparent: str | None = None) -> list[Answer]:
        """The same answer for each item."""
        return [self._answer] * len(items)


# --- one result


def test_a_result_is_created_and_has_an_address() -> None:
    core = Core()
    response = send(core, "/fhir/Observation", observation())
    assert response.status_code == 201
    assert response.headers["location"] == "/fhir/Observation/hba1c-4711/_history/1"
    assert response.headers["etag"] == 'W/"1"'
    assert [one.result_id for one in core.kept] == ["https://lab.example/results|L-4711"]


def test_the_answer_says_what_became_of_it() -> None:
    (issue,) = issues(send(Core(), "/fhir/Observation", observation()))
    assert issue["severity"] == "information"
    assert issue["details"]["coding"] == [{"system": "urn:driftloop:answer", "code": "joined"}]
    assert issue["expression"] == ["Observation"]


def test_a_result_that_is_known_is_not_created_again() -> None:
    core = Core()
    send(core, "/fhir/Observation", observation())
    condition = {"if-none-exist": "identifier=https://lab.example/results|L-4711"}
    response = send(core, "/fhir/Observation", observation(), **condition)
    assert response.status_code == 200
    assert len(core.kept) == 1


def test_the_same_result_has_the_same_address_also_without_an_id() -> None:
    first, second = (send(Core(), "/fhir/Observation", observation(id=None)).headers["location"] for _ in range(2))
    assert first == second
    assert "L-4711" not in first


def test_a_result_may_be_put() -> None:
    core = Core()
    response = send(core, "/fhir/Observation/hba1c-4711", example("observation-corrected"), "PUT")
    assert response.status_code == 200
    assert response.headers["etag"] == 'W/"2"'
    assert core.kept[0].result_version == 2


def test_a_result_may_not_be_put_where_another_belongs() -> None:
    core = Core()
    response = send(core, "/fhir/Observation/other", observation(), "PUT")
    assert response.status_code == 400
    assert issues(response)[0]["expression"] == ["Observation.id"]
    assert core.kept == []


@pytest.mark.parametrize(
    ("status", "answer", "severity"),
    [
        ("joined", 201, "information"),
        ("parked", 201, "information"),
        ("waiting", 201, "information"),
        ("retracted", 201, "information"),
        ("conflict", 201, "warning"),
        ("duplicate", 200, "information"),
        ("superseded", 200, "information"),
        ("rejected", 422, "error"),
    ],
)
def test_each_answer_of_the_core_has_its_status(status: Status, answer: int, severity: str) -> None:
    response = send(Saying(status, "because"), "/fhir/Observation", observation())
    (issue,) = issues(response)
    assert (response.status_code, issue["severity"], issue["diagnostics"]) == (answer, severity, "because")


def test_what_the_core_would_reject_is_unprocessable() -> None:
    core = Core()
    response = send(core, "/fhir/Observation", REFUSED)
    assert response.status_code == 422
    assert issues(response)[0]["code"] == "business-rule"
    assert core.calls == []


def test_a_report_is_taken_with_all_its_results() -> None:
    core = Core()
    response = send(core, "/fhir/DiagnosticReport", example("diagnostic-report"))
    assert response.status_code == 201
    assert response.headers["location"] == "/fhir/DiagnosticReport/report-17/_history/1"
    assert [one["expression"] for one in issues(response)] == [
        ["DiagnosticReport.result[0]"], ["DiagnosticReport.result[1]"],
    ]  # fmt: skip
    assert len(core.kept) == 2


def test_a_report_with_one_bad_result_is_not_taken_at_all() -> None:
    core, report = Core(), example("diagnostic-report")
    report["contained"][1]["code"]["coding"][0]["code"] = REFUSED_ANALYTE
    response = send(core, "/fhir/DiagnosticReport", report)
    assert response.status_code == 422
    assert [one["expression"] for one in issues(response)] == [["DiagnosticReport.result[1]"]]
    assert core.kept == []


def test_the_trace_goes_with_the_result() -> None:
    core = Core()
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    send(core, "/fhir/Observation", observation(), traceparent=trace)
    assert core.traceparents == [trace]


# --- bundles


def test_in_a_batch_each_entry_has_its_own_answer() -> None:
    core = Core()
    response = send(core, "/fhir", example("bundle-batch"))
    assert response.status_code == 200
    assert response.json()["type"] == "batch-response"
    assert statuses(response) == ["201", "422", "200"]
    refused = response.json()["entry"][1]["response"]["outcome"]["issue"][0]
    assert refused["expression"] == ["Bundle.entry[1].resource"]
    assert len(core.kept) == 2


def test_in_a_batch_what_the_core_rejects_costs_no_other() -> None:
    core = Core()
    response = send(core, "/fhir", bundle("batch", entry(REFUSED), entry(observation())))
    assert statuses(response) == ["422", "201"]
    assert len(core.kept) == 1


def test_a_batch_of_bad_entries_only_troubles_nobody() -> None:
    core = Core()
    assert statuses(send(core, "/fhir", bundle("batch", entry(REFUSED), {}))) == ["422", "400"]
    assert core.calls == []


def test_a_transaction_is_answered_by_entry() -> None:
    core = Core()
    response = send(core, "/fhir", example("bundle-transaction"))
    assert response.json()["type"] == "transaction-response"
    assert statuses(response) == ["200", "200", "201", "200"]
    assert response.json()["entry"][2]["response"]["location"].startswith("Observation/")
    assert len(core.kept) == 1


@pytest.mark.parametrize("bad", [entry(REFUSED), entry(observation(status="unknown")), {}])
def test_a_transaction_with_a_bad_entry_keeps_nothing(bad: dict[str, Any]) -> None:
    core = Core()
    response = send(core, "/fhir", bundle("transaction", entry(observation()), bad))
    assert response.status_code == 400
    assert [one["expression"][0][:15] for one in issues(response)] == ["Bundle.entry[1]"]
    assert core.calls == []


def test_an_empty_batch_has_an_empty_answer() -> None:
    assert send(Core(), "/fhir", bundle("batch")).json() == {"resourceType": "Bundle", "type": "batch-response"}


# --- refusals


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"", {}, 400, "structure"),
        (b'{"resourceType": "Patient"}', {}, 400, "invalid"),
        (b"<Observation/>", {"content-type": "application/fhir+xml"}, 415, "not-supported"),
        (b'{"resourceType": "Observation", "status": "unknown"}', {}, 422, "business-rule"),
        (b"[" * 200_000, {}, 400, "structure"),
    ],
)
def test_a_refusal_is_an_operation_outcome(body: bytes, headers: dict[str, str], status: int, code: str) -> None:
    response = send(Core(), "/fhir/Observation", body, **headers)
    (issue,) = issues(response)
    assert (response.status_code, issue["severity"], issue["code"]) == (status, "error", code)


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("GET", "/fhir/Observation/hba1c-4711", 405, "PUT"),
        ("DELETE", "/fhir/Observation/hba1c-4711", 405, "PUT"),
        ("GET", "/fhir/Observation", 405, "POST"),
        ("PUT", "/fhir/Observation", 405, "POST"),
        ("GET", "/fhir", 405, "POST"),
        ("POST", "/fhir/metadata", 405, "GET"),
        ("POST", "/fhir/Patient", 404, None),
        ("GET", "/fhir/Patient/1/_history/2", 404, None),
    ],
)
def test_what_this_door_does_not_do_is_refused_in_its_own_form(
    method: str, path: str, status: int, allowed: str | None
) -> None:
    response = send(Core(), path, b"", method)
    assert (response.status_code, response.headers.get("allow")) == (status, allowed)
    assert issues(response)[0]["code"] == "not-supported"


def test_a_database_that_is_away_is_said_with_the_time_to_come_again() -> None:
    response = send(Core(psycopg.OperationalError("no server")), "/fhir/Observation", observation())
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert issues(response)[0]["code"] == "transient"


def test_a_database_that_refuses_is_not_quoted() -> None:
    response = send(Core(errors.NotNullViolation("Jane Doe")), "/fhir", bundle("batch", entry(observation())))
    (issue,) = issues(response)
    assert (response.status_code, issue["code"]) == (500, "exception")
    assert "Jane" not in response.text


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "MRN-1"},
        {"effectiveDateTime": "MRN-1"},
        {"code": {"coding": [{"system": "http://loinc.org", "code": "MRN-1"}]}},
        {"valueQuantity": {"value": "7.2"}},
        {"subject": {"reference": "#MRN-1"}},
        {"subject": {"identifier": {"value": "MRN-1" * 60}}},
        {"contained": "MRN-1"},
        {"meta": {"versionId": 7.2}},
    ],
)
def test_no_refusal_repeats_a_patient_s_value(changes: dict[str, object]) -> None:
    response = send(Core(), "/fhir/Observation", observation(**changes))
    assert response.status_code in (400, 422)
    assert not any(value in response.text for value in ("MRN-1", "ORD-2026-0815", "ACC-99", "7.2"))


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_no_body_is_an_error_of_ours(body: bytes) -> None:
    assert send(Core(), "/fhir", body).status_code in (200, 400)


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("/fhir/Observation", observation(status="unknown")),
        ("/fhir/Observation", REFUSED),
        ("/fhir", bundle("batch", {})),
    ],
)
def test_what_never_reaches_the_core_is_counted(path: str, resource: dict[str, Any]) -> None:
    before = rejections()
    send(Core(), path, resource)
    assert rejections() == before + 1


# --- what it says of itself


def test_the_door_says_what_it_can_do() -> None:
    response = ask(Core().app(), "GET", "/fhir/metadata")
    statement = response.json()
    assert response.headers["content-type"] == "application/fhir+json"
    assert (statement["resourceType"], statement["fhirVersion"]) == ("CapabilityStatement", "4.0.1")
    assert [one["type"] for one in statement["rest"][0]["resource"]] == ["Observation", "DiagnosticReport"]


def test_the_description_of_the_api_knows_each_route() -> None:
    paths = Core().app().openapi()["paths"]
    assert {path: sorted(paths[path]) for path in paths} == {
        "/fhir": ["post"],
        "/fhir/metadata": ["get"],
        "/fhir/Observation": ["post"],
        "/fhir/Observation/{resource_id}": ["put"],
        "/fhir/DiagnosticReport": ["post"],
        "/fhir/DiagnosticReport/{resource_id}": ["put"],
    }
