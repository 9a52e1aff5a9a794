"""The trainer's SQL: models, versions, revisions, replicas."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from psycopg import Connection
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from driftloop.common.events import ArtifactRef, ModelStatus, ModelUpdated
from driftloop.trainer.domain.card import ModelCard
from driftloop.trainer.domain.gate import GateDecision
from driftloop.trainer.request_store import RequestStore


@dataclass(frozen=True)
class Model:
    """A model's serving state as last decided; `champion` is None before version 1."""

    name: str
    revision: int
    champion: int | None


_SERVES_SINCE = """
SELECT min(decided_at) FROM revisions WHERE model_name = %(model)s AND revision > coalesce((
    SELECT max(revision) FROM revisions WHERE model_name = %(model)s AND (state->>'champion')::int <> %(version)s), 0)
"""
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

    def set_blocked(self, name: str, reason: str | None) -> None:
        """Say why nothing is to be learnt from a model's rows for now, or that something may be."""
        self._connection.execute("UPDATE models SET blocked = %s WHERE model_name = %s", [reason, name])

    def blocked(self, name: str) -> str | None:
        """Why nothing is to be learnt from a model's rows, None where something may be."""
        row = self._connection.execute("SELECT blocked FROM models WHERE model_name = %s", [name]).fetchone()
        return row[0] if row else None

    def reserve_version(self, name: str, at_least: int, now: datetime) -> int:
        """The next free version number. Numbers are never given twice; one that came to nothing leaves a hole."""
        row = self._connection.execute(
            "UPDATE models SET next_version = greatest(next_version, %s) + 1 WHERE model_name = %s "
            "RETURNING next_version - 1",
            [at_least, name],
        ).fetchone()
        assert row is not None
        self._connection.execute("INSERT INTO reserved_versions VALUES (%s, %s, %s)", [name, row[0], now])
        return int(row[0])

    def add_version(self, card: ModelCard, artifact: ArtifactRef) -> None:
        """Record a version that was made and judged, and serves nobody yet."""
        self._connection.execute(
            "INSERT INTO versions (model_name, version, status, artifact, card, created_at) "
            "VALUES (%s, %s, 'evaluated', %s, %s, %s)",
            [
                card.model_name,
                card.model_version,
                Jsonb(msgspec.to_builtins(artifact)),
                Jsonb(msgspec.to_builtins(card)),
                card.created,
            ],
        )
        self.forget_reserved(card.model_name, card.model_version)

    def forget_reserved(self, name: str, version: int) -> None:
        """A number is a version's now, or nothing is left that was written under it."""
        self._connection.execute(
            "DELETE FROM reserved_versions WHERE model_name = %s AND version = %s", [name, version]
        )

    def set_status(self, name: str, version: int, status: str) -> None:
        """Say what became of a version."""
        self._connection.execute(
            "UPDATE versions SET status = %s WHERE model_name = %s AND version = %s", [status, name, version]
        )

    def set_champion(self, name: str, version: int, old: str) -> None:
        """Make a version the champion; the one before becomes `old`."""
        self._connection.execute(
            "UPDATE versions SET status = %s WHERE model_name = %s AND status = 'champion' AND version <> %s",
            [old, name, version],
        )
        self.set_status(name, version, "champion")

    def artifact(self, name: str, version: int) -> ArtifactRef:
        """Where a version's bundle is. Raises LookupError, also of one whose files go or are gone."""
        row = self._connection.execute(
            "SELECT artifact, files_released_at FROM versions WHERE model_name = %s AND version = %s", [name, version]
        ).fetchone()
        if row is None:
            raise LookupError(f"model {name!r} has no version {version}")
        if row[1] is not None:
            raise LookupError(f"the files of version {version} of model {name!r} are deleted: take one that has them")
        return msgspec.convert(row[0], ArtifactRef)

    def decision(self, name: str, version: int) -> GateDecision:
        """What the gate said of a version that met a champion. Raises LookupError."""
        row = self._connection.execute(
            "SELECT card->'decision' FROM versions WHERE model_name = %s AND version = %s", [name, version]
        ).fetchone()
        if row is None or row[0] is None:
            raise LookupError(f"version {version} of model {name!r} was judged by no gate")
        return msgspec.convert(row[0], GateDecision)

    def serves_since(self, name: str, champion: int) -> datetime:
        """Since when the champion serves without a break."""
        row = self._connection.execute(_SERVES_SINCE, {"model": name, "version": champion}).fetchone()
        assert row is not None
        found: datetime = row[0]
        return found

    def champion_before(self, name: str, champion: int) -> int | None:
        """The version that served last before the champion and was not rolled back, None if there is none."""
        row = self._connection.execute(
            "SELECT version FROM revisions r JOIN versions v USING (model_name) "
            "WHERE version = (state->>'champion')::int AND model_name = %s AND version <> %s "
            "AND status <> 'rolled-back' ORDER BY revision DESC LIMIT 1",
            [name, champion],
        ).fetchone()
        return row[0] if row else None

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

    def state(self, name: str) -> ModelUpdated:
        """What the model shall serve, as it was decided last. Raises LookupError."""
        row = self._connection.execute(
            "SELECT state FROM revisions WHERE model_name = %s ORDER BY revision DESC LIMIT 1", [name]
        ).fetchone()
        if row is None:
            raise LookupError(f"model {name!r} has no version yet: make one with `trainer train`")
        return msgspec.convert(row[0], ModelUpdated)

    # --- replicas

    def record_status(self, statuses: Sequence[ModelStatus]) -> None:
        """Keep what each replica last said of itself; an older report never replaces a newer one."""
        with self._connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO replicas AS r (model_name, replica, revision, model_version, since, reported_at, error, "
                "refused_revision, failing) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) "
                "ON CONFLICT (model_name, replica) DO UPDATE SET revision = excluded.revision, "
                "model_version = excluded.model_version, since = excluded.since, reported_at = excluded.reported_at, "
                "error = excluded.error, refused_revision = excluded.refused_revision, failing = excluded.failing "
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
                        one.refused_revision,
                        list(one.failing),
                    )
                    for one in statuses
                ],
            )

    # --- reading for people

    def overview(self, model: str) -> dict[str, Any]:
        """Versions, requests and replicas of a model, newest first, as JSON-ready values."""
        return {
            "versions": self._rows(
                "SELECT version, status, v.created_at, files_deleted_at, card->'training' AS training, "
                f"card->'metrics' AS metrics, card->'decision' AS decision, {_SET} "
                "WHERE v.model_name = %s ORDER BY version DESC LIMIT 50",
                model,
            ),
            "requests": RequestStore(self._connection).shown(model),
            "replicas": self._rows(
                "SELECT replica, revision, model_version, since, reported_at, error, failing FROM replicas "
                "WHERE model_name = %s ORDER BY reported_at DESC LIMIT 200",
                model,
            ),
        }

    def card(self, model: str, version: int) -> dict[str, Any] | None:
        """A version's model card as JSON-ready values, with what is known of its training set today."""
        query = f"SELECT card, files_deleted_at, {_SET} WHERE v.model_name = %s AND version = %s"
        rows = self._rows(query, model, version)
        return rows[0].pop("card") | rows[0] if rows else None

    def _rows(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        with self._connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query.encode(), arguments).fetchall()
