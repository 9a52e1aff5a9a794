"""After a restore: the log holds what the services published since the backup, and the database does not know of it.

What label-ingest, the monitor and the trainer decide anew from the restored state is not what they decided then, but
would be numbered alike. So each shard gets a new name, and what it numbered under the old one after the backup counts
for no consumer: of each decision the log then holds one that counts.
"""

from collections.abc import Iterable

import psycopg
from psycopg import Connection, sql

from driftloop.common.postgres import migrations
from driftloop.common.topics import TOPICS, Namespace

# What the shard's outbox had numbered at the time of the backup is counted as ever; all later numbers are as if seen.
_FORGET = """
INSERT INTO {seen} AS s (consumer, topic, partition, source, sequences)
SELECT o.consumer, o.topic, o.partition, %(source)s, int8multirange(int8range(coalesce(g.next, 0), NULL))
FROM {offsets} o LEFT JOIN (
    SELECT names.name, given.partition, given.next FROM {given} AS given
    JOIN unnest(%(topics)s::text[], %(names)s::text[]) AS names (topic, name) USING (topic)
    WHERE given.shard = %(shard)s
) AS g ON g.name = o.topic AND g.partition = o.partition
ON CONFLICT (consumer, topic, partition, source) DO UPDATE SET sequences = s.sequences + excluded.sequences
"""


def retire_outboxes(database_url: str, namespace: Namespace) -> list[str]:
    """Have every shard of every service begin under a new name, as an administrator. Returns the old names.

    No service may run. On a database that was not restored it changes nothing that counts: numbered rows keep their
    old name, and no later number of that name exists. Raises MigrationError where a schema is not up to date, and
    psycopg.Error; all is changed or nothing.
    """
    retired = []
    with psycopg.connect(database_url, connect_timeout=10) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [migrations.LOCK])
        schemas = {service: namespace.schema(service) for service in migrations.services()}
        _check(connection, schemas)
        for schema in schemas.values():
            for shard, source in connection.execute(_in("SELECT shard, source FROM {}", schema, "outbox_shards")):
                _retire(connection, namespace, schema, schemas.values(), shard, source)
                retired.append(source)
    return retired


def _check(connection: Connection, schemas: dict[str, str]) -> None:
    for service, schema in schemas.items():
        connection.execute(sql.SQL("SET LOCAL search_path TO {}").format(sql.Identifier(schema)))
        problem = migrations.check_migrated(connection, service)
        if problem is not None:
            raise migrations.MigrationError(f"{schema}: {problem}")


def _retire(
    connection: Connection, namespace: Namespace, schema: str, readers: Iterable[str], shard: int, source: str
) -> None:
    names = {topic.name: namespace.topic(topic) for topic in TOPICS}
    for reader in readers:
        statement = sql.SQL(_FORGET).format(
            seen=sql.Identifier(reader, "seen"),
            offsets=sql.Identifier(reader, "offsets"),
            given=sql.Identifier(schema, "outbox_sequences"),
        )
        known = {"source": source, "shard": shard, "topics": list(names), "names": list(names.values())}
        connection.execute(statement, known)
    connection.execute(_in("INSERT INTO {} VALUES (%s) ON CONFLICT DO NOTHING", schema, "outbox_retired"), [source])
    keep = "UPDATE {} SET source = %s WHERE shard = %s AND sequence IS NOT NULL AND source IS NULL"
    connection.execute(_in(keep, schema, "outbox"), [source, shard])
    for table in ("outbox_sequences", "outbox_shards"):
        connection.execute(_in("DELETE FROM {} WHERE shard = %s", schema, table), [shard])


def _in(statement: str, schema: str, table: str) -> sql.Composed:
    return sql.SQL(statement).format(sql.Identifier(schema, table))
