"""One OBX segment → an outcome, or why it is none."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo

import msgspec

from driftloop.common.events import OutcomeReported
from driftloop.label_ingest.hl7.meaning import Code, Observation, Problem, Rules
from driftloop.label_ingest.hl7.syntax import Segment, has_control_character, parse_time
from driftloop.label_ingest.reports import Rejected

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
# Where in the HL7 message a field of the outcome stands.
_FIELDS: Mapping[str, int] = {"analyte": 3, "value": 5, "unit": 6, "status": 11, "observed_at": 14}


class _Unusable(ValueError):
    def __init__(self, code: Code, field: int | None, text: str) -> None:
        super().__init__(text)
        self.code, self.field = code, field


@dataclass
class Group:
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


@dataclass(frozen=True)
class Around:
    """What an OBX is read with."""

    group: Group
    preceding: int
    zone: tzinfo
    rules: Rules

    def segment(self, name: str, own: Segment) -> Segment | None:
        return own if name == "OBX" else self.group.segments.get(name)

    def text(self, name: str, place: int, component: int = 1) -> str:
        segment = self.group.segments.get(name)
        return "" if segment is None else segment.get(place, component)


def speaks(segment: Segment, group: Group, rules: Rules) -> bool:
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


def read_observation(number: int, segment: Segment, around: Around) -> Observation:
    try:
        return Observation(number, _outcome(segment, around))
    except _Unusable as error:
        problem = Problem(error.code, str(error), "OBX", number, error.field)
        return Observation(number, Rejected(None, f"OBX {number}: {error}"), problem)


def _outcome(segment: Segment, around: Around) -> OutcomeReported:
    """Raises _Unusable."""
    status = _status(segment)
    value, comparator = _value(segment, retracted=status in _RETRACTIONS)
    order = _order(segment, around)
    fields = {
        "result_id": _result_id(segment, around),
        # What takes a result back finds it by its name.
        "observed_at": _observed_at(segment, around, needed=order is None and status not in _RETRACTIONS),
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


def _result_id(segment: Segment, around: Around) -> str:
    """OBX-21, or the name of the order's report with the observation in it."""
    if instance := segment.get(21):
        return instance
    named = (around.text(name, place) for place in (3, 2) for name in ("OBR", "ORC"))
    report = next(filter(None, named), "")
    if not report:
        raise _Unusable(101, None, "OBR-3 and OBR-2 are empty: without a name of the result it cannot be corrected")
    return f"{report}/{segment.get(3) or _loinc(segment)}/{segment.get(4)}"


def _order(segment: Segment, around: Around) -> str | None:
    for place in around.rules.order_places:
        found = around.segment(place.segment, segment)
        if found is not None and (text := found.get(place.field, place.component)):
            return text
    return None


def read_patient(segment: Segment) -> str | None:
    """PID-3: the medical record number (type MR) if one says so, else the first."""
    listed = segment.repetitions(3)
    records = [one for one in listed if segment.part(one, 5) == "MR" and segment.part(one, 1)]
    return segment.part((records or listed)[0], 1) or None


def _source(around: Around) -> str | None:
    sender = around.text("MSH", 3), around.text("MSH", 4)
    return "|".join(sender) if any(sender) else None


def _observed_at(segment: Segment, around: Around, needed: bool) -> datetime | None:
    """When the specimen was taken. A time that does not say the minute is as good as none, unless it is `needed`.

    A day's first instant would precede the prediction of that day that the result is about.
    """
    specimen = around.group.specimen(around.preceding)
    sent = (
        ("OBX-14", segment.get(14), 14),
        ("OBR-7", around.text("OBR", 7), None),
        ("SPM-17", "" if specimen is None else specimen.get(17), None),
    )
    coarse: tuple[str, int | None] | None = None
    for name, text, place in sent:
        instant = _instant(name, text, place, around.zone, to_the_minute=True)
        if instant is not None:
            return instant
        if text:
            coarse = coarse or (name, place)
    if needed and coarse is not None:
        remedy = "a patient's prediction is found by the specimen's exact time: send hour and minute, or name the order"
        raise _Unusable(102, coarse[1], f"{coarse[0]} does not say the minute: {remedy}")
    return None


def _reported_at(around: Around) -> datetime | None:
    for name, place in (("OBR", 22), ("MSH", 7)):
        instant = _instant(f"{name}-{place}", around.text(name, place), None, around.zone)
        if instant is not None:
            return instant
    return None


def _instant(name: str, text: str, place: int | None, zone: tzinfo, to_the_minute: bool = False) -> datetime | None:
    if not text:
        return None
    try:
        instant = parse_time(text, zone, to_the_minute)
    except ValueError as error:
        raise _Unusable(102, place, f"{name} {error}") from None
    return None if instant is None else instant.astimezone(UTC)


def _filled(segment: Segment, place: int) -> bool:
    return any(segment.get(place, component) for component in (1, 2))
