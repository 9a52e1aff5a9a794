"""What every HTTP face shares: bounded bodies, errors of one form, and the management port."""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Name → why it is not well, or None. A check must answer within a second or two.
Checks = Mapping[str, Callable[[], str | None]]


class BodyLimit:
    """ASGI middleware: refuses a request's body above `max_bytes` with 413, whatever its headers claim."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body up to the limit before the application sees the request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        body = b"" if not declared.isdigit() or int(declared) <= self._max_bytes else None
        more = body is not None
        while body is not None and more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._max_bytes:
                body = None
        if body is None:
            response = problem(413, f"the body is larger than {self._max_bytes} bytes: send it in parts")
            response.headers["connection"] = "close"
            await response(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)


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


def field_problem(field: str, value: object, reason: str) -> dict[str, Any]:
    """One wrong field, in the form that FastAPI's clients know: `loc`, `msg`, `type`, `input`."""
    shown = value if isinstance(value, str | int | bool | None) else repr(value)
    if isinstance(shown, str):
        shown = shown[:100]
    return {"type": "value_error", "loc": ["body", field], "msg": reason, "input": shown}


def management_app(live: Checks, ready: Checks, registry: CollectorRegistry = REGISTRY) -> FastAPI:
    """`/healthz`, `/readyz` and `/metrics`: 503 names each check that fails and why."""
    app = FastAPI(title="Driftloop management", docs_url=None, redoc_url=None, openapi_url=None)

    def answer(checks: Checks) -> JSONResponse:
        failing = {name: reason for name, check in checks.items() if (reason := check()) is not None}
        return JSONResponse(
            {"status": "failing" if failing else "ok", "failing": failing}, status_code=503 if failing else 200
        )

    @app.get("/healthz")
    def healthz() -> Response:
        return answer(live)

    @app.get("/readyz")
    def readyz() -> Response:
        return answer(ready)

    @app.get("/metrics")
    def metrics(_request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app
