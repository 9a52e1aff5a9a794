"""What is kept, and how long: outcomes that wait and expire, months that are made and dropped."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta
from typing import Any

import psycopg
import pytest
from prometheus_client import REGISTRY
from psycopg import sql

from driftloop.common.events import OutcomeReported
from driftloop.label_ingest.keeping import Keeper
from driftloop.label_ingest.reading import Reader, RowQuery
from driftloop.label_ingest.reports import Answer
from driftloop.label_ingest.upkeep import Upkeep
from tests.support.asgi import ask
from tests.support.house import House
from tests.support.label_histories import CONTRACTS
from tests.support.label_ingest import DIABETES, Desk
from tests.support.laboratory import day, hba1c, seen
from tests.support.waiting import wait_until

PARKED = timedelta(days=90)
RETENTION = timedelta(days=365)
TABLES = ("joins", "predictions", "labels", "results", "matches", "keys")


@pytest.fixture
def desk(opened_desk: tuple[House, Desk]) -> Desk:
    """A desk on which nothing lies, and which has no month's table yet."""
    house, opened = opened_desk
    desk = Desk(opened.pool, contracts=CONTRACTS)
    desk.clear()
    with desk.pool.connection() as connection:
        months = Keeper(connection).months()
    # The service's role may not drop a month that is not old.
    schema = sql.Identifier(house.namespace.schema("label_ingest"))
    with psycopg.connect(house.stack.database_url, autocommit=True) as admin:
        for month in months:
            table = sql.Identifier(f"predictions_{month:%Y_%m}")
            admin.execute(sql.SQL("DROP TABLE {}.{}").format(schema, table))
    return desk


def upkeep(desk: Desk, now: datetime) -> None:
    """A round of upkeep at an instant, which becomes the desk's."""
    desk.now = now
    worker = Upkeep(pool=desk.pool, retention=RETENTION, parked=PARKED, clock=lambda: desk.now)
    worker.round(threading.Event())


def months(desk: Desk) -> list[date]:
    with desk.pool.connection() as connection:
        return Keeper(connection).months()


def rows(desk: Desk, table: str) -> int:
    with desk.pool.connection() as connection:
        found = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    assert found is not None
    return int(found[0])


def waiting(desk: Desk, which: str) -> list[dict[str, Any]]:
    """The answer of `GET /v1/parked` or `/v1/expired`."""
    response = ask(desk.app, "GET", f"/v1/{which}")
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["outcomes"]
    return found


def metric(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


# --- waiting


def test_outcomes_that_wait_are_shown_the_oldest_first(desk: Desk) -> None:
    desk.take(outcomes=[hba1c(order_id="A-1")])
    desk.now += timedelta(hours=1)
    desk.take(outcomes=[OutcomeReported(prediction_id="p", label=1)])
    first, second = waiting(desk, "parked")
    assert (first["names"], first["analyte"], first["prediction_id"]) == ("order", "4548-4", None)
    assert (second["names"], second["prediction_id"], second["pseudonym"]) == ("prediction", "p", None)


def test_no_identifier_and_no_value_is_shown_of_what_waits(desk: Desk) -> None:
    desk.take(outcomes=[hba1c(7.25, patient_id="MRN-4711", result_id="A-2026-0117", source="north")])
    text = ask(desk.app, "GET", "/v1/parked").text
    assert [secret for secret in ("MRN-4711", "7.25", "A-2026-0117", "north") if secret in text] == []


def test_an_outcome_that_joins_waits_no_more(desk: Desk) -> None:
    desk.take(outcomes=[hba1c(order_id="A-1")])
    desk.take([seen("p", order="A-1")])
    assert waiting(desk, "parked") == []


def test_upkeep_tells_how_many_wait_and_for_how_long(desk: Desk) -> None:
    start = desk.now
    desk.take(outcomes=[hba1c(order_id="A-1"), OutcomeReported(prediction_id="p", label=1)])
    upkeep(desk, start + timedelta(days=3))
    assert metric("driftloop_parked_outcomes") == 2
    assert metric("driftloop_oldest_parked_outcome_seconds") == 3 * 86_400


# --- expiring


def test_an_outcome_that_waited_too_long_is_set_aside_and_shown(desk: Desk) -> None:
    start, before = desk.now, metric("driftloop_expired_outcomes_total")
    desk.take(outcomes=[hba1c(order_id="A-1", result_id="L-1"), OutcomeReported(prediction_id="p", label=1)])
    upkeep(desk, start + PARKED + timedelta(seconds=1))
    assert waiting(desk, "parked") == []
    assert {one["names"] for one in waiting(desk, "expired")} == {"order", "prediction"}
    assert metric("driftloop_expired_outcomes_total") == before + 2
    assert desk.summary(DIABETES.name)["expired"] == 2


def test_an_outcome_that_waited_just_long_enough_still_waits(desk: Desk) -> None:
    start = desk.now
    desk.take(outcomes=[hba1c(order_id="A-1")])
    upkeep(desk, start + PARKED)
    assert len(waiting(desk, "parked")) == 1


def test_an_outcome_that_has_its_prediction_never_expires(desk: Desk) -> None:
    start = desk.now
    desk.take([seen("p", order="A-1")], [hba1c(order_id="A-1")])
    upkeep(desk, start + PARKED * 2)
    assert waiting(desk, "expired") == []


def test_a_prediction_that_comes_after_its_outcome_expired_has_no_label(desk: Desk) -> None:
    start = desk.now
    desk.take(outcomes=[OutcomeReported(prediction_id="p", label=1)])
    upkeep(desk, start + PARKED * 2)
    desk.take([seen("p")])
    assert desk.events() == []


def test_an_expired_outcome_that_is_sent_again_waits_anew(desk: Desk) -> None:
    start = desk.now
    desk.take(outcomes=[hba1c(order_id="A-1")])
    upkeep(desk, start + PARKED * 2)
    assert desk.take(outcomes=[hba1c(order_id="A-1")]) == [Answer("parked")]
    desk.take([seen("p", order="A-1")])
    assert [one.prediction_id for one in desk.published()] == ["p"]


def test_an_old_version_of_an_expired_outcome_is_no_news(desk: Desk) -> None:
    start = desk.now
    desk.take(outcomes=[hba1c(5.0, order_id="A-1", result_version=2)])
    upkeep(desk, start + PARKED * 2)
    assert desk.take(outcomes=[hba1c(7.0, order_id="A-1")])[0].status == "superseded"
    desk.take([seen("p", order="A-1")])
    assert [one.label for one in desk.published()] == [0]


def test_an_expired_outcome_that_comes_back_meets_by_all_that_it_names(desk: Desk) -> None:
    start = desk.now
    desk.take(outcomes=[hba1c(order_id="A-1", patient_id="ann", source="north", result_id="L", result_version=2)])
    upkeep(desk, start + PARKED * 2)
    old = hba1c(5.0, order_id="A-1", source="north", result_id="L")
    assert desk.take(outcomes=[old])[0].status == "superseded"
    desk.take([seen("p", patient="ann")])
    assert [(one.prediction_id, one.label) for one in desk.published()] == [("p", 1)]


@pytest.mark.parametrize("comes", ["before", "after"])
def test_an_expired_outcome_that_comes_back_meets_the_prediction_that_it_names(desk: Desk, comes: str) -> None:
    start = desk.now
    named: dict[str, Any] = {"source": "north", "result_id": "L"}
    desk.take(outcomes=[OutcomeReported(prediction_id="p", label=1, result_version=2, **named)])
    upkeep(desk, start + PARKED * 2)
    old = [hba1c(5.0, order_id="A-1", **named)]
    for predictions, outcomes in (
        [([seen("p")], []), ([], old)] if comes == "before" else [([], old), ([seen("p")], [])]
    ):
        desk.take(predictions, outcomes)
    assert [(one.prediction_id, one.label) for one in desk.published()] == [("p", 1)]


def test_an_outcome_waits_though_upkeep_forgets_the_empty_row_of_its_prediction_meanwhile(desk: Desk) -> None:
    named: dict[str, Any] = {"source": "north", "result_id": "L"}
    desk.take(outcomes=[OutcomeReported(prediction_id="p", label=1, **named)])
    desk.take(outcomes=[OutcomeReported(prediction_id="elsewhere", label=1, result_version=2, **named)])
    with ThreadPoolExecutor(1) as threads, desk.pool.connection() as connection:
        assert "p" in Keeper(connection).forget_empty("", 10)
        # It reads what is committed, and waits for the row's lock.
        waits = threads.submit(desk.take, (), [OutcomeReported(prediction_id="p", label=0)])
        wait_until(lambda: waiting_for_a_lock(connection), "that the outcome waits")
        connection.commit()
        assert waits.result() == [Answer("parked")]
    desk.take([seen("p")])
    assert [(one.prediction_id, one.label) for one in desk.published()] == [("p", 0)]


def waiting_for_a_lock(connection: psycopg.Connection) -> bool:
    """Whether somebody waits for what this connection holds."""
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    ).fetchone()
    return bool(row and row[0])


def test_a_month_that_somebody_reads_holds_nobody_up(desk: Desk) -> None:
    desk.take([seen("p")])
    with desk.pool.connection() as reader:
        assert next(Reader(reader).rows(RowQuery("diabetes", None), 1))
        upkeep(desk, day(40))
        desk.take([seen("q")])
        assert desk.summary(DIABETES.name)["predictions"] == 2


def test_the_services_role_gains_nothing_by_tables_of_its_own(opened_desk: tuple[House, Desk]) -> None:
    house, _ = opened_desk
    with psycopg.connect(house.database_url("label_ingest")) as connection:
        connection.execute(
            "CREATE TEMP TABLE predictions_other (predicted_at timestamptz);"
            "CREATE FUNCTION pg_temp.act() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'acted as %', current_user; END $$;"
            "CREATE TRIGGER t BEFORE DELETE ON predictions_other FOR EACH STATEMENT EXECUTE FUNCTION pg_temp.act()"
        )
        assert connection.execute("SELECT keep_month('2031-01-01')").fetchone() == (True,)
        connection.rollback()
        with pytest.raises(psycopg.errors.RaiseException, match="not old enough"):
            connection.execute("SELECT drop_month(current_date)")


def test_a_result_that_loses_its_prediction_by_a_correction_waits_from_then_on(desk: Desk) -> None:
    desk.take([seen("p", 10, patient="ann")], [hba1c(on=20, patient_id="ann")])
    desk.now = day(200)
    corrected = hba1c(on=5, patient_id="ann", result_version=2, status="corrected")
    assert desk.take(outcomes=[corrected]) == [Answer("parked")]
    upkeep(desk, day(201))
    assert len(waiting(desk, "parked")) == 1


def test_a_result_that_was_taken_back_is_remembered_as_long_as_its_prediction(desk: Desk) -> None:
    desk.take([seen("p", patient="ann")], [hba1c(patient_id="ann")])
    desk.take(outcomes=[OutcomeReported(patient_id="ann", result_version=2, status="entered-in-error")])
    upkeep(desk, day(200))
    assert [one.status for one in desk.take(outcomes=[hba1c(patient_id="ann")])] == ["superseded"]


def test_an_expired_outcome_leaves_nothing_of_its_order_and_its_patient_but_itself(desk: Desk) -> None:
    start = desk.now
    desk.take(outcomes=[hba1c(order_id="A-1", patient_id="ann"), OutcomeReported(prediction_id="p", label=1)])
    upkeep(desk, start + PARKED * 2)
    assert {table: rows(desk, table) for table in TABLES} == dict.fromkeys(TABLES, 0)


def test_an_expired_outcome_is_kept_as_long_as_predictions_are(desk: Desk) -> None:
    desk.take(outcomes=[hba1c(order_id="A-1")])
    expiry = desk.now + PARKED * 2
    upkeep(desk, expiry)
    upkeep(desk, expiry + RETENTION)
    assert len(waiting(desk, "expired")) == 1
    upkeep(desk, expiry + RETENTION + timedelta(seconds=1))
    assert waiting(desk, "expired") == []


# --- months


def test_the_months_around_now_are_kept_ready(desk: Desk) -> None:
    upkeep(desk, datetime.fromisoformat("2026-12-15T00:00:00Z"))
    assert months(desk) == [date(2026, 11, 1), date(2026, 12, 1), date(2027, 1, 1), date(2027, 2, 1)]


def test_a_new_month_takes_its_rows_from_those_that_have_none(desk: Desk) -> None:
    desk.take([seen("march", 0), seen("april", 40)], [OutcomeReported(prediction_id="march", label=1)])
    with desk.pool.connection() as connection:
        assert Keeper(connection).keep_month(date(2026, 3, 1))
    assert [rows(desk, table) for table in ("predictions", "predictions_2026_03", "predictions_other")] == [2, 1, 1]
    assert desk.summary(DIABETES.name)["labeled"] == 1


def test_a_month_begins_and_ends_by_utc(desk: Desk) -> None:
    first, last = datetime.fromisoformat("2026-03-01T00:00:00Z"), datetime.fromisoformat("2026-03-31T23:59:59.999999Z")
    with desk.pool.connection() as connection:
        Keeper(connection).keep_month(date(2026, 3, 1))
    times = [first - timedelta(microseconds=1), first, last, last + timedelta(microseconds=1)]
    desk.take([seen(f"p{place}", predicted_at=time) for place, time in enumerate(times)])
    assert rows(desk, "predictions_2026_03") == 2


def test_a_month_that_is_there_is_not_made_again(desk: Desk) -> None:
    with desk.pool.connection() as connection:
        assert [Keeper(connection).keep_month(date(2026, 3, 1)) for _ in range(2)] == [True, False]


def test_replicas_that_make_the_same_months_at_once_do_not_disturb_each_other(desk: Desk) -> None:
    desk.take([seen(f"p{number}", number) for number in range(60)])
    desk.now = day(30)
    workers = [Upkeep(pool=desk.pool, retention=RETENTION, parked=PARKED, clock=lambda: desk.now) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        # What one of them raises is raised here.
        list(threads.map(lambda one: one.round(threading.Event()), workers))
    assert months(desk) == [date(2026, number, 1) for number in (2, 3, 4, 5)]
    assert rows(desk, "predictions") == 60


def test_predictions_go_on_arriving_while_months_are_made(desk: Desk) -> None:
    stop = threading.Event()

    def predict(worker: int) -> int:
        number = 0
        while not stop.is_set() or number == 0:
            desk.take([seen(f"p{worker}-{number}", number % 60)])
            number += 1
        return number

    with ThreadPoolExecutor(3) as threads:
        counts = [threads.submit(predict, worker) for worker in range(3)]
        try:
            upkeep(desk, day(30))
        finally:
            stop.set()
    assert rows(desk, "predictions") == sum(one.result() for one in counts)


# --- retention


def test_an_old_month_goes_with_all_that_was_joined_to_it(desk: Desk) -> None:
    upkeep(desk, day(20))
    desk.take(
        [seen("p", 0, order="A-1"), seen("q", 1, patient="ann"), seen("r", 2, model="confirming", patient="bob")],
        [
            hba1c(order_id="A-1", patient_id="eve"),
            hba1c(on=3, order_id="A-2", patient_id="ann"),
            OutcomeReported(prediction_id="r", label=0),
        ],
    )
    upkeep(desk, day(0) + RETENTION + timedelta(days=31))
    assert date(2026, 3, 1) not in months(desk)
    assert {table: rows(desk, table) for table in TABLES} == dict.fromkeys(TABLES, 0)


def test_a_month_stays_as_long_as_one_of_its_days_is_to_be_kept(desk: Desk) -> None:
    upkeep(desk, day(20))
    desk.take([seen("p", 0)])
    # The last instant of March is kept until the end of the next March.
    upkeep(desk, datetime.fromisoformat("2027-03-31T23:59:59Z"))
    assert rows(desk, "predictions_2026_03") == 1


def test_old_rows_without_a_month_go_too(desk: Desk) -> None:
    desk.take([seen("p", 0, order="A-1"), seen("q", -800)], [hba1c(order_id="A-1")])
    upkeep(desk, day(0) + RETENTION + timedelta(days=31))
    assert {table: rows(desk, table) for table in TABLES} == dict.fromkeys(TABLES, 0)


def test_a_result_stays_as_long_as_one_of_its_predictions(desk: Desk) -> None:
    desk.take([seen("old", 0, order="A-1"), seen("young", 40, order="A-1")], [hba1c(order_id="A-1")])
    upkeep(desk, day(0) + RETENTION + timedelta(days=31))
    assert {table: rows(desk, table) for table in TABLES} == {
        "joins": 1, "predictions": 1, "labels": 1, "results": 1, "matches": 1, "keys": 1,
    }  # fmt: skip
    desk.take(outcomes=[hba1c(5.0, order_id="A-1", result_version=2)])
    assert [(one.prediction_id, one.label) for one in desk.published()[2:]] == [("young", 0)]


def test_an_order_whose_predictions_went_still_meets_a_new_one(desk: Desk) -> None:
    desk.take([seen("old", 0, order="A-1")])
    upkeep(desk, day(0) + RETENTION + timedelta(days=31))
    desk.take(outcomes=[hba1c(on=390, order_id="A-1")])
    desk.take([seen("new", 391, order="A-1")])
    assert [one.prediction_id for one in desk.published()] == ["new"]
