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
from psycopg import Connection
from psycopg.errors import SerializationFailure

from driftloop.common.contract import Contract, load_contract
from driftloop.common.events import (
    EVENT_TYPES,
    LabelRetracted,
    OutcomeReported,
    PredictionLabeled,
    PredictionMade,
    SubjectErased,
)
from driftloop.common.postgres.outbox import emit
from driftloop.common.postgres.pool import Pool
from driftloop.common.rows import Row
from driftloop.common.topics import Namespace
from driftloop.devstack import Stack
from driftloop.label_ingest import handlers
from driftloop.label_ingest.api import create_app
from driftloop.label_ingest.domain.outcomes import Terms, version_of
from driftloop.label_ingest.intake import Intake
from driftloop.label_ingest.reports import Answer
from driftloop.label_ingest.store import Store, begin
from tests.support.asgi import ask
from tests.support.house import House
from tests.support.paths import MODELS
from tests.support.predictions import START, prediction

LOAN = load_contract(MODELS / "loan" / "contract.yaml")
DIABETES = load_contract(MODELS / "diabetes" / "contract.yaml")
PSEUDONYM_KEY = b"a key of these tests alone"
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
            connection.execute("TRUNCATE joins, predictions, labels, results, matches, keys, expired_results, outbox")

    @property
    def terms(self) -> Terms:
        """What outcomes are judged by."""
        return Terms({name: one.labels for name, one in self.contracts.items()}, PSEUDONYM_KEY)

    @cached_property
    def intake(self) -> Intake:
        """The way in of every door."""
        return Intake(self.pool, self.terms, lambda: self.now, lambda: None)

    def take(
        self, predictions: Sequence[PredictionMade] = (), outcomes: Sequence[OutcomeReported] = ()
    ) -> list[Answer]:
        """A batch arrives; the answers to its outcomes."""
        while True:
            try:
                with self.pool.connection() as connection, connection.transaction():
                    joined = self.join(connection, predictions, outcomes)
                break
            except SerializationFailure:
                continue
        self.clashes += joined.clashes
        return joined.answers

    def join(
        self, connection: Connection, predictions: Sequence[PredictionMade], outcomes: Sequence[OutcomeReported]
    ) -> handlers.Joined:
        """Join a batch in a transaction that has begun."""
        begin(connection)
        return handlers.join(
            Store(connection), lambda events: emit(connection, events), self.now, self.terms.policies,
            predictions, [version_of(one, self.terms) for one in outcomes], {},
        )  # fmt: skip

    def events(self) -> list[PredictionLabeled | LabelRetracted | SubjectErased]:
        """What the outbox holds, in order."""
        with self.pool.connection() as connection:
            rows = connection.execute("SELECT event_type, value FROM outbox ORDER BY id").fetchall()
        events = [msgspec.json.decode(value, type=EVENT_TYPES[kind]) for kind, value in rows]
        return [one for one in events if isinstance(one, PredictionLabeled | LabelRetracted | SubjectErased)]

    def published(self) -> list[PredictionLabeled]:
        """The labels in the outbox, in order."""
        return [event for event in self.events() if isinstance(event, PredictionLabeled)]

    @cached_property
    def app(self) -> FastAPI:
        """The HTTP face."""
        return create_app(
            intake=self.intake, reading=self.pool, contracts=self.contracts,
            pseudonym_key=PSEUDONYM_KEY, clock=lambda: self.now, max_body_bytes=1_048_576,
            max_upload_bytes=100_000_000,
            max_upload_lines=1_000_000,
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
