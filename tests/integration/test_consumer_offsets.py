"""Offsets move by compare-and-set; sequence numbers count once, whatever order they come in."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftloop.common.postgres import offsets
from driftloop.common.postgres.offsets import Fenced, Source, StoredOffset
from driftloop.common.postgres.pool import Pool
from tests.support.house import House

NAME = "counter"


@pytest.fixture
def pool(house: House) -> Pool:
    """A service's own schema, in which three partitions stand at 10."""
    pool = house.pool("trainer")
    with pool.connection() as connection:
        for number in range(3):
            offsets.insert_offset(connection, NAME, ("t", number), StoredOffset(10, "cluster", "topic"))
    return pool


def stored(pool: Pool) -> list[int]:
    """Where the three partitions stand."""
    with pool.connection() as connection:
        found = offsets.read_offsets(connection, NAME, [("t", number) for number in range(3)])
    return [found["t", number].next for number in range(3)]


def test_partitions_move_together(pool: Pool) -> None:
    with pool.connection() as connection:
        offsets.advance_offsets(connection, NAME, {("t", 2): (10, 20), ("t", 0): (10, 11)})
    assert stored(pool) == [11, 10, 20]


def test_a_partition_that_was_not_there_fences_all(pool: Pool) -> None:
    moves = {("t", 2): (10, 20), ("t", 0): (9, 11), ("t", 7): (0, 1)}
    with pytest.raises(Fenced) as fenced, pool.connection() as connection:
        offsets.advance_offsets(connection, NAME, moves)
    assert fenced.value.partitions == [("t", 0), ("t", 7)]
    assert stored(pool) == [10, 10, 10]


def test_of_two_that_move_the_same_partition_at_once_the_second_waits_and_is_fenced(pool: Pool) -> None:
    said: list[object] = []

    def move() -> None:
        try:
            with pool.connection() as connection:
                offsets.advance_offsets(connection, NAME, {("t", 1): (10, 30)})
                said.append("moved")
        except Fenced as fenced:
            said.append(fenced.partitions)

    with pool.connection() as connection:
        offsets.advance_offsets(connection, NAME, {("t", 1): (10, 20)})
        second = threading.Thread(target=move)
        second.start()
        second.join(0.3)
        assert said == []
    second.join(60)
    assert said == [[("t", 1)]]
    assert stored(pool) == [10, 20, 10]


def test_of_a_source_that_brings_only_new_numbers_nothing_is_told(pool: Pool) -> None:
    with pool.connection() as connection:
        assert offsets.unseen(connection, NAME, {(("t", 0), "a"): [1, 2, 3]}) == {}
        assert offsets.unseen(connection, NAME, {(("t", 0), "a"): [5, 9], (("t", 1), "a"): [1, 2]}) == {}


def test_what_was_rolled_back_was_never_seen(pool: Pool) -> None:
    with pool.connection() as connection:
        offsets.unseen(connection, NAME, {(("t", 0), "a"): [1]})
        connection.rollback()
        assert offsets.unseen(connection, NAME, {(("t", 0), "a"): [1]}) == {}


def test_another_consumer_has_seen_nothing_of_it(pool: Pool) -> None:
    with pool.connection() as connection:
        offsets.unseen(connection, NAME, {(("t", 0), "a"): [1]})
        assert offsets.unseen(connection, "another", {(("t", 0), "a"): [1]}) == {}


sources = st.tuples(st.tuples(st.sampled_from(["t", "u"]), st.integers(0, 1)), st.sampled_from("ab"))
batches = st.dictionaries(sources, st.lists(st.integers(0, 20), min_size=1, max_size=10), max_size=4)


def test_in_whatever_order_numbers_come_each_is_new_once(pool: Pool) -> None:
    @settings(max_examples=60)
    @given(st.lists(batches, max_size=6))
    def each_is_new_once(found: list[dict[Source, list[int]]]) -> None:
        seen: dict[Source, set[int]] = {}
        with pool.connection() as connection:
            for batch in found:
                told = offsets.unseen(connection, NAME, batch)
                for source, numbers in batch.items():
                    known = seen.setdefault(source, set())
                    assert told.get(source, set(numbers)) == set(numbers) - known
                    assert source in told or len(set(numbers) - known) == len(numbers)
                    known.update(numbers)
            connection.rollback()

    each_is_new_once()
