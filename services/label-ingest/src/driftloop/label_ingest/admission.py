"""Who may call label-ingest: a guard before all of it, which asks for what the route needs."""

from driftloop.common.access import Scope

_READ = frozenset({"/v1/rows", "/v1/summary", "/v1/parked", "/v1/expired"})


def needed(method: str, path: str) -> Scope:
    """What a request needs: the doors of laboratories `label`, those that read `rows`, and whatever else `admin`.

    So a door that nobody thought of here is not open to everybody who has some key.
    """
    if _reports(method, path):
        return "label"
    if method in ("GET", "HEAD") and (path in _READ or path.startswith("/v1/labels/")):
        return "rows"
    return "admin"


def _reports(method: str, path: str) -> bool:
    if path == "/fhir" or path.startswith("/fhir/"):
        # Also what the door says of itself (`GET /fhir/metadata`) is for those who report.
        return method in ("GET", "HEAD", "POST", "PUT")
    # In whichever form: `/v1/outcomes.csv` is a door of its own.
    return method == "POST" and (path == "/v1/outcomes" or path.startswith(("/v1/outcomes.", "/v1/outcomes/")))
