"""Who is let in to label-ingest, by which door, and under which name."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as ASGIScope

from driftloop.common.access import Scope
from driftloop.common.access.checking import Access
from driftloop.common.access.guard import CALLER, DESCRIPTION, admit
from driftloop.common.access.issuing import create_key
from driftloop.common.access.keyring import KeyRing
from driftloop.common.access.rate import RateLimit
from driftloop.label_ingest.admission import needed
from tests.support.asgi import ask

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NEEDED: dict[Scope, list[tuple[str, str]]] = {
    "label": [
        ("POST", "/v1/outcomes"),
        ("POST", "/v1/outcomes.csv"),
        ("POST", "/fhir"),
        ("POST", "/fhir/Observation"),
        ("PUT", "/fhir/Observation/17"),
        ("GET", "/fhir/metadata"),
    ],
    "rows": [
        ("GET", "/v1/rows"),
        ("GET", "/v1/summary"),
        ("GET", "/v1/labels/0198c5f2a7"),
        ("GET", "/v1/parked"),
        ("GET", "/v1/expired"),
    ],
    "admin": [
        ("POST", "/v1/erasures"),
        ("GET", "/v1/erasures"),
        ("GET", "/v1/labels"),
        ("POST", "/v1/labels/0198c5f2a7"),
        ("DELETE", "/v1/parked"),
        ("GET", "/v1/outcomes"),
        ("POST", "/v1/outcomesx"),
        ("DELETE", "/fhir/Observation/17"),
        ("POST", "/fhirx"),
        ("GET", "/v1//rows"),
        ("GET", "/nothing"),
    ],
}
EVERY = [(scope, *route) for scope, routes in NEEDED.items() for route in routes]


async def application(scope: ASGIScope, receive: Receive, send: Send) -> None:
    """Says who calls, as a route would find it."""
    await PlainTextResponse(Request(scope).scope[CALLER])(scope, receive, send)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def key_of(path: Path, scope: Scope) -> dict[str, str]:
    """The header of a caller who has this scope, and its name."""
    return {"x-api-key": create_key(path, f"a-{scope}", [scope], NOW).text}


@pytest.fixture
def app(keys: Path) -> ASGIApp:
    create_key(keys, "first", ["admin"], NOW)
    return admit(application, Access(KeyRing(keys)), needed)


@pytest.mark.parametrize(("scope", "method", "path"), EVERY)
def test_a_route_needs_its_scope(scope: Scope, method: str, path: str) -> None:
    assert needed(method, path) == scope


@pytest.mark.parametrize(("_scope", "method", "path"), EVERY)
def test_without_a_key_nothing_is_answered(app: ASGIApp, _scope: Scope, method: str, path: str) -> None:
    assert ask(app, method, path).status_code == 401


@pytest.mark.parametrize(("scope", "method", "path"), [(scope, *routes[0]) for scope, routes in NEEDED.items()])
@pytest.mark.parametrize("has", ["predict", "label", "rows", "admin"])
def test_a_key_opens_what_its_scope_says(keys: Path, has: Scope, scope: Scope, method: str, path: str) -> None:
    headers = key_of(keys, has)
    answer = ask(admit(application, Access(KeyRing(keys)), needed), method, path, headers=headers)
    assert answer.status_code == (200 if has in (scope, "admin") else 403)


def test_the_application_knows_who_calls(keys: Path) -> None:
    headers = key_of(keys, "label")
    assert (
        ask(admit(application, Access(KeyRing(keys)), needed), "POST", "/v1/outcomes", headers=headers).text
        == "a-label"
    )


@pytest.mark.parametrize(("method", "path"), DESCRIPTION)
def test_what_the_service_is_needs_no_key(app: ASGIApp, method: str, path: str) -> None:
    assert ask(app, method, path).status_code == 200


def test_who_reports_too_often_is_told_when_to_come_again(keys: Path) -> None:
    headers = key_of(keys, "label")
    app = admit(application, Access(KeyRing(keys)), needed, RateLimit(1, 1, lambda: 0.0))
    assert [ask(app, "POST", "/v1/outcomes", headers=headers).status_code for _ in range(2)] == [200, 429]


def test_a_body_is_not_read_before_its_sender_is_known(app: ASGIApp) -> None:
    async def receive() -> dict[str, object]:
        raise AssertionError("the body was asked for")

    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/outcomes", "headers": []}
    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == httpx.codes.UNAUTHORIZED
