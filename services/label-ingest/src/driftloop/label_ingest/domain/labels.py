"""The label rule: which of several results for one prediction holds, and what is published when that changes.

The state is a fold over results that forgets all but the winner; it comes out the same in whatever order, and however
often, the results arrive.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

_EARLIEST = datetime.min.replace(tzinfo=UTC)


class Fate(StrEnum):
    """What a result did to the label of its prediction."""

    HOLDS = "holds"
    DUPLICATE = "duplicate"
    SUPERSEDED = "superseded"
    CONFLICT = "conflict"


@dataclass(frozen=True)
class Result:
    """One laboratory result for a prediction; `observed_at` and `result_id` may be unknown."""

    version: int
    observed_at: datetime | None
    result_id: str | None
    label: int

    @property
    def rank(self) -> tuple[int, datetime, str, int]:
        """The total order of results: the highest holds."""
        return self.version, self.observed_at or _EARLIEST, self.result_id or "", self.label


@dataclass(frozen=True)
class Labels:
    """The label of one prediction so far.

    `contested` says that the version that holds was reported with both labels. `published` is the label that was last
    published, `revision` how many were.
    """

    holds: Result | None = None
    contested: bool = False
    published: int | None = None
    revision: int = 0


@dataclass(frozen=True)
class Change:
    """A label to publish: the `revision`-th of its prediction; `previous` is None for the first."""

    label: int
    previous: int | None
    revision: int


def take(labels: Labels, result: Result) -> tuple[Labels, Fate]:
    """The labels after one more result, and what it did."""
    held = labels.holds
    if held is None or result.version > held.version:
        return replace(labels, holds=result, contested=False), Fate.HOLDS
    if result.version < held.version:
        return labels, Fate.SUPERSEDED
    if result.label == held.label and result.rank <= held.rank:
        return labels, Fate.DUPLICATE
    contested = labels.contested or result.label != held.label
    winner = max(held, result, key=lambda one: one.rank)
    fate = Fate.HOLDS if result.label == held.label else Fate.CONFLICT
    return replace(labels, holds=winner, contested=contested), fate


def publish(labels: Labels) -> tuple[Labels, Change | None]:
    """What to publish of a known prediction: the label that holds, if it is not the one that was published last."""
    held = labels.holds
    if held is None or held.label == labels.published:
        return labels, None
    change = Change(held.label, labels.published, labels.revision + 1)
    return replace(labels, published=change.label, revision=change.revision), change
