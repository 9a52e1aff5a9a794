"""The SQL of retraining requests: what was asked for, where it stands, and how it came there."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.rows import class_row, dict_row
from psycopg.types.json import Jsonb

from driftloop.trainer.domain.requests import BEFORE, BY_DRIFT, ENDED, Cause, State

_CURRENT = """
SELECT id, model_name, model_version, state, cause, changed_since, opened_at, attempts, tries, concept_drift,
    challenger, judged_since, CASE WHEN cause = ANY(%s) THEN (
        SELECT max(judged_until) FROM requests e
        WHERE (e.model_name, e.model_version) = (r.model_name, r.model_version) AND e.id < r.id AND e.cause = ANY(%s)
            AND (e.challenger IS NOT NULL OR e.state = 'rejected')) END AS judges_after, cleared, by_hand,
    traceparent
FROM requests r WHERE model_name = %s AND closed_at IS NULL
"""
_SHOWN = """
SELECT id, model_name, model_version, state, reason, cause, lacking, attempts, tries, challenger, changed_since,
    opened_at, closed_at, (
        SELECT json_agg(json_build_object('state', state, 'reason', reason, 'at', at) ORDER BY id)
        FROM request_changes WHERE request_id = r.id) AS history
FROM requests r WHERE %(model)s::text IS NULL OR model_name = %(model)s ORDER BY id DESC LIMIT %(limit)s
"""


@dataclass(frozen=True)
class Request:
    """A retraining that is not done.

    `attempts` counts the requests before it that came to nothing, `tries` how often a training of this one was begun.
    `challenger` was judged on rows predicted from `judged_since` on. Of a request of drift only rows predicted later
    than `judges_after` may judge: older ones may have judged an attempt before it. `cleared`: its alarm is over.
    `by_hand`: somebody asked for it, alone or besides an alarm or the schedule.
    """

    id: int
    model_name: str
    model_version: int
    state: State
    cause: Cause
    changed_since: datetime
    opened_at: datetime
    attempts: int
    tries: int
    concept_drift: bool
    challenger: int | None = None
    judged_since: datetime | None = None
    judges_after: datetime | None = None
    cleared: bool = False
    by_hand: bool = False
    traceparent: str | None = None


class RequestStore:
    """The requests of all models, in one connection's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # --- opening and ending

    def open(
        self,
        identity: str,
        cause: Cause,
        model: str,
        version: int,
        since: datetime,
        now: datetime,
        reason: str,
        *,
        concept_drift: bool = False,
        attempts: int = 0,
        traceparent: str | None = None,
    ) -> int | None:
        """Open a request; its id, or None where `identity` opened one before, or another of the model is open."""
        row = self._connection.execute(
            "INSERT INTO requests (event_id, cause, model_name, model_version, state, reason, changed_since, "
            "opened_at, concept_drift, attempts, by_hand, traceparent) "
            "VALUES (%s, %s, %s, %s, 'awaiting-labels', %s, %s, %s, %s, %s, %s, %s) "
            "ON CONFLICT DO NOTHING RETURNING id",
            [
                identity, cause, model, version, reason, since, now,
                concept_drift, attempts, cause == "manual", traceparent,
            ],
        ).fetchone()  # fmt: skip
        if row is None:
            return None
        self._note(row[0], "awaiting-labels", reason, now)
        return int(row[0])

    def current(self, model: str, *, lock: bool = False) -> Request | None:
        """The model's request that is open, if there is one."""
        with self._connection.cursor(row_factory=class_row(Request)) as cursor:
            query = _CURRENT + (" FOR UPDATE OF r" if lock else "")
            return cursor.execute(query, [list(BY_DRIFT), list(BY_DRIFT), model]).fetchone()

    def become(self, request: int, state: State, reason: str, now: datetime) -> bool:
        """Let a request be in another state. Says whether it was in one that this may follow."""
        changed = self._connection.execute(
            "UPDATE requests SET state = %s, reason = %s, lacking = '{}', closed_at = %s "
            "WHERE id = %s AND state = ANY(%s)",
            [state, reason, now if state in ENDED else None, request, list(BEFORE[state])],
        )
        if changed.rowcount:
            self._note(request, state, reason, now)
        return changed.rowcount == 1

    def say(self, request: int, state: State, reason: str, now: datetime) -> None:
        """Note something in a request's history that does not change where it stands."""
        self._connection.execute("UPDATE requests SET reason = %s WHERE id = %s", [reason, request])
        self._note(request, state, reason, now)

    def _note(self, request: int, state: State, reason: str, now: datetime) -> None:
        self._connection.execute(
            "INSERT INTO request_changes (request_id, state, reason, at) VALUES (%s, %s, %s, %s)",
            [request, state, reason, now],
        )

    # --- on the way

    def wait(self, request: int, reason: str, lacking: Mapping[str, int]) -> None:
        """Say what a request waits for; where it stands does not change."""
        self._connection.execute(
            "UPDATE requests SET reason = %s, lacking = %s WHERE id = %s AND closed_at IS NULL "
            "AND (reason, lacking) IS DISTINCT FROM (%s, %s)",
            [reason, Jsonb(dict(lacking)), request, reason, Jsonb(dict(lacking))],
        )

    def take_over(self, model: str, changed_since: datetime, concept_drift: bool) -> None:
        """The alarm of a drift is the open request's, too, whoever asked for it: what comes to nothing is followed.

        Of a drift's request only rows from a later instant on count; an earlier one changes nothing.
        """
        self._connection.execute(
            "UPDATE requests SET cleared = false, concept_drift = concept_drift OR %s, changed_since = "
            "CASE WHEN cause = ANY(%s) THEN greatest(changed_since, %s) ELSE %s END, "
            "cause = CASE WHEN cause = 'follow-up' THEN cause ELSE 'drift' END "
            "WHERE model_name = %s AND closed_at IS NULL",
            [concept_drift, list(BY_DRIFT), changed_since, changed_since, model],
        )

    def ask_by_hand(self, request: int, state: State, reason: str, now: datetime) -> None:
        """Somebody asks for what was asked for already."""
        self._connection.execute("UPDATE requests SET by_hand = true WHERE id = %s", [request])
        self.say(request, state, reason, now)

    def count_try(self, request: int, newest: datetime | None) -> None:
        """A training began; the newest row that may judge what it makes was predicted then."""
        self._connection.execute(
            "UPDATE requests SET tries = tries + 1, judged_until = %s WHERE id = %s", [newest, request]
        )

    def forget_try(self, request: int) -> None:
        """A training ended by no fault of its own."""
        self._connection.execute("UPDATE requests SET tries = tries - 1 WHERE id = %s", [request])

    def forget_judged(self, request: int) -> None:
        """No row has judged what a training made, for it made nothing."""
        self._connection.execute("UPDATE requests SET judged_until = NULL WHERE id = %s", [request])

    def set_judged(self, request: int, challenger: int, since: datetime | None) -> None:
        """Say which version a request made, and since when the rows are that judged it."""
        self._connection.execute(
            "UPDATE requests SET challenger = %s, judged_since = %s WHERE id = %s", [challenger, since, request]
        )

    def judged_until(self, request: int, newest: datetime) -> None:
        """Rows predicted until then have judged what a request made."""
        self._connection.execute(
            "UPDATE requests SET judged_until = greatest(judged_until, %s) WHERE id = %s", [newest, request]
        )

    def clear(self, request: int) -> None:
        """The alarm that asked for it is over: a request that is past its training goes on, and nothing follows it."""
        self._connection.execute("UPDATE requests SET cleared = true WHERE id = %s", [request])

    # --- limits

    def last_ended(self, model: str, until: datetime) -> datetime | None:
        """When the model's last request that had been trained ended, of those that did so until an instant."""
        row = self._connection.execute(
            "SELECT max(closed_at) FROM requests WHERE model_name = %s AND tries > 0 AND closed_at <= %s",
            [model, until],
        ).fetchone()
        return row[0] if row else None

    def trainings(self, model: str, since: datetime) -> list[datetime]:
        """When each request of a model was first trained for, from an instant on; a second try is part of the first."""
        rows = self._connection.execute(
            "SELECT min(c.at) AS begun FROM request_changes c JOIN requests r ON r.id = c.request_id "
            "WHERE c.state = 'training' AND r.tries > 0 AND r.model_name = %s GROUP BY r.id HAVING min(c.at) >= %s",
            [model, since],
        ).fetchall()
        return [time for (time,) in rows]

    # --- the clock

    def due(self, model: str, expression: str) -> datetime | None:
        """When a model's schedule is due next; None where this expression was never looked at."""
        row = self._connection.execute(
            "SELECT next_at FROM schedules WHERE model_name = %s AND expression = %s FOR UPDATE", [model, expression]
        ).fetchone()
        return row[0] if row else None

    def set_due(self, model: str, expression: str, next_at: datetime) -> None:
        """Remember when a model's schedule is due next."""
        self._connection.execute(
            "INSERT INTO schedules VALUES (%s, %s, %s) ON CONFLICT (model_name) DO UPDATE "
            "SET expression = excluded.expression, next_at = excluded.next_at",
            [model, expression, next_at],
        )

    # --- reading for people

    def shown(self, model: str | None = None, limit: int = 50) -> list[dict[str, Any]]:
        """Requests, newest first, of one model or of all, as JSON-ready values, each with its history."""
        with self._connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(_SHOWN, {"model": model, "limit": limit}).fetchall()
