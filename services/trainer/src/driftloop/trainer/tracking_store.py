"""The SQL of experiment trackers: what they are to know, and how far each of them is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import msgspec
from psycopg import Connection, sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from driftloop.common.events import ArtifactRef
from driftloop.trainer.trackers import Outcome

_LOCK_CLASS = 0x5472636B

_KEEP = """
INSERT INTO tracked_runs AS r (model_name, version, request, outcome, metrics, decided_at)
VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (model_name, version) DO UPDATE SET request = coalesce(excluded.request, r.request),
    outcome = excluded.outcome, metrics = excluded.metrics, decided_at = excluded.decided_at, change = r.change + 1
"""
_SERVE = """
INSERT INTO tracked_models (model_name, champion, challenger) VALUES (%s, %s, %s)
ON CONFLICT (model_name) DO UPDATE SET champion = excluded.champion, challenger = excluded.challenger
"""
# Of a version the serving champion and challenger are known by their artifacts, too.
_DUE = """
SELECT r.model_name, r.version, r.change, r.request, r.outcome, r.metrics, r.decided_at, v.created_at, v.card,
    champion.artifact->>'sha256' AS champion, challenger.artifact->>'sha256' AS challenger, v.artifact
FROM tracked_runs r JOIN versions v USING (model_name, version)
LEFT JOIN tracked_models m USING (model_name)
LEFT JOIN versions champion ON (champion.model_name, champion.version) = (r.model_name, m.champion)
LEFT JOIN versions challenger ON (challenger.model_name, challenger.version) = (r.model_name, m.challenger)
LEFT JOIN tracked_sends s ON (s.tracker, s.model_name, s.version) = (%s, r.model_name, r.version)
WHERE s.change IS DISTINCT FROM r.change OR (s.sent_at IS NULL AND s.given_up_at IS NULL AND s.next_at <= %s)
ORDER BY r.decided_at, r.model_name, r.version LIMIT 1
"""
_NOTE = """
INSERT INTO tracked_sends AS s (tracker, model_name, version, change, attempts, first_tried_at, next_at, sent_at)
VALUES (%(tracker)s, %(model)s, %(version)s, %(change)s, 1, %(now)s, %(now)s, %(sent)s)
ON CONFLICT (tracker, model_name, version) DO UPDATE SET change = excluded.change, sent_at = excluded.sent_at,
    given_up_at = NULL, attempts = CASE WHEN s.change = excluded.change THEN s.attempts + 1 ELSE 1 END,
    first_tried_at = CASE WHEN s.change = excluded.change THEN s.first_tried_at ELSE excluded.first_tried_at END
RETURNING attempts, first_tried_at
"""
_COUNT = """
SELECT count(*) FILTER (WHERE s.given_up_at IS NULL OR s.change <> r.change), count(*)
FROM tracked_runs r LEFT JOIN tracked_sends s ON (s.tracker, s.model_name, s.version) = (%s, r.model_name, r.version)
WHERE s.change IS DISTINCT FROM r.change OR s.sent_at IS NULL
"""


@dataclass(frozen=True)
class RunFacts:
    """A decision on a version, and what serves after it. `metrics` are those that its signed card cannot have."""

    model_name: str
    model_version: int
    outcome: Outcome
    champion: int | None
    challenger: int | None = None
    request: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DueRun:
    """What a tracker is to be told of one version: the last decision, the card, and the artifacts that serve."""

    model_name: str
    version: int
    change: int
    request: int | None
    outcome: Outcome
    metrics: dict[str, float]
    decided_at: datetime
    created_at: datetime
    card: dict[str, Any]
    # The digests of the artifacts that serve.
    champion: str | None
    challenger: str | None
    artifact: ArtifactRef


@dataclass(frozen=True)
class Tries:
    """How often a tracker has been told of one decision, and since when."""

    attempts: int
    first_at: datetime


@dataclass(frozen=True)
class TrackedCounts:
    """Versions that a tracker is still to be told of, and those on which it was given up."""

    waiting: int
    given_up: int


def remember(connection: Connection, facts: RunFacts, now: datetime) -> None:
    """Have every tracker told of a decision, once the caller's transaction has committed.

    The version is in `versions` already, and the caller holds the lock of the model's row.
    """
    before = connection.execute(
        "SELECT champion FROM tracked_models WHERE model_name = %s", [facts.model_name]
    ).fetchone()
    connection.execute(
        _KEEP,
        [facts.model_name, facts.model_version, facts.request, facts.outcome, Jsonb(dict(facts.metrics)), now],
    )
    connection.execute(_SERVE, [facts.model_name, facts.champion, facts.challenger])
    if facts.champion != facts.model_version and (before is None or before[0] != facts.champion):
        # It serves again, and not by a decision on itself.
        connection.execute(
            "UPDATE tracked_runs SET change = change + 1 WHERE model_name = %s AND version = %s",
            [facts.model_name, facts.champion],
        )


class TrackingStore:
    """How far one tracker is, in one connection's transaction."""

    def __init__(self, connection: Connection, tracker: str) -> None:
        self._connection = connection
        self._tracker = tracker

    def own(self) -> bool:
        """Whether this session is the one that tells the tracker; it is until `disown`, or its end."""
        row = self._connection.execute(
            "SELECT pg_try_advisory_lock(%s, hashtext(current_schema() || %s))", [_LOCK_CLASS, f":{self._tracker}"]
        ).fetchone()
        return bool(row and row[0])

    def disown(self) -> None:
        """Let another session tell the tracker."""
        self._connection.execute("SELECT pg_advisory_unlock_all()")

    def next_due(self, now: datetime) -> DueRun | None:
        """The longest decided version of which the tracker is to be told now."""
        with self._connection.cursor(row_factory=dict_row) as cursor:
            row = cursor.execute(_DUE, [self._tracker, now]).fetchone()
        return None if row is None else DueRun(**row | {"artifact": msgspec.convert(row["artifact"], ArtifactRef)})

    def set_sent(self, run: DueRun, now: datetime) -> None:
        """The tracker has taken it."""
        self._note(run, now, now)

    def count_failure(self, run: DueRun, now: datetime) -> Tries:
        """The tracker has not taken it. The caller says when it is tried again, or gives it up."""
        return Tries(*self._note(run, now, None))

    def _note(self, run: DueRun, now: datetime, sent: datetime | None) -> tuple[int, datetime]:
        said = {
            "tracker": self._tracker, "model": run.model_name, "version": run.version, "change": run.change,
            "now": now, "sent": sent,
        }  # fmt: skip
        row = self._connection.execute(_NOTE, said).fetchone()
        assert row is not None
        return row[0], row[1]

    def try_again(self, run: DueRun, at: datetime) -> None:
        """Leave it alone until then."""
        self._set(run, "next_at", at)

    def give_up(self, run: DueRun, now: datetime) -> None:
        """Try it no more, until there is another decision on the version."""
        self._set(run, "given_up_at", now)

    def _set(self, run: DueRun, column: Literal["next_at", "given_up_at"], value: datetime) -> None:
        query = sql.SQL("UPDATE tracked_sends SET {} = %s WHERE (tracker, model_name, version) = (%s, %s, %s)").format(
            sql.Identifier(column)
        )
        self._connection.execute(query, [value, self._tracker, run.model_name, run.version])

    def counts(self) -> TrackedCounts:
        """How many versions the tracker does not know as they are."""
        row = self._connection.execute(_COUNT, [self._tracker]).fetchone()
        assert row is not None
        return TrackedCounts(row[0], row[1] - row[0])
