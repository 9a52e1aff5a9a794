"""label-ingest's parts on a real database, without its process."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import msgspec
from fastapi import FastAPI

from driftloop.common.contract import Contract, load_contract
from driftloop.common.events import OutcomeReported, PredictionLabeled, PredictionMade
from driftloop.common.postgres.outbox import emit
from driftloop.common.postgres.pool import Pool
from driftloop.common.rows import Row
from driftloop.common.topics import Namespace
from driftloop.devstack import Stack
from driftloop.label_ingest import handlers
from driftloop.label_ingest.api import create_app
from driftloop.label_ingest.store import Store
from tests.support.asgi import ask
from tests.support.house import House
from tests.support.paths import MODELS
from tests.support.predictions import START, prediction

LOAN = load_contract(MODELS / "loan" / "contract.yaml")
DIABETES = load_contract(MODELS / "diabetes" / "contract.yaml")
BORROWER: Row = {"income": 42_000.0, "employment": "retired", "term": 24}


@dataclass
class Desk:
    """The one handler behind both doors; the time is the test's to say."""

    pool: Pool
    now: datetime = START + timedelta(hours=1)
    contracts: Mapping[str, Contract] = field(default_factory=lambda: {LOAN.name: LOAN, DIABETES.name: DIABETES})
    clashes: int = 0

    def clear(self) -> None:
        """Forget everything: tests that share a desk find it as if it were new."""
        with self.pool.connection() as connection:
            connection.execute("TRUNCATE joins, outbox")

    def take(
        self, predictions: Sequence[PredictionMade] = (), outcomes: Sequence[OutcomeReported] = ()
    ) -> list[handlers.Answer]:
        """A batch arrives; the answers to its outcomes."""
        with self.pool.connection() as connection:
            joined = handlers.join(
                Store(connection), lambda events: emit(connection, events), lambda: self.now, predictions, outcomes, {}
            )
        self.clashes += joined.clashes
        return joined.answers

    def published(self) -> list[PredictionLabeled]:
        """What the outbox holds, in order."""
        with self.pool.connection() as connection:
            rows = connection.execute("SELECT value FROM outbox ORDER BY id").fetchall()
        return [msgspec.json.decode(value, type=PredictionLabeled) for (value,) in rows]

    @cached_property
    def app(self) -> FastAPI:
        """The HTTP face."""
        return create_app(
            pool=self.pool, reading=self.pool, contracts=self.contracts, clock=lambda: self.now,
            published=lambda: None, max_body_bytes=1_048_576,
        )  # fmt: skip

    def post(self, body: object) -> httpx.Response:
        """The answer to reported outcomes: JSON, or bytes as they are."""
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return ask(self.app, "POST", "/v1/outcomes", content=content)

    def statuses(self, body: object) -> list[str]:
        """The status of each item of a request that is answered 200."""
        response = self.post(body)
        assert response.status_code == 200, response.text
        return [one["status"] for one in response.json()["results"]]

    def summary(self, model: str = LOAN.name) -> dict[str, Any]:
        """The counts of a model."""
        response = ask(self.app, "GET", "/v1/summary", params={"model": model})
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found


@contextmanager
def opened(stack: Stack, folder: Path) -> Iterator[tuple[House, Desk]]:
    """A house with its desk, for tests that need no topic of their own and clear the desk before they begin."""
    house = House(stack, Namespace(f"t{uuid.uuid4().hex[:12]}"), folder)
    house.prepare()
    try:
        yield house, Desk(house.pool("label_ingest", max_size=8))
    finally:
        house.remove()


def made(prediction_id: str, minute: float = 0, **changes: Any) -> PredictionMade:
    """A borrower's prediction, so many minutes after the start."""
    event = prediction(LOAN, BORROWER, START + timedelta(minutes=minute), prediction_id=prediction_id)
    return msgspec.structs.replace(event, **changes)


def outcome(prediction_id: str, label: int = 1, version: int = 1, **more: Any) -> OutcomeReported:
    """A laboratory's result."""
    return OutcomeReported(prediction_id=prediction_id, label=label, result_version=version, **more)
