"""The SQL of retention: what is kept of versions, who may need it, and what is to be deleted or was."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import Connection

from driftloop.trainer.domain.retention import KeptVersion, PastState, SeenReplica

_STATES = """
SELECT revision, (state->>'champion')::int,
    ARRAY(SELECT (one->>'version')::int FROM jsonb_array_elements(state->'versions') AS one), decided_at
FROM revisions WHERE model_name = %s ORDER BY revision DESC
"""
# Also one that was interrupted: it makes the same set again.
_TRAINED = """
SELECT 1 FROM requests WHERE model_name = %s AND closed_at IS NULL
AND (state = 'training' OR (state = 'awaiting-labels' AND tries > 0))
"""
_NEXT = """
SELECT model_name, version, artifact->>'uri', card->'training'->>'digest' FROM versions
WHERE files_released_at IS NOT NULL AND files_deleted_at IS NULL
ORDER BY files_released_at, model_name, version OFFSET %s LIMIT 1 FOR UPDATE SKIP LOCKED
"""


@dataclass(frozen=True)
class Released:
    """A version whose files are to be deleted: where they are, and the digest of its training set."""

    model_name: str
    version: int
    uri: str
    training_set: str | None


@dataclass(frozen=True)
class Facts:
    """What is known of a model's versions and of who may need them."""

    versions: Sequence[KeptVersion]
    states: Sequence[PastState]
    replicas: Sequence[SeenReplica]


class RetentionStore:
    """What is kept of versions, in one connection's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def facts(self, model: str) -> Facts:
        """All that decides; no serving state of the model is decided until the transaction ends."""
        self._connection.execute("SELECT 1 FROM models WHERE model_name = %s FOR UPDATE", [model])
        versions = self._connection.execute(
            "SELECT version, status, created_at FROM versions WHERE model_name = %s AND files_released_at IS NULL",
            [model],
        ).fetchall()
        states = self._connection.execute(_STATES, [model]).fetchall()
        replicas = self._connection.execute(
            "SELECT revision, model_version, reported_at FROM replicas WHERE model_name = %s", [model]
        ).fetchall()
        return Facts(
            [KeptVersion(*row) for row in versions],
            [PastState(*row) for row in states],
            [SeenReplica(*row) for row in replicas],
        )

    def release(self, model: str, versions: Sequence[int], now: datetime) -> None:
        """Nobody needs these versions any more: from now on none may be served again."""
        self._connection.execute(
            "UPDATE versions SET files_released_at = %s "
            "WHERE model_name = %s AND version = ANY(%s) AND files_released_at IS NULL",
            [now, model, list(versions)],
        )

    def next_released(self, skip: int) -> Released | None:
        """The version after `skip` others whose files are to be deleted; locked until the transaction ends."""
        row = self._connection.execute(_NEXT, [skip]).fetchone()
        return Released(*row) if row else None

    def set_deleted(self, released: Released, now: datetime) -> None:
        """The version's files are gone."""
        self._connection.execute(
            "UPDATE versions SET files_deleted_at = %s WHERE model_name = %s AND version = %s",
            [now, released.model_name, released.version],
        )

    def left_behind(self, model: str, before: datetime) -> list[int] | None:
        """The numbers that were given before an instant and of which no version came; None while the model is trained.

        No training of the model begins until the transaction ends, and none that ended registers its version.
        """
        self._connection.execute("SELECT 1 FROM models WHERE model_name = %s FOR UPDATE", [model])
        if self._connection.execute(_TRAINED, [model]).fetchone():
            return None
        rows = self._connection.execute(
            "SELECT version FROM reserved_versions WHERE model_name = %s AND reserved_at < %s ORDER BY version",
            [model, before],
        )
        return [version for (version,) in rows]

    def counts(self, model: str) -> tuple[int, int]:
        """Of how many versions the files are there, and of how many of these they are to be deleted."""
        row = self._connection.execute(
            "SELECT count(*), count(files_released_at) FROM versions "
            "WHERE model_name = %s AND files_deleted_at IS NULL",
            [model],
        ).fetchone()
        assert row is not None
        return int(row[0]), int(row[1])
