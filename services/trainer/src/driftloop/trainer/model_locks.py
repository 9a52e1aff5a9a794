"""Who works on a model: one trainer at a time, by a lock that the database takes back when that trainer dies."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import psycopg
from psycopg import Connection

from driftloop.common.postgres.pool import Pool

_KEY = "0x54726169, hashtext(current_schema() || '.' || %s)"
_TAKE = f"SELECT pg_try_advisory_lock({_KEY})"
_GIVE_BACK = f"SELECT pg_advisory_unlock({_KEY})"


class ModelLocks:
    """The models' locks. However many are held, they take one of the pool's connections: they belong to its session.

    No transaction stays open while one is held. For several threads, of which each has models of its own.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._connection: Connection | None = None
        self._mutex = threading.Lock()
        # By model the session that has its lock.
        self._held: dict[str, Connection] = {}

    @contextmanager
    def hold(self, model: str) -> Iterator[Callable[[], bool] | None]:
        """Hold a model's lock for the time of a block; None where another trainer has it.

        What the block is given says whether it is held still. Where the session is gone, it is taken anew by another
        one, unless another trainer was quicker. Both raise psycopg.Error while the database is away.
        """
        if not self._take(model):
            yield None
            return
        try:
            yield partial(self._keep, model)
        finally:
            session = self._held.pop(model)
            if not session.closed:
                session.execute(_GIVE_BACK.encode(), [model])

    def close(self) -> None:
        """Give the connection back, and with it whatever is held."""
        with self._mutex:
            self._drop()

    def _take(self, model: str) -> bool:
        session = self._session()
        row = session.execute(_TAKE.encode(), [model]).fetchone()
        if not (row and row[0]):
            return False
        self._held[model] = session
        return True

    def _keep(self, model: str) -> bool:
        return _answers(self._held[model]) or self._take(model)

    def _session(self) -> Connection:
        """The connection that holds the locks; another one where that is gone."""
        with self._mutex:
            if self._connection is None or self._connection.closed:
                self._drop()
                found = self._pool.getconn()
                found.autocommit = True
                self._connection = found
            return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            # Closed, because the pool would give it to others with the locks.
            self._connection.close()
            self._pool.putconn(self._connection)
            self._connection = None


def _answers(session: Connection) -> bool:
    try:
        session.execute("SELECT 1")
    except psycopg.Error:
        return False
    return True
