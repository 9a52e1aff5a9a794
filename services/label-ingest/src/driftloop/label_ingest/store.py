"""label-ingest's SQL of the join: keys, join rows, results and which of them belong together.

Everyone takes locks in this order, each kind by its key: keys, join rows that are named, results, further join rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from psycopg import Connection

from driftloop.common.events import FeatureValue, PredictionMade, Shadows, Variant
from driftloop.label_ingest.domain.labels import Published
from driftloop.label_ingest.domain.matching import Candidate
from driftloop.label_ingest.domain.results import Result, Version
from driftloop.label_ingest.domain.retries import Taken

Features = dict[str, FeatureValue]
# A result: the key that it names, and its source and id there.
ResultId = tuple[str, str]
# A prediction's id and the result that belongs to it.
Match = tuple[str, str, str]

# A batch travels as one JSON text: quicker to write, send and read than an array a column.
_LOCK_KEYS = """
INSERT INTO keys AS k (key, predictions, results)
SELECT key, predictions, results FROM json_to_recordset(%s::json) AS n (key text, predictions bigint, results bigint)
ORDER BY key COLLATE "C"
ON CONFLICT (key) DO UPDATE SET predictions = k.predictions + excluded.predictions,
    results = k.results + excluded.results
RETURNING key, predictions, results, erased_at
"""

# One pass over all ids, in their order. The prediction that came first stays, and only what stays is stored.
_LOCK = """
WITH come AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%s::json) AS n (prediction_id text, model_name text, model_version int,
        predicted_at timestamptz, score float8, prediction boolean, variant text, subject text, "order" text,
        features jsonb, shadows jsonb, repeatable_until timestamptz)
), locked AS (
    INSERT INTO joins AS j (prediction_id, model_name, model_version, predicted_at, subject, order_key,
        repeatable_until)
    SELECT prediction_id, model_name, model_version, predicted_at, subject, "order", repeatable_until FROM come
    ORDER BY prediction_id COLLATE "C"
    ON CONFLICT (prediction_id) DO UPDATE SET
        model_name = coalesce(j.model_name, excluded.model_name),
        model_version = coalesce(j.model_version, excluded.model_version),
        predicted_at = coalesce(j.predicted_at, excluded.predicted_at),
        subject = CASE WHEN j.model_name IS NULL THEN excluded.subject ELSE j.subject END,
        order_key = CASE WHEN j.model_name IS NULL THEN excluded.order_key ELSE j.order_key END,
        repeatable_until = CASE WHEN j.model_name IS NULL THEN excluded.repeatable_until ELSE j.repeatable_until END
    RETURNING *
), stored AS (
    INSERT INTO predictions (prediction_id, model_name, model_version, predicted_at, score, prediction, variant,
        subject, features, shadows)
    SELECT prediction_id, model_name, model_version, predicted_at, score, prediction, variant, come.subject, features,
        nullif(shadows, '[]')
    FROM come JOIN locked USING (prediction_id, model_name, model_version, predicted_at)
    ON CONFLICT DO NOTHING
)
"""
_JOIN_COLUMNS = """prediction_id, published_label, label_revision, reports, contested, model_name, model_version,
    predicted_at, repeatable_until"""
_LOCK += "SELECT " + _JOIN_COLUMNS + " FROM locked"  # noqa: S608 - the columns are this module's own

_VERSION = """key, result, subject, model_name, version, reported_at, status, observed_at, label, analyte, value, unit,
    comparator"""
_R_VERSION = ", ".join(f"r.{name.strip()}" for name in _VERSION.split(","))
_RESULT_TYPES = """key text, result text, subject text, model_name text, version int, reported_at timestamptz,
    status text, observed_at timestamptz, label smallint, analyte text, value float8, unit text, comparator text,
    contested boolean, matched boolean"""

_LOCK_RESULTS = f"""
INSERT INTO results AS r ({_VERSION}, contested, matched, arrived_at)
SELECT {_VERSION}, contested, matched, %s FROM json_to_recordset(%s::json) AS n ({_RESULT_TYPES})
ORDER BY key COLLATE "C", result COLLATE "C"
ON CONFLICT (key, result) DO UPDATE SET arrived_at = r.arrived_at
RETURNING {_R_VERSION}, r.contested, r.matched, xmax = 0
"""  # noqa: S608 - the columns are this module's own

_SAVE_RESULTS = f"""
UPDATE results AS r SET subject = n.subject, model_name = n.model_name, version = n.version,
    reported_at = n.reported_at, status = n.status, observed_at = n.observed_at, label = n.label, analyte = n.analyte,
    value = n.value, unit = n.unit, comparator = n.comparator, contested = n.contested, matched = n.matched
FROM json_to_recordset(%s::json) AS n ({_RESULT_TYPES})
WHERE r.key = n.key AND r.result = n.result
"""  # noqa: S608

_SAVE = """
UPDATE joins AS j SET
    published_label = n.label,
    label_revision = n.revision,
    policy_version = CASE WHEN n.label IS NULL THEN NULL ELSE n.policy_version END,
    contested = n.contested,
    reports = j.reports + n.reports,
    labeled_at = CASE WHEN n.revision > j.label_revision THEN %s ELSE j.labeled_at END
FROM json_to_recordset(%s::json) AS n (prediction_id text, label smallint, revision int, policy_version int,
    contested boolean, reports int)
WHERE j.prediction_id = n.prediction_id
"""


@dataclass(frozen=True, slots=True)
class Key:
    """An order's or a patient's row; the counts say that there may be some, never that there are none too few."""

    predictions: int
    results: int
    erased_at: datetime | None


@dataclass(frozen=True, slots=True)
class Join:
    """A join row: what was published, how many results were ever attached, and which prediction took its id, if any."""

    published: Published
    reports: int
    contested: bool
    taken: Taken | None


@dataclass(frozen=True, slots=True)
class Saved:
    """What is to be written of a join row; `reports` are those that this batch has attached."""

    published: Published
    policy_version: int | None
    contested: bool
    reports: int


@dataclass(frozen=True, slots=True)
class StoredPrediction:
    """A prediction as it was logged."""

    model_name: str
    model_version: int
    predicted_at: datetime
    score: float
    prediction: bool
    variant: Variant
    subject: str | None
    shadows: Shadows
    features: Features


class Store:
    """All that the join remembers, in one connection's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # --- locking

    def lock_keys(self, counts: Mapping[str, Sequence[int]]) -> dict[str, Key]:
        """The rows of orders and patients, locked; by key, how many predictions and results are being added."""
        if not counts:
            return {}
        rows = [_KeyRow(key, predictions, results) for key, (predictions, results) in counts.items()]
        found = self._connection.execute(_LOCK_KEYS, [_json(rows)]).fetchall()
        return {key: Key(*rest) for key, *rest in found}

    def lock(self, predictions: Mapping[str, PredictionMade], others: Iterable[str]) -> dict[str, Join]:
        """The join rows of predictions (by id) and of other ids, locked until the transaction ends.

        A row that is not there is made; a prediction takes its row, and is stored, unless another came first.
        """
        rows = [*predictions.values(), *(_Id(id_) for id_ in {*others} - predictions.keys())]
        if not rows:
            return {}
        return _joins(self._connection.execute(_LOCK.encode(), [_json(rows)]).fetchall())

    def lock_joins(self, ids: Iterable[str]) -> dict[str, Join]:
        """Join rows of ids that are there, locked in their order."""
        rows = self._connection.execute(
            f"SELECT {_JOIN_COLUMNS} FROM joins WHERE prediction_id = ANY(%s) "  # noqa: S608
            "ORDER BY prediction_id FOR UPDATE".encode(),
            [list(ids)],
        ).fetchall()
        return _joins(rows)

    def lock_results(self, come: Iterable[Result], now: datetime) -> tuple[dict[ResultId, Result], set[ResultId]]:
        """Results by id, locked; those that are new are written, and their ids told."""
        rows = [_row(one) for one in come]
        found = self._connection.execute(_LOCK_RESULTS.encode(), [now, _json(rows)]).fetchall()
        known = {(row[0], row[1]): _result(row[:-1]) for row in found}
        return known, {(row[0], row[1]) for row in found if row[-1]}

    def results_of_keys(self, keys: Iterable[str]) -> dict[ResultId, Result]:
        """The results that name any of these orders and patients, alone or as a patient beside an order, locked."""
        wanted = list(keys)
        subjects = [key[1:] for key in wanted if key[0] == "s"]
        rows = self._connection.execute(
            f"SELECT {_VERSION}, contested, matched FROM results "  # noqa: S608
            "WHERE key = ANY(%s) OR subject = ANY(%s) ORDER BY key, result FOR UPDATE".encode(),
            [wanted, subjects],
        ).fetchall()
        return {(row[0], row[1]): _result(row) for row in rows}

    # --- what belongs together

    def candidates(self, orders: Iterable[str], subjects: Iterable[str]) -> list[Candidate]:
        """The predictions of orders and of patients."""
        rows = self._connection.execute(
            "SELECT prediction_id, model_name, predicted_at, order_key, subject FROM joins "
            "WHERE order_key = ANY(%s) OR subject = ANY(%s)",
            [list(orders), list(subjects)],
        ).fetchall()
        return [Candidate(*row) for row in rows]

    def matches(self, results: Iterable[ResultId]) -> set[Match]:
        """Which predictions the results belonged to up to now."""
        keys, names = _columns(results, 2)
        rows = self._connection.execute(
            "SELECT m.prediction_id, m.key, m.result FROM unnest(%s::text[], %s::text[]) AS n (key, result) "
            "JOIN matches AS m USING (key, result)",
            [keys, names],
        ).fetchall()
        return {(row[0], row[1], row[2]) for row in rows}

    def change_matches(self, gone: Iterable[Match], come: Iterable[Match]) -> None:
        """Have results belong to other predictions."""
        gone, come = list(gone), list(come)
        if gone:
            self._connection.execute(
                "DELETE FROM matches AS m USING unnest(%s::text[], %s::text[], %s::text[]) AS n (id, key, result) "
                "WHERE (m.prediction_id, m.key, m.result) = (n.id, n.key, n.result)",
                _columns(gone, 3),
            )
        if come:
            self._connection.execute(
                "INSERT INTO matches SELECT * FROM unnest(%s::text[], %s::text[], %s::text[])", _columns(come, 3)
            )

    def results_of(self, ids: Iterable[str]) -> dict[str, list[Result]]:
        """All results of predictions, by prediction id. Their join rows are locked."""
        wanted = list(ids)
        rows = self._connection.execute(
            f"SELECT substr(key, 2), {_VERSION}, contested, matched FROM results "  # noqa: S608
            f"WHERE key = ANY(%s) UNION ALL SELECT m.prediction_id, {_R_VERSION}, r.contested, r.matched "
            "FROM matches AS m JOIN results AS r USING (key, result) WHERE m.prediction_id = ANY(%s)".encode(),
            [["p" + id_ for id_ in wanted], wanted],
        ).fetchall()
        found: dict[str, list[Result]] = {}
        for id_, *row in rows:
            found.setdefault(id_, []).append(_result(row))
        return found

    # --- saving

    def save_results(self, changed: Iterable[Result]) -> None:
        """Write results that are locked."""
        rows = [_row(one) for one in changed]
        if rows:
            self._connection.execute(_SAVE_RESULTS.encode(), [_json(rows)])

    def unpark(self, ids: Iterable[str]) -> None:
        """Say that the predictions which results named by id are there now."""
        self._connection.execute(
            "UPDATE results SET matched = true WHERE key = ANY(%s) AND NOT matched", [["p" + id_ for id_ in ids]]
        )

    def save(self, changed: Mapping[str, Saved], now: datetime) -> None:
        """Write the labels of locked join rows."""
        rows = [
            _JoinRow(id_, one.published.label, one.published.revision, one.policy_version, one.contested, one.reports)
            for id_, one in changed.items()
        ]
        if rows:
            self._connection.execute(_SAVE, [now, _json(rows)])

    def predictions(self, wanted: Mapping[str, Taken]) -> dict[str, StoredPrediction]:
        """Predictions as they were logged, by id."""
        rows = self._connection.execute(
            "SELECT prediction_id, model_name, p.model_version, predicted_at, p.score, p.prediction, p.variant, "
            "p.subject, p.shadows, p.features "
            "FROM unnest(%s::text[], %s::timestamptz[], %s::text[]) AS n (model_name, predicted_at, prediction_id) "
            "JOIN predictions AS p USING (model_name, predicted_at, prediction_id)",
            [
                [one.model_name for one in wanted.values()],
                [one.predicted_at for one in wanted.values()],
                list(wanted),
            ],
        ).fetchall()
        return {id_: _prediction(rest) for id_, *rest in rows}


def restored(features: dict[str, Any]) -> Features:
    """Features as they were logged: jsonb writes a large float out in whole digits."""
    return {key: float(one) if isinstance(one, int) and abs(one) >= 2**63 else one for key, one in features.items()}


class _Id(msgspec.Struct, frozen=True, gc=False):
    """A key without its prediction."""

    prediction_id: str


class _KeyRow(msgspec.Struct, frozen=True, gc=False):
    key: str
    predictions: int
    results: int


class _JoinRow(msgspec.Struct, frozen=True, gc=False):
    prediction_id: str
    label: int | None
    revision: int
    policy_version: int | None
    contested: bool
    reports: int


def _json(rows: Sequence[object]) -> str:
    return msgspec.json.encode(rows).decode()


def _row(one: Result) -> dict[str, Any]:
    held = one.holds
    return {name: getattr(held, name) for name in Version.__slots__} | {
        "contested": one.contested,
        "matched": one.matched,
    }


def _result(row: Sequence[Any]) -> Result:
    *version, contested, matched = row
    return Result(Version(*version), contested, matched)


def _joins(rows: Iterable[Sequence[Any]]) -> dict[str, Join]:
    found = {}
    for id_, label, revision, reports, contested, *half in rows:
        taken = None if half[0] is None else Taken(*half)
        found[id_] = Join(Published(label, revision), reports, contested, taken)
    return found


def _columns(rows: Iterable[Sequence[str]], count: int) -> list[list[str]]:
    columns: list[list[str]] = [[] for _ in range(count)]
    for row in rows:
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    return columns


def _prediction(row: Sequence[Any]) -> StoredPrediction:
    *rest, shadows, features = row
    return StoredPrediction(*[*rest, msgspec.convert(shadows or (), Shadows), restored(features)])
