"""In front of an application: who may come in, and how often. Nothing of a request's body is read before."""

import random
import re
from collections.abc import Callable, Collection, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from driftloop.common.access import Caller, Header, Refused
from driftloop.common.access import Scope as Permission
from driftloop.common.access.checking import Access
from driftloop.common.access.rate import RateLimit
from driftloop.common.access.refusals import too_many
from driftloop.common.http import SECURITY_HEADERS, problem_details
from driftloop.common.logs import REQUEST_ID

# Where the guarded application finds who calls: a name.
CALLER = "driftloop.caller"
Route = tuple[str, str]
# Method and path → what a request for them needs.
ScopeOf = Callable[[str, str], Permission]
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


# What a service is, and nothing of what it holds.
DESCRIPTION: tuple[Route, ...] = (("GET", "/openapi.json"), ("HEAD", "/openapi.json"))


class Guard:
    """ASGI middleware: asks for a credential, limits the rate, names the request, tells browsers no.

    `scope` is what the credential must allow: the same for all requests, or what a function of method and path says.
    `open_routes`, methods and paths, need no credential; one that is sent must be good all the same.
    A request's id is the client's `x-request-id` if that is a plain word, else a new one. It is answered and logged.
    """

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        scope: Permission | ScopeOf,
        limit: RateLimit | None = None,
        open_routes: Collection[Route] = (),
    ) -> None:
        self._app = app
        self._access = access
        self._scope_of: ScopeOf = scope if callable(scope) else lambda _method, _path: scope
        self._limit = limit
        self._open = frozenset(open_routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request in, or answer why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope["headers"])
        REQUEST_ID.set(request_id.decode())
        added = (*SECURITY_HEADERS, (b"x-request-id", request_id))

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        found = self._admitted(scope)
        if isinstance(found, Caller):
            scope[CALLER] = found.name
            await self._app(scope, receive, sending)
        else:
            await problem_details(found.status, found.detail, headers=found.headers)(scope, receive, sending)

    def _admitted(self, scope: Scope) -> Caller | Refused:
        route = scope["method"], scope["path"]
        found = self._access.check(scope["headers"], self._scope_of(*route), route in self._open)
        if self._limit is not None and isinstance(found, Caller):
            wait = self._limit.take(found.name)
            if wait > 0:
                return self._access.refuse(too_many(wait))
        return found


def admit(app: ASGIApp, access: Access, scope_of: ScopeOf, limit: RateLimit | None = None) -> ASGIApp:
    """The application behind a guard, which lets anybody read its description."""
    return Guard(app, access, scope_of, limit, DESCRIPTION)


def caller(scope: Scope) -> str:
    """Who sends a request, as the guard before the application knows it."""
    return str(scope.get(CALLER, "anonymous"))


def _request_id(headers: Sequence[Header]) -> bytes:
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value
    return b"%016x" % random.getrandbits(64)
