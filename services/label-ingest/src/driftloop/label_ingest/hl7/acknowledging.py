"""The acknowledgement of a message (ch. 2.9.2 of the standard, original mode), as bytes without a frame."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from driftloop.label_ingest.hl7.meaning import Header, Problem

Acknowledgement = Literal["AA", "AE", "AR"]

# Table 0357.
_CODES = {
    100: "Segment sequence error",
    101: "Required field missing",
    102: "Data type error",
    103: "Table value not found",
    200: "Unsupported message type",
    201: "Unsupported event code",
    202: "Unsupported processing id",
    203: "Unsupported version id",
    207: "Application error",
}
# Since version 2.5 an ERR segment has a field for each thing that it says; before, one that held them all.
_ONE_FIELD = ("2.3", "2.3.1", "2.4")
# What a sender says of itself is no longer than its data type allows.
_LONGEST_NAME = 227


def acknowledge(
    header: Header, acknowledgement: Acknowledgement, text: str, problems: Sequence[Problem], now: datetime
) -> bytes:
    """The ACK of a message with that header: MSH, MSA with `text` in MSA-3, and an ERR for each problem.

    It uses the delimiters, the character set and the version of the message. `now` is aware.
    """
    one, style = header.text.delimiters, header.text
    sender, receiver = ([name[:_LONGEST_NAME] for name in pair] for pair in (header.sender, header.receiver))
    kind = ["ACK", *([style.escape(header.trigger), "ACK"] if header.trigger else [])]
    msh = [
        f"MSH{one.field}{one.encoding_characters}",
        *receiver,
        *sender,
        now.strftime("%Y%m%d%H%M%S%z"),
        "",
        one.component.join(kind),
        uuid.uuid4().hex[:20],
        header.processing_id,
        header.version,
        *[""] * 5,
        header.character_set,
    ]
    msa = ["MSA", acknowledgement, header.control_id, style.escape(text)]
    lines = [msh, msa, *(_error(problem, header) for problem in problems)]
    written = "".join(one.field.join(line).rstrip(one.field) + "\r" for line in lines)
    return written.encode(style.codec, "replace")


def _error(problem: Problem, header: Header) -> list[str]:
    one, style = header.text.delimiters, header.text
    place = [] if not problem.segment else [problem.segment, str(problem.number)]
    if place and problem.field is not None:
        place.append(str(problem.field))
    location = one.component.join(place)
    code = [str(problem.code), _CODES[problem.code], "HL70357"]
    all_in_one = ""
    if header.version in _ONE_FIELD:
        padded = [*place, *[""] * (3 - len(place))]
        all_in_one = one.component.join([*padded, one.subcomponent.join(code)])
    return ["ERR", all_in_one, location, one.component.join(code), "E", "", "", "", style.escape(problem.text)]
