"""A patient's rows go for good, the others' stay, and the access log forgets nothing."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from driftloop.common.events import OutcomeReported, SubjectErased
from driftloop.common.pseudonyms import pseudonym
from driftloop.label_ingest.keeping import Keeper
from driftloop.label_ingest.reports import Answer
from tests.support.asgi import ask
from tests.support.house import House
from tests.support.label_histories import CONTRACTS
from tests.support.label_ingest import DIABETES, PSEUDONYM_KEY, Desk
from tests.support.laboratory import day, hba1c, seen

ANN = pseudonym(PSEUDONYM_KEY, "ann")
TABLES = ("joins", "predictions", "labels", "results", "matches", "expired_results")


@pytest.fixture
def desk(opened_desk: tuple[House, Desk]) -> Desk:
    """A desk on which nothing lies, twenty days after the start."""
    desk = Desk(opened_desk[1].pool, contracts=CONTRACTS, now=day(20))
    desk.clear()
    return desk


def erase(desk: Desk, patient: str) -> dict[str, Any]:
    """The answer to a request that asks for a patient's erasure."""
    response = ask(desk.app, "POST", "/v1/erasures", json={"patient_id": patient})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def count(desk: Desk, table: str) -> int:
    with desk.pool.connection() as connection:
        row = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    assert row is not None
    return int(row[0])


def expire(desk: Desk) -> None:
    with desk.pool.connection() as connection:
        Keeper(connection).expire(desk.now + timedelta(seconds=1), desk.now, 100)


# --- what goes


def test_a_patients_rows_go_from_every_table(desk: Desk) -> None:
    desk.take(outcomes=[hba1c(on=1, patient_id="ann", result_id="expires")])
    expire(desk)
    desk.take([seen("p", 2, patient="ann", order="A-1"), seen("q", 3, patient="ann", model="confirming")])
    desk.take(outcomes=[hba1c(order_id="A-1"), hba1c(on=5, patient_id="ann")])
    desk.take(outcomes=[hba1c(order_id="A-9", patient_id="ann"), OutcomeReported(prediction_id="q", label=1)])
    erase(desk, "ann")
    left = {table: count(desk, table) for table in TABLES}
    assert left == dict.fromkeys(TABLES, 0)


def test_an_erasure_says_what_went(desk: Desk) -> None:
    desk.take([seen("p", patient="ann"), seen("q", patient="ann")], [hba1c(patient_id="ann")])
    answer = erase(desk, "ann")
    assert (answer["subject"], answer["predictions"], answer["results"]) == (ANN, 2, 1)


def test_the_rows_of_others_stay(desk: Desk) -> None:
    desk.take([seen("p", patient="ann"), seen("q", patient="bob"), seen("r")], [hba1c(patient_id="bob")])
    erase(desk, "ann")
    assert (count(desk, "predictions"), count(desk, "results"), desk.summary(DIABETES.name)["labeled"]) == (2, 1, 1)


def test_an_erasure_is_published(desk: Desk) -> None:
    desk.take([seen("p", patient="ann")])
    erase(desk, "ann")
    assert desk.events() == [SubjectErased(subject=ANN, erased_at=desk.now, predictions=1)]


def test_a_patient_who_is_not_known_is_erased_all_the_same(desk: Desk) -> None:
    assert erase(desk, "ann")["predictions"] == 0
    assert desk.events() == [SubjectErased(subject=ANN, erased_at=desk.now, predictions=0)]


# --- what comes later


def test_a_prediction_from_before_an_erasure_that_comes_later_is_not_kept(desk: Desk) -> None:
    erase(desk, "ann")
    desk.take([seen("p", 19, patient="ann"), seen("q", 19, patient="bob")])
    with desk.pool.connection() as connection:
        assert connection.execute("SELECT prediction_id FROM predictions").fetchall() == [("q",)]


def test_a_prediction_from_after_an_erasure_is_kept_and_labelled(desk: Desk) -> None:
    erase(desk, "ann")
    desk.now = day(23)
    desk.take([seen("p", 21, patient="ann")], [hba1c(on=22, patient_id="ann")])
    assert desk.summary(DIABETES.name)["labeled"] == 1


def test_a_result_since_an_erasure_can_be_taken_back_without_a_time(desk: Desk) -> None:
    erase(desk, "ann")
    desk.now = day(23)
    desk.take([seen("p", 21, patient="ann")], [hba1c(on=22, patient_id="ann", source="north", result_id="L-1")])
    withdrawn = OutcomeReported(
        patient_id="ann", source="north", result_id="L-1", result_version=2, status="entered-in-error"
    )
    assert desk.take(outcomes=[withdrawn]) == [Answer("retracted")]


def test_a_result_since_an_erasure_can_be_taken_back_without_a_time_by_the_same_batch(desk: Desk) -> None:
    erase(desk, "ann")
    desk.now = day(23)
    named: dict[str, Any] = {"source": "north", "result_id": "L-1", "patient_id": "ann"}
    withdrawn = OutcomeReported(**named, result_version=2, status="entered-in-error")
    desk.take([seen("p", 21, patient="ann")], [hba1c(on=22, **named), withdrawn])
    assert desk.summary(DIABETES.name)["labeled"] == 0


def test_a_result_since_an_erasure_can_be_taken_back_without_a_time_when_it_has_expired(desk: Desk) -> None:
    erase(desk, "ann")
    desk.now = day(23)
    named: dict[str, Any] = {"source": "north", "result_id": "L-1", "patient_id": "ann"}
    desk.take(outcomes=[hba1c(on=22, **named)])
    expire(desk)
    withdrawn = OutcomeReported(**named, result_version=2, status="entered-in-error")
    assert desk.take(outcomes=[withdrawn]) == [Answer("parked")]


def test_a_result_that_was_reported_since_an_erasure_is_taken(desk: Desk) -> None:
    erase(desk, "ann")
    desk.now = day(23)
    desk.take([seen("p", 21, patient="ann", order="A-1")])
    reported = OutcomeReported(order_id="A-1", patient_id="ann", label=1, reported_at=day(22))
    assert desk.take(outcomes=[reported]) == [Answer("joined")]


@pytest.mark.parametrize("time", [{}, {"reported_at": day(19)}, {"observed_at": day(19), "reported_at": day(21)}])
def test_a_result_that_may_be_from_before_an_erasure_is_not_kept(desk: Desk, time: dict[str, Any]) -> None:
    erase(desk, "ann")
    reported = OutcomeReported(order_id="A-1", patient_id="ann", label=1, **time)
    assert [one.status for one in desk.take(outcomes=[reported])] == ["rejected"]
    assert count(desk, "results") == 0


def test_an_erased_prediction_is_not_kept_when_it_is_delivered_again(desk: Desk) -> None:
    desk.take([seen("p", patient="ann")])
    erase(desk, "ann")
    desk.take([seen("p", patient="ann")], [hba1c(patient_id="ann")])
    assert count(desk, "predictions") == count(desk, "labels") == 0


def test_a_second_erasure_covers_what_came_since(desk: Desk) -> None:
    erase(desk, "ann")
    desk.now = day(25)
    desk.take([seen("p", 22, patient="ann")])
    assert erase(desk, "ann")["predictions"] == 1
    desk.take([seen("p", 22, patient="ann")])
    assert count(desk, "predictions") == 0


def test_an_erasure_and_predictions_of_the_patient_may_meet(desk: Desk) -> None:
    barrier = threading.Barrier(4)

    def predict(worker: int) -> None:
        barrier.wait()
        for number in range(20):
            desk.take([seen(f"p{worker}-{number}", number % 19, patient="ann")], [hba1c(patient_id="ann")])

    def forget() -> None:
        barrier.wait()
        erase(desk, "ann")

    with ThreadPoolExecutor(4) as threads:
        for one in [threads.submit(forget), *(threads.submit(predict, worker) for worker in range(3))]:
            one.result()
    assert count(desk, "predictions") == count(desk, "labels") == 0


def test_an_erasure_and_results_of_the_patients_orders_may_meet(desk: Desk) -> None:
    orders = [f"A-{number}" for number in range(20)]
    desk.take([seen(f"p-{order}", patient="ann", order=order) for order in orders])
    barrier = threading.Barrier(2)

    def report() -> None:
        barrier.wait()
        desk.intake.take([hba1c(order_id=order) for order in orders])

    with ThreadPoolExecutor(2) as threads:
        reported = threads.submit(report)
        barrier.wait()
        erase(desk, "ann")
        reported.result()
    assert count(desk, "labels") == 0


# --- what others share with the patient


def test_a_shared_orders_result_goes_on_proving_the_others_prediction(desk: Desk) -> None:
    desk.take([seen("p", patient="ann", order="A-1"), seen("q", order="A-1")], [hba1c(order_id="A-1")])
    erase(desk, "ann")
    assert desk.take(outcomes=[hba1c(5.0, order_id="A-1", result_version=2)]) == [Answer("joined")]
    assert [(one.prediction_id, one.label) for one in desk.published()][-1] == ("q", 0)


def test_another_patient_with_the_same_order_number_keeps_result_and_label(desk: Desk) -> None:
    desk.take([seen("p", patient="ann", order="A-1"), seen("q", patient="bob", order="A-1")])
    desk.take(outcomes=[hba1c(order_id="A-1", patient_id="bob")])
    erase(desk, "ann")
    assert (count(desk, "results"), desk.summary(DIABETES.name)["labeled"]) == (1, 1)
    assert desk.take(outcomes=[hba1c(5.0, order_id="A-1", patient_id="bob", result_version=2)]) == [Answer("joined")]


def test_another_patients_result_of_the_same_order_number_waits_on(desk: Desk) -> None:
    desk.take(outcomes=[hba1c(order_id="A-1", patient_id="bob")])
    desk.take([seen("p", patient="ann", order="A-1")])
    erase(desk, "ann")
    desk.take([seen("q", patient="bob", order="A-1")])
    assert [one.prediction_id for one in desk.published()] == ["q"]


def test_another_patients_withdrawn_result_that_was_the_patients_before_waits(desk: Desk) -> None:
    named: dict[str, Any] = {"source": "north", "result_id": "L"}
    desk.take([seen("p", patient="ann", order="A-1")], [hba1c(order_id="A-1", **named)])
    desk.take(outcomes=[OutcomeReported(patient_id="bob", status="entered-in-error", **named)])
    erase(desk, "ann")
    assert desk.summary(DIABETES.name)["parked"] == 1


def test_a_result_that_names_the_patients_order_only_goes_with_them(desk: Desk) -> None:
    desk.take([seen("p", patient="ann", order="A-1")], [hba1c(order_id="A-1")])
    erase(desk, "ann")
    assert (count(desk, "results"), count(desk, "matches"), count(desk, "keys")) == (0, 0, 1)


def test_a_late_prediction_of_the_patient_takes_no_result_from_one_that_has_its_id(desk: Desk) -> None:
    erase(desk, "ann")
    desk.take([seen("p", patient="bob")], [OutcomeReported(prediction_id="p", label=1)])
    desk.take([seen("p", patient="ann")])
    assert count(desk, "results") == 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"patient": "MRN-4711"}',
        b'{"patient_id": "' + b"MRN-4711" * 26 + b'"}',
        b'{"patient_id": NaN}',
        b'{"patient_id": "MRN-4711\\ud800"}',
        b'{"patient_id": "MRN-4711\\u0000"}',
    ],
)
def test_a_request_that_names_no_patient_is_refused_without_repeating_it(desk: Desk, body: bytes) -> None:
    response = ask(desk.app, "POST", "/v1/erasures", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 422
    assert list(response.json()) == ["detail"]
    assert "4711" not in response.text


def test_the_description_shows_how_to_ask_for_an_erasure(desk: Desk) -> None:
    operation = ask(desk.app, "GET", "/openapi.json").json()["paths"]["/v1/erasures"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert (schema["required"], schema["additionalProperties"]) == (["patient_id"], False)
    assert {"200", "409", "422", "503"} <= set(operation["responses"])


# --- the access log


def entries(desk: Desk) -> list[tuple[str, dict[str, Any]]]:
    with desk.pool.connection() as connection:
        rows = connection.execute("SELECT action, parameters FROM access_log ORDER BY id").fetchall()
    return [(action, parameters) for action, parameters in rows]


def test_an_erasure_is_in_the_access_log_under_the_pseudonym(desk: Desk) -> None:
    erase(desk, "ann")
    action, parameters = entries(desk)[-1]
    assert (action, parameters) == ("erasure", {"subject": ANN, "predictions": 0, "results": 0})


def test_who_reads_rows_is_in_the_access_log_with_what_was_asked_for(desk: Desk) -> None:
    ask(desk.app, "GET", "/v1/rows", params={"model": DIABETES.name, "labelled": "true", "limit": 5})
    action, parameters = entries(desk)[-1]
    assert action == "rows"
    assert parameters | {"model": DIABETES.name, "labelled": "true", "limit": 5} == parameters


@pytest.mark.parametrize("which", ["parked", "expired"])
def test_who_reads_what_waits_is_in_the_access_log(desk: Desk, which: str) -> None:
    assert ask(desk.app, "GET", f"/v1/{which}", params={"limit": 7}).status_code == 200
    assert entries(desk)[-1] == (which, {"limit": 7})


@pytest.mark.parametrize(
    "statement", ["UPDATE access_log SET caller = 'x'", "DELETE FROM access_log", "TRUNCATE access_log"]
)
def test_the_access_log_is_only_ever_added_to(desk: Desk, statement: str) -> None:
    erase(desk, "ann")
    with desk.pool.connection() as connection, pytest.raises(psycopg.errors.RaiseException, match="only ever added"):
        connection.execute(statement.encode())
