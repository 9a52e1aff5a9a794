"""What HL7 v2 messages come to: the rules that they are read by, their header, their outcomes, and what is wrong."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo
from typing import Literal

from driftloop.common.events import OutcomeReported
from driftloop.label_ingest.hl7.syntax import Text
from driftloop.label_ingest.reports import Rejected

_PLACE = re.compile(r"(MSH|PID|PV1|ORC|OBR|SPM|OBX)-([1-9]\d?)(?:\.([1-9]\d?))?", re.ASCII)
_USUAL = Text()

# Table 0357.
Code = Literal[100, 101, 102, 103, 200, 201, 202, 203, 207]


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
