"""What this replica serves: one immutable value, swapped whole, so that a request sees one model from start to end."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property

import msgspec

from driftloop.common.clock import Clock
from driftloop.common.events import ArtifactRef, ModelStatus, ModelUpdated, Variant
from driftloop.predictor.domain.assignment import serves_canary, share
from driftloop.predictor.domain.model import LoadedModel

NO_VERSION = 0


@dataclass(frozen=True)
class Plan:
    """Who answers a request, and which other versions score it without being heard."""

    revision: int
    variant: Variant
    model: LoadedModel
    shadows: tuple[int, ...]

    @cached_property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The headers that say who answered, as ASGI takes them."""
        return (
            (b"x-model-name", self.model.name.encode()),
            (b"x-model-version", b"%d" % self.model.version),
            (b"x-model-variant", self.variant.encode()),
            (b"x-driftloop-revision", b"%d" % self.revision),
        )


@dataclass(frozen=True)
class Serving:
    """A revision that was applied: every version that it names, ready to answer, and since when.

    `models` are by version, each with the artifact that it was opened from. `failing` are those that gave no
    probability for some request.
    """

    state: ModelUpdated
    models: Mapping[int, tuple[ArtifactRef, LoadedModel]]
    since: datetime
    failing: set[int] = field(default_factory=set, compare=False)

    @property
    def revision(self) -> int:
        """The revision of the state."""
        return self.state.revision

    @cached_property
    def champion(self) -> Plan:
        """What is done where the champion answers."""
        return self._plan("champion", self.state.champion)

    @cached_property
    def canary(self) -> Plan | None:
        """What is done where the canary answers; None if there is none."""
        canary = self.state.canary
        return None if canary is None else self._plan("canary", canary.version)

    @cached_property
    def loaded(self) -> tuple[LoadedModel, ...]:
        """Every version: each scores every row."""
        return tuple(model for _artifact, model in self.models.values())

    @cached_property
    def pinned(self) -> "Serving":
        """The same for who asks for the champion: it answers all, and the canary is only heard."""
        return replace(self, state=msgspec.structs.replace(self.state, canary=None))

    def plan(self, key: bytes, unit: str) -> Plan:
        """What is done for a patient, or for a prediction of nobody: the same as long as it can be."""
        canary = self.state.canary
        if self.canary is None or canary is None:
            return self.champion
        drawn = share(key, self.state.model_name, canary.version, unit)
        return self.canary if serves_canary(drawn, canary.weight) else self.champion

    def _plan(self, variant: Variant, version: int) -> Plan:
        others = tuple(number for number in self.models if number != version)
        return Plan(self.revision, variant, self.models[version][1], others)


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
        return NO_VERSION if serving is None else serving.state.champion

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
            model_version=self.version,
            since=self.started if serving is None else serving.since,
            reported_at=clock(),
            error=None if refusal is None else f"{refusal.reason}: {refusal.detail}",
            refused_revision=None if refusal is None else refusal.revision,
            failing=() if serving is None else tuple(sorted(serving.failing)),
        )
