"""Predictions meet their outcomes on a real database: in any order, however often, however many at once."""

import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any

import msgspec
import psycopg
import pytest

from driftloop.common.events import OutcomeReported, PredictionMade, ShadowScore
from driftloop.label_ingest.reports import Answer
from tests.support.house import House
from tests.support.label_ingest import BORROWER, Desk, made, outcome
from tests.support.predictions import START, repeatable


@pytest.fixture
def desk(opened_desk: tuple[House, Desk]) -> Desk:
    """A desk on which nothing lies."""
    desk = Desk(opened_desk[1].pool)
    desk.clear()
    return desk


def labels(desk: Desk) -> list[tuple[str, int, int | None, int]]:
    """What was published: prediction, label, the label before, revision."""
    return [(one.prediction_id, one.label, one.previous_label, one.label_revision) for one in desk.published()]


def test_an_outcome_joins_the_prediction_that_is_there(desk: Desk) -> None:
    desk.take(predictions=[made("p", subject="s")])
    assert desk.take(outcomes=[outcome("p")]) == [Answer("joined")]
    (event,) = desk.published()
    assert msgspec.structs.asdict(event) == msgspec.structs.asdict(event) | {
        "prediction_id": "p", "model_name": "loan", "model_version": 1, "predicted_at": START, "features": BORROWER,
        "score": 0.25, "prediction": False, "variant": "champion", "label": 1, "previous_label": None,
        "label_revision": 1, "labeled_at": desk.now, "subject": "s", "shadows": (),
    }  # fmt: skip


def test_an_outcome_that_is_early_is_parked_and_joins_later(desk: Desk) -> None:
    assert desk.take(outcomes=[outcome("p")]) == [Answer("parked")]
    assert labels(desk) == []
    desk.take(predictions=[made("p")])
    assert labels(desk) == [("p", 1, None, 1)]


def test_both_halves_in_one_batch_join(desk: Desk) -> None:
    assert desk.take([made("p"), made("q")], [outcome("q", 0), outcome("p")]) == [Answer("joined")] * 2
    assert sorted(labels(desk)) == [("p", 1, None, 1), ("q", 0, None, 1)]


def test_the_outbox_carries_the_deterministic_id_the_key_and_a_trace(desk: Desk) -> None:
    desk.take([made("p")], [outcome("p")])
    desk.take(outcomes=[outcome("p", 0, 2)])
    with desk.pool.connection() as connection:
        rows = connection.execute("SELECT topic, key, event_id, traceparent FROM outbox ORDER BY id").fetchall()
    assert [row[:3] for row in rows] == [
        ("labeled-predictions", "p", "labeled:p:1"),
        ("labeled-predictions", "p", "labeled:p:2"),
    ]
    assert all(row[3].startswith("00-") for row in rows)


def test_duplicates_of_either_half_publish_nothing(desk: Desk) -> None:
    for _ in range(3):
        desk.take([made("p"), made("p")], [outcome("p"), outcome("p")])
    assert labels(desk) == [("p", 1, None, 1)]


def test_an_amendment_says_what_the_label_was(desk: Desk) -> None:
    desk.take([made("p")], [outcome("p", 1)])
    assert desk.take(outcomes=[outcome("p", 0, version=2)]) == [Answer("joined")]
    assert labels(desk)[1:] == [("p", 0, 1, 2)]


def test_an_older_version_that_comes_late_changes_nothing(desk: Desk) -> None:
    desk.take([made("p")], [outcome("p", 1, version=3)])
    assert desk.take(outcomes=[outcome("p", 0, version=2)]) == [
        Answer("superseded", "version 3 is known: label 1 holds")
    ]
    assert labels(desk) == [("p", 1, None, 1)]


def test_results_of_one_batch_are_taken_one_after_the_other_and_published_once(desk: Desk) -> None:
    answers = desk.take([made("p")], [outcome("p", 1), outcome("p", 0, 2), outcome("p", 1, 1), outcome("p", 1, 3)])
    assert [one.status for one in answers] == ["joined", "joined", "superseded", "joined"]
    assert labels(desk) == [("p", 1, None, 1)]


def test_a_conflict_is_resolved_by_the_order_and_told(desk: Desk) -> None:
    desk.take([made("p")], [outcome("p", 0, result_id="a")])
    (answer,) = desk.take(outcomes=[outcome("p", 1, result_id="b")])
    assert answer.status == "conflict"
    assert "label 1 holds" in (answer.detail or "")
    assert labels(desk) == [("p", 0, None, 1), ("p", 1, 0, 2)]
    assert desk.summary()["conflicts"] == 1


def test_the_same_results_in_any_order_leave_the_same_row(desk: Desk) -> None:
    results = [
        outcome("p", 1, 1),
        outcome("p", 0, 2, result_id="b", observed_at=START),
        outcome("p", 1, 2, result_id="a", observed_at=START + timedelta(days=1)),
        outcome("p", 0, 1, result_id="z"),
    ]
    rng, rows = random.Random(7), set()
    for attempt in range(12):
        id_ = f"p-{attempt}"
        steps: list[PredictionMade | OutcomeReported] = [
            made(id_),
            *(msgspec.structs.replace(one, prediction_id=id_) for one in results * 2),
        ]
        rng.shuffle(steps)
        for step in steps:
            desk.take(
                [step] if isinstance(step, PredictionMade) else [], [step] if isinstance(step, OutcomeReported) else []
            )
        with desk.pool.connection() as connection:
            rows.add(
                connection.execute("SELECT label, contested FROM labels WHERE prediction_id = %s", [id_]).fetchone()
            )
        story = [one for one in desk.published() if one.prediction_id == id_]
        assert [one.label_revision for one in story] == list(range(1, len(story) + 1))
        assert sum(one.label - (one.previous_label or 0) for one in story) == 1
    assert rows == {(1, True)}


SCORED = (
    ShadowScore(model_version=2, score=0.9, prediction=True),
    ShadowScore(model_version=3, score=0, prediction=False),
)


def test_what_other_versions_said_comes_with_the_label(desk: Desk) -> None:
    desk.take([made("p", shadows=SCORED), made("q")], [outcome("p"), outcome("q")])
    assert {one.prediction_id: one.shadows for one in desk.published()} == {"p": SCORED, "q": ()}
    assert (desk.summary()["predictions"], desk.summary()["shadows"]) == (2, 2)


def test_scores_of_other_versions_come_with_a_prediction_whose_outcome_was_early(desk: Desk) -> None:
    desk.take(outcomes=[outcome("p")])
    desk.take([made("p", shadows=SCORED)])
    assert [one.shadows for one in desk.published()] == [SCORED]


def test_predictions_of_a_model_without_a_contract_are_kept_and_labelled(desk: Desk) -> None:
    desk.take([made("p", model_name="other", features={"anything": None})], [outcome("p")])
    assert [one.model_name for one in desk.published()] == ["other"]


@pytest.mark.parametrize("together", [True, False])
def test_of_two_predictions_with_one_id_the_first_stays(desk: Desk, together: bool) -> None:
    first, second = made("p", subject=None), made("p", minute=5, subject="later")
    for batch in [[first, second]] if together else [[first], [second]]:
        desk.take(batch)
    desk.take(outcomes=[outcome("p")])
    (event,) = desk.published()
    assert (event.predicted_at, event.subject) == (START, None)


def keyed(minute: float, **changes: Any) -> PredictionMade:
    """A try of a request whose client may ask again for a day."""
    return repeatable(made("p", minute), **changes)


RETRIES = {
    "a retry": ([keyed(0), keyed(5)], 0),
    "another version's": ([keyed(0), keyed(5, model_version=2, variant="canary", score=0.9)], 0),
    "out of order": ([keyed(5), keyed(0)], 0),
    "at the last moment": ([keyed(0), keyed(24 * 60)], 0),
    "after the time": ([keyed(0), keyed(24 * 60 + 1)], 1),
    "after the time, out of order": ([keyed(24 * 60 + 1), keyed(0)], 1),
    "not repeatable": ([made("p"), made("p", minute=5)], 1),
    "first not repeatable": ([made("p"), keyed(5)], 1),
    "then not repeatable": ([keyed(0), made("p", minute=5)], 1),
    "another model's": ([keyed(0), keyed(0, model_name="another")], 1),
    "many": ([keyed(0), keyed(5), keyed(24 * 60 + 1), keyed(5), made("p", minute=6), keyed(7)], 2),
}


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(("tries", "clashes"), RETRIES.values(), ids=RETRIES.keys())
def test_a_retry_is_no_clash_and_the_first_stays_whole(
    desk: Desk, tries: Sequence[PredictionMade], clashes: int, together: bool
) -> None:
    tries = [msgspec.structs.replace(one, shadows=SCORED[place % 2 :]) for place, one in enumerate(tries)]
    for batch in [tries] if together else [[one] for one in tries]:
        desk.take(batch)
    assert desk.clashes == clashes
    desk.take(outcomes=[outcome("p")])
    (event,) = desk.published()
    first = tries[0]
    assert (event.predicted_at, event.model_version, event.score) == (
        first.predicted_at, first.model_version, first.score,
    )  # fmt: skip
    assert event.shadows == first.shadows
    with desk.pool.connection() as connection:
        (row,) = connection.execute("SELECT repeatable_until FROM joins").fetchall()
    assert row == (first.repeatable_until,)


def test_a_prediction_without_scores_beside_it_does_not_take_those_of_a_retry(desk: Desk) -> None:
    desk.take([keyed(0)])
    desk.take([msgspec.structs.replace(keyed(5), shadows=SCORED)], [outcome("p")])
    assert [one.shadows for one in desk.published()] == [()]
    assert desk.clashes == 0


def test_features_come_back_as_they_were_logged(desk: Desk) -> None:
    features = {
        "income": 0.1 + 0.2,
        "term": -7,
        "employment": 'sélf "x" \\ {,}',
        "none": None,
        "tiny": 5e-324,
        "huge": 1e300,
    }
    desk.take([made("p", features=features)], [outcome("p")])
    assert desk.published()[0].features == features


def test_a_batch_that_fails_leaves_nothing(desk: Desk) -> None:
    with pytest.raises(psycopg.errors.UntranslatableCharacter):
        desk.take([made("a"), made("p", features={"x": "\0"})], [outcome("a"), outcome("b")])
    assert desk.summary()["predictions"] == desk.summary()["parked"] == 0


def at_once(work: Sequence[Callable[[], object]]) -> None:
    """Run all at the same moment, each in a thread of its own."""
    barrier = threading.Barrier(len(work))

    def run(one: Callable[[], object]) -> None:
        barrier.wait()
        one()

    with ThreadPoolExecutor(len(work)) as pool:
        for future in [pool.submit(run, one) for one in work]:
            future.result()


def test_400_of_400_pairs_join_when_both_halves_are_forced_to_meet(desk: Desk) -> None:
    ids = [f"p-{number}" for number in range(400)]
    for start in range(0, 400, 4):
        four = ids[start : start + 4]
        at_once(
            [partial(desk.take, [made(id_)]) for id_ in four] + [partial(desk.take, [], [outcome(id_)]) for id_ in four]
        )
    assert sorted(labels(desk)) == sorted((id_, 1, None, 1) for id_ in ids)


def test_transactions_that_touch_the_same_rows_in_other_orders_do_not_deadlock(desk: Desk) -> None:
    ids = [f"p-{number}" for number in range(200)]

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(10):
            predicted, reported = rng.sample(ids, 60), rng.sample(ids, 60)
            # A deadlock would raise here.
            desk.take([made(id_) for id_ in predicted], [outcome(id_) for id_ in reported])

    at_once([partial(work, seed) for seed in range(6)])
    desk.take([made(id_) for id_ in ids], [outcome(id_) for id_ in ids])
    assert sorted(labels(desk)) == sorted((id_, 1, None, 1) for id_ in ids)
