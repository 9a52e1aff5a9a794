"""label-ingest's SQL of upkeep: months that are ready, months that go, results that waited too long."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Literal

from psycopg import Connection

from driftloop.label_ingest.store import hold_off

# A prediction's place in its table.
Place = tuple[str, datetime, str]

_OLD = """
SELECT model_name, predicted_at, prediction_id FROM predictions
WHERE predicted_at >= %(since)s AND predicted_at < %(until)s
    AND (model_name, predicted_at, prediction_id) > (%(model)s, %(at)s, %(id)s)
ORDER BY model_name, predicted_at, prediction_id LIMIT %(limit)s
"""
_STALE = """
SELECT key, result, subject FROM results WHERE NOT matched AND arrived_at < %s ORDER BY arrived_at LIMIT %s
"""
_EXPIRE = """
WITH gone AS (
    DELETE FROM results AS r WHERE r.result = ANY(%(results)s) AND NOT r.matched AND r.arrived_at < %(before)s
    RETURNING r.*
)
INSERT INTO expired_results SELECT %(now)s, gone.* FROM gone
"""
# Those of predictions, and those of the results that belong to them.
_KEYS_OF = """
SELECT 'o' || order_key FROM joins WHERE prediction_id = ANY(%(ids)s) AND order_key IS NOT NULL
UNION SELECT 's' || subject FROM joins WHERE prediction_id = ANY(%(ids)s) AND subject IS NOT NULL
UNION SELECT key FROM matches JOIN results USING (result) WHERE prediction_id = ANY(%(ids)s)
UNION SELECT 's' || subject FROM matches JOIN results USING (result)
    WHERE prediction_id = ANY(%(ids)s) AND subject IS NOT NULL
"""
_DROP_KEYS = """
DELETE FROM keys AS k WHERE key = ANY(%s) AND erased_at IS NULL
    AND NOT EXISTS (SELECT 1 FROM results AS r WHERE r.key = k.key)
    AND CASE left(key, 1)
        WHEN 'o' THEN NOT EXISTS (SELECT 1 FROM joins WHERE order_key = substr(k.key, 2))
        ELSE NOT EXISTS (SELECT 1 FROM joins WHERE subject = substr(k.key, 2))
            AND NOT EXISTS (SELECT 1 FROM results AS r WHERE r.subject = substr(k.key, 2))
    END
"""


def delete(connection: Connection, tables: Iterable[Literal["labels", "predictions"]], places: Sequence[Place]) -> None:
    """Delete the rows of predictions from tables that have the order of `predictions`."""
    columns = [list(column) for column in zip(*places, strict=True)] or [[], [], []]
    for table in tables:
        connection.execute(
            f"DELETE FROM {table} AS t USING unnest(%s::text[], %s::timestamptz[], %s::text[]) "  # noqa: S608
            "AS n (model, at, id) "
            "WHERE (t.model_name, t.predicted_at, t.prediction_id) = (n.model, n.at, n.id)".encode(),
            columns,
        )


def drop_keys(connection: Connection, keys: Iterable[str]) -> None:
    """Delete locked rows of orders and patients of whom nothing is left; erasures are remembered."""
    connection.execute(_DROP_KEYS, [list(keys)])


class Keeper:
    """Looks after what is stored, in one connection's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def keep_month(self, month: date) -> bool:
        """Have a month's table ready; whether it was made now."""
        row = self._connection.execute("SELECT keep_month(%s)", [month]).fetchone()
        return bool(row and row[0])

    def months(self) -> list[date]:
        """The months that have a table, the oldest first."""
        rows = self._connection.execute(
            "SELECT to_date(substr(c.relname, 13), 'YYYY_MM') FROM pg_inherits AS i JOIN pg_class AS c "
            "ON c.oid = i.inhrelid WHERE i.inhparent = 'predictions'::regclass AND c.relname ~ '_[0-9]{4}_[0-9]{2}$' "
            "ORDER BY 1"
        ).fetchall()
        return [month for (month,) in rows]

    def drop_month(self, month: date) -> None:
        """Drop a month's table with all that is in it."""
        self._connection.execute("SELECT drop_month(%s)", [month])

    def old_predictions(self, since: datetime, until: datetime, after: Place, limit: int) -> list[Place]:
        """Predictions made in [since, until), in order, from behind `after` on."""
        model, at, id_ = after
        return [
            (row[0], row[1], row[2])
            for row in self._connection.execute(
                _OLD, {"since": since, "until": until, "model": model, "at": at, "id": id_, "limit": limit}
            ).fetchall()
        ]

    def forget(self, places: Sequence[Place], *, predictions: bool) -> None:
        """Delete what the join knows of predictions, and if told so the predictions, too."""
        hold_off(self._connection)
        ids = [id_ for _, _, id_ in places]
        keys = [key for (key,) in self._connection.execute(_KEYS_OF, {"ids": ids}).fetchall()]
        self._lock_keys(keys)
        self._connection.execute(
            "SELECT 1 FROM joins WHERE prediction_id = ANY(%s) ORDER BY prediction_id FOR UPDATE", [ids]
        )
        self._connection.execute(
            "WITH gone AS (DELETE FROM matches WHERE prediction_id = ANY(%s) RETURNING result) "
            "DELETE FROM results AS r USING gone WHERE r.result = gone.result "
            "AND NOT EXISTS (SELECT 1 FROM matches AS m WHERE m.result = r.result AND m.prediction_id <> ALL(%s))",
            [ids, ids],
        )
        self._connection.execute("DELETE FROM results WHERE key = ANY(%s)", [["p" + id_ for id_ in ids]])
        self._connection.execute("DELETE FROM joins WHERE prediction_id = ANY(%s)", [ids])
        drop_keys(self._connection, keys)
        delete(self._connection, ("labels", "predictions") if predictions else ("labels",), places)

    def expire(self, before: datetime, now: datetime, limit: int) -> int:
        """Move results that have waited since before then to those that expired. Returns how many."""
        stale = self._connection.execute(_STALE, [before, limit]).fetchall()
        if not stale:
            return 0
        keys, results = [row[0] for row in stale], [row[1] for row in stale]
        others = {key for key in keys if key[0] != "p"} | {f"s{row[2]}" for row in stale if row[2] is not None}
        self._lock_keys(others)
        named = sorted({key[1:] for key in keys if key[0] == "p"})
        # Whoever attaches a result to a prediction holds its row.
        self._connection.execute(
            "SELECT 1 FROM joins WHERE prediction_id = ANY(%s) ORDER BY prediction_id FOR UPDATE", [named]
        )
        moved = self._connection.execute(_EXPIRE, {"results": results, "before": before, "now": now}).rowcount
        self._drop_joins(named)
        drop_keys(self._connection, others)
        return moved

    def forget_empty(self, after: str, limit: int) -> list[str]:
        """Delete join rows that neither a prediction nor a result has, from behind `after` on; those looked at."""
        ids = [
            id_
            for (id_,) in self._connection.execute(
                "SELECT prediction_id FROM joins WHERE model_name IS NULL AND prediction_id > %s "
                "ORDER BY prediction_id LIMIT %s FOR UPDATE",
                [after, limit],
            ).fetchall()
        ]
        self._drop_joins(ids)
        return ids

    def _drop_joins(self, ids: Sequence[str]) -> None:
        """Delete those of locked join rows that neither a prediction nor a result has."""
        self._connection.execute(
            "DELETE FROM joins AS j WHERE prediction_id = ANY(%s) AND model_name IS NULL "
            "AND NOT EXISTS (SELECT 1 FROM results AS r WHERE r.key = 'p' || j.prediction_id)",
            [list(ids)],
        )

    def forget_expired(self, before: datetime) -> int:
        """Delete results that expired before then. Returns how many."""
        return self._connection.execute("DELETE FROM expired_results WHERE expired_at < %s", [before]).rowcount

    def _lock_keys(self, keys: Iterable[str]) -> None:
        """Have nobody else look whether there is anything of these orders and patients."""
        self._connection.execute("SELECT 1 FROM keys WHERE key = ANY(%s) ORDER BY key FOR UPDATE", [list(keys)])

    def parked(self) -> tuple[int, datetime | None]:
        """How many results wait for their prediction, and since when the oldest does."""
        row = self._connection.execute("SELECT count(*), min(arrived_at) FROM results WHERE NOT matched").fetchone()
        assert row is not None
        return row[0], row[1]
