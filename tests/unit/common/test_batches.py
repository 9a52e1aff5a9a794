"""A batch on its way to the handlers: decoded, halved, and freed of what was counted before."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from driftloop.common.envelope import OUR_HEADERS, Envelope, encode_event
from driftloop.common.kafka.batches import (
    Delivery,
    Tombstone,
    dead_letters,
    decode,
    deliveries,
    halves,
    sequences,
    size,
    without_duplicates,
)
from driftloop.common.kafka.deadletter import DeadLetter
from driftloop.common.kafka.records import Record, record_of
from driftloop.common.topics import MODEL_UPDATES, PREDICTIONS
from tests.support.predictions import prediction_of_nothing

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def record(offset: int, value: bytes | None = None, *, by_name: bool = False) -> Record:
    """A prediction's record as one of our producers writes it, or with another value, or with headers in a mapping."""
    headers = Envelope("i", "s", "driftloop.PredictionMade", NOW, offset).headers()
    raw = dict(headers) if by_name else tuple(content for _, content in headers)
    return Record("t", 0, offset, b"k", value or encode_event(prediction_of_nothing()), raw)


def delivery(partition: int, source: str, sequence: int | None) -> Delivery:
    """An event with these names; what else it holds does not matter."""
    envelope = Envelope("i", source, "driftloop.PredictionMade", NOW, sequence)
    return Delivery(prediction_of_nothing(), envelope, Record("t", partition, 0, None, None, {}))


own = st.lists(st.none() | st.binary(max_size=3), min_size=len(OUR_HEADERS) - 1, max_size=len(OUR_HEADERS))
ours = own.map(lambda contents: list(zip(OUR_HEADERS, contents, strict=False)))
foreign = st.lists(st.tuples(st.sampled_from(["a", *OUR_HEADERS]), st.none() | st.binary(max_size=3)), max_size=9)


@given(foreign | ours)
def test_headers_are_told_by_name_the_last_one_that_has_a_value(found: list[tuple[str, bytes | None]]) -> None:
    message = Message(topic="t", partition=1, offset=2, key=b"k", value=b"v", headers=list[Any](found))
    record = record_of(message)
    assert record.headers == {name: content for name, content in found if content is not None}
    assert (record.topic, record.partition, record.offset, record.key, record.value) == ("t", 1, 2, b"k", b"v")


@pytest.mark.parametrize("by_name", [False, True])
def test_every_record_becomes_a_delivery_in_order(by_name: bool) -> None:
    records = [record(offset, by_name=by_name) for offset in range(5)]
    items = decode(records, PREDICTIONS)
    assert all(isinstance(one, Delivery) for one in items)
    assert [one.record for one in items] == records
    assert [one.envelope.sequence for one in items if isinstance(one, Delivery)] == list(range(5))


@given(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9)))
def test_what_cannot_be_read_is_a_dead_letter_and_the_rest_is_not(bad: set[int], by_name: set[int]) -> None:
    items = decode([record(n, b"no JSON" if n in bad else None, by_name=n in by_name) for n in range(10)], PREDICTIONS)
    assert {one.record.offset for one in items if isinstance(one, DeadLetter)} == bad
    assert [one.record.offset for one in items] == list(range(10))


def test_headers_that_the_client_cannot_tell_are_a_dead_letter() -> None:
    (one,) = decode([Record("t", 0, 0, None, b"{}", {}, unreadable_headers=True)], PREDICTIONS)
    assert isinstance(one, DeadLetter)
    assert (one.stage, one.reason) == ("headers", "the name of a header is not UTF-8 text")


def test_an_empty_value_is_a_tombstone_only_where_a_topic_is_compacted() -> None:
    empty = Record("t", 0, 0, b"k", None, {})
    assert decode([empty], MODEL_UPDATES) == [Tombstone(empty)]
    assert isinstance(decode([empty], PREDICTIONS)[0], DeadLetter)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5).filter(lambda sizes: sum(sizes) > 1))
def test_halves_are_two_parts_of_the_whole_in_the_order_of_the_log(sizes: list[int]) -> None:
    batch = {("t", n): [Tombstone(record(offset)) for offset in range(many)] for n, many in enumerate(sizes)}
    first, second = halves(batch)
    assert abs(size(first) - size(second)) <= 1
    assert all(first.values())
    assert all(second.values())
    assert {place: [*first.get(place, []), *second.get(place, [])] for place in batch} == batch


def test_letters_and_deliveries_are_told_apart() -> None:
    spoiled = decode([record(0), record(1, b"no JSON")], PREDICTIONS)
    batch = {("t", 0): [*spoiled, Tombstone(record(2))]}
    assert [one.record.offset for one in deliveries(batch)["t", 0]] == [0]
    assert [one.record.offset for one in dead_letters(batch)] == [1]


names = st.tuples(st.integers(0, 1), st.sampled_from("ab"), st.none() | st.integers(0, 9))


@given(st.lists(names, max_size=30), st.sets(st.tuples(st.integers(0, 1), st.sampled_from("ab"), st.integers(0, 9))))
def test_each_numbered_event_is_left_once_and_each_unnumbered_one_always(
    found: list[tuple[int, str, int | None]], known: set[tuple[int, str, int]]
) -> None:
    batch = {
        ("t", partition): [delivery(*one) for one in found if one[0] == partition]
        for partition in {partition for partition, _, _ in found}
    }
    fresh = {
        (place, source): {n for n in numbers if (place[1], source, n) not in known}
        for (place, source), numbers in sequences(batch).items()
        if len(set(numbers)) < len(numbers) or any((place[1], source, n) in known for n in numbers)
    }
    left = without_duplicates(batch, fresh)
    counted = Counter((place[1], one.envelope.source, one.envelope.sequence) for place in left for one in left[place])
    assert counted == {one: found.count(one) if one[2] is None else 1 for one in found if one not in known}
    assert all(
        [one for one in batch[place] if any(one is kept for kept in left[place])] == left[place] for place in left
    )
