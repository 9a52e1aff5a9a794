"""label-ingest's SQL of what others read: rows, counts, and how labels cover predictions."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal

from psycopg import Connection
from psycopg.rows import class_row, dict_row

from driftloop.label_ingest.store import Features, read_features

# Whose scores are asked for: of the version that answered, or of those that were asked beside it.
RowVariant = Literal["champion", "canary", "shadow"]
Labelled = Literal["true", "false", "any"]

_COLUMNS = """p.prediction_id, p.predicted_at, {version}, {variant}, {score}, {prediction}, l.label,
    nullif(l.revision, 0), l.labeled_at, l.policy_version, p.subject, p.features::text"""
_PLAIN = {"version": "p.model_version", "variant": "p.variant", "score": "p.score", "prediction": "p.prediction"}
_SHADOW = {"version": "s.model_version", "variant": "'shadow'", "score": "s.score", "prediction": "s.prediction"}
_SHADOWS = """
CROSS JOIN LATERAL jsonb_to_recordset(p.shadows) AS s (model_version int, score float8, prediction boolean)"""
_BETWEEN = """{table}.model_name = %(model)s
    AND {table}.predicted_at >= coalesce(%(since)s::timestamptz, '-infinity')
    AND {table}.predicted_at < coalesce(%(until)s::timestamptz, 'infinity')"""
# Labels lag by weeks: the newest labelled rows are found by the label, all others by the prediction. The other half is
# looked up row by row (OFFSET 0 sees to that), whatever the planner thinks of it: it takes the parts of a key for
# independent of each other, expects next to no rows, and would rather read all of both tables.
_SAME = "(x.model_name, x.predicted_at, x.prediction_id) = ({by}.model_name, {by}.predicted_at, {by}.prediction_id)"
_BY_LABEL = """
FROM labels AS l
CROSS JOIN LATERAL (SELECT * FROM predictions AS x WHERE {same} OFFSET 0) AS p{shadows}
WHERE l.label IS NOT NULL AND """
_BY_PREDICTION = """
FROM predictions AS p
LEFT JOIN LATERAL (SELECT * FROM labels AS x WHERE {same} OFFSET 0) AS l ON true{shadows}
WHERE {unlabelled}"""

_SUMMARY = """
SELECT
    (SELECT count(*) FROM predictions WHERE model_name = %(model)s) AS predictions,
    (SELECT count(*) FROM labels WHERE model_name = %(model)s) AS outcomes,
    (SELECT count(*) FROM labels WHERE model_name = %(model)s AND label IS NOT NULL) AS labeled,
    (SELECT count(*) FROM labels WHERE model_name = %(model)s AND contested) AS conflicts,
    (SELECT coalesce(sum(jsonb_array_length(shadows)), 0) FROM predictions
        WHERE model_name = %(model)s AND shadows IS NOT NULL) AS shadows,
    (SELECT count(*) FROM results WHERE NOT matched) AS parked,
    (SELECT min(arrived_at) FROM results WHERE NOT matched) AS oldest_parked_at,
    (SELECT count(*) FROM expired_results) AS expired
"""

_COVERAGE = """
SELECT (p.predicted_at AT TIME ZONE 'UTC')::date AS day, p.model_version, count(*) AS predictions,
    count(l.label) AS labeled, count(*) FILTER (WHERE l.label = 1) AS positive,
    count(*) FILTER (WHERE l.contested) AS contested,
    percentile_cont(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY extract(epoch FROM l.labeled_at - p.predicted_at))
        FILTER (WHERE l.label IS NOT NULL) AS delays
FROM predictions AS p LEFT JOIN labels AS l USING (model_name, predicted_at, prediction_id)
WHERE p.model_name = %(model)s AND p.predicted_at >= %(since)s AND p.predicted_at < %(until)s
GROUP BY day, p.model_version ORDER BY day DESC, p.model_version DESC
"""

_WAITING = {
    "parked": "SELECT {columns}, NULL::timestamptz AS expired_at FROM results AS r WHERE NOT matched "
    "ORDER BY arrived_at LIMIT %s",
    "expired": "SELECT {columns}, expired_at FROM expired_results AS r ORDER BY expired_at DESC LIMIT %s",
}
_WAITING_COLUMNS = """r.key, r.version, r.status, r.model_name, r.analyte, r.observed_at, r.reported_at,
    r.arrived_at"""


@dataclass(frozen=True)
class StoredRow:
    """A prediction as it is served, with its label if it has one."""

    prediction_id: str
    predicted_at: datetime
    model_version: int
    variant: RowVariant
    score: float
    prediction: bool
    label: int | None
    label_revision: int | None
    labeled_at: datetime | None
    policy_version: int | None
    subject: str | None
    features: Features


@dataclass(frozen=True)
class RowQuery:
    """Which rows: the newest `limit` of a model and variant, predicted in [since, until), with a label, without or any.

    Without a limit all of them.
    """

    model: str
    limit: int | None
    labelled: Labelled = "any"
    variant: RowVariant = "champion"
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class Coverage:
    """How many of a day's predictions, by UTC, of one version have a label, and after how long, in seconds."""

    day: date
    model_version: int
    predictions: int
    labeled: int
    positive: int
    contested: int
    delays: Sequence[float] | None


@dataclass(frozen=True)
class Waiting:
    """A result that has no prediction. `key` says what it names: p, o or s, and a prediction's id or a pseudonym."""

    key: str
    version: int
    status: str
    model_name: str | None
    analyte: str | None
    observed_at: datetime | None
    reported_at: datetime | None
    arrived_at: datetime
    expired_at: datetime | None


class Reader:
    """What is read for others, in one connection's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def rows(self, query: RowQuery, batch_size: int) -> Generator[list[StoredRow], None, None]:
        """The rows newest first, of one instant the higher id, in batches; the server keeps what has not been fetched.

        Close it before its transaction ends.
        """
        with self._connection.cursor("rows") as cursor:
            cursor.execute(rows_statement(query), vars(query))
            while found := cursor.fetchmany(batch_size):
                yield [StoredRow(*[*rest, read_features(features)]) for *rest, features in found]

    def summary(self, model: str) -> dict[str, Any]:
        """How many predictions and labels a model has, and what is parked, whatever model it will turn out to be of."""
        with self._connection.cursor(row_factory=dict_row) as cursor:
            row = cursor.execute(_SUMMARY, {"model": model}).fetchone()
        assert row is not None
        return row

    def coverage(self, model: str, since: datetime, until: datetime) -> list[Coverage]:
        """The coverage of each day and version in [since, until), newest first."""
        with self._connection.cursor(row_factory=class_row(Coverage)) as cursor:
            return cursor.execute(_COVERAGE, {"model": model, "since": since, "until": until}).fetchall()

    def waiting(self, which: Literal["parked", "expired"], limit: int) -> list[Waiting]:
        """Results without a prediction: those that wait, the oldest first, or those that expired, the newest first."""
        statement = _WAITING[which].format(columns=_WAITING_COLUMNS)
        with self._connection.cursor(row_factory=class_row(Waiting)) as cursor:
            return cursor.execute(statement.encode(), [limit]).fetchall()


def rows_statement(query: RowQuery) -> bytes:
    """The statement that reads the rows; its parameters are the query's fields."""
    shadow = query.variant == "shadow"
    source = _BY_LABEL if query.labelled == "true" else _BY_PREDICTION
    table = "l" if query.labelled == "true" else "p"
    statement = "SELECT " + _COLUMNS.format(**(_SHADOW if shadow else _PLAIN))
    statement += source.format(
        same=_SAME.format(by=table),
        shadows=_SHADOWS if shadow else "",
        unlabelled="l.label IS NULL AND " if query.labelled == "false" else "",
    )
    statement += _BETWEEN.format(table=table)
    statement += " AND p.shadows IS NOT NULL" if shadow else " AND p.variant = %(variant)s"
    statement += f"\nORDER BY {table}.predicted_at DESC, {table}.prediction_id DESC"
    statement += ", s.model_version" if shadow else ""
    return (statement + " LIMIT %(limit)s").encode()
