"""Schemas, roles and migrations: one command, safe when several start it at once, each schema its role's alone."""

import os
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg import conninfo, sql

from driftloop.common.postgres import migrations
from driftloop.common.settings import Secret
from driftloop.common.topics import Namespace
from driftloop.demo.installation import remove
from driftloop.devstack import Stack
from tests.support.house import PASSWORD, House


def test_a_second_run_applies_nothing(house: House) -> None:
    assert set(house.migrate()) == {"drift_monitor", "label_ingest", "trainer"}
    assert not any(house.migrate().values())


def test_several_may_migrate_at_once(house: House) -> None:
    with psycopg.connect(house.stack.database_url, autocommit=True) as connection:
        for service in migrations.services():
            schema = sql.Identifier(house.namespace.schema(service))
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(schema))
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda _: house.migrate(), range(6)))
    appliers = [result for result in results if any(result.values())]
    assert len(appliers) == 1
    assert all(names[0] == "0000_common.sql" for names in appliers[0].values())


def test_four_commands_at_once_on_a_database_without_a_role_all_succeed_and_one_applies(
    stack: Stack, tmp_path: Path
) -> None:
    """As the pods of an installation do it; secrets come from files."""
    namespace = Namespace(f"t{uuid.uuid4().hex[:12]}")
    (tmp_path / "url").write_text(stack.database_url)
    (tmp_path / "password").write_text(PASSWORD + "\n")
    own = {"DATABASE_URL_FILE": str(tmp_path / "url"), "DRIFTLOOP_NAMESPACE": namespace.prefix}
    for service in migrations.services():
        own[f"DRIFTLOOP_{service.upper()}_DB_PASSWORD_FILE"] = str(tmp_path / "password")
    command = [sys.executable, "-m", "driftloop.cli.main", "migrate"]
    try:
        running = [
            subprocess.Popen(command, env=os.environ | own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(4)
        ]
        said = [process.communicate(timeout=120) for process in running]
        assert [(process.returncode, errors) for process, (_said, errors) in zip(running, said, strict=True)] == (
            [(0, "")] * 4
        )
        assert sorted("0000_common.sql" in text for text, _errors in said) == [False, False, False, True]
        with psycopg.connect(stack.database_url, user=namespace.role("trainer"), password=PASSWORD) as connection:
            connection.execute(sql.SQL("SELECT FROM {}.models").format(sql.Identifier(namespace.schema("trainer"))))
    finally:
        remove(stack, namespace)


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
        house.migrate()


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


def test_a_migration_that_fails_leaves_nothing_behind(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = migrations.Migration("9999_broken.sql", "CREATE TABLE half_done (n int); SELECT no_such_function()")
    installed = migrations.services()
    monkeypatch.setattr(migrations, "services", lambda: installed | {"trainer": (*installed["trainer"], broken)})
    with pytest.raises(psycopg.errors.UndefinedFunction):
        house.migrate()
    with house.database("trainer") as connection:
        assert connection.execute("SELECT to_regclass('half_done')").fetchone() == (None,)


def test_a_new_migration_is_applied_to_a_schema_that_is_in_use(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    added = migrations.Migration("9999_added.sql", "CREATE TABLE added (n int)")
    installed = migrations.services()
    monkeypatch.setattr(migrations, "services", lambda: installed | {"trainer": (*installed["trainer"], added)})
    assert house.migrate()["trainer"] == ["9999_added.sql"]
    with house.pool("trainer").connection() as connection:
        connection.execute("INSERT INTO added VALUES (1)")


def test_a_password_that_changed_holds_from_the_next_run_on(house: House) -> None:
    passwords = {service: Secret("a newer one") for service in migrations.services()}
    migrations.migrate(house.stack.database_url, house.namespace, passwords)
    url = conninfo.make_conninfo(house.database_url("trainer"), password="a newer one")
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM offsets").fetchone() == (0,)


def test_a_service_without_a_password_is_named_with_its_variable(house: House) -> None:
    with pytest.raises(migrations.MigrationError, match=r"set DRIFTLOOP_DRIFT_MONITOR_DB_PASSWORD"):
        migrations.migrate(house.stack.database_url, house.namespace, {})


def test_two_installations_on_one_database_do_not_meet(house: House) -> None:
    other = Namespace(f"{house.namespace.prefix}b")
    passwords = {service: Secret(PASSWORD) for service in migrations.services()}
    migrations.migrate(house.stack.database_url, other, passwords)
    try:
        url = conninfo.make_conninfo(house.stack.database_url, user=other.role("trainer"), password=PASSWORD)
        schema = sql.Identifier(house.namespace.schema("trainer"))
        with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(sql.SQL("SELECT * FROM {}.offsets").format(schema))
    finally:
        remove(house.stack, other)


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


def test_a_databases_owner_who_may_make_roles_is_administrator_enough(house: House) -> None:
    # What operators of databases give, who keep the superuser to themselves.
    owner, other = f"{house.namespace.prefix}_owner", Namespace(f"{house.namespace.prefix}c")
    names = {"owner": sql.Identifier(owner), "password": sql.Literal(PASSWORD)}
    passwords = {service: Secret(PASSWORD) for service in migrations.services()}
    url = conninfo.make_conninfo(house.stack.database_url, user=owner, password=PASSWORD, dbname=owner)
    with psycopg.connect(house.stack.database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {owner} LOGIN CREATEROLE PASSWORD {password}").format(**names))
        connection.execute(sql.SQL("CREATE DATABASE {owner} OWNER {owner} TEMPLATE template0").format(**names))
        try:
            assert all(migrations.migrate(url, other, passwords).values())
            assert not any(migrations.migrate(url, other, passwords).values())
        finally:
            connection.execute(sql.SQL("DROP DATABASE {owner}").format(**names))
            remove(house.stack, other)
            connection.execute(sql.SQL("DROP ROLE {owner}").format(**names))
