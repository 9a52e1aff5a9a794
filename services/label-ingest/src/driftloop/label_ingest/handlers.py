"""Predictions and outcomes meet here, whichever comes first, by whichever door: lock rows → rule → save and emit.

One function for both halves, because one transaction may bring both and must lock their rows in one order.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from driftloop.common import metrics
from driftloop.common.clock import Clock
from driftloop.common.envelope import Outgoing
from driftloop.common.events import OutcomeReported, PredictionLabeled, PredictionMade
from driftloop.common.postgres.outbox import Emit
from driftloop.common.topics import LABELED_PREDICTIONS
from driftloop.label_ingest.domain.labels import Change, Fate, Labels, Result, publish, take
from driftloop.label_ingest.domain.retries import clashes
from driftloop.label_ingest.store import Join, Store, StoredPrediction

logger = logging.getLogger(__name__)

Status = Literal["joined", "parked", "duplicate", "superseded", "conflict"]


@dataclass(frozen=True)
class Answer:
    """What became of one outcome."""

    status: Status
    detail: str | None = None


@dataclass
class Joined:
    """What one call did: an answer for each outcome, in order, and what is to be counted once it is committed.

    `delays` are seconds from a prediction to its first label, by model name. `clashes` counts predictions whose id
    another one bears, which they do not repeat.
    """

    answers: list[Answer] = field(default_factory=list)
    delays: list[tuple[str, float]] = field(default_factory=list)
    clashes: int = 0


def join(
    store: Store,
    emit: Emit,
    clock: Clock,
    predictions: Sequence[PredictionMade],
    outcomes: Sequence[OutcomeReported],
    traces: Mapping[str, str | None],
) -> Joined:
    """Take predictions and outcomes, in any order of arrival and however often, and emit each change of a label.

    Outcomes of one prediction are taken one after the other. `traces` has the trace context in which news of a
    prediction id came.
    """
    joined = Joined()
    # Reversed, so that of two with one id the first stays.
    halves = {one.prediction_id: one for one in reversed(predictions)}
    rows = store.lock(halves, (one.prediction_id for one in outcomes))
    joined.clashes = sum(_clashes(rows[one.prediction_id], one) for one in predictions)
    labels = {id_: row.labels for id_, row in rows.items()}
    changes = [(id_, change) for id_ in halves for change in _settled(id_, rows, labels)]
    for outcome in outcomes:
        id_ = outcome.prediction_id
        labels[id_], fate = take(labels[id_], _result(outcome))
        joined.answers.append(_answer(fate, labels[id_], rows[id_]))
        changes += [(id_, change) for change in _settled(id_, rows, labels)]

    now = clock()
    _save(store, rows, labels, now)
    if changes:
        _emit(store, emit, changes, traces, now, joined)
    return joined


def observe(joined: Joined) -> None:
    """Count what a call did. Call it once its transaction is committed."""
    for status, count in Counter(answer.status for answer in joined.answers).items():
        metrics.OUTCOMES.labels(status).inc(count)
        if status == "conflict":
            logger.warning("results of one version contradict each other", extra={"outcomes": count})
    for model, seconds in joined.delays:
        metrics.LABEL_DELAY.labels(model).observe(seconds)
    if joined.clashes:
        logger.warning("predictions bear an id that is taken; the first stays", extra={"predictions": joined.clashes})


def _clashes(row: Join, made: PredictionMade) -> bool:
    return row.taken is not None and clashes(row.taken, made)


def _result(outcome: OutcomeReported) -> Result:
    return Result(outcome.result_version, outcome.observed_at, outcome.result_id, outcome.label)


def _settled(id_: str, rows: Mapping[str, Join], labels: dict[str, Labels]) -> list[Change]:
    """What is to be published of one prediction now; its labels are moved on."""
    if rows[id_].taken is None:
        return []
    labels[id_], change = publish(labels[id_])
    return [] if change is None else [change]


def _answer(fate: Fate, labels: Labels, row: Join) -> Answer:
    held = labels.holds
    assert held is not None
    if fate is Fate.HOLDS:
        return Answer("parked" if row.taken is None else "joined")
    if fate is Fate.DUPLICATE:
        return Answer("duplicate")
    if fate is Fate.SUPERSEDED:
        return Answer("superseded", f"version {held.version} is known: label {held.label} holds")
    return Answer(
        "conflict", f"version {held.version} was reported with both labels: label {held.label} holds until a newer one"
    )


def _save(store: Store, rows: Mapping[str, Join], labels: Mapping[str, Labels], now: datetime) -> None:
    changed = {id_: one for id_, one in labels.items() if one != rows[id_].labels}
    if changed:
        store.save(changed, now)


def _emit(
    store: Store,
    emit: Emit,
    changes: Sequence[tuple[str, Change]],
    traces: Mapping[str, str | None],
    now: datetime,
    joined: Joined,
) -> None:
    stored = store.predictions({id_ for id_, _change in changes})
    emit(
        Outgoing(
            LABELED_PREDICTIONS.name,
            id_,
            _event(id_, stored[id_], change, now),
            f"labeled:{id_}:{change.revision}",
            now,
            traces.get(id_),
        )
        for id_, change in changes
    )
    for id_, change in changes:
        if change.previous is None:
            delay = (now - stored[id_].predicted_at).total_seconds()
            joined.delays.append((stored[id_].model_name, max(delay, 0.0)))


def _event(id_: str, stored: StoredPrediction, change: Change, now: datetime) -> PredictionLabeled:
    return PredictionLabeled(
        prediction_id=id_,
        model_name=stored.model_name,
        model_version=stored.model_version,
        predicted_at=stored.predicted_at,
        features=stored.features,
        score=stored.score,
        prediction=stored.prediction,
        variant=stored.variant,
        label=change.label,
        previous_label=change.previous,
        label_revision=change.revision,
        labeled_at=now,
        subject=stored.subject,
        shadows=stored.shadows,
    )
