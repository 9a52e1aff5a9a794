"""`GET /v1/report`: the verdict of each model version, with every number behind it."""

from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import FastAPI, HTTPException, Query

from driftloop.common.contract import Contract
from driftloop.common.postgres.pool import Pool
from driftloop.drift_monitor.domain.performance import performance
from driftloop.drift_monitor.store import Store


def create_app(pool: Pool, contracts: Mapping[str, Contract]) -> FastAPI:
    """The monitor's HTTP face; it only reads."""
    app = FastAPI(title="Driftloop drift monitor", version="1")

    @app.get("/v1/report")
    def report(
        model: str | None = Query(None, description="A model's name; needed where several are watched."),
        windows: int = Query(20, ge=1, le=1000, description="How many closed windows of each version to show."),
    ) -> dict[str, Any]:
        name = _name(model, contracts)
        with pool.connection() as connection:
            store = Store(connection)
            champion = dict(store.champions()).get(name)
            versions = [_version(store, name, row, windows) for row in store.evaluations(name)]
        current = next((one for one in versions if one["model_version"] == champion), None)
        return {
            "model_name": name,
            "champion": champion,
            "verdict": current["verdict"] if current else "INSUFFICIENT_DATA",
            "raw_severity": current["raw_severity"] if current else None,
            "features": current["features"] if current else [],
            "performance": current["performance"] if current else None,
            "versions": versions,
        }

    return app


def _name(model: str | None, contracts: Mapping[str, Contract]) -> str:
    if model is None and len(contracts) == 1:
        return next(iter(contracts))
    if model not in contracts:
        raise HTTPException(404, f"model {model!r} is not watched here: name one of {sorted(contracts)} with ?model=")
    assert model is not None
    return model


def _feature(result: dict[str, Any]) -> dict[str, Any]:
    """A feature's figures; `d` is the statistic where that is the KS test's."""
    return result | {"d": result["statistic"] if result["kind"] == "numeric" else None}


def _version(store: Store, model: str, row: dict[str, Any], limit: int) -> dict[str, Any]:
    windows = store.windows(model, row["model_version"], limit)
    last = windows[0]["result"] if windows else None
    return {
        "model_version": row["model_version"],
        "verdict": row["verdict"] if row["windows"] else "INSUFFICIENT_DATA",
        "raw_severity": last["raw_severity"] if last else None,
        "superseded": row["superseded"],
        "reference": {"origin": row["reference_origin"], "rows": row["reference_rows"]},
        "counted": row["counted"] + row["late"],
        "late": row["late"],
        "parked": row["parked"],
        "windows_closed": row["windows"],
        "features": [_feature(one) for one in last["features"]] if last else [],
        "score": _feature(last["score"]) if last else None,
        "performance": msgspec.to_builtins(performance(store.label_counts(model, row["model_version"]))),
        "windows": [{"number": one["number"], "evaluated_at": one["evaluated_at"]} | one["result"] for one in windows],
    }
