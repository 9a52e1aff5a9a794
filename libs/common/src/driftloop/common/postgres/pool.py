"""Connections of one service: its role, its schema, its errors sorted by fate."""

import logging
import threading
from collections.abc import Callable

import psycopg
from psycopg import Connection, conninfo
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool

logger = logging.getLogger(__name__)

Pool = ConnectionPool[Connection[TupleRow]]

# SQLSTATE classes that a second try may pass: connection, resources, operator's intervention, rolled-back transaction.
TRANSIENT_CLASSES = ("08", "40", "53", "57", "58")
# The server has become a standby; it ended a session that was paused; a lock did not come in time.
TRANSIENT_STATES = ("25006", "25P03", "55P03")
# Classes that blame the data: the same record will fail for ever. 54: a value is too large, for an index for example.
PERMANENT_CLASSES = ("22", "23", "54")


def connection_string(database_url: str, schema: str, application_name: str) -> str:
    """The service's connection string, with its schema as the search path."""
    return conninfo.make_conninfo(
        database_url,
        application_name=application_name,
        # The server, too, looks whether its client is there: what a vanished host has locked is free within 25 s.
        options=(
            f"-c search_path={schema} -c timezone=UTC -c idle_in_transaction_session_timeout=60s "
            "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
        ),
        connect_timeout=5,
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=3,
        # Keepalives wait while something sent is not acknowledged: without a limit of its own for a quarter of an hour.
        tcp_user_timeout=25_000,
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
    return state[:2] in TRANSIENT_CLASSES or state in TRANSIENT_STATES


def first_line(error: psycopg.Error) -> str:
    """What went wrong, for people: not the lines below, in which PostgreSQL quotes values. A text may be missing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def repeat(
    work: Callable[[threading.Event], object],
    stop: threading.Event,
    every_seconds: float,
    name: str,
    others: tuple[type[Exception], ...] = (),
) -> None:
    """Do the work every so many seconds until told to stop. What is away for a while is waited for.

    That is the database, and whatever else `others` says. Raises what the work raises otherwise.
    """
    away: tuple[type[Exception], ...] = (psycopg.Error, *others)
    while not stop.is_set():
        try:
            work(stop)
        except away as error:
            if isinstance(error, psycopg.Error) and not is_transient(error):
                raise
            logger.warning("waiting", extra={"worker": name, "error": type(error).__name__})
        stop.wait(every_seconds)


def is_permanent(error: psycopg.Error) -> bool:
    """Whether the data itself is to blame."""
    if error.sqlstate is None:  # the client refused it before any server saw it: a NUL in a text
        return isinstance(error, psycopg.DataError)
    return error.sqlstate[:2] in PERMANENT_CLASSES


def reachable(pool: Pool) -> bool:
    """Whether the database answers."""
    try:
        with pool.connection(timeout=2) as connection:
            connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True
