"""Bodies are bounded whatever their headers claim, and health names what is wrong."""

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter
from starlette.types import Message, Receive, Scope, Send

from driftloop.common import http
from driftloop.common.http import BodyLimit, field_problem, management_app, problem_details
from tests.support.asgi import ask

LIMIT = 10


class Echo:
    """An application that remembers how it was asked, and answers 200."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Read one message, which must be the whole body."""
        message = await receive()
        assert not message["more_body"]
        self.bodies.append(message["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def exchange(chunks: Iterable[bytes], headers: dict[str, str] | None = None, *, gone: bool = False) -> tuple[Any, ...]:
    """Send chunks through the limit.

    Returns the status (None for no answer), the bodies that came through, and how many messages were left unread.
    """
    echo, sent = Echo(), []
    parts = list(chunks)
    messages: list[Message] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    if gone:
        messages.append({"type": "http.disconnect"})
    elif messages:
        messages[-1]["more_body"] = False
    scope = {"type": "http", "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()]}

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(BodyLimit(echo, LIMIT)(scope, receive, send))
    return (sent[0]["status"] if sent else None), echo.bodies, len(messages)


@pytest.mark.parametrize(
    ("chunks", "headers", "status"),
    [
        ([b""], {}, 200),
        ([b"x" * 10], {}, 200),
        ([b"x" * 10], {"content-length": "10"}, 200),
        ([b"x" * 4, b"x" * 6], {}, 200),
        ([b"x" * 4, b"", b"x" * 6, b""], {}, 200),
        ([b"x" * 11], {}, 413),
        ([b"x" * 11], {"content-length": "11"}, 413),
        ([b"x" * 11], {"content-length": "5"}, 413),
        ([b"x" * 4] * 3, {}, 413),
        ([b"x"] * 11, {"content-length": "1"}, 413),
        ([b"x"], {"content-length": "11"}, 413),
        ([b"x"], {"content-length": "9" * 5_000}, 413),
        ([b"x"], {"content-length": "-11"}, 200),
        ([b"x"], {"content-length": "ten"}, 200),
        ([b"x"], {"content-length": "²"}, 200),
    ],
)
def test_a_body_passes_whole_up_to_the_limit_and_not_above(
    chunks: list[bytes], headers: dict[str, str], status: int
) -> None:
    assert exchange(chunks, headers) == (status, [b"".join(chunks)] if status == 200 else [], 0)


def test_a_client_that_waits_to_be_asked_is_refused_without_being_heard() -> None:
    asked = {"content-length": "11", "expect": "100-Continue"}
    assert exchange([b"x" * 11], asked) == (413, [], 1)


@pytest.mark.parametrize("chunks", [[], [b"x"], [b"x" * 11]])
def test_a_client_that_has_gone_reaches_no_application(chunks: list[bytes]) -> None:
    _status, bodies, left = exchange(chunks, gone=True)
    assert (bodies, left) == ([], 0)


def test_a_client_that_never_ends_is_cut_off_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAR_OUT_BYTES", 100)
    status, bodies, left = exchange([b"x" * 20] * 50)
    assert (status, bodies) == (413, [])
    assert left > 30


def test_a_client_that_falls_silent_is_cut_off_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAR_OUT_SECONDS", 0.05)
    sent: list[Message] = []
    first = [{"type": "http.request", "body": b"x" * 11, "more_body": True}]

    async def receive() -> Message:
        return first.pop() if first else await asyncio.Future()

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(BodyLimit(Echo(), LIMIT)({"type": "http", "headers": []}, receive, send))
    assert sent[0]["status"] == 413


def test_a_path_that_bounds_its_body_itself_gets_it_as_it_comes() -> None:
    messages = [{"type": "http.request", "body": b"x" * LIMIT, "more_body": more} for more in (True, True, False)]
    heard: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def application(_scope: Scope, receive: Receive, _send: Send) -> None:
        heard.append(await receive())

    async def send(_message: Message) -> None:
        pass

    limited = BodyLimit(application, LIMIT, streamed=("/file",))
    asyncio.run(limited({"type": "http", "path": "/file", "headers": []}, receive, send))
    assert (heard, len(messages)) == ([{"type": "http.request", "body": b"x" * LIMIT, "more_body": True}], 2)


# --- health


def answer(live: http.Checks, ready: http.Checks, path: str) -> httpx.Response:
    return ask(management_app(live, ready, CollectorRegistry()), "GET", path)


def test_health_names_each_check_that_fails_and_why() -> None:
    ready = {"database": lambda: "it does not answer", "producer": lambda: None, "consumer": lambda: "halted"}
    response = answer({}, ready, "/readyz")
    assert response.status_code == 503
    assert response.json() == {
        "status": "failing", "failing": {"database": "it does not answer", "consumer": "halted"},
    }  # fmt: skip


def test_readiness_is_not_liveness() -> None:
    assert answer({}, {"database": lambda: "away"}, "/healthz").json() == {"status": "ok", "failing": {}}


def test_a_check_that_breaks_is_a_failing_check_and_hides_no_other() -> None:
    def broken() -> str | None:
        raise RuntimeError("Mrs Example")

    response = answer({}, {"broken": broken, "database": lambda: "away"}, "/readyz")
    assert response.status_code == 503
    assert response.json()["failing"] == {"broken": "the check itself failed: RuntimeError", "database": "away"}


def test_metrics_are_exported() -> None:
    registry = CollectorRegistry()
    Counter("driftloop_tests_total", "Tests.", registry=registry).inc(3)
    app: FastAPI = management_app({}, {}, registry)
    assert "driftloop_tests_total 3.0" in ask(app, "GET", "/metrics").text


def test_what_readyz_would_answer_is_a_metric() -> None:
    said: list[str | None] = ["away", None]
    app = management_app({}, {"database": lambda: said[0]}, CollectorRegistry())
    assert "driftloop_ready 0.0" in ask(app, "GET", "/metrics").text
    del said[0]
    assert "driftloop_ready 1.0" in ask(app, "GET", "/metrics").text


@pytest.mark.parametrize(
    ("value", "shown"),
    [("x" * 300, "x" * 100), (7, 7), (True, True), (None, None), (float("nan"), "nan"), ([1], "[1]")],
)
def test_a_wrong_field_is_shown_short_and_as_json(value: object, shown: object) -> None:
    assert field_problem("Age", value, "is too high")["input"] == shown


# --- errors


def test_a_problem_is_said_as_rfc_9457_wants_it() -> None:
    response = problem_details(422, "1 field is not as it must be", [field_problem("Age", 7, "is too low")])
    assert response.headers["content-type"] == "application/problem+json"
    assert json.loads(bytes(response.body)) == {
        "type": "about:blank",
        "title": "Unprocessable Entity",
        "status": 422,
        "detail": "1 field is not as it must be",
        "errors": [{"type": "value_error", "loc": ["body", "Age"], "msg": "is too low", "input": 7}],
    }


def test_a_problem_carries_the_headers_that_it_is_given() -> None:
    response = problem_details(401, "a credential is needed", headers=[(b"www-authenticate", b"Bearer")])
    assert (response.headers["www-authenticate"], b"errors" in bytes(response.body)) == ("Bearer", False)
