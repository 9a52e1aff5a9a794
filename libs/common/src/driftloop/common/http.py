"""What every HTTP face shares: bounded bodies, errors of one form, and the management port."""

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Name → why it is not well, or None. A check must answer within a second or two.
Checks = Mapping[str, Callable[[], str | None]]

# How much and how long a client that sends too large a body may go on before it is answered and cut off.
HEAR_OUT_BYTES = 64 * 1024 * 1024
HEAR_OUT_SECONDS = 10.0

# What every answer of an API says to browsers, which have no business with it.
PROBLEM_JSON = "application/problem+json"
SECURITY_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)

logger = logging.getLogger(__name__)


class BodyLimit:
    """ASGI middleware: refuses a request's body above `max_bytes` with 413, whatever its headers claim.

    `limit_of` gives the paths whose limit is another one theirs, and all others None.
    The application gets the body whole, in one message. A client that has already begun to send too much is heard out,
    within bounds, or it would lose the answer to a connection reset. The paths in `streamed` get their bodies as they
    come, and bound them themselves.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int,
        limit_of: Callable[[str], int | None] = lambda _path: None,
        streamed: Collection[str] = (),
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._limit_of = limit_of
        self._streamed = streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body up to the limit before the application sees the request."""
        if scope["type"] != "http" or scope.get("path") in self._streamed:
            await self._app(scope, receive, send)
            return
        found = self._limit_of(scope.get("path", ""))
        limit = self._max_bytes if found is None else found
        try:
            body = await _body(dict(scope["headers"]), receive, limit)
        except ClientDisconnect:
            return
        if body is not None:
            await self._app(scope, _replay(body, receive), send)
            return
        detail = f"the body is larger than {limit} bytes: send it in parts"
        await problem_details(413, detail, headers=[(b"connection", b"close")])(scope, receive, send)


async def _body(headers: Mapping[bytes, bytes], receive: Receive, limit: int) -> bytes | None:
    """The body, or None if it is too large. Raises ClientDisconnect."""
    declared = headers.get(b"content-length", b"")
    # What is no number is not believed; what has a thousand digits cannot be made one.
    if declared.isdigit() and (len(declared) > 18 or int(declared) > limit):
        if headers.get(b"expect", b"").lower() != b"100-continue":
            await hear_out(receive)
        return None
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
        if size > limit:
            if more:
                await hear_out(receive)
            return None
    return b"".join(parts)


async def hear_out(receive: Receive) -> None:
    """Read a body on and throw it away until the client has sent all, has gone, or has had enough patience."""
    heard = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(HEAR_OUT_SECONDS):
            while heard < HEAR_OUT_BYTES:
                message = await receive()
                heard += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def problem(status: int, detail: object, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error: `{"detail": …}`, either a sentence or a list of what is wrong where."""
    return JSONResponse({"detail": detail}, status_code=status, headers=dict(headers or {}))


def problem_details(
    status: int,
    detail: str,
    errors: Sequence[Mapping[str, Any]] | None = None,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> Response:
    """An error as RFC 9457 says it, as a whole answer; see `problem_members`."""
    body = msgspec.json.encode(problem_members(status, detail, errors))
    response = Response(body, status, media_type=PROBLEM_JSON)
    response.raw_headers.extend(headers)
    return response


def problem_members(status: int, detail: str, errors: Sequence[Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """What RFC 9457 says of an error; `errors` has what is wrong where, for instance of `field_problem`."""
    said = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return said | ({"errors": errors} if errors else {})


def field_problem(field: str, value: object, reason: str) -> dict[str, Any]:
    """One wrong field, in the form that FastAPI's clients know: `loc`, `msg`, `type`, `input`."""
    plain = isinstance(value, str | int | bool | None) or (isinstance(value, float) and math.isfinite(value))
    shown = value if plain else repr(value)
    if isinstance(shown, str):
        shown = shown[:100]
    return {"type": "value_error", "loc": ["body", field], "msg": reason, "input": shown}


def management_app(
    live: Checks, ready: Checks, registry: CollectorRegistry = REGISTRY, notes: Checks | None = None
) -> FastAPI:
    """`/healthz`, `/readyz` and `/metrics`: 503 names each check that fails and why.

    `notes` are said on `/readyz` beside the checks, and never make it fail. What `/readyz` would answer is a metric,
    too.
    """
    readiness = CollectorRegistry()
    readiness.register(_Readiness(ready))
    app = FastAPI(title="Driftloop management", docs_url=None, redoc_url=None, openapi_url=None)

    def answer(checks: Checks, notes: Checks) -> JSONResponse:
        failing, said = _spoken(checks), _spoken(notes)
        body = {"status": "failing" if failing else "ok", "failing": failing} | ({"notes": said} if said else {})
        return JSONResponse(body, status_code=503 if failing else 200)

    @app.get("/healthz")
    def healthz() -> Response:
        return answer(live, {})

    @app.get("/readyz")
    def readyz() -> Response:
        return answer(ready, notes or {})

    @app.get("/metrics")
    def metrics(_request: Request) -> Response:
        return Response(generate_latest(registry) + generate_latest(readiness), media_type=CONTENT_TYPE_LATEST)

    return app


class _Readiness(Collector):
    """Asks the checks when the metrics are asked for: what a process remembers of its readiness may be long ago."""

    def __init__(self, ready: Checks) -> None:
        self._ready = ready

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("driftloop_ready", "1 where /readyz answers 200, else 0.", not _spoken(self._ready))

    def describe(self) -> list[Metric]:
        return []


def _spoken(checks: Checks) -> dict[str, str]:
    """What the checks that have something to say do say."""
    return {name: reason for name, check in checks.items() if (reason := _ask(check)) is not None}


def _ask(check: Callable[[], str | None]) -> str | None:
    try:
        return check()
    except Exception as error:
        # A check that breaks is no news of health; it must not hide the others'.
        logger.exception("a check failed")
        return f"the check itself failed: {type(error).__name__}"
