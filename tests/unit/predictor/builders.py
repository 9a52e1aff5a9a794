"""A predictor without a broker: the real parts around a log in memory and a clock that stands still."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx

from driftloop.common.contract import Contract
from driftloop.common.events import ArtifactRef, ModelUpdated, ServedVersion
from driftloop.common.rows import RowValidator
from driftloop.predictor.acknowledging import Acknowledgements
from driftloop.predictor.api import create_app
from driftloop.predictor.domain.model import load_model
from driftloop.predictor.handlers import Predictor
from driftloop.predictor.serving import Replica, Serving
from tests.support.artifacts import small_bundle
from tests.support.memory_log import MemoryLog
from tests.support.models import shipped

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = b"a key of sixteen or more bytes"
DIABETES = shipped("diabetes").contract
LOAN = shipped("loan").contract


def artifact(version: int = 1) -> ArtifactRef:
    """A reference that nobody resolves."""
    return ArtifactRef(uri=f"file:///artifacts/{version}", sha256=f"{version:064x}", signature="", key_id="")


def state(revision: int, version: int | None = None) -> ModelUpdated:
    """The serving state of a revision of diabetes, whose champion has the same number unless told otherwise."""
    champion = version or revision
    return ModelUpdated(
        model_name="diabetes",
        revision=revision,
        decided_at=NOW,
        champion=champion,
        versions=(ServedVersion(version=champion, artifact=artifact(champion)),),
    )


def serving(contract: Contract, version: int = 1, revision: int = 1, weight: float = 0.1) -> Serving:
    """A small model of this contract, loaded."""
    return Serving(
        revision, artifact(version), load_model(small_bundle(contract, version, weight=weight), contract), NOW
    )


@dataclass(frozen=True)
class Client:
    """Asks the application, on a loop that lives as long as this."""

    runner: asyncio.Runner
    http: httpx.AsyncClient

    def request(self, method: str, path: str, **request: Any) -> httpx.Response:
        """The answer to one request."""
        return self.runner.run(self.http.request(method, path, **request))

    def get(self, path: str) -> httpx.Response:
        """The answer to a GET."""
        return self.request("GET", path)

    def post(self, path: str, **request: Any) -> httpx.Response:
        """The answer to a POST."""
        return self.request("POST", path, **request)


@dataclass(frozen=True)
class Running:
    """A client of the application, and what stands behind it."""

    client: Client
    log: MemoryLog
    replica: Replica
    acknowledgements: Acknowledgements


@contextmanager
def running(contract: Contract, *, max_in_flight: int = 100, wait_seconds: float = 5.0) -> Iterator[Running]:
    """The application for the time of a block, with version 1 serving."""
    acknowledgements = Acknowledgements(max_in_flight, wait_seconds)
    log = MemoryLog(acknowledgements.wake)
    replica = Replica(contract.name, "replica-1", NOW)
    replica.serving, replica.unread = serving(contract), None
    predictor = Predictor(contract, RowValidator(contract), replica, log.publish, acknowledgements, lambda: NOW)
    app = create_app(predictor, KEY, 64 * 1024)
    with asyncio.Runner() as runner:
        acknowledgements.open(runner.get_loop())
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://predictor")
        yield Running(Client(runner, http), log, replica, acknowledgements)
        acknowledgements.close()
        runner.run(http.aclose())
