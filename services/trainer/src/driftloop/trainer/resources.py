"""What the retraining of every model works with, and what one look at one request is given."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import httpx

from driftloop.common.clock import Clock
from driftloop.common.contract import Contract
from driftloop.common.events import ArtifactRef
from driftloop.common.postgres.pool import Pool
from driftloop.common.registry import Bundle
from driftloop.trainer.backends import Backend
from driftloop.trainer.domain.challenger import BaselineData
from driftloop.trainer.request_store import Request, RequestStore
from driftloop.trainer.serving import HighestRevision
from driftloop.trainer.training_runs import RunTraining
from driftloop.trainer.training_sets import SetFiles

Stopped = Callable[[], bool]


@dataclass(frozen=True)
class ModelData:
    """A contract and its baseline, read once at start."""

    contract: Contract
    baseline: BaselineData


@dataclass(frozen=True)
class Artifacts:
    """Where bundles go and come from. `highest` is the highest version of a model that is there, 0 for none."""

    write: Callable[[Bundle], ArtifactRef]
    fetch: Callable[[ArtifactRef, str, int], Bundle]
    highest: Callable[[str], int]


@dataclass(frozen=True)
class Resources:
    """What all models' workers share. Whoever trains holds one of the `turns`; `published` is told of each decision.

    `prepare` gets things ready for the next training.
    """

    pool: Pool
    client: httpx.Client
    artifacts: Artifacts
    sets: SetFiles
    highest_revision: HighestRevision
    clock: Clock
    published: Callable[[], None]
    run: RunTraining
    max_rows: int
    check_seconds: float
    backend: Backend = field(default_factory=Backend)
    turns: threading.Semaphore = field(default_factory=threading.BoundedSemaphore)
    prepare: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Job:
    """A model's request, as it was found by whoever holds the model's lock.

    `stopped` says that another has the lock or the trainer ends, and raises psycopg.Error while the database is away;
    `pause` returns after a while, or when something happened.
    """

    resources: Resources
    model: ModelData
    request: Request
    stopped: Stopped
    pause: Callable[[], None]

    @property
    def contract(self) -> Contract:
        """The model's contract."""
        return self.model.contract

    def wait(self, reason: str, lacking: Mapping[str, int] | None = None) -> None:
        """Say what the request waits for, or is at; where it stands does not change."""
        with self.resources.pool.connection() as connection:
            RequestStore(connection).wait(self.request.id, reason, lacking or {})
