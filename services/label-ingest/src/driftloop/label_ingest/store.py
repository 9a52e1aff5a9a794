"""label-ingest's SQL: the join rows, and what is read of them."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgspec
from psycopg import Connection
from psycopg.rows import dict_row

from driftloop.common.events import FeatureValue, PredictionMade, Shadows, Variant
from driftloop.label_ingest.domain.labels import Labels, Result
from driftloop.label_ingest.domain.retries import Taken

Features = dict[str, FeatureValue]
# Whose scores are asked for: of the version that answered, or of those that were asked beside it.
RowVariant = Literal["champion", "canary", "shadow"]

# A batch travels as one JSON text: quicker to write, send and read than an array a column.
# One pass over all keys, in their order. The prediction that came first stays.
_LOCK = """
INSERT INTO joins AS j (prediction_id, model_name, model_version, predicted_at, score, prediction, variant, subject,
    features, shadows, repeatable_until)
SELECT prediction_id, model_name, model_version, predicted_at, score, prediction, variant, subject,
    features, nullif(shadows, '[]'), repeatable_until
FROM json_to_recordset(%s::json) AS n (prediction_id text, model_name text, model_version int,
    predicted_at timestamptz, score float8, prediction boolean, variant text, subject text, features jsonb,
    shadows jsonb, repeatable_until timestamptz)
ORDER BY prediction_id COLLATE "C"
ON CONFLICT (prediction_id) DO UPDATE SET
    model_name = coalesce(j.model_name, excluded.model_name),
    model_version = coalesce(j.model_version, excluded.model_version),
    predicted_at = coalesce(j.predicted_at, excluded.predicted_at),
    score = coalesce(j.score, excluded.score),
    prediction = coalesce(j.prediction, excluded.prediction),
    variant = coalesce(j.variant, excluded.variant),
    subject = CASE WHEN j.model_name IS NULL THEN excluded.subject ELSE j.subject END,
    features = coalesce(j.features, excluded.features),
    shadows = CASE WHEN j.model_name IS NULL THEN excluded.shadows ELSE j.shadows END,
    repeatable_until = CASE WHEN j.model_name IS NULL THEN excluded.repeatable_until ELSE j.repeatable_until END
RETURNING prediction_id, result_version, observed_at, result_id, label, contested, published_label, label_revision,
    model_name, model_version, predicted_at, repeatable_until
"""

_SAVE = """
UPDATE joins AS j SET
    result_version = n.version,
    observed_at = n.observed_at,
    result_id = n.result_id,
    label = n.label,
    contested = n.contested,
    published_label = n.published,
    label_revision = n.revision,
    arrived_at = coalesce(j.arrived_at, %(now)s),
    labeled_at = CASE WHEN n.revision > j.label_revision THEN %(now)s ELSE j.labeled_at END
FROM json_to_recordset(%(rows)s::json) AS n (prediction_id text, version int, observed_at timestamptz, result_id text,
    label smallint, contested boolean, published smallint, revision int)
WHERE j.prediction_id = n.prediction_id
"""

_ROWS = """
SELECT j.prediction_id, j.predicted_at, j.model_version, j.variant, j.score, j.prediction, j.published_label,
    nullif(j.label_revision, 0), j.labeled_at, j.subject, j.features
FROM joins AS j
WHERE j.model_name = %(model)s AND j.variant = %(variant)s
    AND j.predicted_at >= coalesce(%(since)s::timestamptz, '-infinity')
    AND j.predicted_at < coalesce(%(until)s::timestamptz, 'infinity')
    {labelled}
ORDER BY j.predicted_at DESC, j.prediction_id LIMIT %(limit)s
"""
_SHADOWS = """
SELECT j.prediction_id, j.predicted_at, s.model_version, 'shadow', s.score, s.prediction, j.published_label,
    nullif(j.label_revision, 0), j.labeled_at, j.subject, j.features
FROM joins AS j
CROSS JOIN LATERAL jsonb_to_recordset(j.shadows) AS s (model_version int, score float8, prediction boolean)
WHERE j.model_name = %(model)s AND j.shadows IS NOT NULL
    AND j.predicted_at >= coalesce(%(since)s::timestamptz, '-infinity')
    AND j.predicted_at < coalesce(%(until)s::timestamptz, 'infinity')
    {labelled}
ORDER BY j.predicted_at DESC, j.prediction_id, s.model_version LIMIT %(limit)s
"""
_LABELED = "AND j.label_revision > 0"

_SUMMARY = """
SELECT
    (SELECT count(*) FROM joins WHERE model_name = %(model)s) AS predictions,
    (SELECT count(*) FROM joins WHERE model_name = %(model)s AND label_revision > 0) AS labeled,
    (SELECT count(*) FROM joins WHERE model_name = %(model)s AND contested) AS conflicts,
    (SELECT coalesce(sum(jsonb_array_length(shadows)), 0) FROM joins
        WHERE model_name = %(model)s AND shadows IS NOT NULL) AS shadows,
    (SELECT count(*) FROM joins WHERE model_name IS NULL) AS parked,
    (SELECT min(arrived_at) FROM joins WHERE model_name IS NULL) AS oldest_parked_at
"""


@dataclass(frozen=True)
class Join:
    """A join row: its labels, and the prediction that took its id; None where none has come."""

    labels: Labels
    taken: Taken | None


@dataclass(frozen=True)
class StoredPrediction:
    """A prediction's half of a join row."""

    model_name: str
    model_version: int
    predicted_at: datetime
    score: float
    prediction: bool
    variant: Variant
    subject: str | None
    shadows: Shadows
    features: Features


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
    subject: str | None
    features: Features


@dataclass(frozen=True)
class RowQuery:
    """Which rows: the newest `limit` of a model and variant, predicted in [since, until), those with a label or any."""

    model: str
    limit: int
    labelled: Literal["true", "any"] = "any"
    variant: RowVariant = "champion"
    since: datetime | None = None
    until: datetime | None = None


class Store:
    """All that label-ingest remembers, in one connection's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # --- joining

    def lock(self, predictions: Mapping[str, PredictionMade], outcomes: Iterable[str]) -> dict[str, Join]:
        """The join rows of predictions (by id) and of the ids that outcomes name, locked until the transaction ends.

        A row that is not there is made; a prediction fills its half unless another came first. One statement takes all
        locks, in the order of ids, so that two transactions which touch the same rows do not deadlock.
        """
        others = [_Id(id_) for id_ in {*outcomes} - predictions.keys()]
        if not others and not predictions:
            return {}
        rows = self._connection.execute(_LOCK, [_json([*predictions.values(), *others])]).fetchall()
        return {id_: _join(row) for id_, *row in rows}

    def save(self, changed: Mapping[str, Labels], now: datetime) -> None:
        """Write the labels of locked rows."""
        rows = [
            {
                "prediction_id": id_,
                **(vars(labels.holds) if labels.holds else {}),
                "contested": labels.contested,
                "published": labels.published,
                "revision": labels.revision,
            }
            for id_, labels in changed.items()
        ]
        self._connection.execute(_SAVE, {"now": now, "rows": _json(rows)})

    def predictions(self, ids: Iterable[str]) -> dict[str, StoredPrediction]:
        """Those of the predictions that are there, by id."""
        rows = self._connection.execute(
            "SELECT prediction_id, model_name, model_version, predicted_at, score, prediction, variant, subject, "
            "shadows, features FROM joins WHERE prediction_id = ANY(%s) AND model_name IS NOT NULL",
            [list(ids)],
        ).fetchall()
        return {id_: _prediction(rest) for id_, *rest in rows}

    # --- reading for others

    def rows(self, query: RowQuery, batch_size: int) -> Generator[list[StoredRow], None, None]:
        """The rows newest first, ties by id, in batches; the server keeps what has not been fetched.

        Close it before its transaction ends.
        """
        with self._connection.cursor("rows") as cursor:
            cursor.execute(rows_statement(query), vars(query))
            while found := cursor.fetchmany(batch_size):
                yield [StoredRow(*_restored(row)) for row in found]

    def summary(self, model: str) -> dict[str, Any]:
        """How many predictions and labels a model has, and what is parked, whatever model it will turn out to be of."""
        with self._connection.cursor(row_factory=dict_row) as cursor:
            row = cursor.execute(_SUMMARY, {"model": model}).fetchone()
        assert row is not None
        return row


def rows_statement(query: RowQuery) -> bytes:
    """The statement that reads the rows; its parameters are the query's fields."""
    template = _SHADOWS if query.variant == "shadow" else _ROWS
    return template.format(labelled=_LABELED if query.labelled == "true" else "").encode()


class _Id(msgspec.Struct, frozen=True):
    """A key without its prediction."""

    prediction_id: str


def _json(rows: Sequence[object]) -> str:
    return msgspec.json.encode(rows).decode()


def _restored(row: Sequence[Any]) -> list[Any]:
    """A row whose last column, the features, is as it was logged: jsonb writes a large float out in whole digits."""
    *rest, features = row
    small = {key: float(one) if isinstance(one, int) and abs(one) >= 2**63 else one for key, one in features.items()}
    return [*rest, small]


def _prediction(row: Sequence[Any]) -> StoredPrediction:
    *rest, shadows, features = _restored(row)
    return StoredPrediction(*[*rest, msgspec.convert(shadows or (), Shadows), features])


def _join(row: Sequence[Any]) -> Join:
    version, observed_at, result_id, label, contested, published, revision, *half = row
    holds = None if label is None else Result(version, observed_at, result_id, label)
    return Join(Labels(holds, contested, published, revision), None if half[0] is None else Taken(*half))
