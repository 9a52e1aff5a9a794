"""No silent gap: a stored offset that does not fit the log stops the consumer, visibly, until someone decides."""

import threading
from collections.abc import Sequence

import pytest
from confluent_kafka import Consumer, TopicPartition
from psycopg import Connection, sql

from driftloop.common.kafka import consumer
from driftloop.common.kafka.admin import create_topics
from driftloop.common.kafka.assignment import Assignment
from driftloop.common.kafka.config import consumer_config
from driftloop.common.kafka.consumer import Delivery
from driftloop.common.topics import OUTCOMES
from tests.support.counting import NAME, SCHEMA, Counting, Running
from tests.support.waiting import wait_until


def delete_records(counting: Counting, before: int) -> None:
    place = TopicPartition(counting.house.namespace.topic(OUTCOMES), 0, before)
    for future in counting.house.admin.delete_records([place]).values():
        future.result(10)


def make_anew(counting: Counting) -> None:
    name = counting.house.namespace.topic(OUTCOMES)
    counting.house.admin.delete_topics([name])[name].result(10)
    # The controller has deleted it; the broker may take records for it, and hand them out, a moment longer.
    wait_until(lambda: name not in counting.house.admin.list_topics(timeout=10).topics, "the topic is gone")
    create_topics(counting.house.admin, counting.house.namespace, [OUTCOMES], replication=1)


def halted(running: Running) -> str:
    """Why the loop stands still, which it must."""
    reason = wait_until(lambda: running.loop.state.halted or (running.ended() and "ended"), "the loop halts")
    assert isinstance(reason, str)
    assert running.error is None
    assert running.loop.state.problem() == reason
    return reason


def test_offsets_that_are_no_longer_in_the_log_halt_the_consumer(counting: Counting) -> None:
    counting.produce(["a"], partition=0)
    with counting.consuming():
        counting.wait_for(1)
    counting.produce([f"p-{i}" for i in range(20)], partition=0)
    delete_records(counting, 10)
    with counting.consuming() as running:
        reason = halted(running)
    assert f"{counting.house.namespace.topic(OUTCOMES)}/0" in reason
    assert "table offsets" in reason
    assert counting.counts() == {"a": 1}


def test_after_the_decision_it_reads_on_where_it_was_told_to(counting: Counting) -> None:
    counting.produce([f"p-{i}" for i in range(20)], partition=0)
    delete_records(counting, 10)
    with counting.consuming() as running:
        counting.wait_until_read()
        with counting.house.database(SCHEMA) as connection:
            connection.execute("UPDATE offsets SET next = 5 WHERE partition = 0")
        counting.produce(["last"], partition=0)
        halted(running)
        with counting.house.database(SCHEMA) as connection:
            connection.execute("UPDATE offsets SET next = 10 WHERE partition = 0")
    with counting.consuming():
        counting.wait_until_read()
    assert counting.counts() == dict.fromkeys([*(f"p-{i}" for i in range(10, 20)), "last"], 1)


def test_a_consumer_without_offsets_begins_at_the_first_record_that_there_is(counting: Counting) -> None:
    counting.produce([f"p-{i}" for i in range(20)], partition=0)
    delete_records(counting, 15)
    with counting.consuming():
        assert set(counting.wait_for(5)) == {f"p-{i}" for i in range(15, 20)}


def test_a_topic_that_was_made_anew_halts_the_consumer(counting: Counting) -> None:
    counting.produce(["old-1", "old-2"], partition=0)
    with counting.consuming():
        counting.wait_for(2)
    make_anew(counting)
    del counting.house.identities
    counting.produce(["new-1", "new-2", "new-3"], partition=0)
    with counting.consuming() as running:
        reason = halted(running)
    assert "made anew" in reason
    assert set(counting.counts()) == {"old-1", "old-2"}


def test_a_topic_that_is_made_anew_under_a_running_consumer_halts_it(
    counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "WATCH_SECONDS", 0.2)
    # At offset 0, which both logs have: only their ids tell them apart.
    running = counting.join_group()
    make_anew(counting)
    assert "made anew" in halted(running)


def test_what_the_text_says_about_a_topic_made_anew_brings_every_record_of_it(counting: Counting) -> None:
    counting.produce(["old"], partition=0)
    with counting.consuming():
        counting.wait_for(1)
    make_anew(counting)
    del counting.house.identities
    counting.produce(["new-1", "new-2"], partition=0)
    with counting.house.database(SCHEMA) as connection:
        connection.execute(
            "DELETE FROM offsets WHERE consumer = %s AND topic = %s", [NAME, counting.house.namespace.topic(OUTCOMES)]
        )
    with counting.consuming():
        assert counting.wait_for(3) == {"old": 1, "new-1": 1, "new-2": 1}


def test_an_offset_that_is_deleted_under_a_running_consumer_halts_it(counting: Counting) -> None:
    counting.produce(["a"], partition=0)
    with counting.consuming() as running:
        counting.wait_for(1)
        with counting.house.database(SCHEMA) as connection:
            connection.execute("DELETE FROM offsets")
        counting.produce(["b"], partition=0)
        assert "deleted" in halted(running)
    assert counting.counts() == {"a": 1}


def test_a_halted_consumer_handles_nothing_more_of_any_partition(counting: Counting) -> None:
    handled: list[int] = []

    def note(_connection: Connection, batch: Sequence[Delivery]) -> None:
        handled.extend(one.record.partition for one in batch)

    counting.produce(["a"], partition=0)
    with counting.consuming(note) as running:
        counting.wait_until_read()
        with counting.house.database(SCHEMA) as connection:
            connection.execute("DELETE FROM offsets WHERE partition = 0")
        counting.produce(["b"], partition=0)
        halted(running)
        counting.produce(["c"], partition=1)
        counting.produce(["d"], partition=2)
        # Time for it to do what it must not: another consumer, which holds none of these, has read to the end.
        assert len(counting.house.records(OUTCOMES)) == 4
    assert handled == [0]


def test_a_database_that_is_away_during_a_rebalance_is_waited_for(counting: Counting) -> None:
    role = sql.Identifier(counting.house.namespace.role(SCHEMA))
    counting.produce(["p"])
    with counting.house.database(SCHEMA) as connection:
        connection.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(role))
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s",
            [counting.house.namespace.role(SCHEMA)],
        )
    pool = counting.house.pool(SCHEMA)
    running = counting.start(pool=pool)
    wait_until(lambda: counting.members() == 1, "it is in the group")
    with counting.house.database(SCHEMA) as connection:
        connection.execute(sql.SQL("ALTER ROLE {} LOGIN").format(role))
    assert counting.wait_for(1) == {"p": 1}
    assert running.error is None


def test_partitions_that_were_never_ours_are_taken_away_without_harm(counting: Counting) -> None:
    name, bootstrap = counting.house.namespace.topic(OUTCOMES), counting.house.stack.bootstrap_servers
    known, admin = counting.house.identities, counting.house.admin
    assignment = Assignment(NAME, counting.pool, known, admin, threading.Event())
    client = Consumer(consumer_config(bootstrap, "tests", "a group"))
    assignment.on_assign(client, [TopicPartition(name, 0), TopicPartition(name, 1)])
    assignment.on_assign(client, [])
    assert assignment.failure is None
    assignment.on_revoke(client, [TopicPartition(name, 2)])
    assert set(assignment.held) == {(name, 0), (name, 1)}
    assignment.on_lost(client, [TopicPartition(name, 0), TopicPartition(name, 2)])
    assert set(assignment.held) == {(name, 1)}
    assert [(one.topic, one.partition) for one in client.assignment()] == [(name, 1)]
    client.close()


def test_a_bug_during_a_rebalance_ends_the_loop(counting: Counting) -> None:
    with counting.house.database(SCHEMA) as connection:
        connection.execute("ALTER TABLE offsets RENAME TO elsewhere")
    counting.produce(["p"])
    running = counting.start()
    running.join()
    assert running.error is not None
    assert "offsets" in str(running.error)
