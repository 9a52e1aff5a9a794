"""Where a consumer is, and what it has seen: written in the transaction of the results, fenced by compare-and-set."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from psycopg import Connection

TopicPartition = tuple[str, int]
# A producer's incarnation, as far as it writes into one partition: what sequence numbers are dense for.
Source = tuple[TopicPartition, str]

# The locks are taken in one order everywhere, so that two owners of several partitions do not deadlock.
_ADVANCE = """
WITH moves AS (
    SELECT * FROM unnest(%(topics)s::text[], %(partitions)s::int[], %(positions)s::bigint[], %(new)s::bigint[])
    AS m (topic, partition, position, new)
), locked AS (
    SELECT topic, partition, new FROM offsets JOIN moves USING (topic, partition)
    WHERE consumer = %(consumer)s AND next = position ORDER BY topic, partition FOR UPDATE OF offsets
)
UPDATE offsets SET next = locked.new FROM locked
WHERE offsets.consumer = %(consumer)s AND (offsets.topic, offsets.partition) = (locked.topic, locked.partition)
RETURNING offsets.topic, offsets.partition
"""
# The last SELECT sees the table as it was before the INSERT.
_SEE = """
WITH come AS (
    SELECT topic, partition, source, sequences::int8multirange AS sequences
    FROM unnest(%(topics)s::text[], %(partitions)s::int[], %(sources)s::text[], %(sequences)s::text[])
    AS c (topic, partition, source, sequences)
), written AS (
    INSERT INTO seen AS s (consumer, topic, partition, source, sequences)
    SELECT %(consumer)s, topic, partition, source, sequences FROM come
    ON CONFLICT (consumer, topic, partition, source) DO UPDATE SET sequences = s.sequences + excluded.sequences
)
SELECT topic, partition, source, seen.sequences * come.sequences FROM seen JOIN come USING (topic, partition, source)
WHERE consumer = %(consumer)s AND seen.sequences && come.sequences
"""


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

    The rows stay locked until the transaction ends, so of two owners only one commits.
    """
    moved = connection.execute(
        _ADVANCE,
        {
            "consumer": consumer,
            "topics": [topic for topic, _ in moves],
            "partitions": [partition for _, partition in moves],
            "positions": [position for position, _ in moves.values()],
            "new": [new for _, new in moves.values()],
        },
    ).fetchall()
    lost = moves.keys() - set(moved)
    if lost:
        raise Fenced(sorted(lost))


def unseen(connection: Connection, consumer: str, records: Mapping[Source, Sequence[int]]) -> dict[Source, set[int]]:
    """The sequence numbers never counted, of each source that brought one again; of a source left out all are new.

    All count as seen from now on. Call it after `advance_offsets`: the offset's row lock is what makes reading and
    writing one step.
    """
    if not records:
        return {}
    come = {source: set(numbers) for source, numbers in records.items()}
    rows = connection.execute(
        _SEE,
        {
            "consumer": consumer,
            "topics": [topic for (topic, _), _ in come],
            "partitions": [partition for (_, partition), _ in come],
            "sources": [source for _, source in come],
            "sequences": [_multirange(numbers) for numbers in come.values()],
        },
    ).fetchall()
    again = {source: numbers for source, numbers in come.items() if len(numbers) < len(records[source])}
    for topic, partition, source, known in rows:
        place = (topic, partition), source
        again[place] = come[place].difference(*(range(interval.lower, interval.upper) for interval in known))
    return again


def _multirange(numbers: Set[int]) -> str:
    """The intervals of a set of numbers, as Postgres writes them: {1, 2, 3, 7} → {[1,4),[7,8)}."""
    ordered = sorted(numbers)
    if ordered and ordered[-1] - ordered[0] == len(ordered) - 1:
        return f"{{[{ordered[0]},{ordered[-1] + 1})}}"
    intervals: list[list[int]] = []
    for number in ordered:
        if intervals and intervals[-1][1] == number:
            intervals[-1][1] = number + 1
        else:
            intervals.append([number, number + 1])
    return "{" + ",".join(f"[{low},{high})" for low, high in intervals) + "}"
