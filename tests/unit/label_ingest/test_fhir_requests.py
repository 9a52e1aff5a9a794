"""DiagnosticReports and Bundles: which results they hold, and what their references lead to."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.label_ingest.fhir import MAX_ENTRIES
from driftloop.label_ingest.fhir import report as reports
from driftloop.label_ingest.fhir.body import check_media_type, read_body
from driftloop.label_ingest.fhir.issues import Issue, Unusable
from driftloop.label_ingest.fhir.requests import read_bundle, read_single
from driftloop.label_ingest.reports import MAX_ITEMS
from tests.support.fhir import bundle, entry, example, issue_of, observation, outcome_of, read, readings_of

ORDERED = {"basedOn": [{"reference": "ServiceRequest/ORD-1"}]}


def report(one: dict[str, Any], /, **changes: object) -> dict[str, Any]:
    """A report that contains one result."""
    return {
        "resourceType": "DiagnosticReport", "id": "r", "status": "final", "contained": [{"id": "a"} | one],
        "result": [{"reference": f"#{one.get('id', 'a')}"}],
    } | changes  # fmt: skip


def result(**changes: object) -> dict[str, Any]:
    """A result as reports contain them."""
    return {
        "resourceType": "Observation", "id": "a", "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "4548-4"}]},
        "valueQuantity": {"value": 7.2, "unit": "%"},
    } | ORDERED | changes  # fmt: skip


def refusal_of(body: bytes) -> Issue:
    with pytest.raises(Unusable) as caught:
        read_body(body)
    return caught.value.issues[0]


# --- reports


def test_each_result_of_a_report_is_an_outcome() -> None:
    fasting, hba1c = (one.outcome for one in read(example("diagnostic-report")).results)
    assert (fasting.analyte, fasting.value, fasting.unit) == ("14771-0", 7.8, "mmol/L")
    assert (hba1c.comparator, hba1c.value, hba1c.status) == (">", 14.0, "preliminary")


def test_a_result_takes_from_its_report_what_it_does_not_say() -> None:
    fasting, _hba1c = (one.outcome for one in read(example("diagnostic-report")).results)
    assert (fasting.patient_id, fasting.order_id) == ("MRN-2", "ORD-7")
    assert fasting.observed_at is not None
    assert fasting.reported_at is not None


def test_a_contained_result_without_identifier_is_named_after_its_report() -> None:
    fasting, hba1c = (one.outcome for one in read(example("diagnostic-report")).results)
    assert fasting.result_id == "https://lab.example/reports|R-17#fasting"
    assert hba1c.result_id == "https://lab.example/results|L-4712"


def test_each_result_is_told_by_its_path() -> None:
    paths = [one.place for one in read(example("diagnostic-report")).results]
    assert paths == ["DiagnosticReport.result[0]", "DiagnosticReport.result[1]"]


def test_a_contained_result_has_the_version_of_its_report() -> None:
    assert outcome_of(report(result(), meta={"versionId": "4"})).result_version == 4


@pytest.mark.parametrize(
    ("own", "of_the_report", "expected"),
    [
        ("final", "preliminary", "final"),
        ("preliminary", "final", "preliminary"),
        (None, "partial", "preliminary"),
        (None, "appended", "final"),
        (None, "amended", "corrected"),
        ("final", "cancelled", "cancelled"),
        ("final", "entered-in-error", "entered-in-error"),
    ],
)
def test_a_result_s_own_status_holds_until_its_report_is_withdrawn(
    own: str | None, of_the_report: str, expected: str
) -> None:
    assert outcome_of(report(result(status=own), status=of_the_report)).status == expected


def test_a_report_s_prediction_is_its_results_one() -> None:
    identifier = [{"system": "urn:driftloop:prediction", "value": "0198c5f2a7"}]
    assert outcome_of(report(result(), identifier=identifier)).prediction_id == "0198c5f2a7"


def test_a_result_that_a_report_names_twice_is_read_once() -> None:
    twice = report(result(), contained=[result(), result(id="b")])
    twice["result"] = [{"reference": "#a"}, {"reference": "#b"}, {"reference": "#a"}]
    assert [one.place for one in read(twice).results] == ["DiagnosticReport.result[0]", "DiagnosticReport.result[1]"]


@pytest.mark.parametrize(
    ("changes", "status", "code", "expression"),
    [
        ({"status": None}, 400, "required", "DiagnosticReport.status"),
        ({"status": "done"}, 400, "code-invalid", "DiagnosticReport.status"),
        ({"result": []}, 422, "required", "DiagnosticReport.result"),
        ({"result": [{"reference": "#b"}]}, 422, "not-found", "DiagnosticReport.result[0].reference"),
        ({"result": [{"reference": "Observation/9"}]}, 422, "not-found", "DiagnosticReport.result[0]"),
        ({"contained": [{"resourceType": "Patient", "id": "a"}]}, 400, "invalid", "DiagnosticReport.result[0]"),
        ({"contained": [{"resourceType": "Observation"}]}, 400, "required", "DiagnosticReport.contained[0].id"),
        ({"contained": [result(), result()]}, 400, "invalid", "DiagnosticReport.contained[1].id"),
        ({"contained": [result(code=None)]}, 422, "required", "DiagnosticReport.contained[0].code"),
        ({"contained": [7]}, 400, "structure", "DiagnosticReport.contained[0]"),
        ({"id": None}, 422, "required", "DiagnosticReport.identifier"),
        ({"result": [{"reference": "#a"}] * (MAX_ITEMS + 1)}, 413, "too-long", "DiagnosticReport.result"),
    ],
)
def test_a_report_that_is_not_whole_is_refused(
    changes: dict[str, object], status: int, code: str, expression: str
) -> None:
    issue = issue_of(report(result(), **changes))
    assert (issue.status, issue.code, issue.expression) == (status, code, expression)


# --- bundles


def test_references_lead_to_other_entries() -> None:
    patient, order, glucose, panel = readings_of(example("bundle-transaction"))
    (found,) = glucose.results
    assert (found.outcome.patient_id, found.outcome.order_id) == ("MRN-3", "ORD-3")
    assert found.outcome.result_id == "urn:uuid:05efabf0-4be2-4561-91ce-51548425acb9"
    assert found.place == "Bundle.entry[2].resource"
    assert [one.note is not None for one in (patient, order, glucose, panel)] == [True, True, False, True]


def test_an_entry_takes_from_a_report_that_is_another_entry() -> None:
    glucose = readings_of(example("bundle-transaction"))[2].results[0].outcome
    assert glucose.reported_at is not None


def test_an_entry_does_not_take_what_only_its_report_contains() -> None:
    """Or `#p` would be the Observation's own, another patient."""
    mine = {"resourceType": "Patient", "id": "p", "identifier": [{"value": "MRN-1"}]}
    single = result(contained=[mine], identifier=[{"value": "L-1"}])
    panel = report(result(), contained=[mine | {"identifier": [{"value": "MRN-2"}]}], subject={"reference": "#p"})
    first, _panel = readings_of(
        bundle("batch", entry(single), entry(panel | {"result": [{"reference": "Observation/a"}]}))
    )
    assert first.results[0].outcome.patient_id is None


def test_a_bad_entry_costs_no_other() -> None:
    first, second, third = readings_of(example("bundle-batch"))
    assert [len(one.results) for one in (first, second, third)] == [1, 0, 1]
    assert second.issues[0].expression == "Bundle.entry[1].resource"
    assert third.results[0].outcome.label == 1


@pytest.mark.parametrize(
    ("one", "status", "expression"),
    [
        (7, 400, "Bundle.entry[0]"),
        ({}, 400, "Bundle.entry[0].resource"),
        ({"resource": {"id": "a"}}, 400, "Bundle.entry[0].resource"),
        ({"resource": observation()}, 400, "Bundle.entry[0].request"),
        (entry(observation(), request={"method": "POST"}), 400, "Bundle.entry[0].request"),
        (entry(observation(), request={"method": "GET", "url": "Observation"}), 405, "Bundle.entry[0].request.method"),
        (entry(observation(), request={"method": "POST", "url": "Patient"}), 400, "Bundle.entry[0].request.url"),
        (entry(observation(), request={"method": "POST", "url": "Observation/7"}), 400, "Bundle.entry[0].request.url"),
        (entry(observation(), request={"method": "PUT", "url": "Observation/7"}), 400, "Bundle.entry[0].resource.id"),
        (entry({"resourceType": "Medication"}), 404, None),
        (entry(observation(status=7)), 400, "Bundle.entry[0].resource.status"),
    ],
)
def test_a_bad_entry_names_its_place(one: Any, status: int, expression: str | None) -> None:
    (reading,) = readings_of(bundle("batch", one))
    assert (reading.issues[0].status, reading.issues[0].expression) == (status, expression)


@pytest.mark.parametrize("condition", ["identifier=https://lab.example/results|L-4711",
                                       "identifier=https%3A%2F%2Flab.example%2Fresults%7CL-4711"])  # fmt: skip
def test_a_condition_may_name_the_result_itself(condition: str) -> None:
    created = entry(observation(), request={"method": "POST", "url": "Observation", "ifNoneExist": condition})
    updated = entry(observation(), request={"method": "PUT", "url": f"Observation?{condition}"})
    assert all(one.results for one in readings_of(bundle("batch", created, updated)))


@pytest.mark.parametrize(
    "condition", ["", "identifier=L-4711", "identifier=a|b", "code=4548-4", "identifier=a&status=b"]
)
def test_any_other_condition_is_refused(condition: str) -> None:
    with pytest.raises(Unusable) as caught:
        read_single(read_body(b'{"resourceType": "Observation"}'), "Observation", None, condition)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("resource", "status", "expression"),
    [
        (observation(), 400, "Resource.resourceType"),
        (bundle("document"), 400, "Bundle.type"),
        ({"resourceType": "Bundle"}, 400, "Bundle"),
        (bundle("batch", *[{}] * (MAX_ENTRIES + 1)), 413, "Bundle.entry"),
        (bundle("batch", *[entry(observation())] * (MAX_ITEMS + 1)), 413, "Bundle.entry"),
        (
            bundle("batch", entry(observation(), fullUrl="urn:uuid:1"), entry(observation(), fullUrl="urn:uuid:1")),
            400, "Bundle.entry[1].fullUrl",
        ),
    ],
)  # fmt: skip
def test_what_is_no_batch_and_no_transaction_is_refused(resource: dict[str, Any], status: int, expression: str) -> None:
    with pytest.raises(Unusable) as caught:
        readings_of(resource)
    assert (caught.value.status, caught.value.issues[0].expression) == (status, expression)


def test_results_are_counted_before_any_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_observation(*_arguments: object) -> None:
        raise AssertionError("a result was read")

    monkeypatch.setattr(reports, "read_observation", read_observation)
    one_more = [result(id=str(nth)) for nth in range(MAX_ITEMS // 2 + 1)]
    panel = report(result(), contained=one_more, result=[{"reference": f"#{one['id']}"} for one in one_more])
    with pytest.raises(Unusable, match=f"has {MAX_ITEMS + 2} results: send at most {MAX_ITEMS}"):
        readings_of(bundle("batch", entry(panel), entry(panel | {"id": "s"})))


def test_results_that_are_entries_are_counted_once() -> None:
    singles = [result(id=str(nth)) for nth in range(MAX_ITEMS)]
    panel = report(result(), contained=[], result=[{"reference": f"Observation/{one['id']}"} for one in singles])
    readings = readings_of(bundle("batch", entry(panel), *map(entry, singles)))
    assert sum(len(one.results) for one in readings) == MAX_ITEMS


def test_an_empty_bundle_asks_for_nothing() -> None:
    assert readings_of(bundle("transaction")) == []


# --- bodies


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"null", "no JSON object"),
        (b"[]", "no JSON object"),
        (b"{", "not JSON"),
        (b"{}{}", "not JSON"),
        (b"<Observation/>", "not JSON"),
        (b'\xef\xbb\xbf{"resourceType": "Observation"}', "byte-order mark"),
        ('{"resourceType": "Observation"}'.encode("utf-16"), "not JSON"),
        (b'{"resourceType": "Observation", "id": "\xff"}', "no UTF-8"),
        (b'{"resourceType": "Observation", "id": "\\ud800"}', "not JSON"),
        (b'{"resourceType": "Observation", "valueQuantity": {"value": NaN}}', "not JSON"),
        (b'{"resourceType": "Observation", "valueQuantity": {"value": 1e999}}', "out of range"),
        (b'{"resourceType": "Observation", "valueQuantity": {"value": ' + b"9" * 5000 + b"}}", "not JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b'{"resourceType": "Observation", "status": "final", "status": "amended"}', "status: given more than once"),
        (b'{"resourceType": "Observation", "meta": {"Jane Doe": 1, "Jane Doe": 2}}', "a member: given more than once"),
        (b"{}", "missing required field `resourceType`"),
        (b'{"resourceType": 7}', "Expected `str`, got `int`"),
    ],
)
def test_a_body_that_is_no_resource_is_refused_with_its_reason(body: bytes, says: str) -> None:
    issue = refusal_of(body)
    assert issue.status == 400
    assert says in issue.diagnostics
    assert len(issue.diagnostics) < 300


@pytest.mark.parametrize(
    "kind",
    [None, "application/fhir+json", "application/json", "application/fhir+json; charset=UTF-8; fhirVersion=4.0"],
)
def test_json_is_taken(kind: str | None) -> None:
    check_media_type(kind)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("application/fhir+xml", "send JSON"),
        ("text/xml", "send JSON"),
        ("application/x-www-form-urlencoded", "send JSON"),
        ("", "send JSON"),
        ("application/fhir+json; charset=latin-1", "UTF-8"),
        ("application/fhir+json; fhirVersion=5.0", "R4"),
    ],
)
def test_any_other_media_type_is_refused(kind: str, says: str) -> None:
    with pytest.raises(Unusable, match=says) as caught:
        check_media_type(kind)
    assert caught.value.status == 415


# --- whatever is sent

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["#a", "urn:uuid:1", "Patient/1", "final", "http://loinc.org"]),
)
NAMES = st.sampled_from(["reference", "identifier", "value", "system", "coding", "id", "resourceType", "end"])
ANYTHING = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3))
OBSERVATION_CHANGES = st.dictionaries(
    st.sampled_from(["id", "meta", "contained", *observation()]), ANYTHING, min_size=1, max_size=2
)


@given(OBSERVATION_CHANGES)
def test_no_observation_raises_anything_else(changes: dict[str, object]) -> None:
    with suppress(Unusable):
        outcome_of(example("observation-hba1c") | changes | {"resourceType": "Observation"})


@given(OBSERVATION_CHANGES, ANYTHING, ANYTHING)
def test_no_bundle_raises_anything_else(changes: dict[str, object], request: object, one: object) -> None:
    entries: list[Any] = [entry(observation()) | {"resource": observation() | changes}, {"request": request}, one]
    panel = report(result()) | {"result": [{"reference": "Observation/hba1c-4711"}, one]}
    with suppress(Unusable):
        readings_of(bundle("batch", *entries, entry(panel)))


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_body_raises_anything_else(body: bytes) -> None:
    with suppress(Unusable):
        read_bundle(read_body(body))


@given(st.text(max_size=60))
def test_no_media_type_raises_anything_else(kind: str) -> None:
    with suppress(Unusable):
        check_media_type(kind)


@given(st.text(max_size=60))
def test_no_condition_raises_anything_else(condition: str) -> None:
    with suppress(Unusable):
        read_single(read_body(b'{"resourceType": "Observation"}'), "Observation", None, condition)
