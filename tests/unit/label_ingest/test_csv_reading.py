"""CSV files of outcomes: what is read, what costs one row, and what ends the reading."""

import csv
import io
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.common.events import OutcomeReported
from driftloop.label_ingest.csv_reading import (
    COLUMNS,
    MAX_FIELD_CHARACTERS,
    MAX_ROW_BYTES,
    Row,
    UnreadableFile,
    read_rows,
)
from driftloop.label_ingest.reports import Rejected

MAX_BYTES = 10_000_000
MAX_LINES = 100_000
HEADER = "prediction_id,label\n"


def rows(text: str | bytes, charset: str = "utf-8", chunk: int = 65_536) -> list[Row]:
    """All rows of a file that comes in chunks of so many bytes."""
    body = text.encode(charset) if isinstance(text, str) else text
    return list(read_rows((body[at : at + chunk] for at in range(0, len(body), chunk)), charset, MAX_BYTES, MAX_LINES))


def outcome(text: str) -> OutcomeReported:
    """The only row of a file, which is an outcome."""
    (row,) = rows(text)
    assert isinstance(row.item, OutcomeReported), row.item
    return row.item


def rejected(header: str, line: str) -> Rejected:
    """The second of three rows, which is rejected while those around it are taken."""
    good = ",".join({"prediction_id": "p-1", "label": "1"}.get(name, "") for name in header.split(","))
    first, second, third = rows(f"{header}\n{good}\n{line}\n{good}\n")
    assert isinstance(first.item, OutcomeReported), first.item
    assert isinstance(third.item, OutcomeReported), third.item
    assert isinstance(second.item, Rejected), second.item
    assert (first.line, second.line, third.line) == (2, 3, 4)
    return second.item


def unreadable(
    body: str | bytes, max_bytes: int = MAX_BYTES, max_lines: int = MAX_LINES
) -> tuple[list[int], UnreadableFile]:
    """The lines of the rows that were read before the reading ended, and why it did."""
    read: list[int] = []
    raw = body.encode() if isinstance(body, str) else body
    chunks = (raw[at : at + 1000] for at in range(0, len(raw), 1000))
    with pytest.raises(UnreadableFile) as caught:
        for row in read_rows(chunks, "utf-8", max_bytes, max_lines):
            read.append(row.line)
    return read, caught.value


def test_a_row_has_the_fields_that_the_header_names_in_any_order() -> None:
    found = outcome(
        "value,unit,analyte,x_ward,patient_id,observed_at,result_id,result_version,status,label,source\n"
        "6.7,%,4548-4,7b,MRN-1,2026-02-03T09:15:00+01:00,L-17,2,corrected,,lab-a\n"
    )
    assert found == OutcomeReported(
        value=6.7,
        unit="%",
        analyte="4548-4",
        patient_id="MRN-1",
        observed_at=datetime(2026, 2, 3, 8, 15, tzinfo=UTC),
        result_id="L-17",
        result_version=2,
        status="corrected",
        source="lab-a",
    )


def test_every_field_of_an_outcome_is_a_column() -> None:
    filled = {"prediction_id": "p", "label": "1", "order_id": "o", "patient_id": "m", "model_name": "diabetes"}
    filled |= {"analyte": "4548-4", "value": "6.5", "unit": "%", "comparator": ">", "status": "final", "source": "s"}
    filled |= {"result_id": "r", "result_version": "1"}
    filled |= dict.fromkeys(("observed_at", "reported_at"), "2026-02-03T08:15:00Z")
    found = outcome(",".join(COLUMNS) + "\n" + ",".join(filled[name] for name in COLUMNS))
    assert None not in msgspec.structs.astuple(found)


@pytest.mark.parametrize(
    "text",
    [
        "prediction_id,label\np-1,1",
        "prediction_id;label\np-1;1\n",
        "prediction_id\tlabel\np-1\t1\n",
        "prediction_id,label\r\np-1,1\r\n",
        "\N{BYTE ORDER MARK}prediction_id,label\np-1,1\n",
        '\N{BYTE ORDER MARK}"prediction_id","label"\n"p-1","1"\n',
        " prediction_id , label \n p-1 , 1 \n",
        "prediction_id,label\n\n,\np-1,1\n\n  \n",
    ],
)
def test_what_spreadsheets_write_is_read(text: str) -> None:
    assert outcome(text) == OutcomeReported(prediction_id="p-1", label=1)


@pytest.mark.parametrize(
    ("cell", "value", "comparator"),
    [
        ("6.5", 6.5, None),
        ("7", 7.0, None),
        ("1.4e+01", 14.0, None),
        ("-0.5", -0.5, None),
        (">14", 14.0, ">"),
        ("> 14", 14.0, ">"),
        ("<4.0", 4.0, "<"),
        (">=14", 14.0, ">="),
        ("<=4", 4.0, "<="),
        ("\N{GREATER-THAN OR EQUAL TO}14", 14.0, ">="),
        ("\N{LESS-THAN OR EQUAL TO} 4", 4.0, "<="),
    ],
)
def test_a_comparator_is_split_off_the_value(cell: str, value: float, comparator: str | None) -> None:
    found = outcome(f"patient_id,analyte,value,unit\nMRN-1,4548-4,{cell},%\n")
    assert (found.value, found.comparator) == (value, comparator)


@pytest.mark.parametrize("order", ["comparator,value", "value,comparator"])
def test_a_comparator_may_have_a_column_of_its_own(order: str) -> None:
    cells = {"comparator,value": "{0},{1}", "value,comparator": "{1},{0}"}[order]
    found = outcome(f"patient_id,analyte,unit,{order}\nMRN-1,4548-4,%,{cells.format('>', '14')}\n")
    assert (found.value, found.comparator) == (14.0, ">")
    again = outcome(f"patient_id,analyte,unit,{order}\nMRN-1,4548-4,%,{cells.format('>', '>14')}\n")
    assert again == found


def test_a_decimal_comma_is_read_where_semicolons_delimit() -> None:
    header, line = "patient_id;analyte;value;unit", "MRN-1;4548-4;{};%"
    assert outcome(f"{header}\n{line.format('6,5')}").value == 6.5
    assert outcome(f"{header}\n{line.format('>6,5')}").value == 6.5
    assert outcome(f"{header}\n{line.format('6.5')}").value == 6.5
    (row,) = rows(f"{header}\n{line.format('1.234,5')}")
    assert isinstance(row.item, Rejected)


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_a_decimal_comma_is_refused_elsewhere_with_the_remedy(delimiter: str) -> None:
    header, line = ["patient_id", "analyte", "value", "unit"], ["MRN-1", "4548-4", '"6,5"', "%"]
    (row,) = rows(delimiter.join(header) + "\n" + delimiter.join(line))
    assert row.item == Rejected(None, "value: a decimal comma is read in files with semicolons alone: write a point")


@pytest.mark.parametrize(
    ("charset", "cell"),
    [("utf-8", "µmol/L"), ("iso-8859-1", "µmol/L"), ("windows-1252", "µmol/L"), ("utf-8", "μmol/L")],
)
def test_a_file_may_come_in_the_charsets_of_laboratories(charset: str, cell: str) -> None:
    (row,) = rows(f"patient_id,analyte,value,unit\nMüller,14771-0,7000,{cell}\n", charset)
    assert isinstance(row.item, OutcomeReported)
    assert (row.item.unit, row.item.patient_id) == (cell, "Müller")


def test_line_numbers_stay_right_after_a_newline_in_quotes() -> None:
    found = rows('prediction_id,label,x_note\np-1,1,"one\r\ntwo\nthree"\np-2,7,""\n')
    assert [(row.line, row.last_line) for row in found] == [(2, 4), (5, 5)]
    assert isinstance(found[1].item, Rejected)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_chunks_may_end_anywhere(chunk: int) -> None:
    text = '\N{BYTE ORDER MARK}patient_id,label,x_note\r\nMüller,1,"a ""b"", c\r\n"\r\nJosé,0,\r\n'
    assert rows(text, chunk=chunk) == rows(text)
    assert [row.item.patient_id for row in rows(text) if isinstance(row.item, OutcomeReported)] == ["Müller", "José"]


# --- what costs one row


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("label", "2"),
        ("label", "true"),
        ("label", "1.0"),
        ("label", "-1"),
        ("label", "null"),
        ("label", "9" * 30),
        ("result_version", "0"),
        ("result_version", "1.5"),
        ("result_version", "2147483648"),
        ("observed_at", "2026-04-30"),
        ("observed_at", "30.04.2026 08:15"),
        ("observed_at", "2026-04-30T08:15:00"),
        ("observed_at", "1770106500"),
        ("reported_at", "yesterday"),
        ("analyte", "HbA1c"),
        ("value", "positive"),
        ("value", "nan"),
        ("value", "inf"),
        ("value", "1e999"),
        ("value", "1_000"),
        ("value", ">>14"),
        ("value", ">"),
        ("value", "١٤"),
        ("unit", "u" * 41),
        ("comparator", "!="),
        ("status", "FINAL"),
        ("patient_id", "m" * 201),
        ("patient_id", "a\0b"),
        ("model_name", "Jane Doe"),
        ("source", "s" * 201),
    ],
)
def test_a_bad_cell_names_its_column_and_not_what_stands_there(column: str, cell: str) -> None:
    columns = {"prediction_id": "p-9", "label": "1", "analyte": "", "unit": ""} | {column: cell}
    found = rejected(",".join(columns), ",".join(columns.values()))
    assert found.detail.startswith(f"{column}: must ")
    assert found.prediction_id == "p-9"
    assert cell not in found.detail or len(cell) < 3


def test_a_bad_prediction_id_names_no_prediction() -> None:
    found = rejected(HEADER.strip(), "Jane Doe,1")
    assert found.prediction_id is None
    assert found.detail.startswith("prediction_id: must have 1 to 128 characters")


def test_two_comparators_must_agree() -> None:
    (row,) = rows("patient_id,analyte,value,unit,comparator\nMRN-1,4548-4,>14,%,<\n")
    assert row.item == Rejected(None, "comparator: differs from the one before the value: send one of them")


@pytest.mark.parametrize(("line", "cells"), [("p-1", 1), ("p-1,1,", 3)])
def test_a_row_must_be_as_long_as_the_header(line: str, cells: int) -> None:
    assert rejected(HEADER.strip(), line).detail.startswith(f"the row has {cells} cells and the header 2")


@pytest.mark.parametrize("line", ['"p-1"x,1', '"p"-1,1', "p-1\r,1"])
def test_what_is_no_csv_costs_its_row(line: str) -> None:
    assert rejected(HEADER.strip(), line).detail.startswith("not CSV, up to line 3: ")


@pytest.mark.parametrize("column", ["source", "x_note"])
def test_a_cell_is_bounded(column: str) -> None:
    def with_cell(length: int) -> object:
        (row,) = rows(f"prediction_id,label,{column}\np-1,1,{'s' * length}\n")
        return row.item

    found = with_cell(MAX_FIELD_CHARACTERS + 1)
    assert isinstance(found, Rejected)
    assert found.detail.endswith("must have at most 10000 characters")
    if column == "x_note":
        assert isinstance(with_cell(MAX_FIELD_CHARACTERS), OutcomeReported)


# --- what ends the reading


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("", "the file is empty"),
        ("\n", "no column says whose outcomes these are: add one of prediction_id, order_id, patient_id"),
        ("prediction_id,lable\n", "column 2 is not known: name them of prediction_id, label, "),
        ("Jane Doe,1\n", "column 1, 2 is not known"),
        (",".join(["?"] * 25), ", 20, … is not known"),
        ("prediction_id,label,label\n", "label: named more than once"),
        ("label,result_id\n", "no column says whose"),
        ("prediction_id\n", "no column says what came out: add label, or analyte, value and unit"),
        ("patient_id,value,analyte\n", "a value says nothing without unit"),
        ("patient_id,value\n", "a value says nothing without analyte and unit"),
        ('"prediction_id,label\n', "the columns' names are not CSV"),
    ],
)
def test_a_header_that_cannot_be_used_is_told_what_is_missing(header: str, reason: str) -> None:
    read, error = unreadable(header)
    assert read == []
    assert (error.status, error.line) == (422, 1)
    assert reason in str(error)
    assert "Jane" not in str(error)


def test_columns_that_are_ignored_may_share_a_name() -> None:
    assert outcome("prediction_id,x_,x_,label\np-1,a,b,1\n").label == 1


def test_bytes_of_another_charset_name_their_line() -> None:
    read, error = unreadable(b"patient_id,label\nA,1\nB,1\nM\xfcller,1\nC,1\n")
    assert read == [2, 3]
    assert (error.status, error.line) == (422, 4)
    assert "charset=windows-1252" in str(error)


@pytest.mark.parametrize("rest", ["", "p-3,1\n" * 5])
def test_a_quote_that_never_closes_is_found_at_the_end(rest: str) -> None:
    read, error = unreadable(f'{HEADER}p-1,1\n"p-2,1\n{rest}')
    assert read == [2]
    assert (error.status, error.line) == (422, 3)
    assert "never closes" in str(error)


@pytest.mark.parametrize("filling", ["x" * 1000, "x\n" * 500, '","' * 300 + "\n"])
def test_a_quote_that_never_closes_is_cut_off(filling: str) -> None:
    endless = (f'{HEADER}p-1,1\n"'.encode() if first else filling.encode() for first in _first_then_for_ever())
    reading = read_rows(endless, "utf-8", MAX_BYTES, MAX_LINES)
    assert next(reading).line == 2
    with pytest.raises(UnreadableFile, match=f"a row has more than {MAX_ROW_BYTES} bytes"):
        next(reading)


def _first_then_for_ever() -> Iterator[bool]:
    yield True
    while True:
        yield False


def test_a_file_is_bounded() -> None:
    read, error = unreadable(HEADER + "p-1,1\n" * 1000, max_bytes=5000)
    assert (error.status, error.line) == (413, len(read) + 2)
    assert 600 < len(read) < 1000


@pytest.mark.parametrize("line", ["p-1,1\n", "\n", ",\n", "x\n", '"a"b,1\n'])
def test_a_file_has_only_so_many_lines_whatever_they_say(line: str) -> None:
    _read, error = unreadable(HEADER + line * 11, max_lines=10)
    assert (error.status, str(error)) == (
        413, "line 12: the file has more than 10 lines below the columns' names: send it in parts",
    )  # fmt: skip


def test_a_file_may_have_as_many_lines_as_it_may() -> None:
    body = (HEADER + "p-1,1\n" * 10).encode()
    assert len(list(read_rows([body], "utf-8", MAX_BYTES, 10))) == 10


def test_the_lines_of_one_row_count_each() -> None:
    read, error = unreadable(HEADER + 'p-1,1\n"p\n\n\n1",1\n', max_lines=4)
    assert (read, error.status, error.line) == ([2], 413, 6)


def test_rows_are_yielded_before_the_file_has_ended() -> None:
    chunks = (HEADER.encode() if first else b"p-1,1\n" for first in _first_then_for_ever())
    assert [row.line for row in islice(read_rows(chunks, "utf-8", MAX_BYTES, MAX_LINES), 3)] == [2, 3, 4]


# --- any table

names = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1, max_size=30).filter(
    lambda text: bool(text.strip()) and text == text.strip()
)
instants = st.datetimes(datetime(1900, 1, 2), datetime(2200, 1, 1), timezones=st.just(UTC))
outcomes = st.builds(
    OutcomeReported,
    prediction_id=st.from_regex(r"\A[A-Za-z0-9._:-]{1,20}\Z"),
    label=st.none() | st.integers(0, 1),
    result_id=st.none() | names,
    result_version=st.integers(1, 2**31 - 1),
    observed_at=st.none() | instants,
    order_id=st.none() | names,
    patient_id=st.none() | names,
    model_name=st.none() | st.from_regex(r"\A[A-Za-z0-9._:/-]{1,20}\Z"),
    analyte=st.none() | st.from_regex(r"\A[0-9]{1,7}-[0-9]\Z"),
    value=st.floats(allow_nan=False, allow_infinity=False),
    unit=st.none() | names,
    comparator=st.sampled_from((None, "<", "<=", ">=", ">")),
    status=st.sampled_from(("preliminary", "final", "corrected", "cancelled", "entered-in-error")),
    reported_at=st.none() | instants,
    source=st.none() | names,
)


@given(
    st.lists(outcomes, max_size=5),
    st.permutations(COLUMNS),
    st.sampled_from(",;\t"),
    st.sampled_from(("\n", "\r\n")),
    st.integers(1, 300),
)
def test_any_table_of_outcomes_reads_back_the_same(
    table: list[OutcomeReported], columns: list[str], delimiter: str, end: str, chunk: int
) -> None:
    written = io.StringIO(newline="")
    writer = csv.DictWriter(written, columns, delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    for one in table:
        cells = msgspec.to_builtins(one)
        writer.writerow({name: cell for name, cell in cells.items() if cell is not None})
    assert [row.item for row in rows(written.getvalue(), chunk=chunk)] == table


@given(st.binary(max_size=300), st.sampled_from(("utf-8", "iso-8859-1", "windows-1252")))
def test_no_bytes_break_it(body: bytes, charset: str) -> None:
    for start in (b"", HEADER.encode()):
        try:
            found = rows(start + body, charset)
        except UnreadableFile:
            continue
        assert all(row.line <= row.last_line for row in found)
