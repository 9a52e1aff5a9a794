"""Connections of one service: its role, its schema, its errors sorted by fate."""

import psycopg
from psycopg import Connection, conninfo
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool

Pool = ConnectionPool[Connection[TupleRow]]

# SQLSTATE classes that a second try may pass: connection, resources, operator's intervention, rolled-back transaction.
TRANSIENT_CLASSES = ("08", "40", "53", "57", "58")
# Classes that blame the data: the same record will fail for ever.
PERMANENT_CLASSES = ("22", "23")


def connection_string(database_url: str, schema: str, application_name: str) -> str:
    """The service's connection string, with its schema as the search path."""
    return conninfo.make_conninfo(
        database_url,
        application_name=application_name,
        options=f"-c search_path={schema} -c timezone=UTC -c idle_in_transaction_session_timeout=60s",
        connect_timeout=5,
        keepalives_idle=10,
    )


def open_pool(database_url: str, schema: str, application_name: str, max_size: int = 8) -> Pool:
    """A pool that opens in the background: a database that is away at start makes the service unready, not dead."""
    return ConnectionPool(
        connection_string(database_url, schema, application_name),
        min_size=1,
        max_size=max_size,
        timeout=5,
        max_idle=300,
        reconnect_timeout=30,
        check=ConnectionPool.check_connection,
        name=application_name,
        open=True,
    )


def is_transient(error: psycopg.Error) -> bool:
    """Whether a later try of the same transaction may pass."""
    state = error.sqlstate
    if state is None:  # no server answered: the connection broke, or the pool had none to give
        return isinstance(error, psycopg.OperationalError)
    return state[:2] in TRANSIENT_CLASSES


def is_permanent(error: psycopg.Error) -> bool:
    """Whether the data itself is to blame."""
    return error.sqlstate is not None and error.sqlstate[:2] in PERMANENT_CLASSES


def reachable(pool: Pool) -> bool:
    """Whether the database answers."""
    try:
        with pool.connection(timeout=2) as connection:
            connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True
