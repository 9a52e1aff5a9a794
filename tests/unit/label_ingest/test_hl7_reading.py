"""HL7 v2 messages → outcomes: which fields are read, what is ignored, what is rejected, and what is refused."""

from contextlib import suppress
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.common.events import OutcomeReported
from driftloop.label_ingest.hl7.meaning import Message, Observation, Place, Refused, Rules
from driftloop.label_ingest.hl7.reading import VERSIONS, read_message
from driftloop.label_ingest.hl7.syntax import MAX_SEGMENTS
from driftloop.label_ingest.reports import MAX_ITEMS, Rejected
from tests.support.hl7 import example, message, result

RULES = Rules()
HBA1C = "OBX|1|NM|4548-4^HbA1c^LN||7.2|%|||||F"


def outcome(data: bytes, rules: Rules = RULES) -> OutcomeReported:
    """The only outcome of a message."""
    (one,) = read_message(data, rules).observations
    assert isinstance(one.item, OutcomeReported), one.item
    return one.item


def unusable(data: bytes) -> Observation:
    """The only observation of a message, which was rejected."""
    (one,) = read_message(data, RULES).observations
    assert isinstance(one.item, Rejected)
    return one


def refused(data: bytes, rules: Rules = RULES) -> Refused:
    with pytest.raises(Refused) as caught:
        read_message(data, rules)
    return caught.value


def obx(kind: str = "NM", value: str = "7.2", status: str = "F", tail: str = "") -> bytes:
    return message(*result(f"OBX|1|{kind}|4548-4^HbA1c^LN||{value}|%|||||{status}{tail}"))


def test_a_final_result_is_an_outcome() -> None:
    assert outcome(example("hba1c-final"), Rules(time_zone=ZoneInfo("America/New_York"))) == OutcomeReported(
        result_id="FIL-1/4548-4/",
        # MSH-7 names the zone of all times that name none.
        observed_at=datetime(2026, 2, 3, 7, 15, tzinfo=UTC),
        reported_at=datetime(2026, 2, 3, 10, 55, tzinfo=UTC),
        order_id="ORD-1",
        patient_id="MRN-1",
        analyte="4548-4",
        value=7.2,
        unit="%",
        status="final",
        source="LAB|NORTH",
    )


def test_of_a_panel_the_numbers_with_a_loinc_code_are_read_and_the_rest_is_counted() -> None:
    panel = read_message(example("panel"), RULES)
    assert panel.ignored == 3
    glucose = outcome(example("panel"))
    assert (glucose.analyte, glucose.value, glucose.unit) == ("14771-0", 7.8, "mmol/L")
    assert glucose.result_id == "FIL-2/GLU/"


def test_a_correction_is_the_same_result_reported_later() -> None:
    first, later = outcome(example("hba1c-final")), outcome(example("corrected"))
    assert (later.result_id, later.status, later.value) == (first.result_id, "corrected", 5.4)
    assert first.reported_at is not None
    assert later.reported_at is not None
    assert later.reported_at > first.reported_at


def test_a_result_entered_in_error_needs_no_value() -> None:
    taken_back = outcome(example("entered-in-error"))
    assert (taken_back.result_id, taken_back.status, taken_back.value) == ("FIL-1/4548-4/", "entered-in-error", None)


def test_a_preliminary_result_says_so() -> None:
    assert outcome(example("preliminary")).status == "preliminary"


def test_comparators_stand_in_a_structured_number_or_in_a_text() -> None:
    found = [one.item for one in read_message(example("comparator"), RULES).observations]
    assert [(one.comparator, one.value) for one in found if isinstance(one, OutcomeReported)] == [
        (">", 14.0),
        (">=", 27.8),
    ]


def test_latin_1_is_read_where_msh_18_says_so() -> None:
    assert outcome(example("latin-1")).source == "LAB|SÜD"


def test_escapes_stand_for_delimiters_and_bytes() -> None:
    found = outcome(example("escapes"))
    assert found.patient_id == "MRN&8ä"
    assert found.order_id == r"A|B^C~D\E"


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        *dict.fromkeys("PRSIO", "preliminary").items(),
        *dict.fromkeys("CA", "corrected").items(),
        *dict.fromkeys("DW", "entered-in-error").items(),
        ("X", "cancelled"),
        ("F", "final"),
    ],
)
def test_obx_11_says_the_status(status: str, meaning: str) -> None:
    assert outcome(obx(status=status)).status == meaning


@pytest.mark.parametrize(
    ("kind", "value", "number", "comparator"),
    [
        ("NM", "7.2", 7.2, None),
        ("NM", "+.5", 0.5, None),
        ("NM", "-3.", -3.0, None),
        ("SN", "^7.2", 7.2, None),
        ("SN", "=^7.2", 7.2, None),
        ("SN", "<=^4", 4.0, "<="),
        ("ST", "6.9", 6.9, None),
        ("ST", "<4", 4.0, "<"),
        ("ST", " >= 14.0 ", 14.0, ">="),
    ],
)
def test_a_number_comes_as_nm_sn_or_st(kind: str, value: str, number: float, comparator: str | None) -> None:
    found = outcome(obx(kind, value))
    assert (found.value, found.comparator) == (number, comparator)


@pytest.mark.parametrize(
    ("data", "field", "code", "text"),
    [
        (obx(value="7,2"), 5, 102, "not one decimal number"),
        (obx(value="1e3"), 5, 102, "not one decimal number"),
        (obx(value="٧"), 5, 102, "not one decimal number"),
        (obx(value="nan"), 5, 102, "not one decimal number"),
        (obx(value="7^2"), 5, 102, "not one decimal number"),
        (obx("ST", "7&2"), 5, 102, "not one decimal number"),
        (obx(value="9" * 400), 5, 102, "not one decimal number"),
        (obx(value=""), 5, 101, "OBX-5 is empty"),
        (obx(value="6~7"), 5, 102, "several values"),
        (obx("SN", "^1^-^2"), 5, 102, "range or a ratio"),
        (obx("SN", "<>^1"), 5, 103, "OBX-5.1"),
        (obx("ST", "7.2 %"), 5, 102, "not one decimal number"),
        (obx(status="U"), 11, 103, "OBX-11 must be one of"),
        (obx(status=""), 11, 101, "OBX-11 is empty"),
        (obx(tail="|||2026020"), 14, 102, "OBX-14 is not a time"),
        (obx(tail="|||20260230"), 14, 102, "OBX-14 is no instant"),
        (obx(tail="|||99991231235959-1200"), 14, 102, "OBX-14 is no instant"),
        (message(*result("OBX|1|NM|4548^HbA1c^LN||7.2|%|||||F")), 3, 102, "analyte: "),
        (message(*result(HBA1C.replace("%", "x" * 41))), 6, 102, "unit: "),
        (message(*result(HBA1C, order="", filler="")), None, 101, "OBR-3 and OBR-2 are empty"),
        (message(*result(HBA1C, filler="F" * 300)), None, 102, "result_id: "),
        (message(*result(HBA1C, order="a\\X00\\")), None, 102, "order_id holds a control character"),
    ],
)
def test_what_cannot_be_an_outcome_is_rejected_with_field_code_and_reason(
    data: bytes, field: int | None, code: int, text: str
) -> None:
    problem = unusable(data).problem
    assert problem is not None
    assert (problem.segment, problem.number, problem.field, problem.code) == ("OBX", 1, field, code)
    assert text in problem.text


def test_a_rejected_observation_leaves_the_others_alone() -> None:
    found = read_message(message(*result("OBX|1|NM|4548-4^^LN||?|%|||||F", HBA1C)), RULES).observations
    assert [type(one.item) for one in found] == [Rejected, OutcomeReported]


@pytest.mark.parametrize(
    "ignored",
    [
        "OBX|1|NM|HBA1C^HbA1c^99LAB||7.2|%|||||F",
        "OBX|1|CE|4548-4^^LN||POS^positive||||||F",
        "OBX|1|FT|4548-4^^LN||7.2||||||F",
        "OBX|1|ED|4548-4^^LN||^TEXT^PDF^Base64^AAAA||||||F",
        "OBX|1|ST|4548-4^^LN||haemolysed||||||F",
        "OBX|1|NM|4548-4^^LN||||||||N",
        "OBX|1|NM|4548-4^^LN||||||||I",
    ],
)
def test_an_observation_that_says_no_number_is_ignored(ignored: str) -> None:
    assert read_message(message(*result(ignored, HBA1C)), RULES).ignored == 1


def test_an_observation_of_no_use_is_ignored() -> None:
    rules = Rules(analytes=frozenset({"4548-4"}))
    read = read_message(message(*result(HBA1C, "OBX|2|NM|2951-2^Sodium^LN||140|mmol/L|||||F")), rules)
    assert (len(read.observations), read.ignored) == (1, 1)


def test_a_message_without_any_number_of_use_is_well_and_says_nothing() -> None:
    read = read_message(message(*result("OBX|1|TX|4548-4^^LN||see letter||||||F")), RULES)
    assert (read.observations, read.ignored) == ((), 1)


def test_a_message_without_results_is_an_error() -> None:
    error = refused(message("PID|1||MRN-1"))
    assert (error.acknowledgement, "no OBX segment" in str(error)) == ("AE", True)


def test_a_message_of_too_many_results_is_an_error() -> None:
    error = refused(message(*result(*[HBA1C] * (MAX_ITEMS + 1))))
    assert (error.acknowledgement, f"at most {MAX_ITEMS}" in str(error)) == ("AE", True)


def test_each_order_has_its_own_results() -> None:
    read = read_message(
        message(
            "PID|1||MRN-1",
            "ORC|RE|ORD-1|FIL-1",
            "OBR|1|||4548-4^^LN|||202602030815",
            HBA1C,
            "ORC|RE|ORD-2|FIL-2",
            "OBR|2|||4548-4^^LN|||202602040815",
            HBA1C,
            "OBR|3|ORD-3|FIL-3|4548-4^^LN|||202602050815",
            HBA1C,
            "PID|2||MRN-2",
            "OBR|1|ORD-4|FIL-4|4548-4^^LN|||202602060815",
            HBA1C,
        ),
        RULES,
    )
    items = [one.item for one in read.observations if isinstance(one.item, OutcomeReported)]
    assert [(one.patient_id, one.order_id, one.observed_at and one.observed_at.day) for one in items] == [
        ("MRN-1", "ORD-1", 3),
        ("MRN-1", "ORD-2", 4),
        ("MRN-1", "ORD-3", 5),
        ("MRN-2", "ORD-4", 6),
    ]


def test_of_several_numbers_of_a_patient_the_medical_record_number_counts() -> None:
    data = message("PID|1||X-1^^^A^PI~MRN-9^^^A^MR", *result(HBA1C)[1:])
    assert outcome(data).patient_id == "MRN-9"


def test_the_order_is_the_first_field_that_is_filled() -> None:
    rules = Rules(order_places=(Place.named("PV1-19"), Place.named("OBR-18"), Place.named("OBR-3.2")))
    data = message("PID|1||MRN-1", "PV1|1|I", "OBR|1|ORD-1|FIL-1^ACC-7|4548-4^^LN", HBA1C)
    assert outcome(data, rules).order_id == "ACC-7"


@pytest.mark.parametrize("text", ["OBR", "OBR-0", "OBR-2.0", "NTE-3", "obr-2", "OBR-2.1.1", ""])
def test_a_field_that_is_none_has_no_place(text: str) -> None:
    with pytest.raises(ValueError, match=r"write it like OBR-2\.1"):
        Place.named(text)


def test_an_observation_may_have_a_name_of_its_own() -> None:
    assert outcome(obx(tail="|||20260203" + "|" * 7 + "INST-1")).result_id == "INST-1"


def test_sub_ids_part_two_observations_of_one_kind() -> None:
    assert outcome(message(*result(HBA1C.replace("LN||", "LN|2|")))).result_id == "FIL-1/4548-4/2"


@pytest.mark.parametrize("unit", ["%^percent^UCUM", "PCT^percent^99LAB^%^percent^UCUM", "%"])
def test_the_unit_is_that_of_ucum_or_the_first(unit: str) -> None:
    assert outcome(message(*result(HBA1C.replace("|%|", f"|{unit}|")))).unit == "%"


def test_the_specimen_says_when_it_was_taken_where_nothing_else_does() -> None:
    specimen = "SPM|1|||BLD" + "|" * 13 + "202602010815^202602020815"
    data = message(*result(HBA1C, observed=""), specimen)
    assert outcome(data).observed_at == datetime(2026, 2, 1, 7, 15, tzinfo=UTC)


def test_of_two_specimens_none_is_guessed() -> None:
    specimens = [f"SPM|{day}|||BLD" + "|" * 13 + f"2026020{day}0815" for day in (1, 2)]
    assert outcome(message(*result(HBA1C, observed=""), *specimens)).observed_at is None


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("202602030815", datetime(2026, 2, 3, 7, 15, tzinfo=UTC)),
        ("20260703081500", datetime(2026, 7, 3, 6, 15, tzinfo=UTC)),
        ("20260203081500.25", datetime(2026, 2, 3, 7, 15, 0, 250_000, tzinfo=UTC)),
        ("20260203081500.1234-0530", datetime(2026, 2, 3, 13, 45, 0, 123_400, tzinfo=UTC)),
    ],
)
def test_a_time_without_a_zone_is_in_the_one_that_was_set(text: str, instant: datetime) -> None:
    data = message(*result(HBA1C, observed=text)).replace(b"20260203120000+0100", b"20260203120000")
    assert outcome(data, Rules(time_zone=ZoneInfo("Europe/Berlin"))).observed_at == instant


COARSE = ["2026", "202602", "20260203", "2026020308", "20260203+0100"]


@pytest.mark.parametrize("text", COARSE)
def test_a_day_is_no_time_to_match_a_patient_by(text: str) -> None:
    named = "PID|1||MRN-1", f"OBR|1|||4548-4^^LN|||{text}"
    problem = unusable(message(*named, f"{HBA1C}||||||||||I-1")).problem
    assert problem is not None
    assert problem.text.startswith("OBR-7 does not say the minute: ")
    assert problem.text.endswith("send hour and minute, or name the order")


@pytest.mark.parametrize("text", COARSE)
def test_a_day_does_not_hurt_a_result_with_an_order(text: str) -> None:
    assert outcome(message(*result(HBA1C, observed=text))).observed_at is None


def test_a_day_does_not_hurt_a_result_that_is_taken_back() -> None:
    taken_back = HBA1C.removesuffix("F") + "W||||||||||I-1"
    assert outcome(message("PID|1||MRN-1", "OBR|1|||4548-4^^LN|||20260203", taken_back)).observed_at is None


def test_a_day_leaves_the_time_to_the_next_field() -> None:
    assert outcome(obx(tail="|||20260203")).observed_at == datetime(2026, 2, 3, 7, 15, tzinfo=UTC)


def test_a_day_that_there_never_is_is_rejected_all_the_same() -> None:
    assert "OBX-14 is no instant" in str(unusable(obx(tail="|||20260231")).problem)


def test_a_day_will_do_for_the_report() -> None:
    segments = "PID|1||MRN-1", "OBR|1|ORD-1|FIL-1|4548-4^^LN" + "|" * 18 + "20260204", HBA1C
    assert outcome(message(*segments)).reported_at == datetime(2026, 2, 3, 23, tzinfo=UTC)


def test_delimiters_are_those_of_the_header() -> None:
    swapped = example("escapes").decode().translate(str.maketrans(r"|^~\&", "#!*%@"))
    found = outcome(swapped.encode())
    assert (found.patient_id, found.order_id) == ("MRN@8ä", "A#B!C*D%E")


@pytest.mark.parametrize("ending", ["\r", "\r\n", "\n", "\r\r"])
def test_segments_end_with_whatever_ends_a_line(ending: str) -> None:
    assert outcome(example("hba1c-final").replace(b"\r", ending.encode())) == outcome(example("hba1c-final"))


def test_line_ends_before_the_header_are_no_segment() -> None:
    assert outcome(b"\r\n" + example("hba1c-final")) == outcome(example("hba1c-final"))


@pytest.mark.parametrize("version", VERSIONS)
def test_versions_from_2_3_to_2_8_2_are_read(version: str) -> None:
    assert outcome(example("hba1c-final").replace(b"|2.5.1", f"|{version}".encode())).value == 7.2


@pytest.mark.parametrize(
    ("before", "after", "code", "text"),
    [
        (b"ORU^R01^ORU_R01", b"OUL^R22^OUL_R22", 200, "not ORU^R01"),
        (b"ORU^R01^ORU_R01", b"ORU^R30^ORU_R30", 201, "not ORU^R01"),
        (b"|2.5.1", b"|2.2", 203, "MSH-12"),
        (b"|2.5.1", b"|", 203, "MSH-12"),
        (b"|P|2", b"|T|2", 202, "MSH-11"),
        (b"|M-1|", b"||", 101, "MSH-10"),
        (b"|M-1|", b"|" + b"M" * 200 + b"|", 101, "MSH-10"),
        (b"20260203120000+0100", b"today", 102, "MSH-7"),
        (b"|2.5.1", b"|2.5.1||||||KLINGON", 100, "MSH-18"),
        (b"MSH|^~\\&", b"MSH|^~", 100, "MSH-2"),
        (b"MSH|^~\\&", b"MSH|^^\\&", 100, "different punctuation"),
        (b"MSH", b"BHS", 100, "no batch"),
    ],
)
def test_a_message_that_is_not_for_this_door_is_refused(before: bytes, after: bytes, code: int, text: str) -> None:
    error = refused(example("hba1c-final").replace(before, after, 1))
    assert (error.acknowledgement, error.problem.code) == ("AR", code)
    assert text in str(error)


def test_bytes_that_are_not_of_the_character_set_are_named_by_their_place() -> None:
    error = refused(example("latin-1").replace(b"8859/1", b""))
    assert (error.acknowledgement, error.problem.code) == ("AR", 100)
    assert "the byte at 14 is not in the character set UNICODE UTF-8" in str(error)


def test_a_test_installation_takes_test_messages() -> None:
    data = example("hba1c-final").replace(b"|P|2", b"|T|2")
    assert outcome(data, Rules(processing_ids=("T",))).value == 7.2


def test_no_reason_quotes_the_patient_or_the_value() -> None:
    data = message(*result("OBX|1|NM|4548-4^^LN||SECRET|%|||||F|||SECRET")).replace(b"MRN-1", b"SECRET")
    problem = unusable(data).problem
    assert problem is not None
    assert "SECRET" not in problem.text


@given(st.binary())
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    for tried in (data, b"MSH" + data, example("hba1c-final") + data):
        with suppress(Refused):
            assert isinstance(read_message(tried, RULES), Message)


@given(st.data())
def test_a_damaged_message_is_a_message_or_refused(data: st.DataObject) -> None:
    damaged = bytearray(example(data.draw(st.sampled_from(["panel", "comparator", "escapes", "latin-1"]))))
    places = st.tuples(st.integers(0, len(damaged) - 1), st.sampled_from(b'|^~\\&\r\n\0"<>=.+-09XF\xe4\xff'))
    for place, byte in data.draw(st.lists(places, max_size=12)):
        damaged[place] = byte
    with suppress(Refused):
        assert isinstance(read_message(bytes(damaged), RULES), Message)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("filling", ["|", "^", "~", "a~", "&", "\\", "\\F\\", "\r"])
def test_the_worst_message_of_a_mebibyte_is_read_in_seconds(filling: str) -> None:
    padding = filling * (1_000_000 // len(filling))
    read_message(message(f"PID|1||{padding}", *result(*[HBA1C] * MAX_ITEMS)[1:]), RULES)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("segment", ["ORC", "SPM|1", "OBX", "OBX||NM|1-1^^LN||1||||||F"])
def test_a_message_of_too_many_segments_is_refused(segment: str) -> None:
    assert f"at most {MAX_SEGMENTS}" in str(refused(message(*[segment] * MAX_SEGMENTS)))
