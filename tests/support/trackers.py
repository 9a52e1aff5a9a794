"""Experiment trackers in tests: one in memory, and what a test sees of any of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from driftloop.trainer.trackers import Outcome, Param, TrackedRun
from tests.support.predictions import START

CARD = '{"model_name": "loan", "libraries": {"onnx": "1.17.0", "python": "3.11"}}'


@dataclass(frozen=True)
class SeenRun:
    """A run as a tracker shows it to people: params as text, and what the files in it hold."""

    title: str
    outcome: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    card: str
    training_set: str


class SeenTracker(Protocol):
    """A tracker and what it shows."""

    def record(self, run: TrackedRun) -> None:
        """See trackers.Tracker."""
        ...

    def runs(self) -> list[SeenRun]:
        """Every run, by title."""
        ...

    def champion(self) -> str | None:
        """The title of the run whose model is called the champion."""
        ...


@dataclass
class FakeTracker:
    """Keeps runs in memory. `before` is called first, and may raise or hang."""

    name: str = "fake"
    kept: dict[str, TrackedRun] = field(default_factory=dict)
    told: list[tuple[str, Outcome]] = field(default_factory=list)

    def before(self) -> None:
        """Replaced by a test that wants a failure."""

    def record(self, run: TrackedRun) -> None:
        """See trackers.Tracker."""
        self.before()
        run.read_model()
        self.kept[run.artifact_sha256] = run
        self.told.append((run.title, run.outcome))

    def runs(self) -> list[SeenRun]:
        """See SeenTracker."""
        found = [
            SeenRun(one.title, one.outcome, texts(one.params), one.metrics, one.card, one.training_set)
            for one in self.kept.values()
        ]
        return sorted(found, key=lambda run: run.title)

    def champion(self) -> str | None:
        """See SeenTracker."""
        latest = list(self.kept.values())[-1]
        newest = self.kept.get(latest.champion or "")
        return newest.title if newest else None


def texts(params: Mapping[str, Param]) -> dict[str, str]:
    """Parameters as trackers show them."""
    return {name: str(value) for name, value in params.items()}


def digest(version: int) -> str:
    """The artifact's digest of a version that `tracked` makes."""
    return f"{version:064x}"


def tracked(
    version: int = 1, outcome: Outcome = "promoted", champion: int | None = 1, model: str = "loan"
) -> TrackedRun:
    """A version as a tracker is told of it; its model is the bytes `model <version>`."""
    return TrackedRun(
        model_name=model,
        model_version=version,
        request=7,
        outcome=outcome,
        created_at=START,
        decided_at=START,
        params={"estimator": "random_forest", "parameters.n_estimators": 100, "training.digest": "d" * 64},
        metrics={"newest.accuracy": 0.9, "decision.mcnemar_p": 0.001},
        card=CARD,
        training_set='{"rows": 300}',
        artifact_uri=f"s3://bucket/{model}/{version}",
        artifact_sha256=digest(version),
        champion=None if champion is None else digest(champion),
        challenger=digest(version) if outcome == "canary" else None,
        read_model=lambda: f"model {version}".encode(),
    )


def then(run: TrackedRun, outcome: Outcome, champion: int | None, **metrics: float) -> TrackedRun:
    """The same version after another decision."""
    return replace(
        run,
        outcome=outcome,
        champion=None if champion is None else digest(champion),
        challenger=None,
        metrics={**run.metrics, **metrics},
    )
