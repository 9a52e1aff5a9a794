"""What every door hands in and gets back: outcomes, good and bad, and an answer for each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from driftloop.common.events import OutcomeReported

# So many a request by whichever door, for they are kept in one transaction.
MAX_ITEMS = 1_000
Status = Literal[
    "joined", "parked", "waiting", "retracted", "duplicate", "superseded", "conflict", "rejected"
]  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What became of one outcome, and the reason in words that a laboratory's engineer understands."""

    status: Status
    detail: str | None = None


@dataclass(frozen=True)
class Rejected:
    """An item that a door could not make an outcome of: the prediction that it names, if any, and why."""

    prediction_id: str | None
    detail: str


class Reports(Protocol):
    """Takes what any door was given."""

    def take(self, items: Sequence[OutcomeReported | Rejected], traceparent: str | None = None) -> list[Answer]:
        """Keep all that is good, in one committed transaction; an answer for each item, in order.

        Raises psycopg.Error: then all must be sent again, which is harmless.
        """
        ...
