"""CSV files of outcomes: bytes in, a row at a time out, in a memory that does not grow with the file.

RFC 4180 with the freedoms that spreadsheets take: the delimiter is a comma, a semicolon or a tab, lines end with LF or
CRLF, a byte order mark is passed over. The first line names the columns, which are the fields of `OutcomeReported`.
"""

import csv
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from driftloop.common.events import OutcomeReported, PredictionId
from driftloop.label_ingest.reports import Rejected

MAX_FIELD_CHARACTERS = 10_000
# A quote that never closes makes all that follows one row.
MAX_ROW_BYTES = 65_536
# All of them have LF where ASCII has it, so that lines can be found before they are decoded.
CHARSETS = {
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "us-ascii": "utf-8",
    "iso-8859-1": "iso-8859-1",
    "latin1": "iso-8859-1",
    "windows-1252": "windows-1252",
    "cp1252": "windows-1252",
}
COLUMNS = OutcomeReported.__struct_fields__
IGNORED_PREFIX = "x_"

_KNOWN = frozenset(COLUMNS)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DELIMITERS = ",;\t"
_IDENTIFYING = ("prediction_id", "order_id", "patient_id")
_COMPARATORS = {"\N{LESS-THAN OR EQUAL TO}": "<=", "\N{GREATER-THAN OR EQUAL TO}": ">="}
_WHOLE = re.compile(r"[0-9]{1,18}", re.ASCII)
_VALUE = re.compile(
    "(?P<comparator><=|>=|<|>|\N{LESS-THAN OR EQUAL TO}|\N{GREATER-THAN OR EQUAL TO})? ?"
    r"(?P<number>[+-]?[0-9]{1,40}(?P<fraction>[.,][0-9]{1,40})?(?:[eE][+-]?[0-9]{1,3})?)"
)
_FIELD_OF_ERROR = re.compile(r" - at `\$\.(\w+)`\Z")
_TIME = "must be an RFC 3339 time with its zone, like 2026-02-03T08:15:00Z"
_SHORT_TEXT = "must have at most 200 characters"
# msgspec's own words may repeat what stands in a cell.
_EXPECTED = {
    "prediction_id": "must have 1 to 128 characters of A-Z, a-z, 0-9, '.', '_', ':' and '-'",
    "label": "must be 0 or 1",
    "result_id": _SHORT_TEXT,
    "result_version": "must be a whole number from 1 to 2147483647",
    "observed_at": _TIME,
    "order_id": _SHORT_TEXT,
    "patient_id": _SHORT_TEXT,
    "model_name": "must have 1 to 200 characters of A-Z, a-z, 0-9, '.', '_', ':', '/' and '-'",
    "analyte": "must be a LOINC code, like 4548-4",
    "value": "must be a number like 6.5, with a comparator before it (>14) or without",
    "unit": "must be a UCUM unit of at most 40 characters, like mmol/mol",
    "comparator": "must be one of <, <=, >=, >, or empty",
    "status": "must be one of preliminary, final, corrected, cancelled, entered-in-error",
    "reported_at": _TIME,
    "source": _SHORT_TEXT,
}


class UnreadableFile(ValueError):
    """From `line` on nothing of the file can be read; `status` is the answer's. The text is for the sender."""

    def __init__(self, status: int, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.status = status
        self.line = line


@dataclass(frozen=True)
class Row:
    """What one row says, and the physical lines, counted from 1, on which it begins and ends."""

    line: int
    last_line: int
    item: OutcomeReported | Rejected


class _BadCell(ValueError):
    """A cell cannot be taken. The text names its column, and not what stands there."""


class _Lines:
    """The physical lines of a file, each with its end, and no more than `max_lines` below the first.

    Bounds what is pulled since `row_bytes` was last set to 0.
    """

    def __init__(self, chunks: Iterable[bytes], charset: str, max_bytes: int, max_lines: int) -> None:
        self._raw = _split(_counted(chunks, max_bytes, self))
        self._charset = charset
        self._max_lines = max_lines
        self.number = 0
        self.row_bytes = 0
        self.ended = False

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        raw = next(self._raw, None)
        if raw is None:
            self.ended = True
            raise StopIteration
        if self.number > self._max_lines:
            reason = f"the file has more than {self._max_lines} lines below the columns' names: send it in parts"
            raise UnreadableFile(413, self.number + 1, reason)
        self.row_bytes += len(raw)
        if self.row_bytes > MAX_ROW_BYTES:
            raise UnreadableFile(422, self.number + 1, f"a row has more than {MAX_ROW_BYTES} bytes: close its quotes")
        self.number += 1
        try:
            return (raw.removeprefix(_BYTE_ORDER_MARK) if self.number == 1 else raw).decode(self._charset)
        except UnicodeDecodeError as error:
            remedy = "name the file's charset in Content-Type, like text/csv; charset=windows-1252"
            raise UnreadableFile(422, self.number, f"not {self._charset}: {remedy}") from error


def read_rows(chunks: Iterable[bytes], charset: str, max_bytes: int, max_lines: int) -> Iterator[Row]:
    """The rows of a file in order; those that are empty are left out. `charset` is a value of `CHARSETS`.

    `max_lines` bounds the work, which is a matter of lines rather than of bytes: so empty ones count, too.
    Raises UnreadableFile at the first line from which on nothing can be read; the rows before it have been yielded.
    Whatever `chunks` raises passes through.
    """
    lines = _Lines(chunks, charset, max_bytes, max_lines)
    header = next(lines, None)
    if header is None:
        raise UnreadableFile(422, 1, "the file is empty: send a line that names the columns, and rows")
    delimiter = max(_DELIMITERS, key=header.count)
    columns = _columns(header, delimiter)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.row_bytes, line = 0, lines.number + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            if lines.ended:
                raise UnreadableFile(422, line, "a quote that is opened in this row never closes: close it") from error
            # The reader goes on with the next line; the module's texts repeat no cell.
            yield Row(line, lines.number, Rejected(None, f"not CSV, up to line {lines.number}: {error}"))
            continue
        if cells is None:
            return
        if any(map(str.strip, cells)):
            yield Row(line, lines.number, _outcome(columns, cells, decimal_comma=delimiter == ";"))


def _counted(chunks: Iterable[bytes], max_bytes: int, lines: _Lines) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise UnreadableFile(413, lines.number + 1, f"the file has more than {max_bytes} bytes: send it in parts")
        yield chunk


def _split(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines with their LF, whatever the chunks; a line that is too long comes in pieces, the first of which is too."""
    rest = bytearray()
    for chunk in chunks:
        rest += chunk
        if b"\n" in chunk:
            *complete, last = bytes(rest).split(b"\n")
            rest = bytearray(last)
            for line in complete:
                yield line + b"\n"
        if len(rest) > MAX_ROW_BYTES:
            yield bytes(rest)
            rest.clear()
    if rest:
        yield bytes(rest)


def _columns(header: str, delimiter: str) -> list[str]:
    """The columns' names. What cannot be one is named by its place: without a header it may be a patient's value."""
    try:
        (cells,) = csv.reader([header], delimiter=delimiter, strict=True)
    except (csv.Error, ValueError) as error:
        raise UnreadableFile(422, 1, f"the columns' names are not CSV: {error}") from error
    columns = [cell.strip() for cell in cells]
    unknown = [
        str(place)
        for place, name in enumerate(columns, start=1)
        if name not in _KNOWN and not name.startswith(IGNORED_PREFIX)
    ]
    if unknown:
        shown = ", ".join(unknown[:20]) + (", …" if len(unknown) > 20 else "")
        remedy = f"name them of {', '.join(COLUMNS)}, or begin the name with {IGNORED_PREFIX} to have them ignored"
        raise UnreadableFile(422, 1, f"column {shown} is not known: {remedy}")
    twice = sorted({name for name in columns if name in _KNOWN and columns.count(name) > 1})
    if twice:
        raise UnreadableFile(422, 1, f"{', '.join(twice)}: named more than once: name each column once")
    _check_enough(set(columns))
    return columns


def _check_enough(columns: set[str]) -> None:
    """Raises UnreadableFile where no row under these columns could be an outcome."""
    if not columns.intersection(_IDENTIFYING):
        raise UnreadableFile(422, 1, f"no column says whose outcomes these are: add one of {', '.join(_IDENTIFYING)}")
    if not columns.intersection(("label", "value", "status")):
        raise UnreadableFile(422, 1, "no column says what came out: add label, or analyte, value and unit")
    missing = [name for name in ("analyte", "unit") if name not in columns]
    if "value" in columns and missing:
        raise UnreadableFile(422, 1, f"a value says nothing without {' and '.join(missing)}: add what is missing")


def _outcome(columns: Sequence[str], cells: Sequence[str], *, decimal_comma: bool) -> OutcomeReported | Rejected:
    """What the cells of one row say, or why they say nothing."""
    if len(cells) != len(columns):
        return Rejected(None, f"the row has {len(cells)} cells and the header {len(columns)}: make them as many")
    texts = {name: text for name, cell in zip(columns, cells, strict=True) if (text := cell.strip())}
    try:
        return msgspec.convert(_fields(texts, decimal_comma), OutcomeReported)
    except _BadCell as error:
        return Rejected(_named(texts), str(error))
    except msgspec.ValidationError as error:
        found = _FIELD_OF_ERROR.search(str(error))
        field = found[1] if found else "row"
        return Rejected(_named(texts), f"{field}: {_EXPECTED.get(field, 'cannot be read')}")


def _fields(texts: dict[str, str], decimal_comma: bool) -> dict[str, object]:
    """The fields of an outcome, numbers made of their texts. Raises _BadCell."""
    fields: dict[str, object] = {}
    for name, text in texts.items():
        if len(text) > MAX_FIELD_CHARACTERS:
            column = name if name in _KNOWN else "an ignored column"
            raise _BadCell(f"{column}: must have at most {MAX_FIELD_CHARACTERS} characters")
        if name not in _KNOWN:
            continue
        if "\0" in text:
            raise _BadCell(f"{name}: must not contain the character U+0000")
        if name == "value":
            fields |= _measured(text, texts.get("comparator"), decimal_comma)
        elif name in ("label", "result_version"):
            fields[name] = int(text) if _WHOLE.fullmatch(text) else text
        elif name == "comparator":
            fields.setdefault(name, _COMPARATORS.get(text, text))
        else:
            fields[name] = text
    return fields


def _measured(text: str, comparator: str | None, decimal_comma: bool) -> dict[str, object]:
    """`value`, and `comparator` where one stands before it. Raises _BadCell."""
    found = _VALUE.fullmatch(text)
    if found is None:
        raise _BadCell(f"value: {_EXPECTED['value']}")
    if (found["fraction"] or "").startswith(",") and not decimal_comma:
        raise _BadCell("value: a decimal comma is read in files with semicolons alone: write a point")
    value = float(found["number"].replace(",", "."))
    if not math.isfinite(value):
        raise _BadCell(f"value: {_EXPECTED['value']}")
    if found["comparator"] is None:
        return {"value": value}
    before = _COMPARATORS.get(found["comparator"], found["comparator"])
    if comparator is not None and _COMPARATORS.get(comparator, comparator) != before:
        raise _BadCell("comparator: differs from the one before the value: send one of them")
    return {"value": value, "comparator": before}


def _named(texts: dict[str, str]) -> str | None:
    """The prediction that a row names, if that much is readable."""
    try:
        return msgspec.convert(texts.get("prediction_id"), PredictionId)
    except msgspec.ValidationError:
        return None
