"""A predictor without a broker: the real parts around a log in memory and a clock that stands still."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import msgspec

from driftloop.common.access.checking import Access
from driftloop.common.contract import Contract
from driftloop.common.events import ArtifactRef, Canary, ModelUpdated, PredictionMade, ServedVersion
from driftloop.common.pseudonyms import derived_key
from driftloop.common.rows import RowValidator
from driftloop.predictor.api import Admission, Limits, create_app
from driftloop.predictor.domain.model import LoadedModel, load_model
from driftloop.predictor.doors import Identities
from driftloop.predictor.handlers import Predictor
from driftloop.predictor.inference_log import InferenceLog
from driftloop.predictor.serving import Replica, Serving
from driftloop.predictor.spool import Spool
from tests.support.artifacts import small_bundle
from tests.support.memory_log import MemoryLog
from tests.support.models import shipped

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = b"a key of sixteen or more bytes"
DIABETES = shipped("diabetes").contract
LOAN = shipped("loan").contract
LIMITS = Limits()
ANYBODY = Admission(Access.off())


def artifact(version: int = 1) -> ArtifactRef:
    """A reference that nobody resolves."""
    return ArtifactRef(uri=f"file:///artifacts/{version}", sha256=f"{version:064x}", signature="", key_id="")


def state(
    revision: int, version: int | None = None, *, canary: Canary | None = None, shadow: int | None = None
) -> ModelUpdated:
    """The serving state of a revision of diabetes, whose champion has the same number unless told otherwise."""
    champion = version or revision
    named = {champion, shadow or champion, canary.version if canary else champion}
    return ModelUpdated(
        model_name="diabetes",
        revision=revision,
        decided_at=NOW,
        champion=champion,
        canary=canary,
        shadow=shadow,
        versions=tuple(ServedVersion(version=one, artifact=artifact(one)) for one in sorted(named)),
    )


def loaded(contract: Contract, version: int = 1, weight: float = 0.1) -> LoadedModel:
    """A small model of this contract."""
    return load_model(small_bundle(contract, version, weight=weight), contract)


def serving(contract: Contract, version: int = 1, revision: int = 1, weight: float = 0.1) -> Serving:
    """A small model of this contract, that serves alone."""
    served = msgspec.structs.replace(state(revision, version), model_name=contract.name)
    return Serving(served, {version: (artifact(version), loaded(contract, version, weight))}, NOW)


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
    """A client of the application, and what stands behind it: a log in memory, and a real spool."""

    client: Client
    log: MemoryLog
    replica: Replica
    inferences: InferenceLog

    @property
    def logged(self) -> list[PredictionMade]:
        """The predictions that the log took."""
        return [one.event for one in self.log.taken if isinstance(one.event, PredictionMade)]


@contextmanager
def running(
    contract: Contract, *, max_in_flight: int = 100, limits: Limits = LIMITS, admission: Admission = ANYBODY
) -> Iterator[Running]:
    """The application for the time of a block, with version 1 serving."""
    log = MemoryLog(lambda: inferences.wake())
    replica = Replica(contract.name, "replica-1", NOW)
    replica.serving, replica.unread = serving(contract), None
    with TemporaryDirectory() as folder, asyncio.Runner() as runner:
        spool = Spool.open(Path(folder), 1024 * 1024)
        inferences = InferenceLog(log, spool, max_in_flight)
        key = derived_key(KEY, "assignment")
        predictor = Predictor(contract, RowValidator(contract), replica, inferences, lambda: NOW, key)
        app = create_app(predictor, Identities(KEY, derived_key(KEY, "idempotency")), limits, admission)
        inferences.open(runner.get_loop())
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://predictor")
        yield Running(Client(runner, http), log, replica, inferences)
        inferences.close()
        runner.run(http.aclose())
        spool.close()
