"""One HL7 v2 message → outcomes, and what its acknowledgement needs. Pure: bytes in, values out."""

from collections.abc import Iterator
from datetime import tzinfo

from driftloop.label_ingest.hl7.meaning import Code, Header, Message, Problem, Refused, Rules
from driftloop.label_ingest.hl7.observing import Around, Group, read_observation, read_patient, speaks
from driftloop.label_ingest.hl7.syntax import Parsed, Segment, SyntaxProblem, Text, named_offset, parse, parse_header
from driftloop.label_ingest.reports import MAX_ITEMS

VERSIONS = ("2.3", "2.3.1", "2.4", "2.5", "2.5.1", "2.6", "2.7", "2.7.1", "2.8", "2.8.1", "2.8.2")
MAX_CONTROL_ID = 199
_PATIENT_LEVEL = ("PID", "PV1")
_GROUP_LEVEL = ("ORC", "OBR", "SPM")


def read_message(data: bytes, rules: Rules) -> Message:
    """The outcomes of an ORU^R01, in order. Raises Refused."""
    parsed = _parse(data, rules)
    header = _header(parsed.header, parsed.text)
    _check(parsed.header, header, rules)
    zone = _time_zone(parsed.header, header, rules)
    found = [(group, *one) for group in _groups(parsed) for one in group.observations]
    speaking = [one for one in found if speaks(one[2], one[0], rules)]
    # One whose results are all of no use here is well: a laboratory sends what it has, and would send it for ever.
    if not found:
        raise Refused(header, "AE", Problem(100, "the message has no OBX segment, and so no result", "OBX"))
    if len(speaking) > MAX_ITEMS:
        text = f"the message has {len(speaking)} results: send at most {MAX_ITEMS} a message"
        raise Refused(header, "AE", Problem(207, text))
    observations = tuple(
        read_observation(number, segment, Around(group, preceding, zone, rules))
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


def _groups(parsed: Parsed) -> Iterator[Group]:
    """A group for each order. OBX segments before any are about the patient, and have a group of their own."""
    patient: dict[str, Segment] = {"MSH": parsed.header}
    patient_id: str | None = None
    group = Group(dict(patient), None)
    number = 0
    for segment in parsed.segments[1:]:
        name = segment.name
        if name == "PID":
            patient, patient_id = {"MSH": parsed.header}, read_patient(segment)
        if name in _PATIENT_LEVEL:
            patient[name] = segment
        if name in _PATIENT_LEVEL or name == "ORC" or (name == "OBR" and "OBR" in group.segments):
            yield group
            group = Group(dict(patient), patient_id)
        if name in _GROUP_LEVEL:
            group.segments.setdefault(name, segment)
        if name == "SPM":
            group.specimens.append(segment)
        if name == "OBX":
            number += 1
            group.observations.append((number, segment, len(group.specimens)))
    yield group
