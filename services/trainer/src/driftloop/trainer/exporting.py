"""The gauges of what each model is at. Every trainer shows the same, which it reads from the database now and then.

Not shown by whoever works on a model: a training takes longer than anybody looks away.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import get_args

import psycopg
from prometheus_client import Gauge

from driftloop.common import metrics
from driftloop.common.clock import Clock
from driftloop.common.postgres.pool import Pool, repeat
from driftloop.trainer.training_files import FailureKind

# What a request's history notes last may change nothing about its state.
_STANDINGS = """
SELECT m.model_name, v.created_at, (s.state->'canary'->>'version')::int, (s.state->'canary'->>'weight')::float8,
    r.state, (SELECT min(at) FROM request_changes WHERE request_id = r.id AND id > coalesce((
        SELECT max(id) FROM request_changes c WHERE c.request_id = r.id AND c.state <> r.state), 0))
FROM models m
LEFT JOIN versions v ON (v.model_name, v.version) = (m.model_name, m.champion)
LEFT JOIN revisions s ON (s.model_name, s.revision) = (m.model_name, m.revision)
LEFT JOIN requests r ON r.model_name = m.model_name AND r.closed_at IS NULL
WHERE m.model_name = ANY(%s)
"""
DECISIONS = ("promoted", "rejected", "rolled-back", "withdrawn")

Shown = dict[tuple[Gauge, tuple[str, ...]], float]


@dataclass
class ExportWorker:
    """Shows where the models stand."""

    pool: Pool
    models: Sequence[str]
    clock: Clock
    every_seconds: float
    name: str = "exporting"
    _shown: Shown = field(default_factory=dict)

    def run(self, stop: threading.Event) -> None:
        """Show it every so many seconds until told to stop; a database that is away is waited for."""
        metrics.begin(metrics.RETRAININGS, self.models, DECISIONS)
        metrics.begin(metrics.TRAININGS_FAILED, self.models, get_args(FailureKind))
        try:
            repeat(self.round, stop, self.every_seconds, self.name)
        finally:
            self._show({})

    def round(self, _stop: threading.Event) -> None:
        """Read and show all. Raises psycopg.Error; then nothing is shown."""
        try:
            with self.pool.connection() as connection:
                rows = connection.execute(_STANDINGS, [list(self.models)]).fetchall()
        except psycopg.Error:
            self._show({})
            raise
        now = self.clock()
        self._show({key: value for row in rows for key, value in _figures(now, *row).items()})

    def _show(self, figures: Shown) -> None:
        """Show these, and take down what else was shown; what stays is there all the time."""
        for (gauge, labels), value in figures.items():
            gauge.labels(*labels).set(value)
        for gauge, labels in self._shown.keys() - figures.keys():
            gauge.remove(*labels)
        self._shown = figures


def _figures(
    now: datetime, model: str, made: datetime | None, canary: int | None, weight: float | None, state: str | None,
    since: datetime | None,
) -> Shown:  # fmt: skip
    """What is shown of a model; what there is not is None."""
    found: Shown = {}
    if made is not None:
        found[metrics.CHAMPION_AGE, (model,)] = _seconds(made, now)
    if canary is not None and weight is not None:
        found[metrics.CANARY_VERSION, (model,)] = canary
        found[metrics.CANARY_WEIGHT, (model,)] = weight
    if state is not None and since is not None:
        found[metrics.RETRAINING_STATE, (model, state)] = _seconds(since, now)
    return found


def _seconds(since: datetime, now: datetime) -> float:
    return max(0.0, (now - since).total_seconds())
