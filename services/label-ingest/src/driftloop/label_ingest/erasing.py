"""A patient's rows go: what was predicted, what was reported, what waits and what expired. Counts of many stay."""

from dataclasses import dataclass
from datetime import datetime

from psycopg import Connection

from driftloop.common.envelope import Outgoing
from driftloop.common.events import SubjectErased
from driftloop.common.postgres.outbox import Emit
from driftloop.common.topics import LABELED_PREDICTIONS
from driftloop.label_ingest.domain.matching import ORDER, PREDICTION, SUBJECT
from driftloop.label_ingest.keeping import delete, drop_keys

# Those of the patient's predictions and results. Order numbers come again: some may be other patients', too.
_ORDERS = """
SELECT key FROM keys WHERE key IN (
    SELECT %(order)s || order_key FROM joins WHERE subject = %(subject)s
    UNION SELECT key FROM results WHERE subject = %(subject)s AND left(key, 1) = %(order)s
) ORDER BY key FOR UPDATE
"""
# Results that name the patient, one of the predictions, or nobody and an order that was theirs alone.
_RESULTS = """
DELETE FROM results AS r WHERE subject = %(subject)s OR key = ANY(%(names)s)
    OR key = ANY(%(orders)s) AND subject IS NULL AND NOT EXISTS (
        SELECT 1 FROM matches AS m WHERE m.result = r.result AND m.prediction_id <> ALL(%(ids)s))
RETURNING result
"""
# Others' results that belong nowhere any more: what is taken back without a time stays where it was before.
_WAITING = """
UPDATE results AS r SET matched = false, arrived_at = %(now)s
WHERE result = ANY(%(results)s) AND NOT EXISTS (SELECT 1 FROM matches AS m WHERE m.result = r.result)
"""
_EXPIRED = """
DELETE FROM expired_results
WHERE subject = %(subject)s OR key = ANY(%(names)s) OR key = ANY(%(orders)s) AND subject IS NULL
"""


@dataclass(frozen=True)
class Erased:
    """How many rows went."""

    predictions: int
    results: int


def erase(connection: Connection, emit: Emit, subject: str, now: datetime) -> tuple[Erased, set[str]]:
    """Delete all rows of a patient, by pseudonym, in this transaction, and emit SubjectErased.

    Also returns the predictions of others which a result of this patient belonged to. The patient's key stays, with the
    instant: what was predicted before it, and is still on its way, is not kept.
    """
    # In the order in which everyone locks keys: orders come before patients.
    found = connection.execute(_ORDERS, {"order": ORDER, "subject": subject}).fetchall()
    orders = [key for (key,) in found]
    connection.execute(
        "INSERT INTO keys (key, results, erased_at) VALUES (%s, 0, %s) "
        "ON CONFLICT (key) DO UPDATE SET results = 0, erased_at = excluded.erased_at",
        [SUBJECT + subject, now],
    )
    rows = connection.execute(
        "SELECT prediction_id, model_name, predicted_at FROM joins WHERE subject = %s "
        "ORDER BY prediction_id FOR UPDATE",
        [subject],
    ).fetchall()
    ids = [id_ for id_, *_ in rows]
    theirs = {"subject": subject, "names": [PREDICTION + id_ for id_ in ids], "orders": orders, "ids": ids}
    gone = connection.execute(_RESULTS, theirs).fetchall()
    expired = connection.execute(_EXPIRED, theirs)
    matches = connection.execute(
        "DELETE FROM matches WHERE prediction_id = ANY(%s) OR result = ANY(%s) RETURNING prediction_id, result",
        [ids, [result for (result,) in gone]],
    ).fetchall()
    connection.execute(_WAITING, {"now": now, "results": [result for _, result in matches]})
    delete(connection, ("labels", "predictions"), [(model, at, id_) for id_, model, at in rows])
    connection.execute("DELETE FROM joins WHERE prediction_id = ANY(%s)", [ids])
    drop_keys(connection, orders)
    event = SubjectErased(subject=subject, erased_at=now, predictions=len(rows))
    emit([Outgoing(LABELED_PREDICTIONS.name, subject, event, f"erased:{subject}:{now.isoformat()}", now)])
    return Erased(len(rows), len(gone) + expired.rowcount), {id_ for id_, _ in matches}.difference(ids)
