"""How labels cover predictions, and rows in the other ways in which people ask for them."""

import io
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from driftloop.common.events import OutcomeReported
from driftloop.label_ingest.reports import Answer
from tests.support.asgi import ask
from tests.support.house import House
from tests.support.label_histories import CONTRACTS
from tests.support.label_ingest import DIABETES, Desk
from tests.support.laboratory import day, seen

DAY = 86_400.0


@pytest.fixture
def desk(opened_desk: tuple[House, Desk]) -> Desk:
    """A desk on which nothing lies, ten days after the start."""
    desk = Desk(opened_desk[1].pool, contracts=CONTRACTS, now=day(10))
    desk.clear()
    return desk


def stated(prediction_id: str, label: int = 1, **more: Any) -> OutcomeReported:
    return OutcomeReported(prediction_id=prediction_id, label=label, **more)


def coverage(desk: Desk, **params: str | int) -> list[dict[str, Any]]:
    response = ask(desk.app, "GET", "/v1/labels/coverage", params={"model": DIABETES.name, **params})
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["days"]
    return found


def test_a_day_says_how_many_predictions_have_a_label_and_how_many_of_these_are_positive(desk: Desk) -> None:
    desk.take([seen(f"p{number}") for number in range(5)], [stated("p0"), stated("p1"), stated("p2", 0)])
    (one,) = coverage(desk)
    assert (one["day"], one["model_version"], one["predictions"]) == ("2026-03-01", 1, 5)
    assert (one["labeled"], one["share"], one["positive"]) == (3, 0.6, 2)


def test_delays_are_from_the_prediction_to_its_label(desk: Desk) -> None:
    desk.take([seen(f"p{number}") for number in range(11)])
    for number in range(11):
        desk.now = day(number)
        desk.take(outcomes=[stated(f"p{number}")])
    (one,) = coverage(desk)
    assert (one["delay_seconds_p50"], one["delay_seconds_p90"]) == (5 * DAY, 9 * DAY)


def test_a_day_without_a_label_has_no_delay(desk: Desk) -> None:
    desk.take([seen("p")])
    (one,) = coverage(desk)
    assert (one["share"], one["delay_seconds_p50"], one["delay_seconds_p90"]) == (0.0, None, None)


def test_results_that_disagree_are_counted(desk: Desk) -> None:
    desk.take([seen("p"), seen("q")], [stated("p", 1, result_id="a"), stated("p", 0, result_id="b"), stated("q")])
    assert [one["contested"] for one in coverage(desk)] == [1]


def test_a_label_that_was_taken_back_is_not_counted(desk: Desk) -> None:
    desk.take([seen("p")], [stated("p")])
    desk.take(outcomes=[OutcomeReported(prediction_id="p", status="cancelled", result_version=2)])
    assert [(one["labeled"], one["positive"]) for one in coverage(desk)] == [(0, 0)]


def test_days_are_those_of_utc_and_the_newest_comes_first_as_does_the_newest_version(desk: Desk) -> None:
    midnight = day(1) - timedelta(hours=12)
    desk.take([
        seen("p", predicted_at=midnight - timedelta(microseconds=1)), seen("q", predicted_at=midnight),
        seen("r", predicted_at=midnight, model_version=2),
    ])  # fmt: skip
    assert [(one["day"], one["model_version"]) for one in coverage(desk)] == [
        ("2026-03-02", 2), ("2026-03-02", 1), ("2026-03-01", 1),
    ]  # fmt: skip


def test_so_many_days_back_from_an_instant_are_covered(desk: Desk) -> None:
    desk.take([seen(f"p{number}", number) for number in range(10)])
    until = day(8).isoformat()
    assert [one["day"] for one in coverage(desk, days=2, until=until)] == ["2026-03-08", "2026-03-07"]


def test_another_models_predictions_are_not_covered(desk: Desk) -> None:
    desk.take([seen("p", model="confirming")])
    assert coverage(desk) == []


# --- rows


def arrow(desk: Desk, **params: str | int) -> pa.Table:
    response = ask(desk.app, "GET", "/v1/rows", params={"model": DIABETES.name, **params})
    assert response.status_code == 200, response.text
    with pa.ipc.open_stream(response.content) as reader:
        return reader.read_all()


def test_rows_that_have_no_label_are_served_by_themselves(desk: Desk) -> None:
    desk.take([seen(f"p{number}", number) for number in range(4)], [stated("p0"), stated("p2", status="preliminary")])
    desk.take(outcomes=[stated("p3")])
    desk.take(outcomes=[OutcomeReported(prediction_id="p3", status="cancelled", result_version=2)])
    assert arrow(desk, labelled="false")["prediction_id"].to_pylist() == ["p3", "p2", "p1"]


def test_a_row_whose_label_was_taken_back_has_none_but_knows_that_it_had(desk: Desk) -> None:
    desk.take([seen("p")], [stated("p")])
    assert desk.take(outcomes=[OutcomeReported(prediction_id="p", status="cancelled", result_version=2)]) == [
        Answer("retracted")
    ]
    (row,) = arrow(desk).to_pylist()
    assert (row["label"], row["label_revision"], row["labeled_at"]) == (None, 2, desk.now)


def test_parquet_holds_the_same_rows_as_arrow(desk: Desk) -> None:
    desk.take(
        [seen(f"p{number}", number / 1000, patient="ann") for number in range(3000)], [stated("p7"), stated("p8")]
    )
    response = ask(desk.app, "GET", "/v1/rows", params={"model": DIABETES.name, "format": "parquet", "limit": 2500})
    assert response.headers["content-type"] == "application/vnd.apache.parquet"
    assert pq.read_table(io.BytesIO(response.content)).equals(arrow(desk, limit=2500))


def test_parquet_of_no_rows_is_a_whole_file(desk: Desk) -> None:
    response = ask(desk.app, "GET", "/v1/rows", params={"model": DIABETES.name, "format": "parquet"})
    assert pq.read_table(io.BytesIO(response.content)).num_rows == 0
