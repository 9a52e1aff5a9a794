"""What this replica serves: one immutable value, swapped whole, so that a request sees one model from start to end."""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from driftloop.common.clock import Clock
from driftloop.common.events import ArtifactRef, ModelStatus
from driftloop.predictor.domain.model import LoadedModel

NO_VERSION = 0


@dataclass(frozen=True)
class Serving:
    """A revision that was applied: its champion, ready to answer, and since when."""

    revision: int
    artifact: ArtifactRef
    model: LoadedModel
    since: datetime

    @cached_property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The headers that say which model answered, as ASGI takes them."""
        return (
            (b"x-model-name", self.model.name.encode()),
            (b"x-model-version", b"%d" % self.model.version),
            (b"x-driftloop-revision", b"%d" % self.revision),
        )


@dataclass(frozen=True)
class Refusal:
    """Why a revision does not serve: a code for metrics, and what is wrong with its remedy."""

    revision: int
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"revision {self.revision} is refused: {self.reason}: {self.detail}"


class Replica:
    """What one replica serves, and why not something newer. One thread writes it; whoever reads takes a value once."""

    def __init__(self, model: str, name: str, started: datetime) -> None:
        self.model = model
        self.name = name
        self.started = started
        self.serving: Serving | None = None
        self._refusals: dict[int, Refusal] = {}
        # Why the wanted state is not known yet, until `model-updates` has been read to its end once.
        self.unread: str | None = "no broker has been reached yet"

    @property
    def version(self) -> int:
        """The version that answers, 0 if none does."""
        serving = self.serving
        return NO_VERSION if serving is None else serving.model.version

    @property
    def refusal(self) -> Refusal | None:
        """Why the highest revision above the serving one does not serve, None if there is no such revision."""
        refusals = self._refusals
        return refusals[max(refusals)] if refusals else None

    def refuse(self, refusal: Refusal) -> bool:
        """Remember why a revision does not serve. Returns whether that is news."""
        news = self._refusals.get(refusal.revision) != refusal
        self._refusals = self._refusals | {refusal.revision: refusal}
        return news

    def forget_refusals(self, revision: int) -> None:
        """What was refused up to this revision does not matter any more: it serves."""
        self._refusals = {number: one for number, one in self._refusals.items() if number > revision}

    def problem(self) -> str | None:
        """Why this replica cannot answer, or None."""
        if self.unread is not None:
            return self.unread
        if self.serving is not None:
            return None
        return f"no revision of model {self.model!r} serves: run `trainer train`, or promote a version"

    def note(self) -> str | None:
        """What is wrong although this replica answers, or None."""
        refusal = self.refusal
        return None if refusal is None else str(refusal)

    def status(self, clock: Clock) -> ModelStatus:
        """What the replica says of itself on `model-status`."""
        serving, refusal = self.serving, self.refusal
        return ModelStatus(
            model_name=self.model,
            replica=self.name,
            revision=0 if serving is None else serving.revision,
            model_version=NO_VERSION if serving is None else serving.model.version,
            since=self.started if serving is None else serving.since,
            reported_at=clock(),
            error=None if refusal is None else f"{refusal.reason}: {refusal.detail}",
            refused_revision=None if refusal is None else refusal.revision,
        )
