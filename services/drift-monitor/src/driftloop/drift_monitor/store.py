"""The drift monitor's SQL: profiles, panes, watermarks, evaluations, windows."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from psycopg import Connection
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from driftloop.common.events import PredictionMade, ServedVersion
from driftloop.common.profile import ReferenceProfile
from driftloop.common.statistics.cells import Counts, Layout
from driftloop.drift_monitor.domain.alarm import FeatureAlarm
from driftloop.drift_monitor.domain.evaluation import Alarms, WindowResult
from driftloop.drift_monitor.domain.panes import Pane, decode_counts, encode_counts, layout_digest
from driftloop.drift_monitor.domain.performance import SIZE, merged

Version = tuple[str, int]
# Unparked predictions belong to no partition's owner; the evaluator folds them under this number.
UNPARKED = -1


@dataclass(frozen=True)
class Evaluation:
    """How far a version's windows have tiled, its alarms and its verdict."""

    tiled_until: datetime | None
    alarms: Alarms
    verdict: str
    windows: int
    superseded: bool


class Store:
    """All that the monitor remembers, in one connection's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

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
            "SET revision = excluded.revision, champion = excluded.champion WHERE m.revision < excluded.revision",
            [model, revision, champion],
        )
        return taken.rowcount == 1

    def reopen(self, version: Version) -> None:
        """Evaluate a version again that another had followed, its alarms as good as new."""
        self._connection.execute(
            "UPDATE evaluations SET superseded = false, alarms = '{}', verdict = 'GOOD' "
            "WHERE model_name = %s AND model_version = %s AND superseded",
            version,
        )

    def champions(self) -> list[Version]:
        """The version of each model that should serve."""
        rows = self._connection.execute("SELECT model_name, champion FROM models ORDER BY model_name").fetchall()
        return [(name, version) for name, version in rows]

    # --- counting

    def tiled_until(self, version: Version) -> datetime | None:
        """Where the version's closed windows end. Holds the evaluator off until this transaction ends."""
        self._open_evaluation(version)
        row = self._connection.execute(
            "SELECT tiled_until FROM evaluations WHERE model_name = %s AND model_version = %s FOR SHARE", version
        ).fetchone()
        return row[0] if row else None

    def _open_evaluation(self, version: Version) -> None:
        self._connection.execute(
            "INSERT INTO evaluations (model_name, model_version) VALUES (%s, %s) ON CONFLICT DO NOTHING", version
        )

    def add_to_pane(
        self, version: Version, starts: datetime, partition: int, n: int, counts: Counts, layout: Layout
    ) -> None:
        """Add counts to a pane. Only the owner of the partition calls it, so that reading and writing do not race."""
        key, digest = (*version, starts, partition), layout_digest(layout)
        row = self._connection.execute(
            "SELECT counts FROM panes WHERE model_name = %s AND model_version = %s AND starts = %s AND partition = %s",
            key,
        ).fetchone()
        total = counts if row is None else counts + decode_counts(row[0], layout.size, digest)
        self._connection.execute(
            "INSERT INTO panes AS p VALUES (%s, %s, %s, %s, %s, %s) "
            "ON CONFLICT (model_name, model_version, starts, partition) "
            "DO UPDATE SET n = p.n + excluded.n, counts = excluded.counts",
            [*key, n, encode_counts(total, digest)],
        )

    def add_late(self, version: Version, partition: int, n: int) -> None:
        """Count predictions that came after their window had closed."""
        self._connection.execute(
            "INSERT INTO late AS l VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (model_name, model_version, partition) DO UPDATE SET n = l.n + excluded.n",
            [*version, partition, n],
        )

    def add_labels(self, version: Version, starts: datetime, partition: int, counts: Counts) -> None:
        """Add label counts to a pane of predictions."""
        key = (*version, starts, partition)
        row = self._connection.execute(
            "SELECT counts FROM label_panes "
            "WHERE model_name = %s AND model_version = %s AND starts = %s AND partition = %s",
            key,
        ).fetchone()
        total = counts if row is None else counts + decode_counts(row[0], SIZE)
        self._connection.execute(
            "INSERT INTO label_panes VALUES (%s, %s, %s, %s, %s) "
            "ON CONFLICT (model_name, model_version, starts, partition) DO UPDATE SET counts = excluded.counts",
            [*key, encode_counts(total)],
        )

    def advance_watermark(self, topic: str, partition: int, event_time: datetime) -> None:
        """The latest event time seen of a partition never goes back."""
        self._connection.execute(
            "INSERT INTO watermarks AS w VALUES (%s, %s, %s) ON CONFLICT (topic, partition) "
            "DO UPDATE SET event_time = greatest(w.event_time, excluded.event_time)",
            [topic, partition, event_time],
        )

    def watermarks(self, topic: str) -> dict[int, datetime]:
        """The latest event time of each partition that has shown one."""
        rows = self._connection.execute(
            "SELECT partition, event_time FROM watermarks WHERE topic = %s", [topic]
        ).fetchall()
        return {partition: time for partition, time in rows}

    # --- parking

    def park(self, events: Iterable[PredictionMade]) -> None:
        """Keep predictions of a version whose profile is not known yet."""
        with self._connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO parked (model_name, model_version, event) VALUES (%s, %s, %s)",
                [(one.model_name, one.model_version, Jsonb(msgspec.to_builtins(one))) for one in events],
            )

    def parked(self) -> int:
        """How many predictions are parked."""
        row = self._connection.execute("SELECT count(*) FROM parked").fetchone()
        return int(row[0]) if row else 0

    def parked_versions(self) -> list[Version]:
        """The versions that have parked predictions."""
        rows = self._connection.execute(
            "SELECT DISTINCT model_name, model_version FROM parked ORDER BY model_name, model_version"
        ).fetchall()
        return [(name, version) for name, version in rows]

    def unpark(self, version: Version, limit: int) -> list[PredictionMade]:
        """Take up to `limit` parked predictions of a version, the oldest. Only who holds its evaluation calls it."""
        rows = self._connection.execute(
            "DELETE FROM parked WHERE id IN (SELECT id FROM parked WHERE model_name = %s AND model_version = %s "
            "ORDER BY id LIMIT %s) RETURNING event",
            [*version, limit],
        ).fetchall()
        return [msgspec.convert(event, PredictionMade) for (event,) in rows]

    # --- evaluating

    def lock_evaluation(self, version: Version) -> Evaluation:
        """The version's evaluation, made if need be, locked; waits for consumers that count into it."""
        self._open_evaluation(version)
        row = self._connection.execute(
            "SELECT tiled_until, alarms, verdict, windows, superseded FROM evaluations "
            "WHERE model_name = %s AND model_version = %s FOR UPDATE",
            version,
        ).fetchone()
        assert row is not None
        tiled, alarms, verdict, windows, superseded = row
        return Evaluation(tiled, msgspec.convert(alarms, dict[str, FeatureAlarm]), verdict, windows, superseded)

    def open_panes(self, version: Version, since: datetime | None, layout: Layout) -> list[Pane]:
        """The panes that no closed window holds, partitions merged, in order of time."""
        rows = self._connection.execute(
            "SELECT starts, n, counts FROM panes WHERE model_name = %s AND model_version = %s "
            "AND starts >= coalesce(%s, '-infinity'::timestamptz) ORDER BY starts, partition",
            [*version, since],
        ).fetchall()
        panes: list[Pane] = []
        for starts, n, data in rows:
            counts = decode_counts(data, layout.size, layout_digest(layout))
            if panes and panes[-1].starts == starts:
                panes[-1] = Pane(starts, panes[-1].n + n, panes[-1].counts + counts)
            else:
                panes.append(Pane(starts, n, counts))
        return panes

    def add_window(self, version: Version, number: int, result: WindowResult, now: datetime) -> None:
        """Remember a closed window and its result."""
        self._connection.execute(
            "INSERT INTO windows VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [
                *version,
                number,
                result.starts,
                result.ends,
                result.n,
                result.severity,
                result.raw_severity,
                Jsonb(msgspec.to_builtins(result)),
                now,
            ],
        )

    def save_evaluation(self, version: Version, evaluation: Evaluation) -> None:
        """Write a locked evaluation back."""
        self._connection.execute(
            "UPDATE evaluations SET tiled_until = %s, alarms = %s, verdict = %s, windows = %s, superseded = %s "
            "WHERE model_name = %s AND model_version = %s",
            [
                evaluation.tiled_until,
                Jsonb(msgspec.to_builtins(evaluation.alarms)),
                evaluation.verdict,
                evaluation.windows,
                evaluation.superseded,
                *version,
            ],
        )

    def open_evaluations(self, model: str, besides: int) -> list[Version]:
        """The versions of a model, other than one, that are still evaluated."""
        rows = self._connection.execute(
            "SELECT model_name, model_version FROM evaluations "
            "WHERE model_name = %s AND model_version <> %s AND NOT superseded ORDER BY model_version",
            [model, besides],
        ).fetchall()
        return [(name, version) for name, version in rows]

    # --- reading for people

    def evaluations(self, model: str) -> list[dict[str, Any]]:
        """Every version's evaluation, newest first, with what was counted."""
        return self._rows(
            "SELECT e.model_version, e.verdict, e.windows, e.superseded, e.tiled_until, "
            "v.profile->>'origin' AS reference_origin, (v.profile->>'rows')::int AS reference_rows, "
            "(SELECT coalesce(sum(n), 0)::bigint FROM panes p WHERE p.model_name = e.model_name "
            " AND p.model_version = e.model_version) AS counted, "
            "(SELECT coalesce(sum(n), 0)::bigint FROM late l WHERE l.model_name = e.model_name "
            " AND l.model_version = e.model_version) AS late, "
            "(SELECT count(*) FROM parked k WHERE k.model_name = e.model_name "
            " AND k.model_version = e.model_version) AS parked "
            "FROM evaluations e LEFT JOIN versions v USING (model_name, model_version) "
            "WHERE e.model_name = %s ORDER BY e.model_version DESC",
            model,
        )

    def windows(self, model: str, version: int, limit: int) -> list[dict[str, Any]]:
        """A version's last windows, newest first."""
        return self._rows(
            "SELECT number, evaluated_at, result FROM windows WHERE model_name = %s AND model_version = %s "
            "ORDER BY number DESC LIMIT %s",
            model,
            version,
            limit,
        )

    def label_counts(self, model: str, version: int) -> Counts:
        """All label counts of a version, merged."""
        rows = self._connection.execute(
            "SELECT counts FROM label_panes WHERE model_name = %s AND model_version = %s", [model, version]
        ).fetchall()
        return merged(decode_counts(data, SIZE) for (data,) in rows)

    def _rows(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        with self._connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query.encode(), arguments).fetchall()
