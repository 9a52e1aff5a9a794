"""A span for each request that a service answers.

Starlette's and FastAPI's own would also tell queries, clients' addresses and what an exception says.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from driftloop.common.tracing import Span, Tracer, active_tracer, within

# Others are a client's invention, of which there is no end.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
FAILED = 500


def traced(app: ASGIApp) -> ASGIApp:
    """The application with a span around each request; where tracing is off, just the application."""
    tracer = active_tracer()
    return app if tracer is None else Traced(app, tracer)


class Traced:
    """ASGI middleware, the outermost: in the request that the application sees its `traceparent` is this span's."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        known = scope["method"] in METHODS
        attributes = {
            "http.request.method": scope["method"] if known else "_OTHER",
            "url.scheme": scope.get("scheme", "http"),
        }
        name = scope["method"] if known else "HTTP"
        one = self._tracer.start(name, "server", _parent(scope), attributes)
        _replace_parent(scope, one)
        status = FAILED

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with within(one):
            try:
                await self._app(scope, receive, sending)
            finally:
                _describe(one, name, scope, status)


def _parent(scope: Scope) -> str | None:
    return next((str(value, "latin-1") for name, value in scope["headers"] if name == b"traceparent"), None)


def _replace_parent(scope: Scope, one: Span) -> None:
    others = [header for header in scope["headers"] if header[0] != b"traceparent"]
    scope["headers"] = [*others, (b"traceparent", one.traceparent.encode())]


def _describe(one: Span, name: str, scope: Scope, status: int) -> None:
    """Say what became of a request. A path that is no route of ours is left out: it may hold anything."""
    one.set({"http.response.status_code": status})
    if status >= FAILED:
        one.fail(str(status))
    # Routers leave themselves in the scope; what answers before them leaves the route's text.
    route = scope.get("route")
    template = route if isinstance(route, str) else getattr(route, "path", None)
    if template is not None:
        one.name(f"{name} {template}")
        one.set({"http.route": template})
