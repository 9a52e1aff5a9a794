"""`GET /v1/report` and `/v1/report/history`: the verdict of each model version, with every number behind it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from fastapi import FastAPI, HTTPException, Query

from driftloop.common.contract import Contract, chosen
from driftloop.common.postgres.pool import Pool
from driftloop.drift_monitor.handlers import Watches
from driftloop.drift_monitor.reporting import history_of, report_of
from driftloop.drift_monitor.store import Store

MODEL = Query(None, description="A model's name; needed where several are watched.")
SINCE = Query(None, alias="from", description="Windows that end after this instant (RFC 3339).")
UNTIL = Query(None, alias="to", description="Windows that start before this instant (RFC 3339).")


def create_app(pool: Pool, contracts: Mapping[str, Contract], watches: Watches) -> FastAPI:
    """The monitor's HTTP face; it only reads."""
    app = FastAPI(title="Driftloop drift monitor", version="1")

    @app.get("/v1/report")
    def report(
        model: str | None = MODEL,
        version: int | None = Query(None, ge=1, description="One version only; all of them without it."),
        windows: int = Query(20, ge=1, le=1000, description="How many closed windows of each version to show."),
    ) -> dict[str, Any]:
        name = _name(model, contracts)
        with pool.connection() as connection:
            # One instant for all of it: counts that do not fit together would look like a loss.
            store = Store(connection)
            store.repeatable_read()
            found = report_of(store, watches, name, version, windows)
        if version is not None and not found["versions"]:
            raise HTTPException(404, f"nothing is known of version {version} of model {name!r}")
        return found

    @app.get("/v1/report/history")
    def history(
        model: str | None = MODEL,
        version: int | None = Query(None, ge=1, description="The version; the champion without it."),
        since: datetime | None = SINCE,
        until: datetime | None = UNTIL,
        limit: int = Query(100, ge=1, le=1000, description="At most so many windows, the newest."),
    ) -> dict[str, Any]:
        name = _name(model, contracts)
        for field, time in (("from", since), ("to", until)):
            if time is not None and time.tzinfo is None:
                raise HTTPException(
                    422, f"{field} = {time.isoformat()}: say the offset from UTC, as in 2026-03-01T12:00:00Z"
                )
        with pool.connection() as connection:
            store = Store(connection)
            store.repeatable_read()
            wanted = version or store.champion(name)[0]
            if wanted is None:
                raise HTTPException(404, f"no version of model {name!r} serves yet: name one with ?version=")
            return history_of(store, (name, wanted), since, until, limit)

    return app


def _name(model: str | None, contracts: Mapping[str, Contract]) -> str:
    contract = chosen(contracts, model)
    if contract is None:
        raise HTTPException(404, f"model {model!r} is not watched here: name one of {sorted(contracts)} with ?model=")
    return contract.name
