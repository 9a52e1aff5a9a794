"""label-ingest's SQL of the join: keys, join rows, results and which of them belong together.

Everyone takes locks in this order, each kind by its key: keys, join rows whose prediction has not come, results. What
the results of a prediction make is written only if nobody else has written it meanwhile.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, LiteralString

import msgspec
from psycopg import Connection, Cursor
from psycopg.abc import Params
from psycopg.errors import SerializationFailure, UniqueViolation
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from driftloop.common.events import FeatureValue, PredictionMade, Shadows, Variant
from driftloop.label_ingest.copying import copied, escaped, join_line, json_text, prediction_line
from driftloop.label_ingest.domain.labels import Published
from driftloop.label_ingest.domain.matching import Candidate
from driftloop.label_ingest.domain.results import Result, Version
from driftloop.label_ingest.domain.retries import Taken

Features = dict[str, FeatureValue]
_features = msgspec.json.Decoder(dict[str, Any]).decode
# A prediction's id and the result that belongs to it.
Match = tuple[str, str]

# How often rows are looked for, and those that are not there written, before they are written one by one. Each time
# somebody else has made some of them.
TRIES = 50
_LOCK_CLASS = 0x4A6F696E

# One of the texts in a JSON array.
_ANY = "ANY(ARRAY(SELECT json_array_elements_text(%s::json)))"
# A batch travels as one JSON text: quicker to write, send and read than an array a column.
_KEYS_THERE = f"SELECT key, results, erased_at FROM keys WHERE key = {_ANY} ORDER BY key FOR UPDATE"  # noqa: S608
_JOINS_THERE = f"""
SELECT prediction_id, model_name, model_version, predicted_at, repeatable_until FROM joins WHERE prediction_id = {_ANY}
"""  # noqa: S608
_LOCKED = "ORDER BY prediction_id FOR UPDATE"
_CANDIDATES = f"""
SELECT prediction_id, model_name, predicted_at, order_key, subject FROM joins
WHERE order_key = {_ANY} OR subject = {_ANY}
"""  # noqa: S608
_UNPARK = f"UPDATE results SET matched = true WHERE key = {_ANY} AND NOT matched"  # noqa: S608
_LOCK_KEYS = """
INSERT INTO keys AS k (key, results)
SELECT key, results FROM json_to_recordset(%s::json) AS n (key text, results bigint)
ORDER BY key COLLATE "C"
ON CONFLICT (key) DO UPDATE SET results = k.results + excluded.results
RETURNING key, results, erased_at
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
    RETURNING j.*, xmax = 0 AS fresh
), stored AS (
    INSERT INTO predictions (prediction_id, model_name, model_version, predicted_at, score, prediction, variant,
        subject, features, shadows)
    SELECT prediction_id, model_name, model_version, predicted_at, score, prediction, variant, come.subject, features,
        nullif(shadows, '[]')
    FROM come JOIN locked USING (prediction_id, model_name, model_version, predicted_at)
    ON CONFLICT DO NOTHING
)
SELECT prediction_id, fresh, model_name, model_version, predicted_at, repeatable_until FROM locked
"""

_VERSION = """key, result, subject, model_name, version, reported_at, status, observed_at, label, analyte, value, unit,
    comparator"""
_R_VERSION = ", ".join(f"r.{name.strip()}" for name in _VERSION.split(","))
_RESULT_TYPES = """key text, result text, subject text, model_name text, version int, reported_at timestamptz,
    status text, observed_at timestamptz, label smallint, analyte text, value float8, unit text, comparator text,
    contested boolean, matched boolean"""

_LOCK_RESULTS = f"""
INSERT INTO results AS r ({_VERSION}, contested, matched, arrived_at)
SELECT {_VERSION}, contested, matched, %s FROM json_to_recordset(%s::json) AS n ({_RESULT_TYPES})
ORDER BY result COLLATE "C"
ON CONFLICT (result) DO UPDATE SET arrived_at = r.arrived_at
RETURNING {_R_VERSION}, r.contested, r.matched, xmax = 0
"""  # noqa: S608 - the columns are this module's own

_KNOWN = f"""
SELECT result FROM results WHERE result = {_ANY} UNION ALL SELECT result FROM expired_results WHERE result = {_ANY}
"""  # noqa: S608
_EXPIRED = f"SELECT {_VERSION} FROM expired_results WHERE result = {_ANY}"  # noqa: S608
_TAKE_EXPIRED = f"""
DELETE FROM expired_results WHERE result = {_ANY} RETURNING {_VERSION}, contested, matched
"""  # noqa: S608
_DROP_PARKED = f"DELETE FROM results WHERE key = {_ANY} AND NOT matched"  # noqa: S608

_SAVE_RESULTS = f"""
UPDATE results AS r SET key = n.key, subject = n.subject, model_name = n.model_name, version = n.version,
    reported_at = n.reported_at, status = n.status, observed_at = n.observed_at, label = n.label, analyte = n.analyte,
    value = n.value, unit = n.unit, comparator = n.comparator, contested = n.contested, matched = n.matched,
    arrived_at = CASE WHEN r.matched AND NOT n.matched THEN %s ELSE r.arrived_at END
FROM json_to_recordset(%s::json) AS n ({_RESULT_TYPES})
WHERE r.result = n.result
"""  # noqa: S608

_LABELS = """
SELECT prediction_id, label, revision, contested, policy_version, looks
FROM json_to_recordset(%s::json) AS n (model_name text, predicted_at timestamptz, prediction_id text)
JOIN labels USING (model_name, predicted_at, prediction_id)
"""
_SAVE = """
INSERT INTO labels AS l (model_name, predicted_at, prediction_id, label, revision, policy_version, contested, looks,
    labeled_at)
SELECT model_name, predicted_at, prediction_id, label, revision, policy_version, contested, looks,
    CASE WHEN revision > 0 THEN %(now)s::timestamptz END
FROM json_to_recordset(%(rows)s::json) AS n (model_name text, predicted_at timestamptz, prediction_id text,
    label smallint, revision int, policy_version int, contested boolean, looks int)
ORDER BY model_name, predicted_at, prediction_id COLLATE "C"
ON CONFLICT (model_name, predicted_at, prediction_id) DO UPDATE SET
    label = excluded.label,
    policy_version = excluded.policy_version,
    contested = excluded.contested,
    labeled_at = CASE WHEN excluded.revision > l.revision THEN excluded.labeled_at ELSE l.labeled_at END,
    revision = excluded.revision,
    looks = excluded.looks
WHERE l.looks = excluded.looks - 1
"""


class Key(msgspec.Struct, frozen=True, gc=False):
    """An order's or a patient's row: how many results ever named it, and when its patient was erased, if so."""

    results: int
    erased_at: datetime | None = None


class Join(msgspec.Struct, frozen=True, gc=False):
    """A join row: the prediction that took its id, if any, and whether the row was made in this transaction."""

    taken: Taken | None
    fresh: bool = False


class Known(msgspec.Struct, frozen=True, gc=False):
    """What was published of a prediction that has had results, whether these disagree, and which policy was asked.

    `looks` counts how often that was written.
    """

    published: Published
    contested: bool
    policy_version: int | None = None
    looks: int = 0


class Saved(msgspec.Struct, frozen=True, gc=False):
    """What is to be kept of a prediction's results."""

    taken: Taken
    known: Known


class StoredPrediction(msgspec.Struct, frozen=True, gc=False):
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


def begin(connection: Connection) -> None:
    """Say that this transaction joins: until it ends nothing is taken away from under it."""
    connection.execute("SELECT pg_advisory_xact_lock_shared(%s, hashtext(current_schema()))", [_LOCK_CLASS])


def hold_off(connection: Connection) -> None:
    """Wait until nobody joins, and let nobody begin, until this transaction ends: something is to be taken away."""
    connection.execute("SELECT pg_advisory_xact_lock(%s, hashtext(current_schema()))", [_LOCK_CLASS])


def nothing() -> None:
    """Do nothing."""


class Store:
    """All that the join remembers, in one connection's transaction, which has begun.

    What looks like a transaction within it is a savepoint; as the outermost one it would give its locks away.
    `meanwhile` is called while the database takes predictions in, once or more often.
    """

    def __init__(self, connection: Connection, meanwhile: Callable[[], None] = nothing) -> None:
        assert connection.info.transaction_status is not TransactionStatus.IDLE
        self._connection = connection
        self._meanwhile = meanwhile

    def _do(self, statement: LiteralString | bytes, parameters: Params) -> Cursor[TupleRow]:
        # A plan that is kept was made when the tables were smaller.
        return self._connection.execute(statement, parameters, prepare=False)

    # --- locking

    def lock_keys(self, results: Mapping[str, int]) -> dict[str, Key]:
        """The rows of orders and patients, locked; by key, how many results are being added."""
        if not results:
            return {}
        for _ in range(TRIES):
            try:
                with self._connection.transaction():
                    there = self._keys_there(results)
                    new = sorted(results.keys() - there.keys())
                    with copied(
                        self._connection, "keys (key, results)", (f"{escaped(key)}\t{results[key]}\n" for key in new)
                    ):
                        made = {key: Key(results[key]) for key in new}
            except UniqueViolation:
                # Somebody made one of these rows since: it is locked as one that is there.
                continue
            more = {key: results[key] for key in there if results[key]}
            return there | made | (self._lock_keys(more) if more else {})
        return self._lock_keys(results)

    def _keys_there(self, keys: Iterable[str]) -> dict[str, Key]:
        rows = self._do(_KEYS_THERE, [json_text(list(keys))]).fetchall()
        return {key: Key(*rest) for key, *rest in rows}

    def _lock_keys(self, results: Mapping[str, int]) -> dict[str, Key]:
        rows = [_KeyRow(key, count) for key, count in results.items()]
        found = self._do(_LOCK_KEYS, [json_text(rows)]).fetchall()
        return {key: Key(*rest) for key, *rest in found}

    def lock(self, predictions: Mapping[str, PredictionMade], others: Iterable[str]) -> dict[str, Join]:
        """The join rows of predictions (by id) and of other ids; those without a prediction are locked.

        A row that is not there is made; a prediction takes its row, and is stored, unless another came first.
        """
        named = {*others} - predictions.keys()
        if not predictions and not named:
            return {}
        ids = predictions.keys() | named
        # Most predictions are new: where nothing else is named, they are written without a look.
        look = bool(named)
        for _ in range(TRIES):
            try:
                with self._connection.transaction():
                    there = self.joins(ids) if look else {}
                    new = {id_: predictions.get(id_) for id_ in sorted(ids - there.keys())}
                    made = self._write(new)
            except UniqueViolation:
                # Somebody made one of these rows before: it is locked as one that is there.
                look = True
                continue
            waited_for = [predictions[id_] for id_ in there.keys() & predictions.keys() if there[id_].taken is None]
            # These are no fresh ones, whatever the server says of a row that this transaction locked before.
            came = {id_: Join(one.taken) for id_, one in self._lock(waited_for).items()}
            return there | made | came
        return self._lock([*predictions.values(), *map(_Id, named)])

    def _lock(self, rows: Sequence[object]) -> dict[str, Join]:
        if not rows:
            return {}
        found = self._do(_LOCK, [json_text(rows)]).fetchall()
        return {id_: Join(None if half[0] is None else Taken(*half), fresh) for id_, fresh, *half in found}

    def _write(self, new: Mapping[str, PredictionMade | None]) -> dict[str, Join]:
        """Write join rows that are not there, in the order of their ids, and the predictions of those that have one.

        Raises UniqueViolation if one is there.
        """
        made = [one for one in new.values() if one is not None]
        # Both tables have it, and saying a time takes longer than anything else of a row.
        times = [str(one.predicted_at) for one in made]
        at = iter(times)
        with copied(
            self._connection,
            "joins (prediction_id, predicted_at, repeatable_until, model_version, model_name, subject, order_key)",
            (join_line(id_, one, "" if one is None else next(at)) for id_, one in new.items()),
        ):
            # The server is still taking what was sent.
            lines = list(map(prediction_line, made, times))
        with copied(
            self._connection,
            "predictions (prediction_id, predicted_at, model_version, model_name, score, prediction, variant, subject, "
            "features, shadows)",
            lines,
        ):
            self._meanwhile()
            return {id_: Join(None if one is None else _taken(one), fresh=True) for id_, one in new.items()}

    def joins(self, ids: Iterable[str]) -> dict[str, Join]:
        """Join rows of ids that are there; those whose prediction has not come are locked, in their order.

        A prediction that has come does not change any more, and goes only when nobody joins (see `hold_off`).
        """
        there = self._joins_there(_JOINS_THERE, ids)
        empty = [id_ for id_, one in there.items() if one.taken is None]
        if not empty:
            return there
        # One that somebody has deleted meanwhile is not there.
        taken = {id_: one for id_, one in there.items() if one.taken is not None}
        return taken | self._joins_there(_JOINS_THERE + _LOCKED, empty)

    def _joins_there(self, statement: LiteralString, ids: Iterable[str]) -> dict[str, Join]:
        rows = self._do(statement, [json_text(list(ids))]).fetchall()
        return {id_: Join(None if half[0] is None else Taken(*half)) for id_, *half in rows}

    def labels(self, predictions: Mapping[str, Taken]) -> dict[str, Known]:
        """What is known of those that have had results. To be asked before their results are read."""
        rows = self._do(_LABELS, [_places(predictions)]).fetchall()
        return {id_: Known(Published(label, revision), *rest) for id_, label, revision, *rest in rows}

    def lock_results(self, come: Iterable[Result], now: datetime) -> tuple[dict[str, Result], set[str]]:
        """Results by what they are called, locked; those that are new are written, and told."""
        found = self._do(_LOCK_RESULTS.encode(), [now, json_text([_row(one) for one in come])]).fetchall()
        known = {row[1]: _result(row[:-1]) for row in found}
        return known, {row[1] for row in found if row[-1]}

    def known(self, results: Iterable[str]) -> set[str]:
        """Those of the results that are there, or have expired."""
        if not (names := list(results)):
            return set()
        wanted = json_text(names)
        return {row[0] for row in self._do(_KNOWN, [wanted, wanted]).fetchall()}

    def expired(self, results: Iterable[str]) -> list[Version]:
        """Those of the results that have expired, as they were then."""
        return [Version(*row) for row in self._do(_EXPIRED, [json_text(list(results))]).fetchall()]

    def take_expired(self, results: Iterable[str]) -> dict[str, Result]:
        """Results that have expired, and do so no more."""
        wanted = list(results)
        if not wanted:
            return {}
        rows = self._do(_TAKE_EXPIRED, [json_text(wanted)]).fetchall()
        return {row[1]: _result(row) for row in rows}

    def drop_parked(self, ids: Iterable[str]) -> None:
        """Delete what waited for predictions that are not kept."""
        self._do(_DROP_PARKED, [json_text(["p" + id_ for id_ in ids])])

    def results_of_keys(self, keys: Iterable[str]) -> dict[str, Result]:
        """The results that name any of these orders and patients, alone or as a patient beside an order, locked."""
        wanted = list(keys)
        subjects = [key[1:] for key in wanted if key[0] == "s"]
        rows = self._do(
            f"SELECT {_VERSION}, contested, matched FROM results "  # noqa: S608
            f"WHERE key = {_ANY} OR subject = {_ANY} ORDER BY result FOR UPDATE".encode(),
            [json_text(wanted), json_text(subjects)],
        ).fetchall()
        return {row[1]: _result(row) for row in rows}

    # --- what belongs together

    def candidates(self, orders: Iterable[str], subjects: Iterable[str]) -> list[Candidate]:
        """The predictions of orders and of patients."""
        rows = self._do(_CANDIDATES, [json_text(list(orders)), json_text(list(subjects))]).fetchall()
        return [Candidate(*row) for row in rows]

    def matches(self, results: Iterable[str]) -> set[Match]:
        """Which predictions the results belonged to up to now."""
        rows = self._do(
            "SELECT prediction_id, result FROM matches WHERE result = " + _ANY,  # noqa: S608
            [json_text(list(results))],
        ).fetchall()
        return {(row[0], row[1]) for row in rows}

    def change_matches(self, gone: Iterable[Match], come: Iterable[Match]) -> None:
        """Have results belong to other predictions."""
        gone, come = list(gone), list(come)
        if gone:
            self._do(
                "DELETE FROM matches AS m USING unnest(%s::text[], %s::text[]) AS n (id, result) "
                "WHERE (m.prediction_id, m.result) = (n.id, n.result)",
                [[id_ for id_, _ in gone], [result for _, result in gone]],
            )
        if come:
            self._do(
                "INSERT INTO matches SELECT * FROM unnest(%s::text[], %s::text[])",
                [[id_ for id_, _ in come], [result for _, result in come]],
            )

    def results_of(self, ids: Iterable[str]) -> dict[str, list[Result]]:
        """All results of predictions, by prediction id."""
        wanted = list(ids)
        rows = self._do(
            f"SELECT substr(key, 2), {_VERSION}, contested, matched FROM results "  # noqa: S608
            f"WHERE key = {_ANY} UNION ALL SELECT m.prediction_id, {_R_VERSION}, r.contested, r.matched "
            f"FROM matches AS m JOIN results AS r USING (result) WHERE m.prediction_id = {_ANY}".encode(),
            [json_text(["p" + id_ for id_ in wanted]), json_text(wanted)],
        ).fetchall()
        found: dict[str, list[Result]] = {}
        for id_, *row in rows:
            found.setdefault(id_, []).append(_result(row))
        return found

    # --- saving

    def save_results(self, changed: Iterable[Result], now: datetime) -> None:
        """Write results that are locked. One that has lost its predictions waits from now on."""
        rows = [_row(one) for one in changed]
        if rows:
            self._do(_SAVE_RESULTS.encode(), [now, json_text(rows)])

    def unpark(self, ids: Iterable[str]) -> None:
        """Say that the predictions which results named by id are there now."""
        self._do(_UNPARK, [json_text(["p" + id_ for id_ in ids])])

    def save(self, changed: Mapping[str, Saved], now: datetime) -> None:
        """Write what results make of predictions.

        Raises SerializationFailure where somebody else has done so since it was asked what is known: there may be
        results that this transaction has not seen, so it must begin anew.
        """
        rows = [
            _LabelRow(
                one.taken.model_name, one.taken.predicted_at, id_, one.known.published.label,
                one.known.published.revision, one.known.policy_version, one.known.contested, one.known.looks + 1,
            )
            for id_, one in changed.items()
        ]  # fmt: skip
        if rows and self._do(_SAVE, {"now": now, "rows": json_text(rows)}).rowcount < len(rows):
            raise SerializationFailure("somebody else has looked at the same results")

    def predictions(self, wanted: Mapping[str, Taken]) -> dict[str, StoredPrediction]:
        """Predictions as they were logged, by id."""
        rows = self._do(
            "SELECT prediction_id, model_name, p.model_version, predicted_at, p.score, p.prediction, p.variant, "
            "p.subject, p.shadows, p.features::text "
            "FROM json_to_recordset(%s::json) AS n (model_name text, predicted_at timestamptz, prediction_id text) "
            "JOIN predictions AS p USING (model_name, predicted_at, prediction_id)",
            [_places(wanted)],
        ).fetchall()
        return {id_: _prediction(rest) for id_, *rest in rows}


def read_features(text: str) -> Features:
    """Features as they were logged, of jsonb's text, which writes a large float out in whole digits."""
    features = _features(text)
    return {key: float(one) if isinstance(one, int) and abs(one) >= 2**63 else one for key, one in features.items()}


class _Id(msgspec.Struct, frozen=True, gc=False):
    """A key without its prediction."""

    prediction_id: str


class _Place(msgspec.Struct, frozen=True, gc=False):
    model_name: str
    predicted_at: datetime
    prediction_id: str


class _KeyRow(msgspec.Struct, frozen=True, gc=False):
    key: str
    results: int


class _ResultRow(Version, frozen=True, gc=False):
    contested: bool = False
    matched: bool = False


class _LabelRow(msgspec.Struct, frozen=True, gc=False):
    model_name: str
    predicted_at: datetime
    prediction_id: str
    label: int | None
    revision: int
    policy_version: int | None
    contested: bool
    looks: int


def _row(one: Result) -> "_ResultRow":
    return _ResultRow(*[*msgspec.structs.astuple(one.holds), one.contested, one.matched])


def _result(row: Sequence[Any]) -> Result:
    *version, contested, matched = row
    return Result(Version(*version), contested, matched)


def _taken(made: PredictionMade) -> Taken:
    return Taken(made.model_name, made.model_version, made.predicted_at, made.repeatable_until)


def _places(predictions: Mapping[str, Taken]) -> str:
    """Where predictions are."""
    return json_text([_Place(one.model_name, one.predicted_at, id_) for id_, one in predictions.items()])


def _prediction(row: Sequence[Any]) -> StoredPrediction:
    *rest, shadows, features = row
    said = msgspec.convert(shadows, Shadows) if shadows else ()
    return StoredPrediction(*[*rest, said, read_features(features)])
