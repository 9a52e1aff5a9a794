"""The SQL of counting: panes, totals, watermarks, and the records that wait for a profile."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
from psycopg import Connection

from driftloop.common.kafka.records import Record
from driftloop.drift_monitor.domain.fold.base import State, merged
from driftloop.drift_monitor.domain.panes import Pane
from driftloop.drift_monitor.domain.retries import Key

Version = tuple[str, int]
# Labels are kept twice: by the time of their prediction, and all together, which is a row a partition without a time.
PREDICTIONS, LABELS, LABEL_TOTALS = 0, 1, 2
# Rolled-up panes are of all partitions.
ALL = -1


@dataclass(frozen=True)
class Addition:
    """What a batch adds to one pane of one partition."""

    version: Version
    kind: int
    starts: datetime
    seconds: float
    partition: int
    n: int
    first_offset: int
    state: State

    @property
    def key(self) -> tuple[str, int, int, datetime, float, int]:
        """The row's primary key: also the order in which rows are locked, everywhere."""
        return (*self.version, self.kind, self.starts, self.seconds, self.partition)


@dataclass(frozen=True)
class Tally:
    """How many rows of one partition were counted, and how many of them have no pane: they are older than all."""

    version: Version
    kind: int
    partition: int
    n: int
    beyond: int


@dataclass(frozen=True)
class ParkedRecord:
    """A record that waits for the profile of its version."""

    record: Record
    kind: int
    version: Version


_LOCK_PANES = """
SELECT p.model_name, p.model_version, p.kind, p.starts, p.seconds, p.partition, p.n, p.first_offset, p.state
FROM panes p JOIN unnest(%s::text[], %s::int[], %s::smallint[], %s::timestamptz[], %s::float8[], %s::int[])
    AS k(model_name, model_version, kind, starts, seconds, partition)
    USING (model_name, model_version, kind, starts, seconds, partition)
ORDER BY p.model_name, p.model_version, p.kind, p.starts, p.seconds, p.partition FOR UPDATE OF p
"""
_INSERT_PANES = """
INSERT INTO panes
SELECT * FROM unnest(%s::text[], %s::int[], %s::smallint[], %s::timestamptz[], %s::float8[], %s::int[],
    %s::bigint[], %s::bigint[], %s::bytea[])
ORDER BY 1, 2, 3, 4, 5, 6 ON CONFLICT DO NOTHING
RETURNING model_name, model_version, kind, starts, seconds, partition
"""
_UPDATE_PANES = """
UPDATE panes p SET n = k.n, first_offset = k.first_offset, state = k.state
FROM unnest(%s::text[], %s::int[], %s::smallint[], %s::timestamptz[], %s::float8[], %s::int[],
    %s::bigint[], %s::bigint[], %s::bytea[])
    AS k(model_name, model_version, kind, starts, seconds, partition, n, first_offset, state)
WHERE (p.model_name, p.model_version, p.kind, p.starts, p.seconds, p.partition)
    = (k.model_name, k.model_version, k.kind, k.starts, k.seconds, k.partition)
"""
# The whole of a target must be old enough, and a pane lie in it whole; panes are aligned to the epoch.
_ROLL_UP = """
SELECT date_bin(make_interval(secs => %(length)s), starts, timestamptz 'epoch') AS target
FROM panes
WHERE model_name = %(model)s AND model_version = %(version)s AND kind = %(kind)s AND seconds < %(length)s
    AND starts < %(before)s
    AND date_bin(make_interval(secs => %(length)s), starts, timestamptz 'epoch') + make_interval(secs => %(length)s)
        <= %(before)s
    AND starts + make_interval(secs => seconds)
        <= date_bin(make_interval(secs => %(length)s), starts, timestamptz 'epoch') + make_interval(secs => %(length)s)
GROUP BY target ORDER BY target LIMIT %(limit)s
"""
_TAKE = """
DELETE FROM panes WHERE model_name = %s AND model_version = %s AND kind = %s AND seconds < %s
    AND starts >= %s AND starts + make_interval(secs => seconds) <= %s
RETURNING n, first_offset, state
"""


_COUNT = """
INSERT INTO totals AS t
SELECT * FROM unnest(%s::text[], %s::int[], %s::smallint[], %s::int[], %s::bigint[], %s::bigint[])
ON CONFLICT (model_name, model_version, kind, partition)
DO UPDATE SET n = t.n + excluded.n, beyond = t.beyond + excluded.beyond
"""
_ADVANCE = """
INSERT INTO watermarks AS w SELECT * FROM unnest(%s::text[], %s::int[], %s::timestamptz[])
ON CONFLICT (topic, partition) DO UPDATE SET event_time = greatest(w.event_time, excluded.event_time)
"""
# What was known of an id is told by its row, not by a look before: another one may write it in between.
_REMEMBER = """
INSERT INTO remembered AS r (model_name, prediction_id, until)
SELECT * FROM unnest(%s::text[], %s::text[], %s::timestamptz[]) AS k (model_name, prediction_id, until)
ORDER BY model_name COLLATE "C", prediction_id COLLATE "C"
ON CONFLICT (model_name, prediction_id)
DO UPDATE SET known_until = r.until, until = greatest(r.until, excluded.until)
RETURNING model_name, prediction_id, known_until
"""
_FORGET_REMEMBERED = """
DELETE FROM remembered WHERE (model_name, prediction_id) IN (
    SELECT model_name, prediction_id FROM remembered
    WHERE until < %s AND until < (SELECT min(event_time) FROM watermarks)
    ORDER BY until LIMIT %s FOR UPDATE SKIP LOCKED)
"""


_ERASED = 0x45726173
_LOCK_ERASED = f"SELECT pg_advisory_xact_lock({_ERASED}, hashtext(current_schema()))"
_LOCK_ERASED_SHARED = f"SELECT pg_advisory_xact_lock_shared({_ERASED}, hashtext(current_schema()))"
_ERASE_SUBJECTS = """
INSERT INTO erased_subjects AS e SELECT * FROM unnest(%s::text[], %s::timestamptz[])
ON CONFLICT (subject) DO UPDATE SET erased_at = greatest(e.erased_at, excluded.erased_at)
"""
# A coarse look for the name as JSON has it, wherever it stands; there are never more rows than may be parked.
_NAMING = """
SELECT topic, partition, "offset", value FROM parked
WHERE EXISTS (SELECT FROM unnest(%s::bytea[]) AS name WHERE position(name IN value) > 0)
ORDER BY topic, partition, "offset" FOR UPDATE
"""
_DELETE_PARKED = """
DELETE FROM parked WHERE (topic, partition, "offset") IN (SELECT * FROM unnest(%s::text[], %s::int[], %s::bigint[]))
"""
_ERASE_RECORDS = """
INSERT INTO erased_records SELECT *, %s FROM unnest(%s::text[], %s::int[], %s::bigint[]) ON CONFLICT DO NOTHING
"""


class PaneStore:
    """Counts, in one connection's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # --- counting

    def add(self, additions: Sequence[Addition]) -> None:
        """Add to panes, each key once. Rows are locked before they are read: adding, unparking, rolling up commute."""
        left = {addition.key: addition for addition in additions}
        while left:
            changed = []
            for *key, n, first_offset, data in self._execute(_LOCK_PANES, left):
                one = left.pop(tuple(key))
                total = State.from_bytes(data).merge(one.state)
                changed.append((*one.key, one.n + n, min(one.first_offset, first_offset), total.to_bytes()))
            if changed:
                self._connection.execute(_UPDATE_PANES, _columns(changed))
            if left:
                new = [(*key, one.n, one.first_offset, one.state.to_bytes()) for key, one in left.items()]
                # A row that another one made, or rolled up, in between is taken in the next turn.
                for made in self._execute(_INSERT_PANES, new):
                    del left[made]

    def _execute(self, query: str, rows: Iterable[tuple[object, ...]]) -> list[tuple[Any, ...]]:
        return self._connection.execute(query.encode(), _columns(rows)).fetchall()

    def count(self, tallies: Iterable[Tally]) -> None:
        """Add to what was ever counted of versions; each (version, kind, partition) once."""
        rows = sorted((*one.version, one.kind, one.partition, one.n, one.beyond) for one in tallies)
        if rows:
            self._connection.execute(_COUNT, _columns(rows))

    def totals(self, version: Version, kind: int) -> tuple[int, int]:
        """What was ever counted of a version, and how much of it has no pane (any more)."""
        row = self._connection.execute(
            "SELECT coalesce(sum(n), 0)::bigint, coalesce(sum(beyond), 0)::bigint FROM totals "
            "WHERE model_name = %s AND model_version = %s AND kind = %s",
            [*version, kind],
        ).fetchone()
        assert row is not None
        return row[0], row[1]

    def remember(self, tries: Mapping[Key, datetime]) -> dict[Key, datetime]:
        """Remember ids that may come again, until then. Returns until when those that have come before were known.

        Rows are locked in the order of keys, so that two who bring the same ids do not deadlock.
        """
        rows = self._execute(_REMEMBER, ((*key, until) for key, until in tries.items()))
        return {(model, id_): known for model, id_, known in rows if known is not None}

    def advance_watermarks(self, shown: Mapping[tuple[str, int], datetime]) -> None:
        """The latest event time seen of each (topic, partition) never goes back."""
        if shown:
            self._connection.execute(_ADVANCE, _columns((*place, time) for place, time in sorted(shown.items())))

    def watermarks(self, topic: str) -> dict[int, datetime]:
        """The latest event time of each partition that has shown one."""
        rows = self._connection.execute(
            "SELECT partition, event_time FROM watermarks WHERE topic = %s", [topic]
        ).fetchall()
        return {partition: time for partition, time in rows}

    # --- reading

    def panes(
        self, version: Version, kind: int, since: datetime | None = None, until: datetime | None = None
    ) -> list[Pane]:
        """The panes that start in [since, until), partitions merged, in order of time; None: without that limit."""
        rows = self._connection.execute(
            "SELECT starts, seconds, partition, n, first_offset, state FROM panes "
            "WHERE model_name = %s AND model_version = %s AND kind = %s "
            "AND starts >= coalesce(%s, '-infinity'::timestamptz) AND starts < coalesce(%s, 'infinity'::timestamptz) "
            "ORDER BY starts, seconds, partition",
            [*version, kind, since, until],
        ).fetchall()
        panes: list[Pane] = []
        for starts, seconds, partition, n, first_offset, data in rows:
            ends = starts + timedelta(seconds=seconds)
            one = Pane(starts, ends, n, State.from_bytes(data), {partition: first_offset})
            if panes and (panes[-1].starts, panes[-1].ends) == (starts, ends):
                one = Pane(
                    starts,
                    ends,
                    panes[-1].n + n,
                    panes[-1].state.merge(one.state),
                    panes[-1].first_offsets | one.first_offsets,
                )
                panes.pop()
            panes.append(one)
        return panes

    def waiting(self, version: Version, since: datetime | None, until: datetime) -> tuple[int, datetime | None]:
        """How many predictions the panes hold that start in [since, until), and when the first of them starts."""
        row = self._connection.execute(
            "SELECT coalesce(sum(n), 0)::bigint, min(starts) FROM panes "
            "WHERE model_name = %s AND model_version = %s AND kind = 0 "
            "AND starts >= coalesce(%s, '-infinity'::timestamptz) AND starts < %s",
            [*version, since, until],
        ).fetchone()
        assert row is not None
        return int(row[0]), row[1]

    def rows_since(self, version: Version, kind: int, since: datetime | None) -> int:
        """How many rows the panes from `since` on hold."""
        row = self._connection.execute(
            "SELECT coalesce(sum(n), 0)::bigint FROM panes WHERE model_name = %s AND model_version = %s AND kind = %s "
            "AND starts >= coalesce(%s, '-infinity'::timestamptz)",
            [*version, kind, since],
        ).fetchone()
        assert row is not None
        return int(row[0])

    # --- keeping it small

    def roll_up(self, version: Version, kind: int, length: float, before: datetime, limit: int = 100) -> int:
        """Merge the shorter panes of each `length` seconds that ended `before`, of all partitions, into one.

        Returns how many longer panes were written. What comes later for that time makes a short pane again, which the
        next call merges.
        """
        parameters = {
            "model": version[0], "version": version[1], "kind": kind,
            "length": length, "before": before, "limit": limit,
        }  # fmt: skip
        targets = self._connection.execute(_ROLL_UP, parameters).fetchall()
        additions = []
        for (starts,) in targets:
            ends = starts + timedelta(seconds=length)
            taken = self._connection.execute(_TAKE, [*version, kind, length, starts, ends]).fetchall()
            if taken:
                state = merged(State.from_bytes(data) for _n, _offset, data in taken)
                n, first = sum(row[0] for row in taken), min(row[1] for row in taken)
                additions.append(Addition(version, kind, starts, length, ALL, n, first, state))
        self.add(additions)
        return len(additions)

    def forget(self, version: Version, before: datetime, judged_until: datetime | None) -> None:
        """Delete panes and windows that ended before; rows that no window had judged are counted as beyond."""
        self._connection.execute(
            "WITH gone AS (DELETE FROM panes WHERE model_name = %(model)s AND model_version = %(version)s "
            "AND kind < 2 AND starts + make_interval(secs => seconds) <= %(before)s RETURNING kind, starts, n), "
            "unjudged AS (SELECT kind, sum(n) AS n FROM gone "
            "WHERE kind = 0 AND starts >= coalesce(%(judged)s, '-infinity'::timestamptz) GROUP BY kind) "
            "INSERT INTO totals AS t SELECT %(model)s, %(version)s, kind, -1, 0, n FROM unjudged "
            "ON CONFLICT (model_name, model_version, kind, partition) "
            "DO UPDATE SET beyond = t.beyond + excluded.beyond",
            {"model": version[0], "version": version[1], "before": before, "judged": judged_until},
        )

    def forget_remembered(self, before: datetime, limit: int) -> int:
        """Forget up to `limit` ids that may be repeated no more, and say how many there were.

        Every partition must have shown a later time, too: one that is read days behind may still bring their retries.
        """
        return self._connection.execute(_FORGET_REMEMBERED, [before, limit]).rowcount

    # --- parking

    def park(self, records: Iterable[ParkedRecord], now: datetime) -> None:
        """Keep records of a version whose profile is not known yet."""
        rows = [
            (
                one.record.topic,
                one.record.partition,
                one.record.offset,
                one.kind,
                *one.version,
                now,
                one.record.key,
                one.record.value,
                msgspec.msgpack.encode(one.record.headers),
            )
            for one in records
        ]
        with self._connection.cursor() as cursor:
            cursor.executemany("INSERT INTO parked VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)", rows)

    def parked(self) -> int:
        """How many records are parked."""
        row = self._connection.execute("SELECT count(*) FROM parked").fetchone()
        return int(row[0]) if row else 0

    def is_parked(self, version: Version) -> bool:
        """Whether predictions of this version are parked."""
        return bool(
            self._connection.execute(
                "SELECT 1 FROM parked WHERE model_name = %s AND model_version = %s AND kind = 0 LIMIT 1", version
            ).fetchone()
        )

    def parked_versions(self) -> list[Version]:
        """The versions that have parked records."""
        rows = self._connection.execute(
            "SELECT DISTINCT model_name, model_version FROM parked ORDER BY model_name, model_version"
        ).fetchall()
        return [(name, version) for name, version in rows]

    def take_parked(self, version: Version, limit: int) -> list[ParkedRecord]:
        """Take up to `limit` parked records of a version, the oldest. Several may take at once, each others' rows."""
        return self._taken(
            'DELETE FROM parked WHERE (topic, partition, "offset") IN (SELECT topic, partition, "offset" '
            "FROM parked WHERE model_name = %s AND model_version = %s "
            'ORDER BY topic, partition, "offset" LIMIT %s FOR UPDATE SKIP LOCKED) ',
            [*version, limit],
        )

    def take_expired(self, before: datetime, limit: int) -> list[ParkedRecord]:
        """Take up to `limit` records that were parked before."""
        return self._taken(
            'DELETE FROM parked WHERE (topic, partition, "offset") IN (SELECT topic, partition, "offset" '
            'FROM parked WHERE parked_at < %s ORDER BY topic, partition, "offset" LIMIT %s FOR UPDATE SKIP LOCKED) ',
            [before, limit],
        )

    # --- erasing

    def erase(self, subjects: Mapping[str, datetime], now: datetime) -> int:
        """Delete what is parked of these subjects and was made before their erasure. Returns how many records it was.

        The subjects are remembered, for records of theirs that are read later.
        """
        self._connection.execute(_LOCK_ERASED)
        self._connection.execute(_ERASE_SUBJECTS, _columns(sorted(subjects.items())))
        names = [msgspec.json.encode(subject) for subject in subjects]
        places = [
            tuple(place) for *place, value in self._connection.execute(_NAMING, [names]) if _meant(value, subjects)
        ]
        if places:
            self._connection.execute(_DELETE_PARKED, _columns(places))
            self.note_erased(places, now)
        return len(places)

    def erased_subjects(self, subjects: Iterable[str]) -> dict[str, datetime]:
        """Those of the subjects that were erased, and until when what was made of them is meant.

        None is erased until the transaction ends: who asks may park the others' records.
        """
        self._connection.execute(_LOCK_ERASED_SHARED)
        rows = self._connection.execute(
            "SELECT subject, erased_at FROM erased_subjects WHERE subject = ANY(%s)", [sorted(set(subjects))]
        ).fetchall()
        return {subject: erased_at for subject, erased_at in rows}

    def note_erased(self, places: Iterable[tuple[object, ...]], now: datetime) -> None:
        """Remember where records (topic, partition, offset) were read that are never counted."""
        self._connection.execute(_ERASE_RECORDS, [now, *_columns(places)])

    def erased_records(self, topic: str) -> set[tuple[int, int]]:
        """Partition and offset of a topic's records that were erased before they were counted."""
        rows = self._connection.execute(
            'SELECT partition, "offset" FROM erased_records WHERE topic = %s', [topic]
        ).fetchall()
        return {(partition, offset) for partition, offset in rows}

    def forget_erased(self, before: datetime) -> None:
        """Forget who and what was erased before."""
        self._connection.execute("DELETE FROM erased_subjects WHERE erased_at < %s", [before])
        self._connection.execute("DELETE FROM erased_records WHERE erased_at < %s", [before])

    def _taken(self, delete: str, parameters: list[object]) -> list[ParkedRecord]:
        returning = 'RETURNING topic, partition, "offset", kind, model_name, model_version, key, value, headers'
        rows = self._connection.execute((delete + returning).encode(), parameters).fetchall()
        return [
            ParkedRecord(Record(topic, partition, offset, key, value, _headers(headers)), kind, (name, version))
            for topic, partition, offset, kind, name, version, key, value, headers in sorted(rows, key=_place)
        ]


def _columns(rows: Iterable[tuple[object, ...]]) -> list[list[object]]:
    """Rows as the arrays that `unnest` takes."""
    return [list(column) for column in zip(*rows, strict=True)]


def _headers(data: bytes) -> dict[str, bytes]:
    return msgspec.msgpack.decode(data, type=dict[str, bytes])


class _Named(msgspec.Struct, frozen=True):
    """Of whom a parked record is, and when its prediction was made."""

    predicted_at: datetime
    subject: str | None = None


def _meant(value: bytes, erased: Mapping[str, datetime]) -> bool:
    """Whether a parked record is of an erased subject, and of the time before."""
    named = msgspec.json.decode(value, type=_Named)
    return named.subject is not None and named.subject in erased and named.predicted_at < erased[named.subject]


def _place(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return row[:3]
