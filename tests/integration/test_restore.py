"""A database is restored from a backup while the log went on: nothing is lost, and nothing counts twice."""

import random
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psycopg
import pytest
from psycopg import sql
from typer.testing import CliRunner, Result

from driftloop.cli.main import app
from driftloop.common.contract import Contract
from driftloop.common.events import PredictionMade
from driftloop.common.kafka.reader import bounds
from driftloop.common.postgres import migrations
from driftloop.common.topics import LABELED_PREDICTIONS, PREDICTIONS, Topic
from driftloop.devstack import postgres
from driftloop.devstack.processes import ServiceProcess
from tests.support import monitors
from tests.support.house import House
from tests.support.predictions import START, prediction, rows_like
from tests.support.waiting import wait_until

BEFORE, AFTER = 300, 300


@pytest.mark.slow("two services start three times, between two restores")
def test_after_a_restore_each_prediction_and_each_label_counts_once(house: House) -> None:
    services, made = begun(house, BEFORE + AFTER, BEFORE, 150)
    backup = dump(house)

    publish(house, made[BEFORE:])
    services.report(made[150:450])
    services.wait_for(BEFORE + AFTER, 450)
    services.kill()

    # The second time the log also holds what was published after the first, under a name that no backup knows.
    for turn in range(2):
        restore(house, backup)
        told = restored(house)
        assert told.exit_code == 0, told.output
        assert told.output.count("label-ingest/outbox-0/") == 1 + turn, told.output
        services.start()
        # The laboratory sends once more what it has sent since the backup, and does not know exactly what that was.
        resent = made[100:450]
        random.Random(turn).shuffle(resent)
        services.report(resent)
        services.have_counted(BEFORE + AFTER, 450)
        services.kill()


def test_a_database_that_is_lost_is_made_again_from_the_topics_and_the_laboratory(house: House) -> None:
    services, made = begun(house, 100, 100, 60)
    services.kill()

    lose(house)
    house.migrate()
    told = restored(house)
    assert told.output.count("label-ingest/outbox-0/") == 1, told.output
    services.start()
    services.report(reversed(made[:80]))
    services.have_counted(100, 80)


def test_a_database_that_is_older_than_the_log_publishes_nothing(house: House) -> None:
    services, made = begun(house, 100, 100, 40)
    backup = dump(house)
    services.report(made[40:80])
    services.wait_for(100, 80)
    services.kill()
    before = len(house.records(LABELED_PREDICTIONS))

    restore(house, backup)
    services.start()
    services.report(made[90:])

    def complaint() -> str | None:
        answer = httpx.get(f"http://127.0.0.1:{services.label_ingest.management_port}/readyz", timeout=10)
        return answer.text if answer.status_code == 503 and "outbox" in answer.text else None

    assert "run `driftloop restored`" in wait_until(complaint, "label-ingest says that its database is too old")
    assert len(house.records(LABELED_PREDICTIONS)) == before


def test_it_changes_nothing_that_counts_where_nothing_was_restored(house: House) -> None:
    services, made = begun(house, 100, 100, 50)
    told = restored(house)
    assert (told.exit_code, "runs: stop it" in told.output) == (1, True), told.output
    services.kill()
    wait_until(lambda: restored(house).exit_code == 0, "the locks of what was killed to be gone")
    for _ in range(2):
        assert restored(house).exit_code == 0
    services.start()
    services.report(made)
    services.have_counted(100, 100)


class Services:
    """label-ingest and the monitor, running."""

    def __init__(self, house: House, contract_path: str) -> None:
        self.house = house
        self.label_ingest, self.url = house.process(
            "label-ingest",
            "driftloop.label_ingest.main",
            {"DATABASE_URL": house.database_url("label_ingest"), "DRIFTLOOP_CONTRACTS": contract_path},
        )
        self.label_ingest.start()
        self.monitor, self.monitor_url = monitors.start(house, "monitor", contract_path)
        for process in self.processes:
            process.wait_ready()

    def start(self) -> None:
        """Start both again."""
        for process in self.processes:
            process.start()
        for process in self.processes:
            process.wait_ready()

    @property
    def processes(self) -> tuple[ServiceProcess, ...]:
        return self.label_ingest, self.monitor

    def kill(self) -> None:
        for process in self.processes:
            process.kill()

    def report(self, predictions: Iterable[PredictionMade]) -> None:
        """A laboratory sends outcomes by HTTP: no topic keeps them."""
        outcomes = [{"prediction_id": one.prediction_id, "label": 1} for one in predictions]
        httpx.post(f"{self.url}/v1/outcomes", json=outcomes, timeout=60).raise_for_status()

    def wait_for(self, predictions: int, labels: int) -> None:
        """Wait until the monitor has counted so many."""

        def counted() -> bool:
            versions = httpx.get(f"{self.monitor_url}/v1/report", timeout=30).raise_for_status().json()["versions"]
            return bool(versions) and versions[0]["counted"] >= predictions and versions[0]["labelled"] >= labels

        wait_until(counted, f"{predictions} predictions and {labels} labels counted")

    def have_counted(self, predictions: int, labels: int) -> None:
        """Wait until nothing is left to publish, nor to read of what was published; so many were counted, no more."""
        self.wait_for(predictions, labels)
        wait_until(lambda: rows(self.house, "label_ingest", "SELECT count(*) FROM outbox") == [(0,)], "an empty outbox")
        for topic in (PREDICTIONS, LABELED_PREDICTIONS):
            wait_until(partial(read_to_the_end, self.house, topic), f"{topic.name} read to its end")
        assert monitors.pane_rows(self.house) == {"predictions": predictions, "labels": labels}


def begun(house: House, count: int, published: int, labelled: int) -> tuple[Services, list[PredictionMade]]:
    """The services, which have counted the first of so many predictions and of their labels; and all predictions."""
    contract_path, contract, rng = monitors.serving(house)
    made = predictions(contract, rng, count)
    services = Services(house, contract_path)
    publish(house, made[:published])
    services.report(made[:labelled])
    services.wait_for(published, labelled)
    return services, made


def read_to_the_end(house: House, topic: Topic) -> bool:
    ends = {number: high for number, (_low, high) in bounds(
        house.stack.bootstrap_servers, "tests", house.namespace.topic(topic)).items()}  # fmt: skip
    stored = rows(
        house, "drift_monitor",
        "SELECT partition, next FROM offsets WHERE next > 0 AND topic = %s", house.namespace.topic(topic),
    )  # fmt: skip
    return dict(stored) == ends


def rows(house: House, service: str, query: str, *values: object) -> list[Any]:
    with house.database(service) as connection:
        return connection.execute(query.encode(), values).fetchall()


def predictions(contract: Contract, rng: np.random.Generator, count: int) -> list[PredictionMade]:
    return [prediction(contract, row, START, score=0.75) for row in rows_like(contract, rng, count)]


def publish(house: House, made: Sequence[PredictionMade]) -> None:
    house.publish(PREDICTIONS, [(one.prediction_id, one) for one in made])


def restored(house: House) -> Result:
    """Run `driftloop restored`."""
    environment = {
        "DATABASE_URL": house.stack.database_url,
        "KAFKA_BOOTSTRAP_SERVERS": house.stack.bootstrap_servers,
        "DRIFTLOOP_NAMESPACE": house.namespace.prefix,
    }
    return CliRunner().invoke(app, ["restored"], env=environment)


def dump(house: House) -> Path:
    """A backup of the house's schemas, as docs/operations.md makes one."""
    backup = house.folder / "backup"
    schemas = [f"--schema={house.namespace.schema(service)}" for service in migrations.services()]
    run(house, "pg_dump", "--format=custom", f"--file={backup}", *schemas)
    return backup


def restore(house: House, backup: Path) -> None:
    """Lose everything, and get it back from the backup, as on a new server."""
    lose(house)
    house.migrate()
    drop_schemas(house)
    run(house, "pg_restore", "--exit-on-error", f"--dbname={house.stack.database_url}", str(backup))


def drop_schemas(house: House) -> None:
    with psycopg.connect(house.stack.database_url, autocommit=True) as connection:
        for service in migrations.services():
            schema = sql.Identifier(house.namespace.schema(service))
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(schema))


def lose(house: House) -> None:
    """Lose schemas and roles."""
    drop_schemas(house)
    with psycopg.connect(house.stack.database_url, autocommit=True) as connection:
        for service in migrations.services():
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(house.namespace.role(service))))


def run(house: House, program: str, *arguments: str) -> None:
    found = str(postgres.program(program)) if house.stack.database_kind == "local" else shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed here")
    named = [] if program == "pg_restore" else [f"--dbname={house.stack.database_url}"]
    subprocess.run([found, *named, *arguments], check=True, timeout=60)
