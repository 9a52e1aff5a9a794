"""Who may call the trainer: whoever reads needs `rows`, whoever orders `admin`."""

from starlette.types import ASGIApp

from driftloop.common.access import Scope
from driftloop.common.access.checking import Access
from driftloop.common.access.guard import Guard
from driftloop.common.access.rate import RateLimit

# What the service is, and nothing of what it holds.
OPEN = (("GET", "/openapi.json"), ("HEAD", "/openapi.json"))


def admit(app: ASGIApp, access: Access, limit: RateLimit | None = None) -> ASGIApp:
    """The application behind a guard, which leaves the caller's name in the request's scope, under `CALLER`."""
    return Guard(app, access, needed, limit, OPEN)


def needed(method: str, _path: str) -> Scope:
    """What a request needs."""
    return "rows" if method in ("GET", "HEAD") else "admin"
