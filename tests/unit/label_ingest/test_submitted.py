"""The body of `POST /v1/outcomes`: what is taken, what is rejected by item, and what is refused as a whole."""

from contextlib import suppress
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.common.events import OutcomeReported
from driftloop.label_ingest.reports import MAX_ITEMS, Rejected
from driftloop.label_ingest.submitted import UnreadableBody, read_erasure, read_outcomes

GOOD = b'{"prediction_id": "p-1", "label": 1}'


def refused(body: bytes) -> tuple[int, str]:
    with pytest.raises(UnreadableBody) as caught:
        read_outcomes(body)
    return caught.value.status, str(caught.value)


def rejected(item: bytes) -> Rejected:
    """The second of two items, which is rejected while the first is taken."""
    first, second = read_outcomes(b"[" + GOOD + b"," + item + b"]")
    assert isinstance(first, OutcomeReported)
    assert isinstance(second, Rejected)
    return second


def test_one_object_is_one_outcome() -> None:
    body = (
        b' {"prediction_id": "p-1", "label": 0, "result_id": "L-17", "result_version": 2, '
        b'"observed_at": "2026-02-03T09:15:00+01:00"}\n'
    )
    (outcome,) = read_outcomes(body)
    assert isinstance(outcome, OutcomeReported)
    said = {name: value for name, value in msgspec.structs.asdict(outcome).items() if value is not None}
    assert said == {
        "prediction_id": "p-1", "label": 0, "result_id": "L-17", "result_version": 2, "status": "final",
        "observed_at": datetime(2026, 2, 3, 8, 15, tzinfo=UTC),
    }  # fmt: skip


def test_a_list_is_many() -> None:
    assert len(read_outcomes(b"[" + b",".join([GOOD] * MAX_ITEMS) + b"]")) == MAX_ITEMS


@pytest.mark.parametrize(
    ("item", "detail"),
    [
        (b'{"prediction_id": "p", "label": 2}', "$[1].label: Expected `int` <= 1"),
        (b'{"prediction_id": "p", "label": true}', "$[1].label: Expected `int | null`, got `bool`"),
        (b'{"prediction_id": "p", "label": "1"}', "$[1].label: Expected `int | null`, got `str`"),
        (b'{"prediction_id": "p", "label": 1.0}', "$[1].label: Expected `int | null`, got `float`"),
        (b'{"prediction_id": "p", "label": 1, "lable": 1}', "$[1]: Object contains unknown field `lable`"),
        (b'{"prediction_id": "p", "label": 1, "result_version": 0}', "$[1].result_version: Expected `int` >= 1"),
        (b'{"prediction_id": "p", "label": 1, "observed_at": "2026-01-01"}', "$[1].observed_at: Invalid RFC3339"),
        (b'{"prediction_id": "p", "label": 1, "observed_at": "2026-01-01T00:00:00"}', "with a timezone component"),
    ],
)
def test_a_bad_item_names_its_place_its_field_and_the_reason(item: bytes, detail: str) -> None:
    found = rejected(item)
    assert detail in found.detail
    assert found.prediction_id == "p"


@pytest.mark.parametrize(
    "item",
    [
        b"1",
        b"null",
        b"[]",
        b'"p"',
        b'{"prediction_id": "", "label": 1}',
        b'{"prediction_id": "a\\u0000", "label": 1}',
        b'{"prediction_id": "Jane Doe", "label": 1}',
        b'{"prediction_id": "\xff", "label": 1}',
        b'{"prediction_id": 7, "label": 1}',
        b'{"prediction_id": "' + b"p" * 129 + b'", "label": 1}',
    ],
)
def test_an_item_without_a_readable_prediction_id_is_rejected_without_one(item: bytes) -> None:
    assert rejected(item).prediction_id is None


@pytest.mark.parametrize("value", ["my patient 4711", "4711 - at `$.label`", "4711 - at `$", "4711'"])
def test_a_rejection_does_not_repeat_a_value(value: str) -> None:
    found = rejected(msgspec.json.encode({"prediction_id": "p", "label": 1, "status": value}))
    assert found.detail == "$[1].status: Invalid enum value"


def test_a_rejection_is_short_however_long_the_item_is() -> None:
    found = rejected(b'{"prediction_id": "p", "label": 1, "' + b"x" * 100_000 + b'": 1}')
    assert len(found.detail) < 250


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 422, "the body is empty"),
        (b" \n", 422, "the body is empty"),
        (b"[]", 422, "the list is empty"),
        (b"1", 422, "neither an object nor a list"),
        (b'"p"', 422, "neither an object nor a list"),
        (b"null", 422, "neither an object nor a list"),
        (b"NaN", 422, "not JSON"),
        (b"{", 422, "not JSON"),
        (b"\xff\xfe", 422, "not JSON"),
        (b'[{"prediction_id": "p", "label": NaN}]', 422, "not JSON"),
        (GOOD + GOOD, 422, "not JSON"),
        (b"prediction_id,label\np,1\n", 422, "not JSON"),
        (b'[{"prediction_id": "\\ud800", "label": 1}]', 422, "not JSON"),
        (b"[" * 200_000, 422, "not JSON"),
        (b'{"a":' * 200_000, 422, "not JSON"),
        (b'{"prediction_id": "p", "label": 3}', 422, "$.label: Expected `int` <= 1"),
        (b'{"prediction_id": "p", "label": 1, "extra": 1}', 422, "$: Object contains unknown field `extra`"),
        (b"[" + b",".join([GOOD] * (MAX_ITEMS + 1)) + b"]", 413, "the list has 1001 outcomes: send at most 1000"),
    ],
)
def test_a_body_of_which_nothing_can_be_taken_is_refused_with_its_reason(body: bytes, status: int, says: str) -> None:
    found, reason = refused(body)
    assert found == status
    assert says in reason
    assert len(reason) < 300


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_body_raises_anything_else(body: bytes) -> None:
    with suppress(UnreadableBody):
        read_outcomes(body)


# --- whose rows are to be erased


@pytest.mark.parametrize("patient", ["M", "MRN-4711", "Ä" * 200])
def test_an_erasure_names_a_patient(patient: str) -> None:
    assert read_erasure(msgspec.json.encode({"patient_id": patient})).patient_id == patient


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"MRN-4711",
        b'"MRN-4711"',
        b'["MRN-4711"]',
        b'{"patient": "MRN-4711"}',
        b'{"MRN-4711": 1, "patient_id": "MRN-4711"}',
        b'{"patient_id": ""}',
        b'{"patient_id": 4711}',
        b'{"patient_id": null}',
        b'{"patient_id": NaN}',
        b'{"patient_id": "MRN-4711\\u0000"}',
        b'{"patient_id": "MRN-4711\\ud800"}',
        b'{"patient_id": "MRN-4711\xff"}',
        b'{"patient_id": "' + b"MRN-4711" * 26 + b'"}',
        b'{"patient_id": ' + b"[" * 200_000,
        b'{"a":' * 200_000,
    ],
)
def test_an_erasure_that_cannot_be_read_is_refused_without_a_value(body: bytes) -> None:
    with pytest.raises(UnreadableBody) as caught:
        read_erasure(body)
    assert caught.value.status == 422
    assert "4711" not in str(caught.value)


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: msgspec.json.encode({"patient_id": text})))
def test_no_erasure_raises_anything_else(body: bytes) -> None:
    with suppress(UnreadableBody):
        read_erasure(body).patient_id.encode()
