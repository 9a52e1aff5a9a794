"""Airflow 3: put this file and driftloop_nightly.py into the folder of DAGs.

The connections `driftloop_monitor` (its host is the URL) and `driftloop_trainer` (its password is the API key) are in
Airflow's own store of secrets.
"""

import time
from datetime import datetime, timedelta
from typing import Any

import driftloop_nightly as driftloop
from airflow.sdk import Connection, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

ASK_SECONDS = 60.0


def trainer() -> tuple[str, str]:
    """The trainer's address, and the key for it."""
    found: Any = Connection.get("driftloop_trainer")
    return found.host, found.password


@dag(
    schedule="17 3 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    params={"model": "diabetes"},
)
def driftloop_nightly() -> None:
    """Where the verdict calls for it, one retraining a night, until it is decided."""

    @task.short_circuit(retries=2, retry_delay=timedelta(minutes=1))
    def wanted() -> bool:
        monitor: Any = Connection.get("driftloop_monitor")
        try:
            model = get_current_context()["params"]["model"]
            found = driftloop.wanted(monitor.host, model, ("CRITICAL",), time.monotonic() + ASK_SECONDS)
        except driftloop.Away:
            raise
        except driftloop.Failed as failure:
            raise AirflowFailException(str(failure)) from failure
        return found is not None

    @task(retries=2, retry_delay=timedelta(minutes=1))
    def order() -> int:
        context = get_current_context()
        run = driftloop.run_name(context["dag_run"].run_after)
        return driftloop.order(*trainer(), context["params"]["model"], run, time.monotonic() + ASK_SECONDS)

    # A worker's place is free between two looks.
    @task.sensor(mode="reschedule", poke_interval=30, timeout=3600)
    def decided(request: int) -> bool:
        try:
            model = get_current_context()["params"]["model"]
            said = driftloop.outcome(*trainer(), model, request, time.monotonic() + ASK_SECONDS)
        except driftloop.Away:
            return False
        except driftloop.Failed as failure:
            raise AirflowFailException(str(failure)) from failure
        return said is not None

    request = order()
    wanted() >> request >> decided(request)


driftloop_nightly()
