"""The drift monitor's SQL: profiles, evaluations, windows, leases. What is counted is in `pane_store`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec
from psycopg import Connection
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from driftloop.common.events import ServedVersion
from driftloop.common.profile import ReferenceProfile
from driftloop.drift_monitor.domain.attribution import Attribution
from driftloop.drift_monitor.domain.evaluation import Alarms, WindowResult
from driftloop.drift_monitor.domain.fold.base import State
from driftloop.drift_monitor.domain.labelled import Closed, LabelledResult, with_labels
from driftloop.drift_monitor.pane_store import PREDICTIONS, PaneStore, Version


@dataclass(frozen=True)
class Evaluation:
    """How far a version's windows have tiled, its alarms, its verdict, and the event that opened it."""

    tiled_until: datetime | None = None
    alarms: Alarms = field(default_factory=Alarms)
    verdict: str = "GOOD"
    windows: int = 0
    judged: int = 0
    labelled_until: datetime | None = None
    performance_windows: int = 0
    opened_by: str | None = None
    attribution: Attribution | None = None
    superseded: bool = False


@dataclass(frozen=True)
class Seen:
    """What an evaluation saw of a topic: of each partition the first offset that may count, and that after the last."""

    topic_id: str
    bounds: Mapping[int, tuple[int, int]]


@dataclass(frozen=True)
class StoredWindow:
    """A closed window as it was judged, with its counts (a state, as bytes) and what it saw."""

    number: int
    starts: datetime
    ends: datetime
    n: int
    result: WindowResult
    seen: Seen
    counts: bytes
    evaluated_at: datetime


_EVALUATION = (
    "SELECT tiled_until, alarms, verdict, windows, judged, labelled_until, performance_windows, opened_by, "
    "attribution, superseded FROM evaluations WHERE model_name = %s AND model_version = %s"
)
_LOCKED = _EVALUATION + " FOR UPDATE"
_SAVE = (
    "UPDATE evaluations SET (tiled_until, alarms, verdict, windows, judged, labelled_until, performance_windows, "
    "opened_by, attribution, superseded) = (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) "
    "WHERE model_name = %s AND model_version = %s"
)
_WINDOWS = (
    "SELECT number, evaluated_at, attribution, offsets, result FROM windows "
    "WHERE model_name = %s AND model_version = %s AND ends > coalesce(%s, '-infinity'::timestamptz) "
    "AND starts < coalesce(%s, 'infinity'::timestamptz) ORDER BY number DESC LIMIT %s"
)
_PERFORMANCE_WINDOWS = (
    "SELECT number, evaluated_at, result FROM performance_windows "
    "WHERE model_name = %s AND model_version = %s AND ends > coalesce(%s, '-infinity'::timestamptz) "
    "AND starts < coalesce(%s, 'infinity'::timestamptz) ORDER BY number DESC LIMIT %s"
)
_FORGET_WINDOWS = "DELETE FROM windows WHERE model_name = %s AND model_version = %s AND ends <= %s"
_FORGET_PERFORMANCE = "DELETE FROM performance_windows WHERE model_name = %s AND model_version = %s AND ends <= %s"


class Store:
    """All that the monitor knows of models, in one connection's transaction; `panes` is what it has counted."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.panes = PaneStore(connection)

    # --- models and profiles

    def profile(self, version: Version) -> ReferenceProfile | None:
        """What a version is compared with, if its bundle has been read."""
        row = self._connection.execute(
            "SELECT profile FROM versions WHERE model_name = %s AND model_version = %s", version
        ).fetchone()
        return msgspec.convert(row[0], ReferenceProfile) if row else None

    def add_version(self, served: ServedVersion, profile: ReferenceProfile, now: datetime) -> None:
        """Remember a version's profile; a version never changes."""
        self._connection.execute(
            "INSERT INTO versions VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            [
                profile.model_name,
                profile.model_version,
                Jsonb(msgspec.to_builtins(served.artifact)),
                Jsonb(msgspec.to_builtins(profile)),
                now,
            ],
        )

    def set_champion(self, model: str, revision: int, champion: int) -> bool:
        """Take over a serving state unless a higher revision is known. Says whether it was taken."""
        taken = self._connection.execute(
            "INSERT INTO models AS m VALUES (%s, %s, %s) ON CONFLICT (model_name) DO UPDATE "
            "SET revision = excluded.revision, champion = excluded.champion, "
            "previous = CASE WHEN m.champion = excluded.champion THEN m.previous ELSE m.champion END "
            "WHERE m.revision < excluded.revision",
            [model, revision, champion],
        )
        return taken.rowcount == 1

    def reopen(self, version: Version) -> None:
        """Evaluate a version again that another had followed, its alarms as good as new."""
        self._connection.execute(
            "UPDATE evaluations SET superseded = false, alarms = '{}', verdict = 'GOOD', opened_by = NULL, "
            "attribution = NULL WHERE model_name = %s AND model_version = %s AND superseded",
            version,
        )

    def champions(self) -> list[Version]:
        """The version of each model that should serve."""
        rows = self._connection.execute("SELECT model_name, champion FROM models ORDER BY model_name").fetchall()
        return [(name, version) for name, version in rows]

    def champion(self, model: str) -> tuple[int | None, int | None]:
        """The version that should serve, and the champion before it."""
        row = self._connection.execute(
            "SELECT champion, previous FROM models WHERE model_name = %s", [model]
        ).fetchone()
        return (row[0], row[1]) if row else (None, None)

    def known_versions(self) -> list[Version]:
        """Every version whose profile is known."""
        rows = self._connection.execute(
            "SELECT model_name, model_version FROM versions ORDER BY model_name, model_version"
        ).fetchall()
        return [(name, version) for name, version in rows]

    # --- evaluating

    def repeatable_read(self) -> None:
        """Let this transaction see one instant only; call it before anything else."""
        self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")

    def open_evaluation(self, version: Version) -> None:
        """Make the version's row, in a transaction of its own: one snapshot cannot both make and lock it."""
        self._connection.execute(
            "INSERT INTO evaluations (model_name, model_version) VALUES (%s, %s) ON CONFLICT DO NOTHING", version
        )

    def lock_evaluation(self, version: Version) -> Evaluation | None:
        """The version's evaluation, locked. None where it has no row; in a snapshot a newer row raises 40001."""
        row = self._connection.execute(_LOCKED, version).fetchone()
        return _evaluation(row) if row else None

    def evaluation(self, version: Version) -> Evaluation | None:
        """The version's evaluation as it is."""
        row = self._connection.execute(_EVALUATION, version).fetchone()
        return _evaluation(row) if row else None

    def save_evaluation(self, version: Version, evaluation: Evaluation) -> None:
        """Write a locked evaluation back."""
        values = [
            evaluation.tiled_until,
            Jsonb(msgspec.to_builtins(evaluation.alarms)),
            evaluation.verdict,
            evaluation.windows,
            evaluation.judged,
            evaluation.labelled_until,
            evaluation.performance_windows,
            evaluation.opened_by,
            None if evaluation.attribution is None else Jsonb(msgspec.to_builtins(evaluation.attribution)),
            evaluation.superseded,
        ]
        self._connection.execute(_SAVE, [*values, *version])

    def late(self, version: Version, evaluation: Evaluation) -> int:
        """How many predictions came after their window had closed: all, less those of closed and of open windows."""
        counted, beyond = self.panes.totals(version, PREDICTIONS)
        waiting = self.panes.rows_since(version, PREDICTIONS, evaluation.tiled_until)
        return counted - beyond - evaluation.judged - waiting

    def open_evaluations(self, model: str, besides: int) -> list[Version]:
        """The versions of a model, other than one, that are still evaluated."""
        rows = self._connection.execute(
            "SELECT model_name, model_version FROM evaluations "
            "WHERE model_name = %s AND model_version <> %s AND NOT superseded ORDER BY model_version",
            [model, besides],
        ).fetchall()
        return [(name, version) for name, version in rows]

    # --- windows

    def add_window(
        self,
        version: Version,
        number: int,
        result: WindowResult,
        attribution: Attribution,
        seen: Seen,
        state: State,
        now: datetime,
    ) -> None:
        """Remember a closed window, its counts and its result."""
        self._connection.execute(
            "INSERT INTO windows VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [
                *version,
                number,
                result.starts,
                result.ends,
                result.n,
                result.severity,
                result.raw_severity,
                Jsonb(msgspec.to_builtins(result)),
                Jsonb(msgspec.to_builtins(attribution)),
                _bounds(seen),
                seen.topic_id,
                state.to_bytes(),
                now,
            ],
        )

    def add_performance_window(
        self, version: Version, number: int, result: LabelledResult, seen: Seen, now: datetime
    ) -> None:
        """Remember a window of labelled rows and its result."""
        self._connection.execute(
            "INSERT INTO performance_windows VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [
                *version,
                number,
                result.starts,
                result.ends,
                result.n,
                Jsonb(msgspec.to_builtins(result)),
                _bounds(seen),
                now,
            ],
        )

    def unlabelled_windows(self, version: Version, since: datetime | None) -> list[Closed]:
        """The closed windows from `since` up to the newest label, in order, each with how many labels its time has."""
        limits = {"model": version[0], "version": version[1], "since": since}
        labels = self._connection.execute(
            "SELECT starts, sum(n)::bigint FROM panes WHERE model_name = %(model)s AND model_version = %(version)s "
            "AND kind = 1 AND starts >= coalesce(%(since)s, '-infinity'::timestamptz) GROUP BY starts ORDER BY starts",
            limits,
        ).fetchall()
        windows = self._connection.execute(
            "SELECT number, starts, ends, n FROM windows WHERE model_name = %(model)s AND model_version = %(version)s "
            "AND starts >= coalesce(%(since)s, '-infinity'::timestamptz) AND starts <= %(newest)s ORDER BY starts",
            limits | {"newest": labels[-1][0] if labels else None},
        ).fetchall()
        return with_labels(windows, labels)

    def last_window(self, version: Version) -> WindowResult | None:
        """The last closed window's result."""
        row = self._connection.execute(
            "SELECT result FROM windows WHERE model_name = %s AND model_version = %s ORDER BY number DESC LIMIT 1",
            version,
        ).fetchone()
        return msgspec.convert(row[0], WindowResult) if row else None

    def last_performance(self, version: Version) -> LabelledResult | None:
        """The last window of labelled rows."""
        row = self._connection.execute(
            "SELECT result FROM performance_windows WHERE model_name = %s AND model_version = %s "
            "ORDER BY number DESC LIMIT 1",
            version,
        ).fetchone()
        return msgspec.convert(row[0], LabelledResult) if row else None

    def windows_between(self, version: Version, since: datetime | None, until: datetime | None) -> list[StoredWindow]:
        """The closed windows that overlap [since, until), in order; None: without that limit."""
        rows = self._connection.execute(
            "SELECT number, starts, ends, n, result, offsets, topic_id, state, evaluated_at FROM windows "
            "WHERE model_name = %s AND model_version = %s AND ends > coalesce(%s, '-infinity'::timestamptz) "
            "AND starts < coalesce(%s, 'infinity'::timestamptz) ORDER BY number",
            [*version, since, until],
        ).fetchall()
        return [
            StoredWindow(
                number, starts, ends, n, msgspec.convert(result, WindowResult),
                Seen(topic_id, {int(partition): (low, high) for partition, (low, high) in offsets.items()}),
                bytes(state), evaluated_at,
            )
            for number, starts, ends, n, result, offsets, topic_id, state, evaluated_at in rows
        ]  # fmt: skip

    def forget_windows(self, version: Version, before: datetime) -> None:
        """Delete windows that ended before."""
        self._connection.execute(_FORGET_WINDOWS, [*version, before])
        self._connection.execute(_FORGET_PERFORMANCE, [*version, before])

    # --- reading for people

    def versions(self, model: str) -> list[dict[str, Any]]:
        """Every version of a model, newest first: its reference, and how many of its predictions are parked.

        One that is parked for, and whose profile is not known yet, has no reference.
        """
        return self._rows(
            "SELECT model_version, v.profile->>'origin' AS reference_origin, "
            "(v.profile->>'rows')::int AS reference_rows, coalesce(k.parked, 0) AS parked "
            "FROM (SELECT * FROM versions WHERE model_name = %s) v FULL JOIN (SELECT model_version, count(*) AS parked "
            "FROM parked WHERE model_name = %s AND kind = 0 GROUP BY model_version) k USING (model_version) "
            "ORDER BY model_version DESC",
            model,
            model,
        )

    def windows(
        self, version: Version, limit: int, since: datetime | None = None, until: datetime | None = None
    ) -> list[dict[str, Any]]:
        """A version's windows that overlap [since, until), newest first."""
        return self._rows(_WINDOWS, *version, since, until, limit)

    def performance_windows(
        self, version: Version, limit: int, since: datetime | None = None, until: datetime | None = None
    ) -> list[dict[str, Any]]:
        """A version's windows of labelled rows that overlap [since, until), newest first."""
        return self._rows(_PERFORMANCE_WINDOWS, *version, since, until, limit)

    def _rows(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        with self._connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query.encode(), arguments).fetchall()

    # --- leases

    def take_lease(self, name: str, holder: str, seconds: float) -> bool:
        """Take a lease that nobody holds, or prolong one's own. Time is the database's: replicas' clocks may differ."""
        taken = self._connection.execute(
            "INSERT INTO leases AS l "
            "VALUES (%(name)s, %(holder)s, clock_timestamp() + make_interval(secs => %(seconds)s)) "
            "ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until "
            "WHERE l.holder = excluded.holder OR l.until < clock_timestamp()",
            {"name": name, "holder": holder, "seconds": seconds},
        )
        return taken.rowcount == 1

    def give_lease_back(self, name: str, holder: str) -> None:
        """Let another one take it at once."""
        self._connection.execute("DELETE FROM leases WHERE name = %s AND holder = %s", [name, holder])


def _bounds(seen: Seen) -> Jsonb:
    return Jsonb({str(partition): list(bounds) for partition, bounds in sorted(seen.bounds.items())})


def _evaluation(row: Iterable[Any]) -> Evaluation:
    tiled, alarms, verdict, windows, judged, labelled, performance, opened_by, attribution, superseded = row
    return Evaluation(
        tiled_until=tiled,
        alarms=msgspec.convert(alarms, Alarms),
        verdict=verdict,
        windows=windows,
        judged=judged,
        labelled_until=labelled,
        performance_windows=performance,
        opened_by=opened_by,
        attribution=None if attribution is None else msgspec.convert(attribution, Attribution),
        superseded=superseded,
    )
