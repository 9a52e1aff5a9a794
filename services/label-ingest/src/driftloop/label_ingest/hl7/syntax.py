"""The syntax of HL7 v2 (ch. 2 of the standard): character sets, delimiters, segments, escapes and times.

A field is split when somebody asks for it: a million delimiters cost no more than a million letters.
"""

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone, tzinfo

# Table 0211, as far as a byte below 0x20 is always a control character there, which MLLP stands on.
CHARACTER_SETS: Mapping[str, str] = {
    "ASCII": "ascii",
    **{f"8859/{part}": f"iso8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
    "UNICODE UTF-8": "utf-8",
    "GB 18030-2000": "gb18030",
    "BIG-5": "big5",
    "KS X 1001": "euc_kr",
}
# Beyond these, reading would take longer than a sender waits. A message of MAX_ITEMS results has a few thousand.
MAX_SEGMENTS = 10_000
_MOST_REPETITIONS = 100
_LONGEST = 4000
# What a sender writes who deletes a value.
NULL = '""'
_HEADER = b"MSH"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_TIME = re.compile(
    r"(\d{4})(?:(\d{2})(?:(\d{2})(?:(\d{2})(?:(\d{2})(?:(\d{2})(?:\.(\d{1,4}))?)?)?)?)?)?([+-]\d{4})?", re.ASCII
)
_CHARACTER_SET_FIELD = 18


class SyntaxProblem(ValueError):
    """What was read is not HL7; the text says where and why, and holds no value of a patient."""


@dataclass(frozen=True)
class Delimiters:
    """What MSH-1 and MSH-2 say: the characters that part fields, components, repetitions and subcomponents."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"

    @property
    def encoding_characters(self) -> str:
        """MSH-2."""
        return self.component + self.repetition + self.escape + self.subcomponent


@dataclass(frozen=True)
class Text:
    """How to read and write text: its delimiters, and Python's name of its character set."""

    delimiters: Delimiters = Delimiters()
    codec: str = "ascii"

    def unescape(self, raw: str) -> str:
        r"""The text that escapes stand for: \F\ \S\ \R\ \E\ \T\ and \Xdd..\; \H\ and \N\ only highlight.

        Others are left as they are: two texts that differ stay different.
        """
        mark = self.delimiters.escape
        if mark not in raw:
            return raw
        parts = raw.split(mark)
        # An opening mark without a closing one escapes nothing.
        unclosed = mark + parts.pop() if len(parts) % 2 == 0 else ""
        return "".join(self._meaning(part) if place % 2 else part for place, part in enumerate(parts)) + unclosed

    def _meaning(self, code: str) -> str:
        one, mark = self.delimiters, self.delimiters.escape
        meant = {"F": one.field, "S": one.component, "R": one.repetition, "E": mark, "T": one.subcomponent}
        meant |= {"H": "", "N": ""}
        if code in meant:
            return meant[code]
        if code.startswith("X"):
            try:
                return bytes.fromhex(code[1:]).decode(self.codec)
            except ValueError:
                pass
        return mark + code + mark

    def escape(self, text: str) -> str:
        """The text as a field holds it: no delimiter in it, and no control character."""
        one = self.delimiters
        codes = {one.escape: "E", one.field: "F", one.component: "S", one.repetition: "R", one.subcomponent: "T"}
        written = (one.escape + codes[letter] + one.escape if letter in codes else letter for letter in text)
        return _CONTROL.sub(" ", "".join(written))


@dataclass(frozen=True)
class Segment:
    """One line of a message; fields are counted as the standard does, from 1."""

    name: str
    fields: list[str]
    text: Text
    # What was read already: a thousand results ask the same of their order.
    _read: dict[tuple[int, int], str] = field(default_factory=dict, repr=False, compare=False)

    def raw(self, place: int) -> str:
        """A field as it was sent, empty if it was not."""
        return self.fields[place] if place < len(self.fields) else ""

    def repetitions(self, place: int) -> list[str]:
        """A field's first hundred repetitions as they were sent."""
        if self.name == "MSH" and place <= 2:
            return [self.raw(place)]
        return self.raw(place).split(self.text.delimiters.repetition, _MOST_REPETITIONS)[:_MOST_REPETITIONS]

    def get(self, place: int, component: int = 1) -> str:
        """The text of a component of a field's first repetition (its first subcomponent), empty if there is none."""
        found = self._read.get((place, component))
        if found is None:
            found = self._read[place, component] = self.part(self.repetitions(place)[0], component)
        return found

    def whole(self, place: int) -> str:
        """The text of a field that has no components and does not repeat."""
        found = self.raw(place).strip()[:_LONGEST]
        return "" if found == NULL else self.text.unescape(found).strip()

    def part(self, repetition: str, component: int) -> str:
        """The text of one component (its first subcomponent) of a repetition, empty if there is none."""
        one = self.text.delimiters
        parts = repetition.split(one.component, component)
        if len(parts) < component:
            return ""
        found = parts[component - 1].partition(one.subcomponent)[0].strip()
        if found == NULL:
            return ""
        if len(found) > _LONGEST:
            # Nothing of use is so long, and whoever looks at what is left of it refuses it as too long.
            return found[:_LONGEST]
        return self.text.unescape(found).strip()


@dataclass(frozen=True)
class Parsed:
    """A message's segments, the header first, and how its text is written."""

    segments: list[Segment]
    text: Text

    @property
    def header(self) -> Segment:
        """The MSH segment."""
        return self.segments[0]


def parse_header(data: bytes) -> Segment:
    """The header alone, whatever its character set: for the answer to a message that cannot be read.

    Raises SyntaxProblem if there is none.
    """
    data = data.lstrip(b"\r\n")
    if not data.startswith(_HEADER):
        raise SyntaxProblem("the message does not begin with MSH: send one message a frame, and no batch (FHS, BHS)")
    line = re.split(rb"[\r\n]", data, maxsplit=1)[0].decode("ascii", "replace")
    delimiters = _delimiters(line)
    return _segment(line, Text(delimiters))


def parse(data: bytes, character_set: str) -> Parsed:
    """The segments of a message. `character_set` is the name (table 0211) of what MSH-18 does not name.

    Raises SyntaxProblem.
    """
    header = parse_header(data)
    name = header.get(_CHARACTER_SET_FIELD).upper() or character_set
    codec = CHARACTER_SETS.get(name)
    if codec is None:
        raise SyntaxProblem(f"MSH-18 names a character set that is not taken: send one of {', '.join(CHARACTER_SETS)}")
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as error:
        raise SyntaxProblem(
            f"the byte at {error.start} is not in the character set {name}: name the right one in MSH-18"
        ) from None
    lines = [line for line in text.replace("\n", "\r").split("\r") if line.strip()]
    if len(lines) > MAX_SEGMENTS:
        raise SyntaxProblem(f"the message has {len(lines)} segments: send at most {MAX_SEGMENTS} a message")
    style = Text(_delimiters(lines[0]), codec)
    return Parsed([_segment(line, style) for line in lines], style)


def has_control_character(text: str) -> bool:
    """Whether a character of it can be neither printed nor kept."""
    return _CONTROL.search(text) is not None


def parse_time(text: str, default: tzinfo, to_the_minute: bool = False) -> datetime | None:
    """The instant that a time (YYYY[MM[DD[HH[MM[SS[.S[S[S[S]]]]]]]]][±ZZZZ]) begins with, in its own time zone.

    `default` is the zone of a time that names none. None: the time does not even say the day; or, where it is wanted
    `to_the_minute`, the minute. Raises ValueError.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError("is not a time of the form YYYYMMDD[HHMM[SS[.SSSS]]][+ZZZZ]")
    *digits, fraction, offset = found.groups()
    if digits[2] is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in digits)
    microsecond = int((fraction or "").ljust(6, "0"))
    try:
        zone = default if offset is None else _offset(offset)
        instant = datetime(year, month, day, hour, minute, second, microsecond, zone)
        # Whether every clock can show it, which at either end of time it cannot.
        instant.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("is no instant that there ever is") from None
    return None if to_the_minute and digits[4] is None else instant


def named_offset(text: str) -> tzinfo | None:
    """The time zone that a time names, None if it names none. Raises ValueError if it is no time."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError("is not a time of the form YYYYMMDD[HHMM[SS[.SSSS]]][+ZZZZ]")
    return None if found[8] is None else _offset(found[8])


def _offset(text: str) -> tzinfo:
    hours, minutes = int(text[1:3]), int(text[3:5])
    if minutes > 59:
        raise ValueError("has a time zone of more than 59 minutes")
    size = timedelta(hours=hours, minutes=minutes)
    return timezone(-size if text[0] == "-" else size)


def _delimiters(line: str) -> Delimiters:
    """Those of a header. Raises SyntaxProblem."""
    field = line[3:4]
    # A fifth, since version 2.7, marks what was cut off; nothing that is read here ever is.
    codes = line[4:].partition(field)[0] if field else ""
    if len(codes) not in (4, 5):
        raise SyntaxProblem(r"MSH-2 must hold four delimiters, or five: send MSH|^~\&")
    chosen = field + codes
    if len(set(chosen)) != len(chosen) or not set(chosen) <= set(string.punctuation):
        raise SyntaxProblem(r"MSH-1 and MSH-2 must be different punctuation characters of ASCII: send MSH|^~\&")
    return Delimiters(field, *codes[:4])


def _segment(line: str, text: Text) -> Segment:
    separator = text.delimiters.field
    fields = line.split(separator)
    if fields[0] == "MSH":
        # The separator itself is the first field.
        fields.insert(1, separator)
    return Segment(fields[0].strip(), fields, text)
