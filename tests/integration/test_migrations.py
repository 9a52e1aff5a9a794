"""Schemas, roles and migrations: one command, safe when several start it at once, each schema its role's alone."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg import conninfo, sql

from driftloop.common.postgres import migrations
from driftloop.common.settings import Secret
from tests.support.house import PASSWORD, House


def migrate(house: House) -> dict[str, list[str]]:
    passwords = {service: Secret(PASSWORD) for service in migrations.services()}
    return migrations.migrate(house.stack.database_url, house.namespace, passwords)


def test_a_second_run_applies_nothing(house: House) -> None:
    assert set(migrate(house)) == {"drift_monitor", "label_ingest", "trainer"}
    assert not any(migrate(house).values())


def test_several_may_migrate_at_once(house: House) -> None:
    with psycopg.connect(house.stack.database_url, autocommit=True) as connection:
        for service in migrations.services():
            schema = sql.Identifier(house.namespace.schema(service))
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(schema))
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda _: migrate(house), range(6)))
    appliers = [result for result in results if any(result.values())]
    assert len(appliers) == 1
    assert all(names[0] == "0000_common.sql" for names in appliers[0].values())


def test_no_service_reads_the_schema_of_another(house: House) -> None:
    with (
        psycopg.connect(house.database_url("trainer")) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        schema = sql.Identifier(house.namespace.schema("drift_monitor"))
        connection.execute(sql.SQL("SELECT * FROM {}.panes").format(schema))


def test_a_service_cannot_change_its_tables(house: House) -> None:
    with house.pool("drift_monitor").connection() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("DROP TABLE panes")


def test_a_migration_that_was_edited_after_it_was_applied_is_refused(house: House) -> None:
    with house.database("trainer") as connection:
        connection.execute("UPDATE schema_migrations SET digest = 'other' WHERE name = '0000_common.sql'")
    with pytest.raises(migrations.MigrationError, match=r"0000_common.sql was applied with other text"):
        migrate(house)


def test_a_database_that_is_not_utf8_is_refused(house: House) -> None:
    name = f"{house.namespace.prefix}_ascii"
    url = conninfo.make_conninfo(house.stack.database_url, dbname=name)
    with psycopg.connect(house.stack.database_url, autocommit=True) as connection:
        database = sql.Identifier(name)
        connection.execute(
            sql.SQL(
                "CREATE DATABASE {} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C'"
            ).format(database)
        )
        try:
            with pytest.raises(migrations.MigrationError, match=r"has the encoding SQL_ASCII: make it anew"):
                migrations.migrate(url, house.namespace, {})
        finally:
            connection.execute(sql.SQL("DROP DATABASE {}").format(database))


def test_a_service_sees_whether_its_schema_is_up_to_date(house: House) -> None:
    pool = house.pool("trainer")
    with pool.connection() as connection:
        assert migrations.check_migrated(connection, "trainer") is None
    with house.database("trainer") as connection:
        connection.execute("DELETE FROM schema_migrations WHERE name <> '0000_common.sql'")
    with pool.connection() as connection:
        problem = migrations.check_migrated(connection, "trainer")
    assert problem is not None
    assert "driftloop migrate" in problem
