"""After a restore: the log holds what the services published since the backup, and the database does not know of it.

What label-ingest, the monitor and the trainer decide anew from the restored state is not what they decided then, but
would be numbered alike. So each shard gets a new name, and what was numbered after the backup, under the old name or
under one that the database has never met, counts for no consumer: of each decision the log then holds one that counts.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import psycopg
from psycopg import Connection, sql

from driftloop.common.envelope import numbered
from driftloop.common.kafka.config import Brokers
from driftloop.common.kafka.reader import bounds, read_ranges
from driftloop.common.postgres import migrations
from driftloop.common.postgres.offsets import TopicPartition
from driftloop.common.postgres.outbox import shard_lock
from driftloop.common.topics import DRIFT_EVENTS, LABELED_PREDICTIONS, MODEL_UPDATES, Namespace

CLIENT = "driftloop-restored"
# What outboxes publish; all else is predictors' and laboratories', whose numbers no database gives.
PUBLISHED = (LABELED_PREDICTIONS, DRIFT_EVENTS, MODEL_UPDATES)

_FORGET = """
INSERT INTO {} AS s (consumer, topic, partition, source, sequences)
VALUES (%s, %s, %s, %s, int8multirange(int8range(%s, NULL)))
ON CONFLICT (consumer, topic, partition, source) DO UPDATE SET sequences = s.sequences + excluded.sequences
"""


class StillRunning(RuntimeError):
    """A service runs whose outbox is to be given another name."""


@dataclass(frozen=True)
class _Service:
    """A service by its import name, its schema, and by the name that it goes by in the log."""

    module: str
    schema: str

    @property
    def name(self) -> str:
        return self.module.replace("_", "-")

    def table(self, statement: str, table: str) -> sql.Composed:
        return sql.SQL(statement).format(sql.Identifier(self.schema, table))


def retire_outboxes(database_url: str, namespace: Namespace, brokers: Brokers | str) -> list[str]:
    """Have every shard of every service begin under a new name, as an administrator. Returns the old names.

    On a database that was not restored it changes nothing that counts: rows that have a number keep their old name,
    and no later number of that name exists. Raises MigrationError where a schema is not up to date, StillRunning,
    psycopg.Error, KafkaException and ReadTimeout; all is changed or nothing.
    """
    with psycopg.connect(database_url, connect_timeout=10) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [migrations.LOCK])
        services = [_Service(module, namespace.schema(module)) for module in migrations.services()]
        for service in services:
            _check(connection, service)
        ends = {name: bounds(brokers, CLIENT, name) for name in map(namespace.topic, PUBLISHED)}
        places = [(topic, partition) for topic, partitions in ends.items() for partition in partitions]
        names = _names(connection, services, brokers, ends)
        retired: list[str] = []
        for service in services:
            numbers = _numbers(connection, namespace, service, names)
            for source, given in numbers.items():
                _forget(connection, services, source, {place: given.get(place, 0) for place in places})
            _rename(connection, service, numbers)
            retired += numbers
    return retired


def _check(connection: Connection, service: _Service) -> None:
    connection.execute(sql.SQL("SET LOCAL search_path TO {}").format(sql.Identifier(service.schema)))
    problem = migrations.check_migrated(connection, service.module)
    if problem is not None:
        raise migrations.MigrationError(f"{service.schema}: {problem}")
    shards = {shard for (shard,) in connection.execute("SELECT shard FROM outbox_shards").fetchall()} | {0}
    if not all(shard_lock(connection, shard, until="transaction") for shard in sorted(shards)):
        raise StillRunning(f"{service.name} runs: stop it, as all services but the predictors, and repeat this")


def _names(
    connection: Connection,
    services: Collection[_Service],
    brokers: Brokers | str,
    ends: Mapping[str, Mapping[int, tuple[int, int]]],
) -> set[str]:
    """By what names outboxes have published what somebody has still to read."""
    read: defaultdict[TopicPartition, list[int]] = defaultdict(list)
    for service in services:
        query = service.table("SELECT topic, partition, next FROM {}", "offsets")
        for topic, partition, following in connection.execute(query).fetchall():
            read[topic, partition].append(following)
    found = set()
    for topic, partitions in ends.items():
        ranges = {
            partition: (max(low, min(read.get((topic, partition), [low]))), high)
            for partition, (low, high) in partitions.items()
        }
        for records in read_ranges(brokers, CLIENT, topic, ranges):
            found |= {numbered(record.headers)[0] for record in records}
    return found


def _numbers(
    connection: Connection, namespace: Namespace, service: _Service, names: Collection[str]
) -> dict[str, dict[TopicPartition, int]]:
    """The names to retire, and of each its first number in each partition that the database has not given."""
    numbers: dict[str, dict[TopicPartition, int]] = {}
    retired = {name for (name,) in connection.execute(service.table("SELECT source FROM {}", "outbox_retired"))}
    ours = re.compile(rf"{re.escape(service.name)}/outbox-\d+/")
    for name in sorted(names):
        if ours.match(name) and name not in retired:
            numbers[name] = {}
    for shard, source in connection.execute(service.table("SELECT shard, source FROM {}", "outbox_shards")).fetchall():
        query = service.table("SELECT topic, partition, next FROM {} WHERE shard = %s", "outbox_sequences")
        given = {topic.name: namespace.topic(topic) for topic in PUBLISHED}
        numbers[source] = {
            (given[topic], partition): following
            for topic, partition, following in connection.execute(query, [shard]).fetchall()
            if topic in given
        }
    return numbers


def _forget(
    connection: Connection, services: Collection[_Service], source: str, first: Mapping[TopicPartition, int]
) -> None:
    """Let every number of `source` from `first` on be as if every consumer had seen it."""
    for service in services:
        rows = [
            (consumer, *place, source, number)
            for consumer in sorted(_consumers(connection, service))
            for place, number in first.items()
        ]
        with connection.cursor() as cursor:
            cursor.executemany(service.table(_FORGET, "seen"), rows)


def _consumers(connection: Connection, service: _Service) -> Iterator[str]:
    """A service's consumers: also the one that has not read anything yet."""
    found = connection.execute(service.table("SELECT DISTINCT consumer FROM {}", "offsets")).fetchall()
    yield from {service.name, *(consumer for (consumer,) in found)}


def _rename(connection: Connection, service: _Service, sources: Collection[str]) -> None:
    keep = "UPDATE {} AS row SET source = (SELECT source FROM {} AS s WHERE s.shard = row.shard) "
    connection.execute(
        sql.SQL(keep + "WHERE sequence IS NOT NULL AND source IS NULL").format(
            sql.Identifier(service.schema, "outbox"), sql.Identifier(service.schema, "outbox_shards")
        )
    )
    with connection.cursor() as cursor:
        retire = service.table("INSERT INTO {} VALUES (%s) ON CONFLICT DO NOTHING", "outbox_retired")
        cursor.executemany(retire, [(source,) for source in sources])
    for table in ("outbox_sequences", "outbox_shards"):
        connection.execute(service.table("DELETE FROM {}", table))
