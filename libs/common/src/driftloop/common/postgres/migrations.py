"""Schemas, roles and migrations: one command, safe when several start it at once.

Each service brings `NNNN_name.sql` files in a package that the entry-point group `driftloop.migrations` names. A file
that was applied must never change: its digest is kept and compared.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.resources import files

import psycopg
from psycopg import sql

from driftloop.common.settings import Secret
from driftloop.common.topics import Namespace

ENTRY_POINTS = "driftloop.migrations"
# Any constant will do: it only has to be the same for everyone who migrates.
LOCK = 0x44726966
# What every schema has, in order.
COMMON = ("common.sql", "common_restored.sql")


class MigrationError(RuntimeError):
    """A migration does not fit what was applied before, or the database cannot hold what it makes."""


@dataclass(frozen=True)
class Migration:
    """One file: applied once, in the order of names."""

    name: str
    statements: str

    @property
    def digest(self) -> str:
        """SHA-256 of the text."""
        return hashlib.sha256(self.statements.encode()).hexdigest()


def services() -> dict[str, tuple[Migration, ...]]:
    """The installed services that keep a schema, by import name, with their migrations in order."""
    common = tuple(
        Migration(f"0000_{name}", files("driftloop.common.postgres").joinpath(name).read_text()) for name in COMMON
    )
    found = {}
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name):
        own = [
            Migration(path.name, path.read_text())
            for path in sorted(files(entry.value).iterdir(), key=lambda path: path.name)
            if path.name.endswith(".sql")
        ]
        found[entry.name] = (*common, *own)
    return found


def migrate(database_url: str, namespace: Namespace, passwords: Mapping[str, Secret]) -> dict[str, list[str]]:
    """Bring every service's schema up to date as an administrator. Returns what was applied, by service.

    Creates a role a service (with the password given for it) and a schema that only it may use. Raises MigrationError,
    psycopg.Error; either everything is applied or nothing.
    """
    applied = {}
    with psycopg.connect(database_url, connect_timeout=10) as connection:
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            # In another one a text comes back as bytes, or not at all.
            raise MigrationError(
                f"database {connection.info.dbname!r} has the encoding {encoding}: make it anew with ENCODING 'UTF8'"
            )
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        for service, migrations in services().items():
            if service not in passwords:
                raise MigrationError(
                    f"service {service!r} has no password: set DRIFTLOOP_{service.upper()}_DB_PASSWORD"
                )
            schema, role = namespace.schema(service), namespace.role(service)
            _ensure_role(connection, role, passwords[service])
            _ensure_schema(connection, schema, role)
            applied[service] = _apply(connection, schema, role, migrations)
    return applied


def _ensure_role(connection: psycopg.Connection, role: str, password: Secret) -> None:
    exists = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone()
    statement = "ALTER ROLE {} LOGIN PASSWORD {}" if exists else "CREATE ROLE {} LOGIN PASSWORD {}"
    connection.execute(sql.SQL(statement).format(sql.Identifier(role), sql.Literal(password.value)))


def _ensure_schema(connection: psycopg.Connection, schema: str, role: str) -> None:
    names = {"schema": sql.Identifier(schema), "role": sql.Identifier(role)}
    connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {schema}").format(**names))
    connection.execute(sql.SQL("REVOKE ALL ON SCHEMA {schema} FROM PUBLIC").format(**names))
    connection.execute(sql.SQL("GRANT USAGE ON SCHEMA {schema} TO {role}").format(**names))
    # The role may read and write rows; it cannot change its own tables.
    for objects, rights in (
        ("TABLES", "SELECT, INSERT, UPDATE, DELETE, TRUNCATE"),
        ("SEQUENCES", "USAGE, SELECT"),
        ("FUNCTIONS", "EXECUTE"),
    ):
        connection.execute(
            sql.SQL("ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT {rights} ON {objects} TO {role}").format(
                rights=sql.SQL(rights), objects=sql.SQL(objects), **names
            )
        )
    connection.execute(
        sql.SQL(
            "CREATE TABLE IF NOT EXISTS {schema}.schema_migrations (name text PRIMARY KEY, digest text NOT NULL)"
        ).format(**names)
    )


def _apply(connection: psycopg.Connection, schema: str, role: str, migrations: tuple[Migration, ...]) -> list[str]:
    connection.execute(sql.SQL("SET LOCAL search_path TO {}").format(sql.Identifier(schema)))
    known: dict[str, str] = dict(connection.execute("SELECT name, digest FROM schema_migrations").fetchall())
    applied = []
    for migration in migrations:
        digest = known.get(migration.name)
        if digest is None:
            connection.execute(migration.statements.encode())
            connection.execute("INSERT INTO schema_migrations VALUES (%s, %s)", [migration.name, migration.digest])
            applied.append(migration.name)
        elif digest != migration.digest:
            raise MigrationError(
                f"{schema}: migration {migration.name} was applied with other text: restore it and add a new file"
            )
    return applied


def check_migrated(connection: psycopg.Connection, service: str) -> str | None:
    """Why the service's own schema (first in the search path) is not what its code expects, or None."""
    try:
        with connection.transaction():
            known = {name for (name,) in connection.execute("SELECT name FROM schema_migrations").fetchall()}
    except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
        return "the schema does not exist: run `driftloop migrate`"
    missing = [migration.name for migration in services()[service] if migration.name not in known]
    return f"migrations {missing} are not applied: run `driftloop migrate`" if missing else None
