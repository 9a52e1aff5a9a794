"""Prefect 3: `prefect deploy prefect_flow.py:driftloop_nightly --cron "17 3 * * *"`.

driftloop_nightly.py is beside it. The API key is in the Secret block `driftloop-operator-key`.
"""

from datetime import UTC, datetime

import driftloop_nightly as driftloop
from prefect import flow, task
from prefect.blocks.system import Secret


@task
def retrain_where_wanted(monitor: str, trainer: str, model: str, run: str, seconds: float) -> str:
    """What came of the night's work. Raises driftloop.Failed."""
    key = str(Secret.load("driftloop-operator-key").get())
    return driftloop.nightly(monitor, trainer, key, model, run, seconds)


@flow(log_prints=True)
def driftloop_nightly(
    monitor: str = "http://drift-monitor:8002",
    trainer: str = "http://trainer:8003",
    model: str = "diabetes",
    seconds: float = 3600.0,
) -> str:
    """Where the verdict calls for it, one retraining a night, until it is decided."""
    said = retrain_where_wanted(monitor, trainer, model, driftloop.run_name(datetime.now(UTC)), seconds)
    print(said)
    return said
