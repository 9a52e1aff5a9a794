"""A prediction that its client asked for more than once, on real parts: it counts once, and replays say the same."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from prometheus_client import REGISTRY

from driftloop.common.events import PredictionMade
from driftloop.common.topics import PREDICTIONS, partition_for
from driftloop.drift_monitor.domain.retries import Retries
from driftloop.drift_monitor.pane_store import PaneStore
from driftloop.drift_monitor.store import Store
from driftloop.drift_monitor.upkeep import BATCH
from tests.support.monitored import LOAN, REFERENCE, RNG, Monitor, rows_in_panes, spread, version_of
from tests.support.predictions import START, prediction, repeatable, rows_like
from tests.support.waiting import wait_until
from tests.support.watched import WINDOW, Watched

HOUR = timedelta(hours=1)


def keyed(id_: str, hours: float = 0, **changes: Any) -> PredictionMade:
    """A try of a request whose client may ask again for a day."""
    return repeatable(prediction(LOAN, REFERENCE[0], START + hours * HOUR, prediction_id=id_), **changes)


def remembered(monitor: Monitor) -> list[str]:
    with monitor.pool.connection() as connection:
        rows = connection.execute("SELECT prediction_id FROM remembered ORDER BY prediction_id").fetchall()
    return [id_ for (id_,) in rows]


# --- counting


def test_tries_in_one_batch_and_in_several_count_once(monitor: Monitor) -> None:
    monitor.learn()
    monitor.count([keyed("p"), keyed("q"), keyed("p", 0.1)])
    monitor.count([keyed("q", 0.2), keyed("r"), keyed("p", 0.3)])
    monitor.count([keyed("p", 0.05)])
    assert rows_in_panes(monitor) == 3


def test_batches_decide_as_the_rule_does_try_by_try(monitor: Monitor) -> None:
    monitor.now = START + 1_000 * HOUR
    monitor.learn()
    rng, rule = random.Random(5), Retries({})
    tries = [keyed(f"p-{rng.randrange(12)}", rng.randrange(200)) for _ in range(300)]
    tries += [prediction(LOAN, REFERENCE[0], prediction_id="p-0") for _ in range(20)]
    rng.shuffle(tries)
    counted = [one for one in tries if rule.counts(one)]
    while tries:
        size = rng.randrange(1, 40)
        monitor.count(tries[:size])
        del tries[:size]
    assert rows_in_panes(monitor) == len(counted) > 40


def test_a_batch_without_repeatable_predictions_costs_no_statement(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor.learn()
    monkeypatch.setattr(PaneStore, "remember", None)
    again = prediction(LOAN, REFERENCE[0], prediction_id="p")
    monitor.count([again, again])
    monitor.count([again, keyed("p", model_name="another")])
    assert rows_in_panes(monitor) == 3
    assert remembered(monitor) == []


def test_what_is_parked_is_decided_when_it_is_read(monitor: Monitor) -> None:
    monitor.learn(1)
    monitor.count([keyed("p", model_version=2), keyed("q"), keyed("r", model_version=2)])
    monitor.count([keyed("p", 1), keyed("q", 1, model_version=2), keyed("r", 0.5, model_version=2)])
    assert rows_in_panes(monitor) == 1
    monitor.learn(2)
    for _ in range(2):
        monitor.evaluator().round()
    report = monitor.report()
    assert [version_of(report, number)["counted"] for number in (1, 2)] == [1, 2]


def test_a_batch_that_fails_remembers_nothing(monitor: Monitor) -> None:
    with pytest.raises(Exception, match="wait for the profile"):
        monitor.count([keyed("p")], max_parked=0)
    monitor.learn()
    monitor.count([keyed("p")])
    assert rows_in_panes(monitor) == 1


def test_those_who_bring_the_same_ids_in_other_orders_do_not_deadlock_and_count_each_once(monitor: Monitor) -> None:
    monitor.learn()
    ids = [f"p-{number}" for number in range(200)]
    barrier = threading.Barrier(4)

    def work(seed: int) -> None:
        rng = random.Random(seed)
        barrier.wait()
        for turn in range(10):
            # A deadlock would raise here.
            monitor.count([keyed(id_, turn / 10) for id_ in rng.sample(ids, 100)], partition=seed)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work, seed) for seed in range(4)]:
            future.result()
    monitor.count([keyed(id_, 1) for id_ in ids])
    assert rows_in_panes(monitor) == len(ids)


# --- forgetting


def test_ids_are_forgotten_behind_this_clock_and_behind_every_partition(monitor: Monitor) -> None:
    monitor.learn()
    monitor.now = START + 1_000 * HOUR
    monitor.count([keyed("old"), keyed("young", 30)], partition=0)
    monitor.count(spread(rows_like(LOAN, RNG, 1)), partition=1)
    upkeep = monitor.upkeep()
    upkeep.round(threading.Event())
    # Partition 1 is read days behind, and may still bring a retry.
    assert remembered(monitor) == ["old", "young"]
    monitor.count(spread(rows_like(LOAN, RNG, 1), START + 25 * HOUR), partition=1)
    monitor.now = START + 23 * HOUR
    upkeep.round(threading.Event())
    assert remembered(monitor) == ["old", "young"]
    monitor.now = START + 31 * HOUR
    upkeep.round(threading.Event())
    assert remembered(monitor) == ["young"]
    monitor.count([keyed("young", 31), keyed("old", 31)])
    assert rows_in_panes(monitor) == 5


def test_a_try_prolongs_the_time_for_which_its_id_is_remembered(monitor: Monitor) -> None:
    monitor.learn()
    monitor.now = START + 100 * HOUR
    monitor.count([keyed("p"), keyed("p", 20), keyed("q"), *spread(rows_like(LOAN, RNG, 1), START + 30 * HOUR)])
    monitor.upkeep().round(threading.Event())
    assert remembered(monitor) == ["p"]


def test_many_are_forgotten_a_batch_at_a_time_and_found_by_an_index(monitor: Monitor) -> None:
    monitor.learn()
    monitor.now = START + 100 * HOUR
    many = 2 * BATCH + 1
    monitor.count([keyed(f"p-{number}") for number in range(many)])
    monitor.count(spread(rows_like(LOAN, RNG, 1), START + 50 * HOUR))
    with monitor.pool.connection() as connection:
        assert Store(connection).panes.forget_remembered(monitor.now, BATCH) == BATCH
    monitor.upkeep().round(threading.Event())
    assert remembered(monitor) == []
    with monitor.house.database("drift_monitor") as connection:
        connection.execute(
            "INSERT INTO remembered SELECT 'loan', 'p-' || n, %s::timestamptz + n * interval '1 second' "
            "FROM generate_series(1, 20000) n", [START],
        )  # fmt: skip
        connection.execute("ANALYZE remembered")
        plan = connection.execute(
            "EXPLAIN SELECT 1 FROM remembered WHERE until < %s AND until < (SELECT min(event_time) FROM watermarks) "
            "ORDER BY until LIMIT 500 FOR UPDATE SKIP LOCKED", [START],
        ).fetchall()  # fmt: skip
    assert "remembered_by_age" in "\n".join(line for (line,) in plan)


# --- on a real topic


def duplicates(watched: Watched) -> float:
    return REGISTRY.get_sample_value("driftloop_duplicates_total", {"topic": watched.topic}) or 0.0


def counted(watched: Watched) -> int:
    """What all panes of predictions hold."""
    ((n,),) = watched.rows("SELECT coalesce(sum(n), 0)::bigint FROM panes WHERE kind = 0")
    return int(n)


def tries(made: list[PredictionMade], seconds: float, **changes: Any) -> list[PredictionMade]:
    """The same ids, asked for again so much later."""
    return [repeatable(one, predicted_at=one.predicted_at + timedelta(seconds=seconds), **changes) for one in made]


def test_an_id_that_two_predictors_published_thrice_counts_once_also_after_a_restart(watched: Watched) -> None:
    watched.serve()
    made = watched.made(0, 20)
    others = watched.records(watched.made(0, 20), "predictor/2")
    first, second = watched.records(tries(made, 0)), watched.records(tries(made, 1), "predictor/2")
    # What a predictor sends twice has one number, and is dropped by it.
    watched.produce([*first, *second, *first, *watched.records(tries(made, 2)), *others])
    assert (counted(watched), duplicates(watched)) == (40, 60)
    watched.restart()
    watched.produce([*watched.records(tries(made, 3, model_version=2)), *first])
    assert (counted(watched), duplicates(watched)) == (40, 100)
    # An id that nobody may repeat is no memory's: each number counts.
    plain = watched.made(0, 5)
    watched.produce([*watched.records(plain), *watched.records(plain)])
    assert (counted(watched), duplicates(watched)) == (50, 100)


def test_the_replay_counts_retries_as_the_monitor_did(watched: Watched) -> None:
    first, canary = watched.made(0), watched.made(0, 30)
    # Nobody knows version 2: what waits for it in vain takes its id along.
    in_vain = watched.records(tries(canary, 0, model_version=2))
    watched.produce(in_vain)
    watched.expire(in_vain)
    watched.serve()
    watched.produce(watched.records(tries(first, 0)))
    watched.judge()
    second = [*watched.made(1, 70), *tries(watched.made(1, 40), 0), *tries(first[:50], 1), *tries(canary, 1)]
    watched.produce(watched.records(second, "predictor/2"))
    watched.judge()
    third = tries(watched.made(2), 0)
    # A day later an id is as good as new, unless its client had asked again in between.
    anew = [*tries(first, 86_401), *watched.made(86_402, 70)]
    watched.produce(watched.records([*reversed(third), *anew, *tries(third[:30], 0.5)]))
    watched.judge()
    status, document = watched.replay()
    assert (status, document["outcomes"]) == (0, {"equal": 4})
    assert [one["n"] for one in document["windows"]] == [WINDOW, 110, WINDOW, 120]
    # From the second window on the first is read, too: its tries are repeated there.
    status, document = watched.replay("--from", "2026-03-01T12:00:01Z", "--to", "2026-03-01T12:00:02Z")
    assert (status, [one["n"] for one in document["windows"]]) == (0, [110])


def test_a_window_whose_retries_repeat_what_is_deleted_is_not_reproducible(watched: Watched) -> None:
    watched.serve()
    first = tries(watched.made(0), 0)
    watched.produce(watched.records(first))
    watched.judge()
    partition = partition_for(first[0].prediction_id, PREDICTIONS.partitions)
    end = watched.bounds()[partition][1]
    watched.produce(watched.records([*watched.made(1), *tries([first[0]], 1)]))
    watched.judge()
    watched.house.admin.delete_records([TopicPartition(watched.topic, partition, end)])
    wait_until(lambda: watched.bounds()[partition][0] == end, "what was repeated is deleted")
    status, document = watched.replay("--from", "2026-03-01T12:00:01Z")
    assert status == 3
    assert document["windows"][0]["reason"] == (
        f"partition {partition} begins at offset {end} by now, and what clients repeated in the window may have come "
        "before: beyond retention"
    )
