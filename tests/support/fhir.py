"""FHIR resources as laboratories send them, and a core that keeps what it is given in a list."""

import json
from collections.abc import Sequence
from typing import Any

import psycopg
from fastapi import FastAPI

from driftloop.common.events import OutcomeReported
from driftloop.common.http import BodyLimit
from driftloop.label_ingest.fhir.body import read_body
from driftloop.label_ingest.fhir.issues import Issue, Unusable
from driftloop.label_ingest.fhir.requests import Reading, read_bundle, read_single
from driftloop.label_ingest.fhir.routes import router
from driftloop.label_ingest.reports import Answer, Rejected
from tests.support.paths import ROOT

EXAMPLES = ROOT / "tests" / "examples" / "fhir"
REFUSED_ANALYTE = "2345-7"


def example(name: str) -> dict[str, Any]:
    """One of the examples, by its file's name without the ending."""
    resource: dict[str, Any] = json.loads((EXAMPLES / f"{name}.json").read_text())
    return resource


def observation(**changes: object) -> dict[str, Any]:
    """The example of an HbA1c with some elements changed; None takes one away."""
    return {name: value for name, value in (example("observation-hba1c") | changes).items() if value is not None}


def bundle(kind: str, *entries: dict[str, Any]) -> dict[str, Any]:
    """A Bundle of entries."""
    return {"resourceType": "Bundle", "type": kind, "entry": list(entries)}


def entry(resource: dict[str, Any], **more: object) -> dict[str, Any]:
    """An entry that posts a resource."""
    return {"resource": resource, "request": {"method": "POST", "url": resource["resourceType"]}} | more


def read(resource: dict[str, Any]) -> Reading:
    """What a resource is read as when it is posted to its own address. Raises Unusable."""
    return read_single(read_body(json.dumps(resource).encode()), resource["resourceType"], None, None)


def outcome_of(resource: dict[str, Any]) -> OutcomeReported:
    """The only outcome of a resource. Raises Unusable."""
    (result,) = read(resource).results
    return result.outcome


def readings_of(resource: dict[str, Any]) -> list[Reading]:
    """What a Bundle is read as. Raises Unusable."""
    return read_bundle(read_body(json.dumps(resource).encode()))


def issue_of(resource: dict[str, Any]) -> Issue:
    """Why a resource is refused."""
    try:
        read(resource)
    except Unusable as error:
        (issue,) = error.issues
        return issue
    raise AssertionError("the resource was taken")


class Core:
    """A core that remembers results by name and version, and has one rule of its own: no REFUSED_ANALYTE."""

    def __init__(self, error: psycopg.Error | None = None) -> None:
        self.error = error
        self.kept: list[OutcomeReported] = []
        self.calls: list[Sequence[OutcomeReported | Rejected]] = []
        self.traceparents: list[str | None] = []

    def take(self, items: Sequence[OutcomeReported | Rejected], traceparent: str | None = None) -> list[Answer]:
        """Keep what is good; an answer for each item."""
        self.calls.append(items)
        self.traceparents.append(traceparent)
        if self.error is not None:
            raise self.error
        return [self._take(item) for item in items]

    def _take(self, item: OutcomeReported | Rejected) -> Answer:
        if isinstance(item, Rejected):
            return Answer("rejected", item.detail)
        if problem := problem_of(item):
            return Answer("rejected", problem)
        if item in self.kept:
            return Answer("duplicate")
        self.kept.append(item)
        return Answer("joined")

    def app(self, max_body_bytes: int = 1_000_000) -> FastAPI:
        """The door in front of this core."""
        app = FastAPI()
        app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
        app.include_router(router(self, problem_of))
        return app


def problem_of(outcome: OutcomeReported) -> str | None:
    """The core's own rule."""
    return "analyte: no model's labels are made of it" if outcome.analyte == REFUSED_ANALYTE else None
