"""`POST /v1/outcomes` and `GET /v1/summary` on a real database: an answer for every item, and nothing half done."""

import json
from datetime import timedelta

import msgspec
import pytest
from prometheus_client import REGISTRY

from driftloop.common.events import OutcomeReported
from driftloop.common.postgres.pool import open_pool
from driftloop.devstack.ports import free_port
from tests.support.asgi import ask
from tests.support.house import House
from tests.support.label_ingest import DIABETES, LOAN, Desk, made, outcome
from tests.support.predictions import START


@pytest.fixture
def desk(opened_desk: tuple[House, Desk]) -> Desk:
    """A desk on which nothing lies."""
    desk = Desk(opened_desk[1].pool)
    desk.clear()
    return desk


def item(prediction_id: str, label: int = 1, **more: object) -> dict[str, object]:
    return {"prediction_id": prediction_id, "label": label, **more}


def test_every_item_is_answered_in_order(desk: Desk) -> None:
    desk.take([made("p"), made("q")], [outcome("q", 1, version=5)])
    body = [
        item("p"), item("p"), item("q", 0, result_version=4), item("q", 0, result_version=5), item("early"),
        {"prediction_id": "p", "label": 7}, item("q", 0, result_version=6),
    ]  # fmt: skip
    results = desk.post(body).json()["results"]
    assert [(one["prediction_id"], one["status"]) for one in results] == [
        ("p", "joined"), ("p", "duplicate"), ("q", "superseded"), ("q", "conflict"), ("early", "parked"),
        ("p", "rejected"), ("q", "joined"),
    ]  # fmt: skip
    assert results[3]["detail"] == "version 5 was reported with two contents: label 1 holds until a newer one"
    assert results[5]["detail"] == "$[5].label: Expected `int` <= 1"
    assert "detail" not in results[0]


def test_one_object_is_answered_like_a_list_of_one(desk: Desk) -> None:
    desk.take([made("p")])
    assert desk.post(item("p")).json() == {"results": [{"prediction_id": "p", "status": "joined"}]}


def test_good_items_are_kept_though_others_are_rejected(desk: Desk) -> None:
    desk.take([made("p"), made("q")])
    assert desk.statuses([item("p"), 17, item("q", 0, extra=1)]) == ["joined", "rejected", "rejected"]
    assert [one.prediction_id for one in desk.published()] == ["p"]


def test_a_list_of_which_nothing_is_good_is_answered_all_the_same(desk: Desk) -> None:
    assert desk.statuses([{}, None]) == ["rejected", "rejected"]


def test_a_request_that_is_sent_again_is_harmless(desk: Desk) -> None:
    desk.take([made("p")])
    body = [item("p"), item("later")]
    assert desk.statuses(body) == ["joined", "parked"]
    assert desk.statuses(body) == ["duplicate", "duplicate"]
    assert len(desk.published()) == 1


def test_a_thousand_items_are_taken_and_one_more_is_not(desk: Desk) -> None:
    desk.take([made(f"p-{number}") for number in range(1000)])
    assert set(desk.statuses([item(f"p-{number}") for number in range(1000)])) == {"joined"}
    response = desk.post([item("x")] * 1001)
    assert response.status_code == 413
    assert response.json()["detail"] == "the list has 1001 outcomes: send at most 1000 a request"


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b'{"prediction_id": "p", "label": NaN}', b'{"label": 7}'])
def test_a_body_that_is_refused_says_why_and_leaves_nothing(desk: Desk, body: bytes) -> None:
    response = desk.post(body)
    assert response.status_code == 422
    assert isinstance(response.json()["detail"], str)
    assert desk.summary()["parked"] == 0


def test_a_nul_in_a_text_is_a_clean_rejection(desk: Desk) -> None:
    response = desk.post(b'[{"prediction_id": "p", "label": 1, "result_id": "\\u0000"}]')
    (result,) = response.json()["results"]
    assert result == {
        "prediction_id": "p",
        "status": "rejected",
        "detail": "result_id: must not contain the characters U+0000 and U+001F",
    }


def test_a_body_above_the_limit_is_refused(desk: Desk) -> None:
    assert desk.post(b"[" + b" " * 1_048_576 + b"]").status_code == 413


def test_the_trace_of_a_request_goes_on_in_its_events(desk: Desk) -> None:
    desk.take([made("p")])
    trace = "0af7651916cd43dd8448eb211c80319c"
    ask(desk.app, "POST", "/v1/outcomes", json=item("p"), headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    with desk.pool.connection() as connection:
        row = connection.execute("SELECT traceparent FROM outbox").fetchone()
    assert row is not None
    assert row[0].split("-")[1] == trace


def test_without_a_database_the_answer_is_503_with_retry_after() -> None:
    url = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
    pool = open_pool(url, "none", "tests-no-database")
    pool.timeout = 0.3
    try:
        response = Desk(pool).post([item("p")])
    finally:
        pool.close()
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0


def test_outcomes_and_delays_are_counted_by_what_became_of_them(desk: Desk) -> None:
    def count(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, labels) or 0.0

    desk.take([made("p", model_name="counted-here")])
    before = {status: count("driftloop_outcomes_total", status=status) for status in ("joined", "rejected")}
    desk.statuses([item("p"), {}])
    assert count("driftloop_outcomes_total", status="joined") == before["joined"] + 1
    assert count("driftloop_outcomes_total", status="rejected") == before["rejected"] + 1
    assert count("driftloop_label_delay_seconds_sum", model_name="counted-here") == 3600


def test_the_summary_counts_each_model_by_itself_and_parked_outcomes_of_all(desk: Desk) -> None:
    desk.take([made("a"), made("b"), made("c", model_name=DIABETES.name, features={})], [outcome("a"), outcome("c")])
    desk.take(outcomes=[outcome("early")])
    desk.now += timedelta(hours=1)
    desk.take(outcomes=[outcome("also-early"), outcome("early", version=2)])
    assert desk.summary() == {
        "model_name": LOAN.name, "predictions": 2, "outcomes": 1, "labeled": 1, "parked": 2, "conflicts": 0,
        "expired": 0, "shadows": 0, "oldest_parked_at": (START + timedelta(hours=1)).isoformat().replace("+00:00", "Z"),
    }  # fmt: skip


@pytest.mark.parametrize(
    "results",
    [
        [outcome("a"), outcome("a", version=2, status="cancelled")],
        [outcome("a", status="preliminary")],
    ],
    ids=["taken back", "preliminary"],
)
def test_the_summary_counts_outcomes_that_make_no_label(desk: Desk, results: list[OutcomeReported]) -> None:
    desk.take([made("a"), made("b")])
    for one in results:
        desk.take(outcomes=[one])
    counts = desk.summary()
    assert (counts["predictions"], counts["outcomes"], counts["labeled"]) == (2, 1, 0)


def test_a_model_that_is_not_known_is_named_with_those_that_are(desk: Desk) -> None:
    for path in ("/v1/summary", "/v1/rows"):
        for params in ({"model": "other"}, {}):
            response = ask(desk.app, "GET", path, params=params)
            assert response.status_code == 404
            assert "['diabetes', 'loan']" in response.json()["detail"]


def test_the_description_shows_what_to_send(desk: Desk) -> None:
    document = ask(desk.app, "GET", "/openapi.json").json()
    operation = document["paths"]["/v1/outcomes"]["post"]
    one, many = operation["requestBody"]["content"]["application/json"]["schema"]["oneOf"]
    assert set(one["properties"]) == set(OutcomeReported.__struct_fields__)
    assert many["maxItems"] == 1000
    assert {"200", "413", "422", "503"} <= set(operation["responses"])
    assert "$defs" not in json.dumps(document)


def test_nothing_of_a_patient_is_logged(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "driftloop")
    secret = "subject-4711"
    desk.take([made("p", subject=secret), made("p", minute=1, subject=secret)])
    desk.post([item("p", 1), item("p", 0), {"prediction_id": secret, "label": "x"}])
    assert caplog.records
    assert all(secret not in msgspec.json.encode(vars(one), enc_hook=str).decode() for one in caplog.records)
