"""What a laboratory is told: which acknowledgement, with which errors, and that another reader of HL7 v2 agrees."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

import hl7
import psycopg
import pytest

from driftloop.common.events import OutcomeReported
from driftloop.label_ingest.hl7.meaning import Rules
from driftloop.label_ingest.hl7.receiving import Receiver
from driftloop.label_ingest.reports import Answer, Rejected
from tests.support.hl7 import Kept, example, message, result

NOW = datetime(2026, 2, 3, 12, 0, 1, tzinfo=UTC)
GOOD = "OBX|1|NM|4548-4^HbA1c^LN||7.2|%|||||F"
BAD = "OBX|2|NM|4548-4^HbA1c^LN|2|SECRET|%|||||F"
UNKNOWN = "OBX|3|NM|2951-2^Sodium^LN||140|mmol/L|||||F"


def answer(data: bytes, reports: Kept, encoding: str = "utf-8") -> hl7.Message:
    """The acknowledgement, read by another library."""
    return hl7.parse(Receiver(reports, Rules(), lambda: NOW).answer(data).decode(encoding))


def errors(acknowledgement: hl7.Message) -> list[str]:
    return [str(one) for one in acknowledgement if str(one[0]) == "ERR"]


def test_what_was_kept_is_accepted() -> None:
    reports = Kept()
    said = answer(example("panel"), reports)
    assert str(said["MSA"][0]) == r"MSA|AA|M-2|results kept: 1, OBX ignored: 3"
    assert len(reports.outcomes) == 1


def test_the_header_goes_back_where_the_message_came_from() -> None:
    header = answer(example("hba1c-final"), Kept())["MSH"][0]
    assert [str(header[place]) for place in (1, 2, 3, 4, 5, 6, 7, 9, 11, 12)] == [
        "|", r"^~\&", "DRIFTLOOP", "CLINIC", "LAB", "NORTH", "20260203120001+0000", "ACK^R01^ACK", "P", "2.5.1"
    ]  # fmt: skip


def test_each_acknowledgement_has_an_id_of_its_own() -> None:
    reports = Kept()
    ids = {str(answer(example("hba1c-final"), reports)["MSH"][0][10]) for _ in range(3)}
    assert len(ids) == 3
    assert all(0 < len(one) <= 20 for one in ids)


def test_it_is_written_in_the_messages_own_characters() -> None:
    said = answer(example("latin-1"), Kept(), "latin-1")["MSH"][0]
    assert (str(said[6]), str(said[18])) == ("SÜD", "8859/1")


def test_it_has_the_messages_own_delimiters() -> None:
    swapped = example("comparator").decode().translate(str.maketrans(r"|^~\&", "#!*%@")).replace(">!14", ">!x")
    said = Receiver(Kept(), Rules(), lambda: NOW).answer(swapped.encode()).decode()
    assert "MSA#AE#M-6#" in said
    assert "ERR#OBX!1!5!102@Data type error@HL70357#OBX!1!5#102!Data type error!HL70357#E#" in said


def test_each_rejected_observation_is_an_error_and_the_good_ones_are_kept() -> None:
    reports = Kept(refused=["2951-2"])
    said = answer(message(*result(GOOD, BAD, UNKNOWN)), reports)
    assert str(said["MSA"][0]) == (
        "MSA|AE|M-1|results kept: 1, rejected: 2; to send those that were kept again is harmless"
    )
    assert errors(said) == [
        "ERR||OBX^2^5|102^Data type error^HL70357|E||||"
        "OBX-5 is not one decimal number, with a comparator before it at most",
        "ERR||OBX^3|207^Application error^HL70357|E||||analyte: no label policy knows it",
    ]
    assert [one.analyte for one in reports.outcomes] == ["4548-4", "2951-2"]


def test_rejected_observations_are_handed_on_too_so_that_they_are_counted() -> None:
    reports = Kept()
    answer(message(*result(BAD)), reports)
    assert [type(one) for one in reports.items] == [Rejected]


@pytest.mark.parametrize("status", ["parked", "waiting", "retracted", "duplicate", "superseded", "conflict"])
def test_whatever_was_kept_or_known_is_accepted(status: str) -> None:
    class Answering(Kept):
        def take(self, items: Sequence[OutcomeReported | Rejected], traceparent: str | None = None) -> list[Answer]:
            return [Answer(status) for _ in items]  # type: ignore[arg-type]

    assert str(answer(example("hba1c-final"), Answering())["MSA"][0][1]) == "AA"


def test_what_is_not_for_us_is_refused() -> None:
    reports = Kept()
    said = answer(example("hba1c-final").replace(b"ORU^R01^ORU_R01", b"ADT^A01^ADT_A01"), reports)
    assert str(said["MSA"][0]).startswith("MSA|AR|M-1|MSH-9 is not ORU")
    assert errors(said)[0].startswith("ERR||MSH^1^9|200^Unsupported message type^HL70357|E||||")
    assert reports.items == []


@pytest.mark.parametrize("data", [b"", b"MSH", b"\xff\xfe", b"GET / HTTP/1.1\r\n", b"FHS|^~\\&|\rBHS|^~\\&|\r"])
def test_what_is_no_message_is_refused_all_the_same(data: bytes) -> None:
    assert str(answer(data, Kept())["MSA"][0]).startswith("MSA|AR||")


def test_a_database_that_is_away_has_the_message_sent_again() -> None:
    said = answer(example("hba1c-final"), Kept(error=psycopg.OperationalError("SECRET")))
    assert str(said["MSA"][0]) == "MSA|AR|M-1|temporary: send the same again, which is harmless"


def test_a_database_that_refuses_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    said = answer(example("hba1c-final"), Kept(error=psycopg.errors.CheckViolation("SECRET")))
    assert str(said["MSA"][0]) == (
        "MSA|AE|M-1|the database refused what was sent (CheckViolation) and nothing was kept"
    )
    assert "SECRET" not in caplog.text


def test_a_bug_is_an_error_and_its_log_quotes_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        said = answer(example("hba1c-final"), Kept(error=ZeroDivisionError("SECRET")))
    assert str(said["MSA"][0]).startswith("MSA|AE|M-1|internal error")
    (record,) = caplog.records
    assert record.__dict__["error"] == "ZeroDivisionError"
    assert "SECRET" not in repr(record.__dict__)


def test_no_value_comes_back_in_an_acknowledgement() -> None:
    assert "SECRET" not in str(answer(message(*result(BAD)), Kept()))


def test_a_text_breaks_no_segment() -> None:
    class Wordy(Kept):
        def take(self, items: Sequence[OutcomeReported | Rejected], traceparent: str | None = None) -> list[Answer]:
            return [Answer("rejected", "a|b^c~d\\e&f\rMSA|AA|M-1")]

    said = Receiver(Wordy(), Rules(), lambda: NOW).answer(example("hba1c-final")).decode()
    assert [line[:3] for line in said.split("\r")] == ["MSH", "MSA", "ERR", ""]
    assert r"a\F\b\S\c\R\d\E\e\T\f MSA\F\AA\F\M-1" in said
