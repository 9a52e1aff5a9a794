"""label-ingest's rows outlive its migrations: what was joined, what was parked and what was contested."""

from datetime import timedelta
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from driftloop.common.events import OutcomeReported
from driftloop.common.postgres import migrations
from driftloop.label_ingest.reports import Answer
from tests.support.asgi import ask
from tests.support.house import House
from tests.support.label_ingest import LOAN, Desk, made, outcome
from tests.support.predictions import START

SHADOWS = [{"model_version": 2, "score": 0.75, "prediction": True}]
LABELED = START + timedelta(days=2)


def migrate(house: House) -> list[str]:
    """Bring label-ingest's schema up to date; what was applied."""
    return house.migrate()["label_ingest"]


def join(house: House, prediction_id: str, **columns: Any) -> None:
    """A row of `joins` as 0002 had it."""
    row = {"prediction_id": prediction_id, **columns}
    with house.database("label_ingest") as connection:
        connection.execute(
            sql.SQL("INSERT INTO joins ({}) VALUES ({})").format(
                sql.SQL(", ").join(map(sql.Identifier, row)), sql.SQL(", ").join(sql.Placeholder() * len(row))
            ),
            list(row.values()),
        )


def predicted(**more: Any) -> dict[str, Any]:
    """The prediction's half of a row."""
    return {
        "model_name": LOAN.name, "model_version": 1, "predicted_at": START, "score": 0.25, "prediction": False,
        "variant": "champion", "subject": "s", "features": Jsonb({"income": 42_000.0, "term": 24}), **more,
    }  # fmt: skip


def reported(label: int = 1, **more: Any) -> dict[str, Any]:
    """The outcome's half of a row."""
    return {"label": label, "result_version": 3, "result_id": "L-1", "arrived_at": LABELED, **more}


def published(label: int = 1, revision: int = 1) -> dict[str, Any]:
    return {"published_label": label, "label_revision": revision, "labeled_at": LABELED}


@pytest.fixture
def desk(house: House, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A desk on rows that were written before results had a table of their own."""
    with psycopg.connect(house.stack.database_url, autocommit=True) as connection:
        schema = sql.Identifier(house.namespace.schema("label_ingest"))
        connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(schema))
    installed = migrations.services()
    early = tuple(one for one in installed["label_ingest"] if one.name < "0003")
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "services", lambda: installed | {"label_ingest": early})
        migrate(house)
    join(house, "unlabelled", **predicted(shadows=Jsonb(SHADOWS), repeatable_until=START + timedelta(days=1)))
    join(house, "labelled", **predicted(shadows=Jsonb(SHADOWS)), **reported(), **published())
    join(house, "amended", **predicted(), **reported(0), **published(0, 4))
    join(house, "contested", **predicted(), **reported(contested=True), **published())
    join(house, "parked", **reported())
    assert migrate(house) == [one.name for one in installed["label_ingest"] if one.name >= "0003"]
    return Desk(house.pool("label_ingest"), now=START + timedelta(days=5))


def test_rows_with_their_labels_outlive_the_migration(desk: Desk) -> None:
    with desk.pool.connection() as connection:
        rows = connection.execute(
            "SELECT prediction_id, label, revision, labeled_at, contested FROM labels ORDER BY prediction_id"
        ).fetchall()
        kept = connection.execute("SELECT prediction_id, subject, score FROM predictions ORDER BY 1").fetchall()
    assert rows == [
        ("amended", 0, 4, LABELED, False), ("contested", 1, 1, LABELED, True), ("labelled", 1, 1, LABELED, False),
    ]  # fmt: skip
    assert kept == [(name, "s", 0.25) for name in ("amended", "contested", "labelled", "unlabelled")]


def test_counts_outlive_the_migration(desk: Desk) -> None:
    counts = desk.summary()
    assert [counts[name] for name in ("predictions", "labeled", "parked", "conflicts", "shadows")] == [4, 3, 1, 1, 2]
    assert counts["oldest_parked_at"] == LABELED.isoformat().replace("+00:00", "Z")


def test_rows_are_served_as_before(desk: Desk) -> None:
    response = ask(desk.app, "GET", "/v1/rows", params={"model": LOAN.name, "variant": "shadow"})
    with pa.ipc.open_stream(response.content) as reader:
        rows = reader.read_all().to_pylist()
    assert [(row["prediction_id"], row["score"], row["label"], row["feature.income"]) for row in rows] == [
        ("unlabelled", 0.75, None, 42_000.0), ("labelled", 0.75, 1, 42_000.0),
    ]  # fmt: skip


def test_nothing_is_published_because_of_the_migration(desk: Desk) -> None:
    assert desk.events() == []


def test_a_parked_outcome_still_waits_for_its_prediction(desk: Desk) -> None:
    desk.take([made("parked")])
    assert [(one.prediction_id, one.label, one.label_revision) for one in desk.published()] == [("parked", 1, 1)]


def test_a_newer_version_of_a_known_result_still_amends_its_label(desk: Desk) -> None:
    desk.take(outcomes=[outcome("amended", 1, version=4, result_id="L-1")])
    (event,) = desk.published()
    assert (event.label, event.previous_label, event.label_revision) == (1, 0, 5)


@pytest.mark.parametrize(("version", "status"), [(3, "duplicate"), (2, "superseded")])
def test_a_known_result_that_is_sent_again_changes_nothing(desk: Desk, version: int, status: str) -> None:
    (answer,) = desk.take(outcomes=[outcome("labelled", 1, version=version, result_id="L-1")])
    assert answer.status == status
    assert desk.events() == []


def test_a_contested_result_stays_so_until_a_newer_version_settles_it(desk: Desk) -> None:
    assert desk.summary()["conflicts"] == 1
    desk.take(outcomes=[outcome("contested", 1, version=4, result_id="L-1")])
    assert desk.summary()["conflicts"] == 0


def test_a_known_result_can_be_taken_back(desk: Desk) -> None:
    gone = OutcomeReported(prediction_id="labelled", result_id="L-1", result_version=4, status="entered-in-error")
    assert desk.take(outcomes=[gone]) == [Answer("retracted")]


def test_a_retry_of_a_prediction_from_before_is_still_one(desk: Desk) -> None:
    again = made("unlabelled", minute=5, repeatable_until=START + timedelta(days=2))
    desk.take([again])
    assert (desk.clashes, desk.summary()["predictions"]) == (0, 4)
