"""Who may call the trainer: whoever reads needs `rows`, whoever orders `admin`."""

from driftloop.common.access import Scope


def needed(method: str, _path: str) -> Scope:
    """What a request needs."""
    return "rows" if method in ("GET", "HEAD") else "admin"
