"""What a laboratory says: results, each in several versions, of which the newest counts however they arrive."""

from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from driftloop.common.events import Comparator, ResultStatus

# What stands for a time that nobody says: before all others.
NO_TIME = datetime.min.replace(tzinfo=UTC)
_LAST = datetime.max.replace(tzinfo=UTC)
# In the life of one version a later stage counts, whenever it was issued; from a correction on it is the time that says
# what came later.
_STAGES: dict[ResultStatus, int] = {
    "preliminary": 0,
    "final": 1,
    "corrected": 2,
    "cancelled": 3,
    "entered-in-error": 4,
}


class Fate(StrEnum):
    """What a version did to its result."""

    HOLDS = "holds"
    DUPLICATE = "duplicate"
    SUPERSEDED = "superseded"
    CONFLICT = "conflict"


# No cycle can lead through these, so that the collector need not look.
class Version(msgspec.Struct, frozen=True, gc=False):
    """One version of a result.

    `result` says which result it is of (see `result_of`). `key` is what it names: `p` and a prediction's id, `o` and an
    order's pseudonym, or `s` and a patient's. `subject` is the patient whose prediction is looked for where the order,
    or the patient, is all that is named. `model_name` is None where any model's will do.
    """

    key: str
    result: str
    subject: str | None
    model_name: str | None
    version: int
    reported_at: datetime | None
    status: ResultStatus
    observed_at: datetime | None
    label: int | None
    analyte: str | None = None
    value: float | None = None
    unit: str | None = None
    comparator: Comparator | None = None

    @property
    def says(self) -> tuple[object, ...]:
        """What two reports of one version must agree on."""
        return self.status, self.label, self.analyte, self.value, self.unit, self.comparator

    @property
    def age(self) -> tuple[int, int, datetime, int]:
        """Of two versions the one with the higher age counts.

        Of one version number a final result goes before a preliminary one, what corrects or withdraws it before both,
        and otherwise what was issued later. A withdrawal that does not say when it was issued is the last; anything
        else that does not is the first.
        """
        stage = _STAGES[self.status]
        issued = self.reported_at or (_LAST if self.withdrawn else NO_TIME)
        return self.version, min(stage, _STAGES["corrected"]), issued, stage

    @property
    def rank(self) -> tuple[object, ...]:
        """Decides between two reports of one age: the later specimen, then the higher label or value."""
        return (
            *self.age,
            self.observed_at or NO_TIME,
            -1 if self.label is None else self.label,
            self.value is not None and self.value,
            self.comparator or "",
            self.unit or "",
            self.analyte or "",
            self.status,
            self.model_name or "",
            self.subject or "",
            self.key,
        )

    @property
    def counts(self) -> bool:
        """Whether a label may be made of it."""
        return self.status in ("final", "corrected")

    @property
    def withdrawn(self) -> bool:
        """Whether the laboratory took it back."""
        return _STAGES[self.status] > _STAGES["corrected"]


class Result(msgspec.Struct, frozen=True, gc=False):
    """A result as it is known: the version that counts, and whether that was reported with two contents.

    `matched` says that it belongs to a prediction that is there.
    """

    holds: Version
    contested: bool = False
    matched: bool = False


# Between the parts of what a result is called: in none of them.
SEPARATOR = "\x1f"


def result_of(key: str, source: str | None, result_id: str | None) -> str:
    """Which result is meant: a source knows its own by their ids; without both, what is named is part of the name."""
    if source and result_id:
        return f"{source}{SEPARATOR}{result_id}"
    return f"{key}{SEPARATOR}{source or ''}{SEPARATOR}{result_id or ''}"


def parts_of(result: str) -> tuple[str | None, str | None]:
    """The source and the id of a result, where it has them."""
    *_, source, result_id = result.split(SEPARATOR)
    return source or None, result_id or None


def take(known: Result | None, come: Version) -> tuple[Result, Fate]:
    """The result after one more report, and what that did. The result does not depend on the order of reports."""
    if known is None:
        return Result(come), Fate.HOLDS
    held = known.holds
    if come.age > held.age:
        return Result(come, contested=False, matched=known.matched), Fate.HOLDS
    if come.age < held.age:
        return known, Fate.SUPERSEDED
    differs = come.says != held.says
    if not differs and come.rank <= held.rank:
        return known, Fate.DUPLICATE
    winner = max(held, come, key=lambda one: one.rank)
    settled = Result(winner, contested=known.contested or differs, matched=known.matched)
    return settled, Fate.CONFLICT if differs else Fate.HOLDS
