"""The trainer's SQL: models, versions, revisions, requests, replicas."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from psycopg import Connection
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from driftloop.common.events import ArtifactRef, ModelStatus, ModelUpdated
from driftloop.trainer.domain.card import ModelCard


@dataclass(frozen=True)
class Model:
    """A model's serving state as last decided; `champion` is None before version 1."""

    name: str
    revision: int
    champion: int | None


@dataclass(frozen=True)
class Request:
    """A retraining that waits. `labels_before_next` labels of the new population must be there before an attempt."""

    id: int
    model_name: str
    model_version: int
    changed_since: datetime
    opened_at: datetime
    attempts: int
    labels_before_next: int
    traceparent: str | None = None


# A card is signed and never changes; whether its training set can be rebuilt does. NULL: written by an older release.
_SET = """
CASE WHEN s.digest IS NOT NULL THEN json_build_object('digest', s.digest, 'rebuildable', s.rebuildable,
    'reason', s.reason, 'not_rebuildable_since', s.not_rebuildable_since, 'purged_at', s.purged_at) END AS training_set
FROM versions v LEFT JOIN training_sets s ON (s.model_name, s.digest) = (v.model_name, v.card->'training'->>'digest')
"""


class Store:
    """All that the trainer remembers, in one connection's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # --- models and versions

    def lock_model(self, name: str, now: datetime) -> Model:
        """The model's row, made if need be, locked until the transaction ends."""
        self._connection.execute(
            "INSERT INTO models (model_name, changed_at) VALUES (%s, %s) ON CONFLICT DO NOTHING", [name, now]
        )
        row = self._connection.execute(
            "SELECT model_name, revision, champion FROM models WHERE model_name = %s FOR UPDATE", [name]
        ).fetchone()
        assert row is not None
        return Model(*row)

    def model(self, name: str) -> Model | None:
        """The model's row, unlocked."""
        row = self._connection.execute(
            "SELECT model_name, revision, champion FROM models WHERE model_name = %s", [name]
        ).fetchone()
        return Model(*row) if row else None

    def reserve_version(self, name: str) -> int:
        """The next free version number. Numbers are never given twice; one that came to nothing leaves a hole."""
        row = self._connection.execute(
            "UPDATE models SET next_version = next_version + 1 WHERE model_name = %s RETURNING next_version - 1", [name]
        ).fetchone()
        assert row is not None
        return int(row[0])

    def add_version(self, card: ModelCard, artifact: ArtifactRef, *, champion: bool) -> None:
        """Record a version; a new champion retires the old one."""
        if champion:
            self._connection.execute(
                "UPDATE versions SET status = 'retired' WHERE model_name = %s AND status = 'champion'",
                [card.model_name],
            )
        self._connection.execute(
            "INSERT INTO versions (model_name, version, status, artifact, card, created_at) "
            "VALUES (%s, %s, %s, %s, %s, %s)",
            [
                card.model_name,
                card.model_version,
                "champion" if champion else "rejected",
                Jsonb(msgspec.to_builtins(artifact)),
                Jsonb(msgspec.to_builtins(card)),
                card.created,
            ],
        )

    def artifact(self, name: str, version: int) -> ArtifactRef:
        """Where a version's bundle is. Raises LookupError."""
        row = self._connection.execute(
            "SELECT artifact FROM versions WHERE model_name = %s AND version = %s", [name, version]
        ).fetchone()
        if row is None:
            raise LookupError(f"model {name!r} has no version {version}")
        return msgspec.convert(row[0], ArtifactRef)

    def set_state(self, state: ModelUpdated) -> None:
        """Make `state` what the model shall serve, and remember it."""
        self._connection.execute(
            "UPDATE models SET revision = %s, champion = %s, changed_at = %s WHERE model_name = %s",
            [state.revision, state.champion, state.decided_at, state.model_name],
        )
        self._connection.execute(
            "INSERT INTO revisions (model_name, revision, state, decided_at) VALUES (%s, %s, %s, %s)",
            [state.model_name, state.revision, Jsonb(msgspec.to_builtins(state)), state.decided_at],
        )

    # --- requests

    def open_request(
        self, event_id: str, traceparent: str | None, model: str, version: int, since: datetime, now: datetime
    ) -> bool:
        """Open a request unless this event opened one before or another of the model waits. Says whether it did."""
        opened = self._connection.execute(
            "INSERT INTO requests (model_name, model_version, event_id, traceparent, state, changed_since, opened_at) "
            "VALUES (%s, %s, %s, %s, 'waiting', %s, %s) ON CONFLICT DO NOTHING",
            [model, version, event_id, traceparent, since, now],
        )
        return opened.rowcount == 1

    def move_request(self, model: str, changed_since: datetime) -> None:
        """Let the model's waiting request count only rows from a later instant on; an earlier one changes nothing."""
        self._connection.execute(
            "UPDATE requests SET changed_since = greatest(changed_since, %s) "
            "WHERE model_name = %s AND state = 'waiting'",
            [changed_since, model],
        )

    def waiting_request(self, model: str, *, lock: bool = False) -> Request | None:
        """The model's request that waits, if there is one."""
        row = self._connection.execute(
            "SELECT id, model_name, model_version, changed_since, opened_at, attempts, labels_before_next, traceparent "
            "FROM requests WHERE model_name = %s AND state = 'waiting'" + (" FOR UPDATE" if lock else ""),
            [model],
        ).fetchone()
        return Request(*row) if row else None

    def close_request(self, request: int, state: str, reason: str, now: datetime) -> None:
        """End a request: `promoted`, `withdrawn` or `superseded`."""
        self._connection.execute(
            "UPDATE requests SET state = %s, reason = %s, lacking = '{}', closed_at = %s WHERE id = %s",
            [state, reason, now, request],
        )

    def keep_waiting(self, request: int, reason: str, lacking: Mapping[str, int]) -> None:
        """Say what a request waits for."""
        self._connection.execute(
            "UPDATE requests SET reason = %s, lacking = %s WHERE id = %s", [reason, Jsonb(dict(lacking)), request]
        )

    def count_attempt(self, request: int, reason: str, labels_before_next: int) -> None:
        """An attempt was rejected; the next one needs that many labels of the new population."""
        self._connection.execute(
            "UPDATE requests SET attempts = attempts + 1, reason = %s, labels_before_next = %s WHERE id = %s",
            [reason, labels_before_next, request],
        )

    # --- replicas

    def record_status(self, statuses: Sequence[ModelStatus]) -> None:
        """Keep what each replica last said of itself; an older report never replaces a newer one."""
        with self._connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO replicas AS r (model_name, replica, revision, model_version, since, reported_at, error) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (model_name, replica) DO UPDATE SET "
                "revision = excluded.revision, model_version = excluded.model_version, since = excluded.since, "
                "reported_at = excluded.reported_at, error = excluded.error "
                "WHERE r.reported_at <= excluded.reported_at",
                [
                    (
                        one.model_name,
                        one.replica,
                        one.revision,
                        one.model_version,
                        one.since,
                        one.reported_at,
                        one.error,
                    )
                    for one in statuses
                ],
            )

    # --- reading for people

    def overview(self, model: str) -> dict[str, Any]:
        """Versions, requests and replicas of a model, newest first, as JSON-ready values."""
        return {
            "versions": self._rows(
                "SELECT version, status, v.created_at, card->'training' AS training, card->'metrics' AS metrics, "
                f"card->'decision' AS decision, {_SET} WHERE v.model_name = %s ORDER BY version DESC LIMIT 50",
                model,
            ),
            "requests": self._rows(
                "SELECT id, model_version, state, reason, lacking, attempts, changed_since, opened_at, closed_at "
                "FROM requests WHERE model_name = %s ORDER BY id DESC LIMIT 50",
                model,
            ),
            "replicas": self._rows(
                "SELECT replica, revision, model_version, since, reported_at, error FROM replicas "
                "WHERE model_name = %s ORDER BY reported_at DESC LIMIT 200",
                model,
            ),
        }

    def card(self, model: str, version: int) -> dict[str, Any] | None:
        """A version's model card as JSON-ready values, with what is known of its training set today."""
        rows = self._rows(f"SELECT card, {_SET} WHERE v.model_name = %s AND version = %s", model, version)
        return rows[0]["card"] | {"training_set": rows[0]["training_set"]} if rows else None

    def _rows(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        with self._connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query.encode(), arguments).fetchall()
