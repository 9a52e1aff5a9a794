"""The SQL of training sets: which there are, whose rows they hold, and who was erased."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from psycopg import Connection

from driftloop.trainer.domain.card import TrainingData

ERASED_REASON = "a patient whose rows it held was erased"
EXPIRED_REASON = "the files of every version that was fitted to it were deleted"
UNUSED_REASON = "no version came of it"

# Whoever keeps rows of patients, and whoever erases some, holds it until the end of the transaction.
ERASURE_LOCK = f"SELECT pg_advisory_xact_lock({0x45726173}, hashtext(current_schema()))"
# A set that went because nobody needed it is announced anew where somebody does.
_REGISTER = """
INSERT INTO training_sets AS s (model_name, digest, rows, labeled_rows, created_at) VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (model_name, digest) DO UPDATE SET created_at = excluded.created_at, stored_at = NULL, rebuildable = true,
    reason = NULL, not_rebuildable_since = NULL, purged_at = NULL
WHERE s.reason = ANY(%s)
"""
_REMEMBER = """
INSERT INTO erased_subjects AS e SELECT * FROM unnest(%s::text[], %s::timestamptz[])
ON CONFLICT (subject) DO UPDATE SET erased_at = greatest(e.erased_at, excluded.erased_at)
"""
_MARK = """
UPDATE training_sets SET rebuildable = false, reason = %s, not_rebuildable_since = %s
WHERE rebuildable AND (model_name, digest) IN (
    SELECT model_name, digest FROM training_set_subjects JOIN erased_subjects USING (subject)
    WHERE subject = ANY(%s) AND earliest < erased_at)
RETURNING model_name, digest
"""
_EXPIRE = """
UPDATE training_sets AS s SET rebuildable = false, reason = %s, not_rebuildable_since = %s
WHERE model_name = %s AND digest = %s AND rebuildable AND labeled_rows > 0 AND NOT EXISTS (
    SELECT 1 FROM versions AS v WHERE v.model_name = s.model_name AND v.files_deleted_at IS NULL
    AND v.card->'training'->>'digest' = s.digest)
"""
_ABANDON = """
UPDATE training_sets AS s SET rebuildable = false, reason = %s, not_rebuildable_since = %s
WHERE model_name = %s AND rebuildable AND labeled_rows > 0 AND created_at < %s AND NOT EXISTS (
    SELECT 1 FROM versions AS v WHERE v.model_name = s.model_name AND v.card->'training'->>'digest' = s.digest)
RETURNING digest
"""
# A set whose file goes has nothing left that could be erased.
_EMPTY = """
DELETE FROM training_set_subjects
WHERE (model_name, digest) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
"""
_ADD_SUBJECTS = """
INSERT INTO training_set_subjects AS s SELECT subject, %s, %s, earliest
FROM unnest(%s::text[], %s::timestamptz[]) AS k (subject, earliest)
ON CONFLICT (subject, model_name, digest) DO UPDATE SET earliest = least(s.earliest, excluded.earliest)
"""
_UNPURGED = """
SELECT model_name, digest, stored_at IS NOT NULL FROM training_sets
WHERE NOT rebuildable AND purged_at IS NULL ORDER BY not_rebuildable_since, digest
OFFSET %s LIMIT 1 FOR UPDATE SKIP LOCKED
"""


@dataclass(frozen=True)
class KeptSet:
    """A training set by its model and digest; `stored`: its file is known to have been complete."""

    model_name: str
    digest: str
    stored: bool


@dataclass(frozen=True)
class SetCounts:
    """How many of a model's sets cannot be rebuilt, and of how many of these the file is still to be deleted."""

    not_rebuildable: int
    unpurged: int


class SetStore:
    """What is known of training sets, in one connection's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def lock(self) -> None:
        """Let nobody else keep or erase rows of patients until the transaction ends."""
        self._connection.execute(ERASURE_LOCK)

    # --- keeping

    def register(self, model: str, data: TrainingData, subjects: Mapping[str, datetime], now: datetime) -> None:
        """Announce a set, before its file is written: `subjects` with the time of the earliest row of each.

        A set of which a subject was erased meanwhile is marked at once. The same set again changes nothing.
        """
        if subjects:
            # Either the erasure sees this set, or this set sees the erasure.
            self.lock()
        added = self._connection.execute(
            _REGISTER,
            [model, data.digest, data.rows, data.labeled_rows, now, [EXPIRED_REASON, UNUSED_REASON]],
        )
        if subjects and (added.rowcount or self.rebuildable(model, data.digest) is not None):
            self._connection.execute(_ADD_SUBJECTS, [model, data.digest, list(subjects), list(subjects.values())])
            self._mark(subjects, now)

    def rebuildable(self, model: str, digest: str) -> KeptSet | None:
        """A set, None where it was marked."""
        row = self._connection.execute(
            "SELECT model_name, digest, stored_at IS NOT NULL FROM training_sets "
            "WHERE model_name = %s AND digest = %s AND rebuildable",
            [model, digest],
        ).fetchone()
        return KeptSet(*row) if row else None

    def written(self, kept: KeptSet, stored: datetime | None) -> None:
        """The set's file was written, complete at `stored`, or a part of it: of a marked set it is to be deleted."""
        self._connection.execute(
            "UPDATE training_sets SET stored_at = coalesce(%s, stored_at), purged_at = NULL "
            "WHERE model_name = %s AND digest = %s",
            [stored, kept.model_name, kept.digest],
        )

    # --- erasing

    def erase(self, erased: Mapping[str, datetime], now: datetime) -> int:
        """Remember that subjects were erased, and when; mark every set with older rows of theirs. Returns how many."""
        self.lock()
        self._connection.execute(_REMEMBER, [list(erased), list(erased.values())])
        return self._mark(erased, now)

    def _mark(self, subjects: Iterable[str], now: datetime) -> int:
        marked = self._connection.execute(_MARK, [ERASED_REASON, now, list(subjects)]).fetchall()
        if marked:
            self._connection.execute(_EMPTY, [[model for model, _ in marked], [digest for _, digest in marked]])
        return len(marked)

    def expire(self, model: str, digest: str, now: datetime) -> None:
        """Mark a set that no version is left of whose files are kept. What has no rows but the baseline's stays."""
        if self._connection.execute(_EXPIRE, [EXPIRED_REASON, now, model, digest]).rowcount:
            self._connection.execute(_EMPTY, [[model], [digest]])

    def abandon(self, model: str, before: datetime, now: datetime) -> list[str]:
        """Mark the sets that were announced before an instant and of which no version came. Returns their digests.

        The caller holds the model's lock, and knows that it is not trained.
        """
        # An erasure marks many sets, too, in an order of its own.
        self.lock()
        found = [digest for (digest,) in self._connection.execute(_ABANDON, [UNUSED_REASON, now, model, before])]
        self._connection.execute(_EMPTY, [[model] * len(found), found])
        return found

    def known(self, model: str) -> dict[str, bool]:
        """The digests of a model's sets, and of each whether its file is noted as deleted."""
        rows = self._connection.execute(
            "SELECT digest, purged_at IS NOT NULL FROM training_sets WHERE model_name = %s", [model]
        )
        return dict(rows.fetchall())

    def erased(self, subjects: Iterable[str]) -> dict[str, datetime]:
        """Those of the subjects that were erased, each with the instant before which its rows are meant."""
        rows = self._connection.execute(
            "SELECT subject, erased_at FROM erased_subjects WHERE subject = ANY(%s)", [list(subjects)]
        ).fetchall()
        return {subject: erased_at for subject, erased_at in rows}

    def next_unpurged(self, skip: int) -> KeptSet | None:
        """The marked set after `skip` others whose file is still to be deleted; locked until the transaction ends."""
        row = self._connection.execute(_UNPURGED, [skip]).fetchone()
        return KeptSet(*row) if row else None

    def set_purged(self, kept: KeptSet, now: datetime) -> None:
        """The set's file is gone."""
        self._connection.execute(
            "UPDATE training_sets SET purged_at = %s WHERE model_name = %s AND digest = %s",
            [now, kept.model_name, kept.digest],
        )

    # --- reading

    def counts(self, model: str) -> SetCounts:
        """How many of a model's sets cannot be rebuilt."""
        row = self._connection.execute(
            "SELECT count(*), count(*) FILTER (WHERE purged_at IS NULL) FROM training_sets "
            "WHERE model_name = %s AND NOT rebuildable",
            [model],
        ).fetchone()
        assert row is not None
        return SetCounts(*row)
