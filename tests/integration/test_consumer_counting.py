"""The consumer loop counts each event once: crashes, pauses, rebalances, duplicates and other owners change nothing."""

import random
import signal
import subprocess
import threading
from collections.abc import Sequence
from functools import partial

import pytest
from psycopg import Connection

from driftloop.common.kafka import consumer
from driftloop.common.kafka.consumer import Delivery, NotYet
from driftloop.common.topics import OUTCOMES
from tests.support.counting import NAME, SCHEMA, Counting, count
from tests.support.waiting import wait_until


def ids(number: int, prefix: str = "p") -> list[str]:
    return [f"{prefix}-{i}" for i in range(number)]


def once(names: Sequence[str]) -> dict[str, int]:
    return dict.fromkeys(names, 1)


def more_counted(counting: Counting, before: int) -> bool:
    return counting.total() > before


def test_a_new_consumer_begins_at_the_beginning_of_the_log(counting: Counting) -> None:
    counting.produce(ids(200))
    with counting.consuming():
        assert counting.wait_for(200) == once(ids(200))


def test_results_and_offsets_are_committed_together_or_not_at_all(counting: Counting) -> None:
    counting.produce(ids(20), partition=0)

    def half_done(connection: Connection, batch: Sequence[Delivery]) -> None:
        count(connection, batch)
        raise AssertionError("a bug after the work was done")

    running = counting.start(half_done)
    running.join()
    assert isinstance(running.error, AssertionError)
    assert counting.counts() == {}
    assert counting.next_offsets()[0] == 0


def test_a_restart_goes_on_where_the_last_commit_was(counting: Counting) -> None:
    counting.produce(ids(50, "a"))
    with counting.consuming():
        counting.wait_for(50)
    counting.produce(ids(50, "b"))
    with counting.consuming():
        assert counting.wait_for(100) == once(ids(50, "a") + ids(50, "b"))


def test_killed_at_random_times_it_counts_each_event_once(counting: Counting) -> None:
    # So many that none of the four comes to their end, however late the kill is.
    names = ids(12_000)
    counting.produce(names)
    chance = random.Random(5)
    for _ in range(4):
        before = counting.total()
        process = counting.spawn()
        wait_until(partial(more_counted, counting, before), "it counts again")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0, 0.2))
        process.kill()
        process.wait()
    assert counting.total() < len(names), "it was never killed in the middle"
    with counting.consuming():
        counting.wait_for(len(names))
        counting.wait_until_read()
    assert counting.counts() == once(names)


def test_paused_until_others_own_its_partitions_it_counts_nothing_twice(counting: Counting) -> None:
    names = ids(4_000)
    first, second = counting.spawn(), counting.spawn()
    wait_until(lambda: counting.members() == 2, "both are in the group")
    for part in range(4):
        before = counting.total()
        counting.produce(names[part * 1_000 : (part + 1) * 1_000])
        wait_until(partial(more_counted, counting, before), "they count")
        first.send_signal(signal.SIGSTOP)
        wait_until(lambda: counting.members() == 1, "the group gives up on the paused one")
        first.send_signal(signal.SIGCONT)
        wait_until(lambda: counting.members() == 2, "it is in the group again")
        first, second = second, first
    counting.wait_for(len(names))
    counting.wait_until_read()
    assert counting.counts() == once(names)


def test_consumers_that_come_and_go_under_traffic_count_each_event_once(counting: Counting) -> None:
    names = ids(3_000)
    running = [counting.join_group(batch_size=20)]
    for part in range(6):
        counting.produce(names[part * 500 : (part + 1) * 500])
        if part % 2:
            running.pop(0).end()
        else:
            running += [counting.start(batch_size=20), counting.start(batch_size=20)]
    counting.wait_for(len(names))
    counting.wait_until_read()
    assert counting.counts() == once(names)
    assert [one.error for one in running] == [None] * len(running)


def test_the_members_of_a_group_share_its_partitions(counting: Counting) -> None:
    running = [counting.start() for _ in range(3)]
    name = counting.house.namespace.topic(OUTCOMES)
    shares = [[(name, number)] for number in range(OUTCOMES.partitions)]
    wait_until(lambda: sorted(sorted(one.loop.state.assigned) for one in running) == shares, "each holds one of three")


def test_a_member_without_a_partition_is_ready(counting: Counting) -> None:
    running = [counting.start() for _ in range(OUTCOMES.partitions + 1)]

    def are_ready() -> bool:
        states = [one.loop.state for one in running]
        shares = sorted(len(one.assigned) for one in states)
        return shares == [0, 1, 1, 1] and not any(one.problem() for one in states)

    wait_until(are_ready, "all are ready, and one holds nothing")


def test_what_was_produced_twice_counts_once_whenever_it_comes_again(counting: Counting) -> None:
    names = ids(60)
    with counting.consuming(batch_size=10):
        records = counting.produce(names)
        counting.produce_again(records[:40])
        counting.wait_for(60)
        counting.produce_again(records)
        counting.wait_until_read()
    with counting.consuming():
        counting.produce_again(records)
        counting.produce(["last"])
        counting.wait_until_read()
    assert counting.counts() == once([*names, "last"])


def test_what_was_produced_twice_and_comes_out_of_order_counts_once(counting: Counting) -> None:
    records = counting.produce(ids(50), partition=0)
    shuffled = random.Random(7).sample(records * 2, 100)
    counting.produce_again(shuffled)
    with counting.consuming(batch_size=7):
        counting.wait_until_read()
    assert counting.counts() == once(ids(50))


def test_numbers_of_different_sources_are_different_events(counting: Counting) -> None:
    counting.produce(["a"], source="lab/1", partition=0)
    counting.produce(["a"], source="lab/2", partition=0)
    with counting.consuming():
        assert counting.wait_for(2) == {"a": 2}


def test_records_without_a_number_count_every_time(counting: Counting) -> None:
    records = counting.produce(ids(5), source=None)
    counting.produce_again(records)
    with counting.consuming():
        assert counting.wait_for(10) == dict.fromkeys(ids(5), 2)


def test_a_consumer_whose_offset_was_moved_ahead_goes_on_from_there(counting: Counting) -> None:
    counting.produce(ids(10, "old"), partition=0)
    with counting.consuming() as running:
        counting.wait_for(10)
        set_next(counting, 15)
        counting.produce(ids(10, "new"), partition=0)
        counting.wait_until_read()
        assert running.error is None
    assert counting.counts() == once(ids(10, "old") + ids(10, "new")[5:])


def test_a_consumer_whose_offset_was_moved_back_reads_again(counting: Counting) -> None:
    counting.produce(ids(10, "unnumbered"), source=None, partition=0)
    counting.produce(ids(10, "numbered"), partition=0)
    with counting.consuming():
        counting.wait_for(20)
        set_next(counting, 0)
        counting.produce(["last"], partition=0)
        counting.wait_for(31)
    expected = dict.fromkeys(ids(10, "unnumbered"), 2) | once([*ids(10, "numbered"), "last"])
    assert counting.counts() == expected


def test_an_offset_that_is_moved_while_a_batch_is_handled_fences_that_batch(counting: Counting) -> None:
    counting.produce(ids(10), partition=0)
    moved: list[int] = []

    def overtaken(connection: Connection, batch: Sequence[Delivery]) -> None:
        count(connection, batch)
        if not moved:
            moved.append(batch[0].record.offset)
            # Another owner could only wait for our lock on the offset; it must find us fenced if it came first.
            connection.rollback()
            set_next(counting, 4)
            raise NotYet("tried again")

    with counting.consuming(overtaken) as running:
        counting.wait_until_read()
        assert running.error is None
    assert counting.counts() == once(ids(10)[4:])


def test_partitions_that_are_lost_and_given_back_during_a_retry_are_read_anew(
    counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "BACKOFF_SECONDS", (4.0,))
    names = ids(300)
    counting.produce(names, source=None)
    asleep = threading.Event()

    def not_at_first(connection: Connection, batch: Sequence[Delivery]) -> None:
        if not asleep.is_set():
            asleep.set()
            raise NotYet("long enough for others to come, to count and to go")
        count(connection, batch)

    counting.start(not_at_first)
    assert asleep.wait(60)
    with counting.consuming(), counting.consuming():
        counting.wait_for(100)
    counting.wait_for(300)
    counting.wait_until_read()
    assert counting.counts() == once(names)


def test_a_batch_grows_under_load(counting: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy machine even a small batch may take longer than is wanted.
    monkeypatch.setattr(consumer, "HANDLING_SECONDS", 60.0)
    counting.produce(ids(3_000), partition=0)
    sizes: list[int] = []
    with counting.consuming(lambda _connection, batch: sizes.append(len(batch)), batch_size=3_000):
        counting.wait_until_read()
    assert sum(sizes) == 3_000
    assert max(sizes) > consumer.SMALL_BATCH


def test_a_slow_handler_gets_small_batches(counting: Counting) -> None:
    counting.produce(ids(2_000), partition=0)
    sizes: list[int] = []

    def slowly(connection: Connection, batch: Sequence[Delivery]) -> None:
        sizes.append(len(batch))
        connection.execute("SELECT pg_sleep(%s)", [2 * consumer.HANDLING_SECONDS])

    with counting.consuming(slowly, batch_size=2_000):
        counting.wait_until_read()
    assert sum(sizes) == 2_000
    assert max(sizes) <= consumer.SMALL_BATCH


def set_next(counting: Counting, next_: int) -> None:
    with counting.house.database(SCHEMA) as connection:
        connection.execute("UPDATE offsets SET next = %s WHERE consumer = %s AND partition = 0", [next_, NAME])
