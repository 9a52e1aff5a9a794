"""The SQL of what decisions were made from, so that each can be made again, until one of its patients is erased."""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from psycopg import Connection
from psycopg.types.json import Jsonb

from driftloop.trainer.domain.evidence import Evidence, Reconsidered, decide
from driftloop.trainer.domain.gate import GateDecision
from driftloop.trainer.evidence_file import decode, encode
from driftloop.trainer.set_store import SetStore
from driftloop.trainer.store import Store

_REMOVE = """
WITH gone AS (
    DELETE FROM evidence_subjects WHERE (model_name, version) IN (
        SELECT model_name, version FROM evidence_subjects JOIN erased_subjects USING (subject)
        WHERE subject = ANY(%s) AND earliest < erased_at)
    RETURNING model_name, version)
UPDATE evidence e SET data = NULL, relabelled = NULL, removed_at = %s FROM (SELECT DISTINCT * FROM gone) AS g
WHERE (e.model_name, e.version) = (g.model_name, g.version) AND data IS NOT NULL
"""


class EvidenceStore:
    """The evidence of all decisions, in one connection's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(
        self, model: str, version: int, evidence: Evidence, subjects: Mapping[str, datetime], now: datetime
    ) -> None:
        """Keep a decision's evidence: `subjects` with the time of the earliest row of each.

        Of evidence of which a subject was erased meanwhile only the digest is kept.
        """
        # Either the erasure sees this evidence, or this evidence sees the erasure.
        SetStore(self._connection).lock()
        data = encode(evidence)
        self._connection.execute(
            "INSERT INTO evidence (model_name, version, sha256, data) VALUES (%s, %s, %s, %s)",
            [model, version, hashlib.sha256(data).hexdigest(), data],
        )
        if subjects:
            self._connection.execute(
                "INSERT INTO evidence_subjects (subject, model_name, version, earliest) "
                "SELECT subject, %s, %s, earliest FROM unnest(%s::text[], %s::timestamptz[]) AS k (subject, earliest)",
                [model, version, list(subjects), list(subjects.values())],
            )
            self.remove(SetStore(self._connection).erased(subjects), now)

    def get(self, model: str, version: int) -> Evidence | None:
        """A decision's evidence, None where there is none (any more)."""
        row = self._connection.execute(
            "SELECT data FROM evidence WHERE model_name = %s AND version = %s", [model, version]
        ).fetchone()
        return decode(row[0]) if row and row[0] is not None else None

    def reconsidered(self, model: str, version: int, again: Reconsidered, now: datetime) -> None:
        """Keep a decision that was made again, and what from; the latter not where a subject was erased meanwhile."""
        SetStore(self._connection).lock()
        self._connection.execute(
            "UPDATE evidence SET relabelled = CASE WHEN data IS NOT NULL THEN %s::bytea END, "
            "relabelled_decision = %s, relabelled_at = %s WHERE model_name = %s AND version = %s",
            [encode(again.evidence), Jsonb(msgspec.to_builtins(again.decision)), now, model, version],
        )

    def relabelled(self, model: str, version: int) -> tuple[GateDecision, datetime, Evidence | None] | None:
        """The decision that was made again, when, and its evidence where that is there (still); None if it was not."""
        row = self._connection.execute(
            "SELECT relabelled_decision, relabelled_at, relabelled FROM evidence "
            "WHERE model_name = %s AND version = %s AND relabelled_at IS NOT NULL",
            [model, version],
        ).fetchone()
        if row is None:
            return None
        return msgspec.convert(row[0], GateDecision), row[1], None if row[2] is None else decode(row[2])

    def remove(self, subjects: Iterable[str], now: datetime) -> None:
        """Forget the evidence with rows of these subjects that were erased; the caller holds `SetStore.lock`."""
        self._connection.execute(_REMOVE, [list(subjects), now])


def recomputed(connection: Connection, model: str, version: int) -> dict[str, Any]:
    """A version's decision as it was made, as it is made `again` from what is stored, and whether both are the `same`.

    The latter are None where the evidence was removed. Where labels were amended or taken back before it was followed,
    `relabelled` says the same of the decision by the labels of that time, and when it was made. Raises LookupError.
    """
    store = EvidenceStore(connection)
    found = _twice(Store(connection).decision(model, version), store.get(model, version))
    second = store.relabelled(model, version)
    if second is not None:
        decision, at, evidence = second
        found["relabelled"] = {"at": at} | _twice(decision, evidence)
    told: dict[str, Any] = msgspec.to_builtins(found)
    return told


def _twice(decision: GateDecision, evidence: Evidence | None) -> dict[str, Any]:
    again = None if evidence is None else decide(evidence)
    return {"decision": decision, "again": again, "same": None if again is None else again == decision}
