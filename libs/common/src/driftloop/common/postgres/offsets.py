"""Where a consumer is, and what it has seen: written in the transaction of the results, fenced by compare-and-set."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from psycopg import Connection

TopicPartition = tuple[str, int]


class Fenced(Exception):
    """Another process moved a partition's offset: what this one holds of it is stale and must be dropped."""

    def __init__(self, partitions: Sequence[TopicPartition]) -> None:
        super().__init__(f"another consumer moved {partitions}")
        self.partitions = partitions


@dataclass(frozen=True)
class StoredOffset:
    """The next offset to read, and which incarnation of the topic it counts in."""

    next: int
    cluster_id: str
    topic_id: str


def read_offsets(
    connection: Connection, consumer: str, partitions: Iterable[TopicPartition]
) -> dict[TopicPartition, StoredOffset]:
    """The stored offsets of those partitions that have one."""
    wanted = list(partitions)
    rows = connection.execute(
        "SELECT topic, partition, next, cluster_id, topic_id FROM offsets "
        "WHERE consumer = %s AND (topic, partition) IN (SELECT * FROM unnest(%s::text[], %s::int[]))",
        [consumer, [topic for topic, _ in wanted], [partition for _, partition in wanted]],
    ).fetchall()
    return {(topic, partition): StoredOffset(*rest) for topic, partition, *rest in rows}


def insert_offset(connection: Connection, consumer: str, partition: TopicPartition, offset: StoredOffset) -> None:
    """Record where reading a partition starts, unless someone else already did."""
    connection.execute(
        "INSERT INTO offsets (consumer, topic, partition, next, cluster_id, topic_id) VALUES (%s, %s, %s, %s, %s, %s) "
        "ON CONFLICT DO NOTHING",
        [consumer, *partition, offset.next, offset.cluster_id, offset.topic_id],
    )


def advance_offsets(connection: Connection, consumer: str, moves: Mapping[TopicPartition, tuple[int, int]]) -> None:
    """Move each partition from its position before the batch to the one after. Raises Fenced if one was not there.

    The rows stay locked until the transaction ends, so of two owners only one commits. Moves are made in one order
    everywhere, so that two owners of several partitions do not deadlock.
    """
    lost = []
    for partition, (position, new) in sorted(moves.items()):
        moved = connection.execute(
            "UPDATE offsets SET next = %s WHERE consumer = %s AND topic = %s AND partition = %s AND next = %s",
            [new, consumer, *partition, position],
        )
        if moved.rowcount != 1:
            lost.append(partition)
    if lost:
        raise Fenced(lost)


def unseen(
    connection: Connection, consumer: str, records: Mapping[tuple[TopicPartition, str], Sequence[int]]
) -> dict[tuple[TopicPartition, str], set[int]]:
    """Of the sequence numbers of each (partition, source), those never counted; all of them count as seen from now on.

    Call it after `advance_offsets`: the offset's row lock is what makes reading and writing one step.
    """
    fresh = {}
    for ((topic, partition), source), sequences in sorted(records.items()):
        row = connection.execute(
            "SELECT sequences FROM seen WHERE consumer = %s AND topic = %s AND partition = %s AND source = %s",
            [consumer, topic, partition, source],
        ).fetchone()
        known = row[0] if row else ()
        new = {number for number in set(sequences) if not any(number in interval for interval in known)}
        fresh[(topic, partition), source] = new
        if new:
            connection.execute(
                "INSERT INTO seen AS s (consumer, topic, partition, source, sequences) "
                "VALUES (%s, %s, %s, %s, %s::int8multirange) ON CONFLICT (consumer, topic, partition, source) "
                "DO UPDATE SET sequences = s.sequences + excluded.sequences",
                [consumer, topic, partition, source, _multirange(new)],
            )
    return fresh


def _multirange(numbers: Iterable[int]) -> str:
    """The intervals of a set of numbers, as Postgres writes them: {1, 2, 3, 7} → {[1,4),[7,8)}."""
    intervals: list[list[int]] = []
    for number in sorted(numbers):
        if intervals and intervals[-1][1] == number:
            intervals[-1][1] = number + 1
        else:
            intervals.append([number, number + 1])
    return "{" + ",".join(f"[{low},{high})" for low, high in intervals) + "}"
