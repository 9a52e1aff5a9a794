"""The SQL of roll-outs: the step that each is at, and what both models said of labelled requests."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
from psycopg import Connection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from driftloop.common.registry import ArtifactMissing, StoreUnavailable
from driftloop.trainer.domain.canary import CanaryVerdict, Tally
from driftloop.trainer.domain.rollout import Trial

PATIENCE = timedelta(minutes=5)

_CURRENT = """
SELECT request_id, model_name, champion, challenger, step, step_since, step_rows, started_at
FROM rollouts WHERE ended_at IS NULL
"""
_ERRORS = """
SELECT replica, CASE WHEN %(challenger)s = ANY(failing) THEN 'it gave no probability' ELSE error END
FROM replicas
WHERE model_name = %(model)s AND (
    revision = %(revision)s AND %(challenger)s = ANY(failing) OR refused_revision = %(revision)s AND (
        split_part(error, ':', 1) <> ALL(%(transient)s) OR reported_at >= %(since)s + %(patience)s))
ORDER BY replica
"""
# A correction replaces the label of the same prediction. Of a patient another prediction counts only where the first
# one's label was taken back.
_COUNT = """
INSERT INTO rollout_labels AS r VALUES (%s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (request_id, unit) DO UPDATE SET prediction_id = excluded.prediction_id, label = excluded.label,
    champion = excluded.champion, challenger = excluded.challenger,
    predicted_at = greatest(r.predicted_at, excluded.predicted_at)
WHERE r.prediction_id = excluded.prediction_id OR r.label IS NULL
"""


@dataclass(frozen=True)
class Rollout(Trial):
    """A challenger on trial against the champion of its time."""

    request_id: int
    model_name: str
    champion: int
    challenger: int


@dataclass(frozen=True)
class PairedLabel:
    """A labelled request and what both models decided; `unit` is the patient, or the prediction of an unknown one."""

    unit: str
    prediction_id: str
    predicted_at: datetime
    label: bool
    champion: bool
    challenger: bool


class RolloutStore:
    """All roll-outs, in one connection's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def start(self, request: int, model: str, champion: int, challenger: int, now: datetime) -> None:
        """Begin with the first step."""
        self._connection.execute(
            "INSERT INTO rollouts (request_id, model_name, champion, challenger, step, step_since, started_at) "
            "VALUES (%s, %s, %s, %s, 0, %s, %s)",
            [request, model, champion, challenger, now, now],
        )

    def current(self, *, lock: bool = False) -> dict[str, Rollout]:
        """The open roll-outs by model; with a lock none of them ends before the transaction does."""
        with self._connection.cursor(row_factory=class_row(Rollout)) as cursor:
            found = cursor.execute(_CURRENT + (" FOR SHARE" if lock else "")).fetchall()
        return {one.model_name: one for one in found}

    def advance(self, request: int, step: int, rows: int, now: datetime) -> None:
        """Go on to another step, which begins with so many labels."""
        self._connection.execute(
            "UPDATE rollouts SET step = %s, step_since = %s, step_rows = %s WHERE request_id = %s",
            [step, now, rows, request],
        )

    def end(self, request: int, verdict: CanaryVerdict | None, now: datetime) -> None:
        """Close a roll-out; without a verdict somebody ended it. Of its labels the verdict's counts stay."""
        value = None if verdict is None else Jsonb(msgspec.to_builtins(verdict))
        self._connection.execute(
            "UPDATE rollouts SET ended_at = %s, verdict = %s WHERE request_id = %s", [now, value, request]
        )
        self._connection.execute("DELETE FROM rollout_labels WHERE request_id = %s", [request])

    # --- labels

    def count(self, request: int, label: PairedLabel) -> None:
        """Take a label in, or its correction."""
        self._connection.execute(
            _COUNT,
            [
                request,
                label.unit,
                label.prediction_id,
                int(label.label),
                int(label.champion),
                int(label.challenger),
                label.predicted_at,
            ],
        )

    def retract(self, request: int, prediction_id: str) -> None:
        """A prediction has no label any more."""
        self._connection.execute(
            "UPDATE rollout_labels SET label = NULL WHERE request_id = %s AND prediction_id = %s",
            [request, prediction_id],
        )

    def erase(self, subjects: Iterable[str]) -> None:
        """Forget all of these patients."""
        self._connection.execute("DELETE FROM rollout_labels WHERE unit = ANY(%s)", [[unit(one) for one in subjects]])

    def tally(self, request: int) -> Tally:
        """How often only the challenger was right, and only the champion, of how many labelled requests."""
        row = self._connection.execute(
            "SELECT count(*) FILTER (WHERE challenger = label AND champion <> label), "
            "count(*) FILTER (WHERE champion = label AND challenger <> label), count(label) "
            "FROM rollout_labels WHERE request_id = %s",
            [request],
        ).fetchone()
        assert row is not None
        return Tally(wins=row[0], losses=row[1], rows=row[2])

    def newest(self, request: int) -> datetime | None:
        """When the newest request was predicted on which both models were compared, None if they were on none."""
        row = self._connection.execute(
            "SELECT max(predicted_at) FROM rollout_labels WHERE request_id = %s", [request]
        ).fetchone()
        return row[0] if row else None

    # --- what replicas say

    def errors(self, rollout: Rollout, revision: int) -> list[str]:
        """What replicas report against the challenger of a step's revision: that they refuse it, or that it fails.

        The revision says what a report is about; a replica's clock need not be right. One that cannot fetch it is given
        PATIENCE: the store may be away for a moment.
        """
        rows = self._connection.execute(
            _ERRORS,
            {
                "challenger": rollout.challenger,
                "model": rollout.model_name,
                "since": rollout.step_since,
                "revision": revision,
                "transient": [ArtifactMissing.reason, StoreUnavailable.reason],
                "patience": PATIENCE,
            },
        ).fetchall()
        return [f"{replica}: {error}" for replica, error in rows]


def unit(subject: str | None, prediction_id: str = "") -> str:
    """What counts once: a patient, or a prediction of which nobody says whose it is."""
    return f"s:{subject}" if subject else f"p:{prediction_id}"
