"""The small parts: intervals of numbers, fates of database errors, dead letters' headers, trace contexts."""

import itertools
import re

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.common.kafka.config import admin_part, consumer_config, producer_config
from driftloop.common.kafka.consumer import ConsumerState
from driftloop.common.kafka.deadletter import DeadLetter
from driftloop.common.kafka.records import Record
from driftloop.common.postgres.offsets import _multirange
from driftloop.common.postgres.pool import first_line, is_permanent, is_transient
from driftloop.common.topics import TOPICS, all_topics, dead_letter_topic
from driftloop.common.tracing import child_traceparent, is_traceparent


@given(st.sets(st.integers(0, 200)))
def test_intervals_hold_exactly_the_numbers(numbers: set[int]) -> None:
    intervals = [(int(low), int(high)) for low, high in re.findall(r"\[(\d+),(\d+)\)", _multirange(numbers))]
    assert {number for low, high in intervals for number in range(low, high)} == numbers
    assert all(high < low for (_, high), (low, _) in itertools.pairwise(intervals))


def error(state: str) -> psycopg.Error:
    """An error as the server sends it."""
    found = psycopg.errors.lookup(state)("a text")
    assert found.sqlstate == state
    return found


@pytest.mark.parametrize(
    "state", ["08006", "40001", "40P01", "53300", "57P01", "57014", "58030", "25P03", "25006", "55P03"]
)
def test_what_a_second_try_may_pass_is_transient(state: str) -> None:
    assert is_transient(error(state))
    assert not is_permanent(error(state))


@pytest.mark.parametrize("state", ["22P02", "22003", "22P05", "23505", "23502", "54000"])
def test_what_the_data_is_to_blame_for_is_permanent(state: str) -> None:
    assert is_permanent(error(state))
    assert not is_transient(error(state))


@pytest.mark.parametrize("state", ["42P01", "42601", "42501", "21000", "25P02", "0A000"])
def test_a_bug_is_neither(state: str) -> None:
    assert not is_permanent(error(state))
    assert not is_transient(error(state))


def test_errors_that_no_server_has_seen_have_a_fate_too() -> None:
    assert is_transient(psycopg.OperationalError("the connection is closed"))
    assert is_permanent(psycopg.DataError("PostgreSQL text fields cannot contain NUL"))
    assert not is_transient(psycopg.InterfaceError("the cursor is closed"))
    assert not is_permanent(psycopg.InterfaceError("the cursor is closed"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (psycopg.OperationalError("connection refused\nIs the server running?"), "connection refused"),
        (psycopg.OperationalError(), "OperationalError"),
    ],
)
def test_an_error_of_the_database_is_said_in_one_line_also_if_it_has_no_text(error: psycopg.Error, said: str) -> None:
    assert first_line(error) == said


def test_a_dead_letter_of_a_dead_letter_tells_where_it_was_read_last() -> None:
    first = DeadLetter(Record("t", 1, 2, None, b"v", {"own": b"h"}), "value", "UndecodableMessage", "why")
    headers = {name: value or b"" for name, value in first.headers()}
    again = dict(DeadLetter(Record("t.dlq", 0, 9, None, b"v", headers), "schema", "Other", "x" * 900).headers())
    assert len(again) == len(headers)
    assert again["own"] == b"h"
    assert again["__connect.errors.topic"] == b"t.dlq"
    assert again["__connect.errors.offset"] == b"9"
    assert again["__connect.errors.exception.message"] == b"x" * 500


def test_every_topic_has_a_dead_letter_topic_with_room_for_its_largest_record_and_the_reasons() -> None:
    for topic in TOPICS:
        letters = dead_letter_topic(topic)
        assert letters in all_topics()
        assert int(letters.config["max.message.bytes"]) >= int(topic.config["max.message.bytes"]) + 100_000
        assert letters.partitions == 1


def test_a_producer_can_carry_the_largest_dead_letter() -> None:
    largest = max(int(topic.config["max.message.bytes"]) for topic in all_topics())
    assert producer_config("b:1", "c")["message.max.bytes"] >= largest


@pytest.mark.parametrize("ordered", [True, False])
def test_a_producer_that_takes_one_success_for_that_of_all_before_it_has_one_request_on_its_way(ordered: bool) -> None:
    config = producer_config("b:1", "c", ordered=ordered)
    assert not config["enable.idempotence"] or config["max.in.flight.requests.per.connection"] == 1


def test_an_administrative_client_shares_what_reaches_the_brokers_and_nothing_else() -> None:
    config = consumer_config("b:1", "c", "g") | {"security.protocol": "SASL_SSL", "sasl.username": "u", "ssl.ca": "x"}
    shared = admin_part(config)
    assert shared.items() >= {("bootstrap.servers", "b:1"), ("security.protocol", "SASL_SSL"), ("sasl.username", "u")}
    assert not {"group.id", "logger", "enable.auto.commit"} & set(shared)


def test_a_consumer_is_ready_once_it_has_joined_and_neither_stands_still_nor_retries() -> None:
    state = ConsumerState()
    assert state.problem() == "the consumer group has not been joined yet"
    state.joined = True
    assert state.problem() is None
    state.retrying = "retrying after NotYet"
    assert state.problem() == "retrying after NotYet"
    state.halted = "a gap"
    assert state.problem() == "a gap"


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_child_stays_in_its_parents_trace_with_a_span_of_its_own() -> None:
    child = child_traceparent(TRACE)
    assert is_traceparent(child)
    assert (child[:36], child[-3:]) == (TRACE[:36], "-01")
    assert child != TRACE


@pytest.mark.parametrize(
    "parent",
    [
        None, "", "00", TRACE + "-x", TRACE + "\n", TRACE.upper(), "ff" + TRACE[2:],
        "00-" + "0" * 32 + TRACE[35:], TRACE[:36] + "0" * 16 + "-01",
    ],
)  # fmt: skip
def test_without_a_parent_that_can_be_read_a_new_trace_begins(parent: str | None) -> None:
    child = child_traceparent(parent)
    assert is_traceparent(child)
    assert not is_traceparent(parent)
    assert child_traceparent(parent)[:36] != child[:36]
