"""What the trainer tells people: which version serves, why, and what a retraining waits for."""

from typing import Any

from fastapi import FastAPI, HTTPException

from driftloop.common.postgres.pool import Pool
from driftloop.trainer.store import Store


def create_app(pool: Pool, models: tuple[str, ...]) -> FastAPI:
    """The trainer's HTTP face; it only reads."""
    app = FastAPI(title="Driftloop trainer", version="1")

    def known(model: str) -> None:
        if model not in models:
            raise HTTPException(404, f"model {model!r} is not known here; there are {list(models)}")

    @app.get("/v1/models")
    def list_models() -> dict[str, Any]:
        return {"models": list(models)}

    @app.get("/v1/models/{model}")
    def show_model(model: str) -> dict[str, Any]:
        known(model)
        with pool.connection() as connection:
            store = Store(connection)
            state = store.model(model)
            head = {"model_name": model, "revision": 0, "champion": None}
            if state is not None:
                head |= {"revision": state.revision, "champion": state.champion}
            return head | store.overview(model)

    @app.get("/v1/models/{model}/versions/{version}")
    def show_version(model: str, version: int) -> dict[str, Any]:
        known(model)
        with pool.connection() as connection:
            card = Store(connection).card(model, version)
        if card is None:
            raise HTTPException(404, f"model {model!r} has no version {version}")
        return card

    return app
