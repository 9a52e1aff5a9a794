"""One HL7 v2 message → outcomes, and what its acknowledgement needs. Pure: bytes in, values out."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Literal

import msgspec

from driftloop.common.events import OutcomeReported
from driftloop.label_ingest.hl7.syntax import (
    Parsed,
    Segment,
    SyntaxProblem,
    Text,
    has_control_character,
    named_offset,
    parse,
    parse_header,
    parse_time,
)
from driftloop.label_ingest.reports import Rejected

VERSIONS = ("2.3", "2.3.1", "2.4", "2.5", "2.5.1", "2.6", "2.7", "2.7.1", "2.8", "2.8.1", "2.8.2")
MAX_RESULTS = 1000
MAX_CONTROL_ID = 199
# Table 0085. What it has besides says nothing of a value, or changes one that is not sent with it.
STATUSES: Mapping[str, str] = {
    "F": "final",
    **dict.fromkeys("PRSIO", "preliminary"),
    **dict.fromkeys("CA", "corrected"),
    **dict.fromkeys("DW", "entered-in-error"),
    "X": "cancelled",
}
_NOT_ASKED = "N"
_RETRACTIONS = ("entered-in-error", "cancelled")
_NUMBER = re.compile(r"[+-]?(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})", re.ASCII)
_STRUCTURED = re.compile(r"(<=|>=|<|>|=|)\s*(.*)", re.DOTALL)
_COMPARATORS: Mapping[str, str | None] = {"": None, "=": None, "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_PATIENT_LEVEL = ("PID", "PV1")
_GROUP_LEVEL = ("ORC", "OBR", "SPM")
_PLACE = re.compile(r"(MSH|PID|PV1|ORC|OBR|SPM|OBX)-([1-9]\d?)(?:\.([1-9]\d?))?", re.ASCII)

_USUAL = Text()

# Table 0357.
Code = Literal[100, 101, 102, 103, 200, 201, 202, 203, 207]
# Where in the HL7 message a field of the outcome stands.
_FIELDS: Mapping[str, int] = {"analyte": 3, "value": 5, "unit": 6, "status": 11, "observed_at": 14}


@dataclass(frozen=True)
class Place:
    """A field's component, as `OBR-2.1` names it."""

    segment: str
    field: int
    component: int = 1

    @classmethod
    def named(cls, text: str) -> "Place":
        """Raises ValueError."""
        found = _PLACE.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} names no field of MSH, PID, PV1, ORC, OBR, SPM or OBX: write it like OBR-2.1")
        return cls(found[1], int(found[2]), int(found[3] or 1))


ORDER_PLACES = (Place("OBR", 2), Place("ORC", 2), Place("OBR", 3), Place("OBR", 18))


@dataclass(frozen=True)
class Rules:
    """What a message cannot say itself.

    `time_zone` is that of times that name none, `character_set` (a name of table 0211) that of a message without
    MSH-18. Of `order_places` the first that is filled names the order. `processing_ids` are those of MSH-11 whose
    results are true ones. `analytes` are the LOINC codes that are of use, None for all.
    """

    time_zone: tzinfo = UTC
    character_set: str = "UNICODE UTF-8"
    order_places: Sequence[Place] = ORDER_PLACES
    processing_ids: Sequence[str] = ("P",)
    analytes: frozenset[str] | None = None


@dataclass(frozen=True)
class Problem:
    """What an ERR segment says: where, by which code of table 0357, and in words. Holds no patient's value."""

    code: Code
    text: str
    segment: str = ""
    number: int = 1
    field: int | None = None


@dataclass(frozen=True)
class Header:
    """What an acknowledgement repeats of a message. Fields are as they were sent, escapes and all."""

    text: Text = _USUAL
    sender: tuple[str, str] = ("", "")
    receiver: tuple[str, str] = ("", "")
    trigger: str = ""
    control_id: str = ""
    processing_id: str = "P"
    version: str = "2.5.1"
    character_set: str = ""


@dataclass(frozen=True)
class Observation:
    """One OBX that says something: the how manieth of its message it is, and its outcome, or why it has none."""

    number: int
    item: OutcomeReported | Rejected
    problem: Problem | None = None


@dataclass(frozen=True)
class Message:
    """What a message says. `ignored` counts the OBX segments that hold no number with a LOINC code."""

    header: Header
    observations: tuple[Observation, ...]
    ignored: int


class Refused(ValueError):
    """Nothing of a message can be taken. `acknowledgement` is AR if it should never be sent so again, else AE."""

    def __init__(self, header: Header, acknowledgement: Literal["AE", "AR"], problem: Problem) -> None:
        super().__init__(problem.text)
        self.header, self.acknowledgement, self.problem = header, acknowledgement, problem


class _Unusable(ValueError):
    def __init__(self, code: Code, field: int | None, text: str) -> None:
        super().__init__(text)
        self.code, self.field = code, field


@dataclass
class _Group:
    """What stands around the OBX segments of one order; an SPM follows those that it is about, or precedes them."""

    segments: dict[str, Segment]
    patient: str | None
    specimens: list[Segment] = field(default_factory=list)
    # Each with its number in the message, and how many specimens preceded it.
    observations: list[tuple[int, Segment, int]] = field(default_factory=list)

    def specimen(self, preceding: int) -> Segment | None:
        """That of an OBX, None if nobody can tell which it is."""
        if preceding:
            return self.specimens[preceding - 1]
        return self.specimens[0] if len(self.specimens) == 1 else None


def read_message(data: bytes, rules: Rules) -> Message:
    """The outcomes of an ORU^R01, in order. Raises Refused."""
    parsed = _parse(data, rules)
    header = _header(parsed.header, parsed.text)
    _check(parsed.header, header, rules)
    zone = _time_zone(parsed.header, header, rules)
    found = [(group, *one) for group in _groups(parsed) for one in group.observations]
    speaking = [one for one in found if _speaks(one[2], one[0], rules)]
    if not speaking:
        text = f"none of the {len(found)} OBX segments holds a number whose LOINC code is of use here"
        raise Refused(header, "AE", Problem(101, text, "OBX", 1, 3))
    if len(speaking) > MAX_RESULTS:
        text = f"the message has {len(speaking)} results: send at most {MAX_RESULTS} a message"
        raise Refused(header, "AE", Problem(207, text))
    observations = tuple(
        _observation(number, segment, _Around(group, preceding, zone, rules))
        for group, number, segment, preceding in speaking
    )
    return Message(header, observations, len(found) - len(speaking))


def read_header(data: bytes) -> Header:
    """What can be told of the header of a message that may be broken anywhere; never raises."""
    try:
        segment = parse_header(data)
    except SyntaxProblem:
        return Header()
    return _header(segment, segment.text)


def _parse(data: bytes, rules: Rules) -> Parsed:
    try:
        return parse(data, rules.character_set)
    except SyntaxProblem as error:
        raise Refused(read_header(data), "AR", Problem(100, str(error), "MSH")) from None


def _header(segment: Segment, text: Text) -> Header:
    version = segment.get(12)
    return Header(
        text=text,
        sender=(segment.raw(3), segment.raw(4)),
        receiver=(segment.raw(5), segment.raw(6)),
        trigger=segment.get(9, 2),
        control_id=segment.raw(10).strip(),
        processing_id=segment.get(11) if segment.get(11) in ("D", "P", "T") else "P",
        version=version if version in VERSIONS else "2.5.1",
        character_set=segment.raw(18),
    )


def _check(segment: Segment, header: Header, rules: Rules) -> None:
    """Raises Refused for a message that this door is not for."""

    def refuse(code: Code, place: int, text: str) -> Refused:
        return Refused(header, "AR", Problem(code, text, "MSH", 1, place))

    if not header.control_id or len(header.control_id) > MAX_CONTROL_ID:
        raise refuse(101, 10, f"MSH-10 must hold a control id of 1 to {MAX_CONTROL_ID} characters")
    if segment.get(9) != "ORU":
        raise refuse(200, 9, "MSH-9 is not ORU^R01: this receiver takes results only")
    if segment.get(9, 2) != "R01":
        raise refuse(201, 9, "MSH-9 is not ORU^R01: this receiver takes results only")
    if segment.get(12) not in VERSIONS:
        raise refuse(203, 12, f"MSH-12 must be one of {', '.join(VERSIONS)}")
    if segment.get(11) not in rules.processing_ids:
        raise refuse(202, 11, f"MSH-11 must be {' or '.join(rules.processing_ids)}: other messages make no labels")


def _time_zone(segment: Segment, header: Header, rules: Rules) -> tzinfo:
    """The zone of times that name none: that of MSH-7, as the standard says, or the receiver's setting."""
    if not (sent := segment.get(7)):
        return rules.time_zone
    try:
        return named_offset(sent) or rules.time_zone
    except ValueError as error:
        raise Refused(header, "AR", Problem(102, f"MSH-7 {error}", "MSH", 1, 7)) from None


def _groups(parsed: Parsed) -> Iterator[_Group]:
    """A group for each order. OBX segments before any are about the patient, and have a group of their own."""
    patient: dict[str, Segment] = {"MSH": parsed.header}
    patient_id: str | None = None
    group = _Group(dict(patient), None)
    number = 0
    for segment in parsed.segments[1:]:
        name = segment.name
        if name == "PID":
            patient, patient_id = {"MSH": parsed.header}, _patient(segment)
        if name in _PATIENT_LEVEL:
            patient[name] = segment
        if name in _PATIENT_LEVEL or name == "ORC" or (name == "OBR" and "OBR" in group.segments):
            yield group
            group = _Group(dict(patient), patient_id)
        if name in _GROUP_LEVEL:
            group.segments.setdefault(name, segment)
        if name == "SPM":
            group.specimens.append(segment)
        if name == "OBX":
            number += 1
            group.observations.append((number, segment, len(group.specimens)))
    yield group


def _speaks(segment: Segment, group: _Group, rules: Rules) -> bool:
    """Whether an OBX is for us: a number (or the retraction of one) under a LOINC code that is of use."""
    code = _loinc(segment)
    if "OBR" not in group.segments or code is None or (rules.analytes is not None and code not in rules.analytes):
        return False
    status = STATUSES.get(segment.get(11), "")
    if status in _RETRACTIONS:
        # What is taken back often has neither value nor type any more.
        return True
    kind = segment.get(2)
    if kind not in ("NM", "SN", "ST") or segment.get(11) == _NOT_ASKED:
        return False
    if status == "preliminary" and not _filled(segment, 5):
        return False
    # Words are no result that went wrong; what has a digit may be one.
    return kind != "ST" or any(letter.isdigit() for letter in segment.get(5)) or not segment.get(5)


@dataclass(frozen=True)
class _Around:
    """What an OBX is read with."""

    group: _Group
    preceding: int
    zone: tzinfo
    rules: Rules

    def segment(self, name: str, own: Segment) -> Segment | None:
        return own if name == "OBX" else self.group.segments.get(name)

    def text(self, name: str, place: int, component: int = 1) -> str:
        segment = self.group.segments.get(name)
        return "" if segment is None else segment.get(place, component)


def _observation(number: int, segment: Segment, around: _Around) -> Observation:
    try:
        return Observation(number, _outcome(segment, around))
    except _Unusable as error:
        problem = Problem(error.code, str(error), "OBX", number, error.field)
        return Observation(number, Rejected(None, f"OBX {number}: {error}"), problem)


def _outcome(segment: Segment, around: _Around) -> OutcomeReported:
    """Raises _Unusable."""
    status = _status(segment)
    value, comparator = _value(segment, retracted=status in _RETRACTIONS)
    order = _order(segment, around)
    fields = {
        "result_id": _result_id(segment, around),
        "observed_at": _observed_at(segment, around, needed=order is None),
        "reported_at": _reported_at(around),
        "order_id": order,
        "patient_id": around.group.patient,
        "analyte": _loinc(segment),
        "value": value,
        "comparator": comparator,
        "unit": _unit(segment),
        "status": status,
        "source": _source(around),
    }
    for name, found in fields.items():
        if isinstance(found, str) and has_control_character(found):
            raise _Unusable(102, _FIELDS.get(name), f"{name} holds a control character")
    try:
        return msgspec.convert(fields, OutcomeReported)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).partition(" - at `$.")
        name = where.removesuffix("`")
        raise _Unusable(102, _FIELDS.get(name), f"{name}: {reason}") from None


def _status(segment: Segment) -> str:
    found = segment.get(11)
    if not found:
        raise _Unusable(101, 11, "OBX-11 is empty: send the status of the result")
    if found not in STATUSES:
        raise _Unusable(103, 11, f"OBX-11 must be one of {', '.join(STATUSES)}, and the value sent with it")
    return STATUSES[found]


def _value(segment: Segment, retracted: bool) -> tuple[float | None, str | None]:
    """The number in OBX-5 and the comparator before it."""
    if retracted and not _filled(segment, 5):
        return None, None
    read: Mapping[str, Callable[[Segment], tuple[str, str]]] = {"NM": _numeric, "SN": _structured, "ST": _string}
    try:
        if len(segment.repetitions(5)) > 1:
            raise _Unusable(102, 5, "OBX-5 has several values: send an OBX for each")
        # A retraction of another type stands for the number that it takes back.
        before, digits = read.get(segment.get(2), _string)(segment)
        if not digits:
            raise _Unusable(101, 5, "OBX-5 is empty")
        if not _NUMBER.fullmatch(digits):
            raise _Unusable(102, 5, "OBX-5 is not one decimal number, with a comparator before it at most")
        return float(digits), _COMPARATORS[before]
    except _Unusable:
        if retracted:
            return None, None
        raise


def _numeric(segment: Segment) -> tuple[str, str]:
    return "", segment.whole(5)


def _structured(segment: Segment) -> tuple[str, str]:
    before = segment.get(5, 1)
    if before not in _COMPARATORS:
        raise _Unusable(103, 5, f"OBX-5.1 must be empty or one of {', '.join(filter(None, _COMPARATORS))}")
    if segment.get(5, 3) or segment.get(5, 4):
        raise _Unusable(102, 5, "OBX-5 is a range or a ratio: send one number")
    return before, segment.get(5, 2)


def _string(segment: Segment) -> tuple[str, str]:
    found = _STRUCTURED.fullmatch(segment.whole(5))
    assert found is not None
    return found[1], found[2]


def _unit(segment: Segment) -> str | None:
    """OBX-6: the code that says it is of UCUM, else the first."""
    for code, system in ((1, 3), (4, 6)):
        if segment.get(6, system).upper() == "UCUM" and segment.get(6, code):
            return segment.get(6, code)
    return segment.get(6) or None


def _loinc(segment: Segment) -> str | None:
    """The LOINC code in OBX-3, where either of the codings there may have it."""
    for code, system in ((1, 3), (4, 6), (10, 12)):
        if segment.get(3, system) == "LN" and segment.get(3, code):
            return segment.get(3, code)
    return None


def _result_id(segment: Segment, around: _Around) -> str:
    """OBX-21, or the name of the order's report with the observation in it."""
    if instance := segment.get(21):
        return instance
    named = (around.text(name, place) for place in (3, 2) for name in ("OBR", "ORC"))
    report = next(filter(None, named), "")
    if not report:
        raise _Unusable(101, None, "OBR-3 and OBR-2 are empty: without a name of the result it cannot be corrected")
    return f"{report}/{segment.get(3) or _loinc(segment)}/{segment.get(4)}"


def _order(segment: Segment, around: _Around) -> str | None:
    for place in around.rules.order_places:
        found = around.segment(place.segment, segment)
        if found is not None and (text := found.get(place.field, place.component)):
            return text
    return None


def _patient(segment: Segment) -> str | None:
    """PID-3: the medical record number (type MR) if one says so, else the first."""
    listed = segment.repetitions(3)
    records = [one for one in listed if segment.part(one, 5) == "MR" and segment.part(one, 1)]
    return segment.part((records or listed)[0], 1) or None


def _source(around: _Around) -> str | None:
    sender = around.text("MSH", 3), around.text("MSH", 4)
    return "|".join(sender) if any(sender) else None


def _observed_at(segment: Segment, around: _Around, needed: bool) -> datetime | None:
    """When the specimen was taken. A time that does not say the day is as good as none, unless it is `needed`."""
    specimen = around.group.specimen(around.preceding)
    sent = (
        ("OBX-14", segment.get(14), 14),
        ("OBR-7", around.text("OBR", 7), None),
        ("SPM-17", "" if specimen is None else specimen.get(17), None),
    )
    coarse: tuple[str, int | None] | None = None
    for name, text, place in sent:
        instant = _instant(name, text, place, around.zone)
        if instant is not None:
            return instant
        if text:
            coarse = coarse or (name, place)
    if needed and coarse is not None:
        raise _Unusable(102, coarse[1], f"{coarse[0]} does not say the day: without it no patient can be matched")
    return None


def _reported_at(around: _Around) -> datetime | None:
    for name, place in (("OBR", 22), ("MSH", 7)):
        instant = _instant(f"{name}-{place}", around.text(name, place), None, around.zone)
        if instant is not None:
            return instant
    return None


def _instant(name: str, text: str, place: int | None, zone: tzinfo) -> datetime | None:
    if not text:
        return None
    try:
        instant = parse_time(text, zone)
    except ValueError as error:
        raise _Unusable(102, place, f"{name} {error}") from None
    return None if instant is None else instant.astimezone(UTC)


def _filled(segment: Segment, place: int) -> bool:
    return any(segment.get(place, component) for component in (1, 2))
