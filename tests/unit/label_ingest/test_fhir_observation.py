"""One FHIR R4 Observation: which outcome it is, and why it is none."""

from datetime import UTC, datetime
from typing import Any

import pytest

from driftloop.common.events import OutcomeReported
from tests.support.fhir import example, issue_of, observation, outcome_of

LOINC = "http://loinc.org"
EXACT = datetime(2026, 3, 2, 7, 15, tzinfo=UTC)


def coded(code: str, system: str | None = LOINC) -> dict[str, Any]:
    return {"coding": [{"code": code} | ({"system": system} if system is not None else {})]}


def component(code: str, value: float) -> dict[str, Any]:
    return {"code": coded(code), "valueQuantity": {"value": value, "unit": "mg/dL"}}


def test_a_final_result_becomes_an_outcome() -> None:
    assert outcome_of(example("observation-hba1c")) == OutcomeReported(
        result_id="https://lab.example/results|L-4711",
        result_version=1,
        observed_at=EXACT,
        reported_at=datetime(2026, 3, 3, 14, 30, tzinfo=UTC),
        order_id="ORD-2026-0815",
        patient_id="MRN-1",
        analyte="4548-4",
        value=7.2,
        unit="%",
        status="final",
        source="https://lab.example/results",
    )


def test_a_corrected_result_is_the_same_result_in_a_newer_version() -> None:
    first, second = outcome_of(example("observation-hba1c")), outcome_of(example("observation-corrected"))
    assert (second.source, second.result_id) == (first.source, first.result_id)
    assert (second.result_version, second.status, second.value) == (2, "corrected", 6.2)


def test_a_result_entered_in_error_is_withdrawn_without_a_value() -> None:
    outcome = outcome_of(example("observation-entered-in-error"))
    assert (outcome.status, outcome.value, outcome.analyte) == ("entered-in-error", None, "4548-4")
    assert outcome.result_id == "https://lab.example/results|L-4711"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("registered", "preliminary"),
        ("preliminary", "preliminary"),
        ("final", "final"),
        ("amended", "corrected"),
        ("corrected", "corrected"),
        ("cancelled", "cancelled"),
        ("entered-in-error", "entered-in-error"),
    ],
)
def test_each_status_has_its_meaning(status: str, expected: str) -> None:
    assert outcome_of(observation(status=status)).status == expected


@pytest.mark.parametrize(("status", "answer"), [("unknown", 422), ("Final", 400), ("Jane Doe", 400), (None, 400)])
def test_another_status_is_refused(status: str | None, answer: int) -> None:
    issue = issue_of(observation(status=status))
    assert (issue.status, issue.expression) == (answer, "Observation.status")
    assert "Jane" not in issue.diagnostics


# --- what was measured


def test_the_ucum_code_comes_before_the_printed_unit() -> None:
    quantity = {"value": 48, "unit": "mmol/mol Hb", "system": "http://unitsofmeasure.org", "code": "mmol/mol"}
    assert outcome_of(observation(valueQuantity=quantity)).unit == "mmol/mol"


def test_a_code_of_another_system_is_no_unit() -> None:
    quantity = {"value": 48, "unit": "mmol/mol", "system": "http://snomed.info/sct", "code": "258718000"}
    assert outcome_of(observation(valueQuantity=quantity)).unit == "mmol/mol"


@pytest.mark.parametrize("comparator", ["<", "<=", ">=", ">"])
def test_a_bound_keeps_its_comparator(comparator: str) -> None:
    outcome = outcome_of(observation(valueQuantity={"value": 14, "comparator": comparator, "unit": "%"}))
    assert (outcome.value, outcome.comparator) == (14.0, comparator)


def test_the_loinc_code_is_found_among_others() -> None:
    code = {"coding": [{"system": "https://lab.example/tests", "code": "A1C"}, {"system": LOINC, "code": "4548-4"}]}
    assert outcome_of(observation(code=code)).analyte == "4548-4"


def test_a_stated_diagnosis_is_the_label_and_needs_no_analyte() -> None:
    outcome = outcome_of(observation(code={"text": "Diabetes"}, valueQuantity=None, valueBoolean=True))
    assert (outcome.label, outcome.analyte, outcome.value) == (1, None, None)
    assert outcome_of(observation(valueQuantity=None, valueBoolean=False)).label == 0


def test_the_only_component_that_is_a_measurement_is_the_result() -> None:
    components = [component("1558-6", 131), {"code": {"text": "Hours fasted"}, "valueInteger": 9}]
    outcome = outcome_of(observation(valueQuantity=None, component=components))
    assert (outcome.analyte, outcome.value) == ("1558-6", 131.0)


def test_a_preliminary_result_needs_no_value_yet() -> None:
    assert outcome_of(observation(status="registered", valueQuantity=None)).value is None


@pytest.mark.parametrize(
    ("changes", "status", "code", "expression", "says"),
    [
        ({"valueQuantity": None}, 422, "required", "Observation", "has no value"),
        (
            {"valueQuantity": None, "dataAbsentReason": {"text": "clotted"}},
            422, "required", "Observation", "says why it has no value",
        ),
        ({"valueQuantity": {"unit": "%"}}, 422, "required", "Observation.valueQuantity.value", "without a number"),
        (
            {"valueQuantity": {"value": "7.2"}},
            400, "structure", "Observation.valueQuantity.value", "Expected `float | null`, got `str`",
        ),
        (
            {"valueQuantity": {"value": 7, "comparator": "~"}},
            400, "code-invalid", "Observation.valueQuantity.comparator", "none of < <= >= >",
        ),
        ({"valueBoolean": True}, 400, "structure", "Observation.value", "has 2 values"),
        ({"valueQuantity": None, "valueString": "high"}, 422, "not-supported", "Observation.value", "valueBoolean"),
        (
            {"valueQuantity": None, "valueCodeableConcept": coded("10828004")},
            422, "not-supported", "Observation.value", "valueBoolean",
        ),
        ({"code": coded("A1C", "https://lab.example")}, 422, "required", "Observation.code", "http://loinc.org"),
        ({"code": None}, 422, "required", "Observation.code", "http://loinc.org"),
        ({"code": coded("HbA1c")}, 422, "value", "Observation.code", "matching regex"),
        (
            {"valueQuantity": None, "component": [component("1558-6", 99), component("1518-0", 180)]},
            422, "not-supported", "Observation.component", "has 2 components",
        ),
        (
            {"valueQuantity": None, "component": [{"code": {"text": "?"}}]},
            422, "not-supported", "Observation.component", "has 0 components",
        ),
        (
            {"valueQuantity": {"value": 7.2, "unit": "u" * 41}},
            422, "value", "Observation.valueQuantity.code", "length <= 40",
        ),
    ],
)  # fmt: skip
def test_what_proves_nothing_is_refused_with_its_element(
    changes: dict[str, object], status: int, code: str, expression: str, says: str
) -> None:
    issue = issue_of(observation(**changes))
    assert (issue.status, issue.code, issue.expression) == (status, code, expression)
    assert says in issue.diagnostics


# --- when


@pytest.mark.parametrize(
    "effective",
    [
        {"effectiveDateTime": "2026-03-02T08:15:00+01:00"},
        {"effectiveInstant": "2026-03-02T07:15:00.000Z"},
        {"effectivePeriod": {"start": "2026-03-01T00:00:00Z", "end": "2026-03-02T07:15:00Z"}},
    ],
)
def test_the_specimen_s_time_is_exact_and_in_utc(effective: dict[str, Any]) -> None:
    assert outcome_of(observation(**{"effectiveDateTime": None} | effective)).observed_at == EXACT


@pytest.mark.parametrize("day", ["2026", "2026-03", "2026-03-02"])
def test_a_day_says_nothing_of_the_time_where_the_order_is_named(day: str) -> None:
    assert outcome_of(observation(effectiveDateTime=day)).observed_at is None


@pytest.mark.parametrize(
    "effective", [{"effectiveDateTime": "2026-03-02"}, {"effectivePeriod": {"start": "2026-03-02T07:15:00Z"}}, {}]
)
def test_a_patient_s_result_needs_an_exact_time(effective: dict[str, Any]) -> None:
    changes = {"basedOn": None, "specimen": None, "effectiveDateTime": None} | effective
    issue = issue_of(observation(**changes))
    assert (issue.status, issue.expression) == (422, "Observation.effective")
    assert "exact time" in issue.diagnostics


@pytest.mark.parametrize(
    ("time", "says"),
    [
        ("2026-03-02T08:15:00", "no time zone"),
        ("2026-03-02T08:15Z", "no FHIR dateTime"),
        ("2026-13", "no FHIR dateTime"),
        ("02.03.2026", "no FHIR dateTime"),
        ("2026-02-30T08:15:00Z", "no calendar"),
        ("0001-01-01T00:00:00+05:00", "no calendar"),
        ("2026-03-02T08:15:60Z", "no calendar"),
        ("2026-03-02T08:15:00+99:00", "no calendar"),
        ("", "no FHIR dateTime"),
    ],
)
def test_what_is_no_time_is_refused(time: str, says: str) -> None:
    issue = issue_of(observation(effectiveDateTime=time))
    assert (issue.status, issue.code, issue.expression) == (400, "value", "Observation.effectiveDateTime")
    assert says in issue.diagnostics


# --- which result, whose, and by whom


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "https://lab.example/results|L-4711"),
        ({"identifier": [{"value": "L-4711"}]}, "|L-4711"),
        (
            {"identifier": [{"use": "old", "value": "L-1"}, {"system": "urn:driftloop:prediction", "value": "p"},
                            {"system": "s", "value": "L-2"}]},
            "s|L-2",
        ),
        ({"identifier": None}, "Observation/hba1c-4711"),
        ({"identifier": [{"system": "s"}]}, "Observation/hba1c-4711"),
    ],
)  # fmt: skip
def test_a_result_is_known_by_its_identifier_else_by_its_id(changes: dict[str, object], expected: str) -> None:
    assert outcome_of(observation(**changes)).result_id == expected


def test_a_result_without_identifier_and_id_is_refused() -> None:
    issue = issue_of(observation(identifier=None, id=None))
    assert (issue.status, issue.code, issue.expression) == (422, "required", "Observation.identifier")


@pytest.mark.parametrize(
    ("version", "expected"),
    [("7", 7), ("2147483647", 2147483647), ("2147483648", 1), ("0", 1), ("-1", 1), ("1.5", 1), ("a", 1), ("٣", 1),
     ("9" * 5000, 1), ("", 1)],
)  # fmt: skip
def test_the_version_is_a_whole_number_else_one(version: str, expected: int) -> None:
    assert outcome_of(observation(meta={"versionId": version})).result_version == expected


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ({"reference": "Patient/MRN-1"}, "MRN-1"),
        ({"reference": "https://ehr.example/fhir/Patient/MRN-1/_history/3"}, "MRN-1"),
        ({"reference": "Patient?identifier=https://clinic.example|MRN-1"}, "MRN-1"),
        ({"reference": "Patient/9", "identifier": {"value": "MRN-1"}}, "MRN-1"),
        ({"reference": "Group/MRN-1"}, None),
        ({"reference": "Inpatient/MRN-1"}, None),
        ({"reference": "Patient/MRN 1"}, None),
        ({"display": "Jane Doe"}, None),
        (None, None),
    ],
)
def test_a_patient_is_known_by_an_identifier_else_by_the_id(subject: dict[str, Any] | None, expected: str) -> None:
    assert outcome_of(observation(subject=subject)).patient_id == expected


def test_a_contained_patient_is_known_by_the_medical_record_number() -> None:
    number = {"type": {"coding": [{"code": "MR"}]}, "value": "MRN-1"}
    patient = {"resourceType": "Patient", "id": "p", "identifier": [{"value": "900-1"}, number]}
    assert outcome_of(observation(subject={"reference": "#p"}, contained=[patient])).patient_id == "MRN-1"


@pytest.mark.parametrize("reference", ["#p", "urn:uuid:61ebe359-bfdc-4613-8bf2-c5e300945f0a"])
def test_a_reference_that_leads_nowhere_is_refused(reference: str) -> None:
    issue = issue_of(observation(subject={"reference": reference}))
    assert (issue.status, issue.code, issue.expression) == (422, "not-found", "Observation.subject.reference")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "ORD-2026-0815"),
        ({"basedOn": [{"reference": "ServiceRequest/ORD-7"}]}, "ORD-7"),
        ({"basedOn": [{"reference": "CarePlan/1"}, {"reference": "ServiceRequest/ORD-7"}]}, "ORD-7"),
        ({"basedOn": None}, "ACC-99"),
        ({"basedOn": None, "specimen": None}, None),
    ],
)
def test_the_order_comes_before_the_accession_number(changes: dict[str, object], expected: str | None) -> None:
    assert outcome_of(observation(**changes)).order_id == expected


def test_a_contained_specimen_gives_its_accession_number() -> None:
    specimen = {"resourceType": "Specimen", "id": "s", "accessionIdentifier": {"value": "ACC-7"}}
    changes = {"basedOn": None, "specimen": {"reference": "#s"}, "contained": [specimen]}
    assert outcome_of(observation(**changes)).order_id == "ACC-7"


@pytest.mark.parametrize("element", ["identifier", "basedOn"])
def test_a_prediction_is_named_by_its_own_system(element: str) -> None:
    identifier = {"system": "urn:driftloop:prediction", "value": "0198c5f2a7"}
    more = {"identifier": [identifier]} if element == "identifier" else {"basedOn": [{"identifier": identifier}]}
    assert outcome_of(observation(**more)).prediction_id == "0198c5f2a7"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "https://lab.example/results"),
        ({"identifier": [{"value": "L-1"}]}, "https://lab.example/lis"),
        ({"identifier": None, "meta": {"source": "https://lab.example/lis#rQ8x3"}}, "https://lab.example/lis"),
        ({"identifier": None, "meta": {"source": "#rQ8x3"}}, None),
        ({"identifier": None, "meta": None, "performer": [{"display": "Example Laboratory"}]}, None),
    ],
)
def test_the_source_is_who_names_the_result(changes: dict[str, object], expected: str | None) -> None:
    assert outcome_of(observation(**changes)).source == expected


def test_a_name_that_no_column_holds_is_refused() -> None:
    issue = issue_of(observation(subject={"identifier": {"value": "MRN\0"}}))
    assert (issue.status, issue.expression) == (400, "Observation.subject")


def test_an_extension_of_the_laboratory_s_own_is_passed_over() -> None:
    assert outcome_of(observation(_status={"extension": []}, somethingElse=[{"a": 1}])).value == 7.2
