"""`GET /v1/rows` on a real database, as the trainer's own client reads it and as anyone may ask for it."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest

from driftloop.common.events import ShadowScore
from driftloop.common.rows import Row, validator
from driftloop.label_ingest.arrow import MEDIA_TYPES
from driftloop.label_ingest.reading import Reader, RowQuery, RowVariant, rows_statement
from driftloop.trainer.label_rows import RowsUnavailable, fetch_rows
from tests.support.asgi import ask, client_of
from tests.support.house import House
from tests.support.label_ingest import BORROWER, LOAN, Desk, made, outcome
from tests.support.predictions import START


@pytest.fixture
def desk(opened_desk: tuple[House, Desk]) -> Desk:
    """A desk on which nothing lies."""
    desk = Desk(opened_desk[1].pool)
    desk.clear()
    return desk


def table(desk: Desk, **params: str | int) -> pa.Table:
    response = ask(desk.app, "GET", "/v1/rows", params={"model": LOAN.name, **params})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == MEDIA_TYPES["arrow"]
    with pa.ipc.open_stream(response.content) as reader:
        return reader.read_all()


def ids(desk: Desk, **params: str | int) -> list[str]:
    found: list[str] = table(desk, **params)["prediction_id"].to_pylist()
    return found


def test_the_trainers_client_reads_what_was_predicted_and_labelled(desk: Desk) -> None:
    partly: Row = {"income": None, "employment": None, "term": 12}
    desk.take(
        [made("a", 0), made("b", 1, features=partly, subject="s"), made("c", 2)],
        [outcome("a", 1), outcome("b", 0)],
    )
    with client_of(desk.app) as client:
        rows = fetch_rows(client, LOAN, limit=10, labelled=False)
    assert rows.ids.tolist() == ["c", "b", "a"]
    assert rows.labels.tolist() == [-1, 0, 1]
    assert rows.subjects.tolist() == ["", "s", ""]
    assert rows.times[2] == np.datetime64("2026-03-01T12:00:00")
    np.testing.assert_array_equal(rows.values, validator(LOAN).values([BORROWER, partly, BORROWER]))


def test_the_trainers_client_asks_for_labelled_rows_since_an_instant(desk: Desk) -> None:
    desk.take([made(name, minute) for minute, name in enumerate("abcd")], [outcome("a"), outcome("c")])
    with client_of(desk.app) as client:
        assert fetch_rows(client, LOAN, limit=10, labelled=True).ids.tolist() == ["c", "a"]
        since = fetch_rows(client, LOAN, limit=10, labelled=True, since=START + timedelta(minutes=2))
        assert since.ids.tolist() == ["c"]
        assert len(fetch_rows(client, LOAN, limit=10, labelled=True, since=START + timedelta(days=1))) == 0


def test_the_trainers_client_learns_that_rows_are_not_to_be_had(desk: Desk) -> None:
    desk.contracts = {}
    with client_of(desk.app) as client, pytest.raises(RowsUnavailable):
        fetch_rows(client, LOAN, limit=10, labelled=True)


def test_the_columns_are_those_of_the_contract(desk: Desk) -> None:
    schema = table(desk).schema
    instant = pa.timestamp("us", tz="UTC")
    assert {name: schema.field(name).type for name in schema.names} == {
        "prediction_id": pa.string(), "predicted_at": instant, "model_version": pa.int32(), "variant": pa.string(),
        "score": pa.float64(), "prediction": pa.bool_(), "label": pa.int8(), "label_revision": pa.int32(),
        "labeled_at": instant, "policy_version": pa.int32(), "subject": pa.string(), "feature.income": pa.float64(),
        "feature.employment": pa.string(), "feature.term": pa.float64(),
    }  # fmt: skip


def test_a_row_has_its_label_and_when_it_came(desk: Desk) -> None:
    desk.take([made("p", score=0.75, prediction=True, model_version=3)], [outcome("p", 1)])
    desk.take(outcomes=[outcome("p", 0, 2)])
    (row,) = table(desk).to_pylist()
    assert row == {
        "prediction_id": "p", "predicted_at": START, "model_version": 3, "variant": "champion", "score": 0.75,
        "prediction": True, "label": 0, "label_revision": 2, "labeled_at": desk.now,
        "policy_version": None, "subject": None,
        "feature.income": 42_000.0, "feature.employment": "retired", "feature.term": 24.0,
    }  # fmt: skip


def test_a_row_without_an_outcome_has_no_label(desk: Desk) -> None:
    desk.take([made("p")])
    (row,) = table(desk).to_pylist()
    assert (row["label"], row["label_revision"], row["labeled_at"]) == (None, None, None)


def test_the_newest_come_first_and_of_equal_ones_the_higher_id(desk: Desk) -> None:
    desk.take([made("b", 1), made("z", 0), made("a", 1), made("c", 1), made("new", 2)])
    assert ids(desk) == ["new", "c", "b", "a", "z"]
    assert ids(desk, limit=3) == ["new", "c", "b"]


def test_since_is_inclusive_and_until_is_not(desk: Desk) -> None:
    desk.take([made(name, minute) for minute, name in enumerate("abcd")])
    since = (START + timedelta(minutes=1)).isoformat()
    until = (START + timedelta(minutes=3)).astimezone().isoformat()
    assert ids(desk, since=since, until=until) == ["c", "b"]


def scored(version: int, score: float) -> ShadowScore:
    return ShadowScore(model_version=version, score=score, prediction=score >= 0.5)


def test_each_variant_is_served_by_itself(desk: Desk) -> None:
    champion = made("p", shadows=(scored(3, 0.25), scored(2, 0.9)))
    desk.take([champion, made("q", variant="canary"), made("r", shadows=(scored(2, 0.75),))], [outcome("p")])
    assert ids(desk) == ["r", "p"]
    assert ids(desk, variant="canary") == ["q"]
    assert ids(desk, variant="shadow") == ["r", "p", "p"]
    assert ids(desk, variant="shadow", limit=2) == ["r", "p"]
    assert ids(desk, variant="shadow", labelled="true") == ["p", "p"]


def test_a_shadows_row_is_its_score_of_the_predictions_features(desk: Desk) -> None:
    desk.take([made("p", subject="s", shadows=(scored(3, 0.25), scored(2, 1.0)))], [outcome("p")])
    (answered,) = table(desk).to_pylist()
    said = {"model_version": 2, "variant": "shadow", "score": 1.0, "prediction": True}
    assert table(desk, variant="shadow").to_pylist() == [
        answered | said,
        answered | said | {"model_version": 3, "score": 0.25, "prediction": False},
    ]


def test_shadows_rows_come_in_the_same_order_and_within_the_same_time(desk: Desk) -> None:
    shadows = (scored(2, 0.75),)
    desk.take([made(name, minute, shadows=shadows) for name, minute in (("b", 1), ("z", 0), ("a", 1), ("new", 2))])
    desk.take([made("other", model_name="diabetes", shadows=shadows), made("none", 3)])
    assert ids(desk, variant="shadow") == ["new", "b", "a", "z"]
    since, until = ((START + timedelta(minutes=minute)).isoformat() for minute in (1, 2))
    assert ids(desk, variant="shadow", since=since, until=until) == ["b", "a"]


def test_rows_of_another_model_are_not_served(desk: Desk) -> None:
    desk.take([made("p"), made("q", model_name="diabetes")])
    assert ids(desk) == ["p"]


def test_a_parked_outcome_is_no_row(desk: Desk) -> None:
    desk.take(outcomes=[outcome("p")])
    assert ids(desk) == []


def test_a_value_that_no_longer_fits_its_column_is_missing(desk: Desk) -> None:
    desk.take([made("p", features={"income": "much", "employment": 3, "other": 1.0})])
    (row,) = table(desk).to_pylist()
    assert [row[f"feature.{name}"] for name in LOAN.feature_names] == [None, None, None]


@pytest.mark.parametrize(
    "params",
    [
        {"limit": "0"}, {"limit": "1000001"}, {"limit": "many"}, {"labelled": "maybe"}, {"variant": "all"},
        {"since": "2026-03-01T12:00:00"}, {"since": "yesterday"}, {"until": ""}, {"labeled": "true"},
    ],
)  # fmt: skip
def test_a_bad_parameter_is_refused_by_name(desk: Desk, params: Mapping[str, str]) -> None:
    response = ask(desk.app, "GET", "/v1/rows", params={"model": LOAN.name, **params})
    assert response.status_code == 422
    assert [one["loc"][-1] for one in response.json()["detail"]] == list(params)


@pytest.mark.parametrize("instant", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"])
def test_an_instant_at_the_end_of_the_calendar_is_understood(desk: Desk, instant: str) -> None:
    desk.take([made("p")])
    assert ids(desk, since=instant) == (["p"] if instant < "2000" else [])


def fill(desk: Desk, rows: int) -> None:
    """So many predictions a second apart, every tenth of them labelled."""
    with desk.pool.connection() as connection:
        connection.execute(
            "INSERT INTO predictions (prediction_id, model_name, model_version, predicted_at, score, prediction, "
            "variant, features, shadows) "
            "SELECT 'p-' || n, 'loan', 1, %s::timestamptz + n * interval '1 second', 0.5, true, 'champion', "
            """'{"income": 1, "employment": "retired", "term": 2}', """
            """CASE WHEN n %% 10 = 5 THEN '[{"model_version": 2, "score": 0.5, "prediction": true}]'::jsonb END """
            "FROM generate_series(1, %s) n",
            [START, rows],
        )
        connection.execute(
            "INSERT INTO labels SELECT predicted_at, now(), 1, 1, NULL, 1, false, prediction_id, model_name "
            "FROM predictions WHERE prediction_id LIKE '%0'"
        )


def test_many_rows_are_streamed_whole_and_in_order(desk: Desk) -> None:
    fill(desk, 20_000)
    found = table(desk, limit=15_000)
    assert found.num_rows == 15_000
    times = found["predicted_at"].to_pylist()
    assert times == [START + timedelta(seconds=20_000 - n) for n in range(15_000)]
    assert len(found["predicted_at"].chunks) >= 7


def test_no_more_than_a_batch_is_in_memory(desk: Desk) -> None:
    fill(desk, 5_000)
    with desk.pool.connection() as connection:
        batches = Reader(connection).rows(RowQuery("loan", 5_000), 1_000)
        sizes = [len(next(batches)), len(next(batches))]
        batches.close()
    assert sizes == [1_000, 1_000]


@pytest.mark.parametrize(
    ("labelled", "variant", "index"),
    [
        ("any", "champion", "predictions_other_pkey"), ("true", "champion", "labels_pkey"),
        ("any", "shadow", "predictions_other_model_name_predicted_at_prediction_id_idx"),
    ],
)  # fmt: skip
def test_an_index_serves_the_newest_rows(
    opened_desk: tuple[House, Desk], desk: Desk, labelled: Literal["any", "true"], variant: RowVariant, index: str
) -> None:
    fill(desk, 30_000)
    house, _ = opened_desk
    query = RowQuery("loan", 1_000, labelled, variant)
    with house.database("label_ingest") as connection:
        connection.execute("ANALYZE predictions, labels")
        plan = connection.execute(b"EXPLAIN " + rows_statement(query), vars(query)).fetchall()
    text = "\n".join(line for (line,) in plan)
    assert f"using {index}" in text
    # A prediction's few shadows are put in order as they come.
    assert "Sort" not in text.replace("Incremental Sort", "").replace("Sort Key", "")
