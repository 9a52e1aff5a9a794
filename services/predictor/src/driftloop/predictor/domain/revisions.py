"""Which serving state to try next: the highest valid revision holds, whatever order they came in."""

from dataclasses import dataclass

from driftloop.common.events import ModelUpdated

BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


@dataclass(frozen=True)
class _Pending:
    """A revision that was not applied yet: how often it was tried, and when it may be tried again."""

    state: ModelUpdated
    cause: str | None
    attempts: int = 0
    due: float = 0.0


class Revisions:
    """The revisions of one model above the applied one. Times are of any monotonic clock, in seconds."""

    def __init__(self) -> None:
        self.applied = 0
        self._pending: dict[int, _Pending] = {}

    def offer(self, state: ModelUpdated, cause: str | None = None) -> None:
        """Take a revision to be tried, and the trace context in which it came.

        One that is not above the applied one, or is known, changes nothing.
        """
        if state.revision > self.applied:
            self._pending.setdefault(state.revision, _Pending(state, cause))

    def next(self, now: float) -> ModelUpdated | None:
        """The highest revision that may be tried now; None if there is none."""
        due = [revision for revision, one in self._pending.items() if one.due <= now]
        return self._pending[max(due)].state if due else None

    def cause(self, revision: int) -> str | None:
        """The trace context in which a revision came that is to be tried."""
        return self._pending[revision].cause

    def apply(self, revision: int) -> None:
        """It serves: what is not above it can never serve again."""
        self.applied = revision
        self._pending = {number: one for number, one in self._pending.items() if number > revision}

    def refuse(self, revision: int) -> None:
        """It can never serve; those below it may."""
        del self._pending[revision]

    def postpone(self, revision: int, now: float) -> None:
        """It cannot serve yet: it is tried again later, more and more seldom."""
        one = self._pending[revision]
        delay = BACKOFF_SECONDS[min(one.attempts, len(BACKOFF_SECONDS) - 1)]
        self._pending[revision] = _Pending(one.state, one.cause, one.attempts + 1, now + delay)
