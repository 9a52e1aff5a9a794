"""A patient is erased: the monitor's counts stay as they are, and nothing that names the patient stays parked."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest

from driftloop.common.events import PredictionMade, SubjectErased
from driftloop.common.topics import LABELED_PREDICTIONS
from driftloop.drift_monitor.handlers import Limits, on_predictions
from driftloop.drift_monitor.store import Store
from tests.support.monitored import CONTRACTS, LOAN, RNG, TOPIC, Monitor, rows_in_panes, spread, version_of
from tests.support.predictions import START, labeled, rows_like
from tests.support.waiting import wait_until
from tests.support.watched import WINDOW, Watched

ANNA, BERT = "a" * 32, "b" * 32
LATER = START + timedelta(hours=1)


def erasure(subject: str = ANNA, at: datetime = LATER) -> SubjectErased:
    return SubjectErased(subject=subject, erased_at=at, predictions=1)


def of(subject: str, count: int, start: datetime = START) -> list[PredictionMade]:
    return [msgspec.structs.replace(one, subject=subject) for one in spread(rows_like(LOAN, RNG, count), start)]


def parked(monitor: Monitor) -> list[str]:
    """The subjects of what is parked."""
    with monitor.pool.connection() as connection:
        rows = connection.execute('SELECT value FROM parked ORDER BY topic, partition, "offset"').fetchall()
    return [msgspec.json.decode(value)["subject"] for (value,) in rows]


def test_an_erasure_changes_no_count(monitor: Monitor) -> None:
    monitor.learn()
    made = of(ANNA, 10)
    monitor.count(made)
    monitor.label([labeled(one, 1) for one in made])
    before = version_of(monitor.report())
    monitor.label([erasure()])
    assert version_of(monitor.report()) == before
    assert rows_in_panes(monitor) == 10


def test_what_is_parked_of_the_subject_is_deleted_and_never_counted(monitor: Monitor) -> None:
    anna, bert = of(ANNA, 3), of(BERT, 4)
    monitor.count([*anna, *bert])
    monitor.label([labeled(one, 0) for one in (*anna, *bert)])
    monitor.label([erasure()])
    assert parked(monitor) == [BERT] * 8
    monitor.learn()
    monitor.evaluator().round()
    assert version_of(monitor.report())["counted"] == 4


def test_what_was_made_after_the_erasure_is_kept(monitor: Monitor) -> None:
    monitor.count([*of(ANNA, 1, LATER - timedelta(seconds=1)), *of(ANNA, 1, LATER)])
    monitor.label([erasure()])
    assert parked(monitor) == [ANNA]


@pytest.mark.parametrize("known", [True, False], ids=["its version is known", "its version is unknown"])
def test_what_is_read_after_the_erasure_is_counted_or_left_out_but_never_parked(monitor: Monitor, known: bool) -> None:
    monitor.label([erasure()])
    if known:
        monitor.learn()
    monitor.count([*of(ANNA, 2), *of(BERT, 1)])
    assert parked(monitor) == ([] if known else [BERT])
    assert rows_in_panes(monitor) == (3 if known else 0)


def test_an_erasure_and_a_prediction_that_come_together_leave_nothing_parked(monitor: Monitor) -> None:
    made = of(ANNA, 1)
    monitor.label([*(labeled(one, 1) for one in made), erasure()])
    assert parked(monitor) == []


def test_an_erasure_waits_for_whoever_is_parking(monitor: Monitor) -> None:
    with ThreadPoolExecutor(1) as executor:
        with monitor.pool.connection() as connection:
            limits = Limits(10, timedelta(minutes=5), monitor.keep)
            placed = monitor.placed(of(ANNA, 1), TOPIC, 0)
            on_predictions(Store(connection), CONTRACTS, monitor.watches, limits, monitor.now, placed)
            erasing = executor.submit(monitor.label, [erasure()])
            wait_until(lambda: lock_is_waited_for(monitor), "the erasure waits")
        erasing.result(timeout=60)
    assert parked(monitor) == []


def lock_is_waited_for(monitor: Monitor) -> bool:
    with monitor.house.database("drift_monitor") as connection:
        return bool(
            connection.execute(
                "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'advisory' "
                "AND objid = hashtext(current_schema())::bigint & x'ffffffff'::bigint"
            ).fetchone()
        )


def test_of_two_erasures_the_later_holds_whatever_their_order(monitor: Monitor) -> None:
    monitor.label([erasure(at=LATER + timedelta(hours=1)), erasure()])
    monitor.label([erasure()])
    monitor.count(of(ANNA, 1, LATER + timedelta(minutes=1)))
    assert parked(monitor) == []


def test_a_subject_whose_name_needs_quoting_is_found(monitor: Monitor) -> None:
    odd = 'né "é" \\ %_'
    monitor.count(of(odd, 1))
    monitor.label([erasure(odd)])
    assert parked(monitor) == []


def test_erasures_are_forgotten_with_the_panes(monitor: Monitor) -> None:
    monitor.count(of(ANNA, 1))
    monitor.label([erasure()])

    def left() -> list[tuple[Any, ...]]:
        with monitor.pool.connection() as connection:
            return connection.execute(
                "SELECT (SELECT count(*) FROM erased_subjects), (SELECT count(*) FROM erased_records)"
            ).fetchall()

    monitor.upkeep().round(threading.Event())
    assert left() == [(1, 1)]
    monitor.now += monitor.keep + timedelta(days=1)
    monitor.upkeep().round(threading.Event())
    assert left() == [(0, 0)]


def erase(watched: Watched, made: Sequence[PredictionMade]) -> None:
    """Say on the topic that a subject was erased, and wait until the monitor has done it."""
    at = max(one.predicted_at for one in made) + timedelta(seconds=1)
    watched.house.publish(LABELED_PREDICTIONS, [(ANNA, erasure(at=at))])
    wait_until(lambda: bool(watched.rows("SELECT 1 FROM erased_subjects")), "the erasure is known")


def test_a_replay_leaves_out_what_was_erased_before_it_was_counted(watched: Watched) -> None:
    kept, anna = watched.made(0), watched.made(0, 7, subject=ANNA)
    watched.produce(watched.records([*kept, *anna]))
    erase(watched, anna)
    watched.serve()
    watched.judge()
    status, document = watched.replay()
    assert (status, document["outcomes"]) == (0, {"equal": 1})
    assert [one["n"] for one in document["windows"]] == [WINDOW]


def test_a_replay_counts_what_was_counted_before_it_was_erased(watched: Watched) -> None:
    watched.serve()
    anna = watched.made(0, subject=ANNA)
    watched.produce(watched.records(anna))
    watched.judge()
    erase(watched, anna)
    status, document = watched.replay()
    assert (status, document["outcomes"]) == (0, {"equal": 1})
