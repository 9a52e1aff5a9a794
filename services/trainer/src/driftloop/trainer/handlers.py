"""One function per event: what the trainer does with alarms, labels, erasures, and what replicas say of themselves."""

import logging
from collections.abc import Sequence

from psycopg import Connection

from driftloop.common.clock import Clock
from driftloop.common.events import DriftDetected, LabelRetracted, ModelStatus, PredictionLabeled, SubjectErased
from driftloop.trainer import deciding
from driftloop.trainer.domain.requests import BY_DRIFT, Cause
from driftloop.trainer.evidence_store import EvidenceStore
from driftloop.trainer.request_store import RequestStore
from driftloop.trainer.rollout_store import PairedLabel, Rollout, RolloutStore, unit
from driftloop.trainer.set_store import SetStore
from driftloop.trainer.store import Store

logger = logging.getLogger(__name__)


def on_drift(
    connection: Connection, clock: Clock, event_id: str, event: DriftDetected, traceparent: str | None = None
) -> None:
    """A CRITICAL alarm of the champion asks for a retraining; a champion that is GOOD again takes its request back.

    Bad data take it back too: a unit error must not teach the model. The monitor alarms again when the data are well
    and the drift remains. Alarms of older versions are history: the replicas that still serve them are about to swap.
    """
    model, requests = Store(connection).lock_model(event.model_name, clock()), RequestStore(connection)
    if event.model_version != model.champion:
        return
    Store(connection).set_blocked(event.model_name, event.explanation if event.retraining_blocked else None)
    if event.retraining_blocked:
        reason = f"nothing is learnt from bad data: {event.explanation}"
        _withdraw(connection, clock, event.model_name, reason, (*BY_DRIFT, "schedule"))
    elif event.change == "opened" and event.severity == "CRITICAL":
        since = event.changed_since or event.window_start
        opened = requests.open(
            event_id,
            "drift",
            event.model_name,
            event.model_version,
            since,
            clock(),
            event.explanation or f"CRITICAL drift of version {event.model_version}",
            concept_drift=event.attribution == "concept",
            traceparent=traceparent,
        )
        if opened is not None:
            logger.info("a retraining was requested", extra={"model": event.model_name, "version": event.model_version})
        else:
            # What was proven by labels first is known of the inputs later: from when on all rows are new.
            requests.take_over(event.model_name, since, event.attribution == "concept")
    elif event.verdict == "GOOD":
        _withdraw(connection, clock, event.model_name, "the population is as it was: the alarm was cleared")


def _withdraw(
    connection: Connection, clock: Clock, model: str, reason: str, causes: Sequence[Cause] = BY_DRIFT
) -> None:
    """Take back what was asked for by one of these.

    What was judged already goes on by its own evidence, and what somebody asked for, too, by their word.
    """
    requests = RequestStore(connection)
    request = requests.current(model, lock=True)
    if request is None or request.cause not in causes:
        return
    if request.state in ("awaiting-labels", "training") and not request.by_hand:
        deciding.withdraw(connection, request, reason, clock())
    else:
        requests.clear(request.id)


def on_labels(connection: Connection, clock: Clock, events: Sequence[object]) -> None:
    """Count labels of requests that both models of a roll-out scored; forget who was erased.

    What models learn from is asked for when they are trained.
    """
    rollouts = RolloutStore(connection)
    # A label that came after its roll-out's end would stay for good.
    current = rollouts.current(lock=True)
    if current:
        # A patient's erasure may be ahead of their labels: either this sees it, or it sees these.
        SetStore(connection).lock()
        erased_at = SetStore(connection).erased(
            {one.subject for one in events if isinstance(one, PredictionLabeled) and one.subject}
        )
    for event in events:
        if isinstance(event, PredictionLabeled) and event.model_name in current:
            rollout = current[event.model_name]
            paired = paired_label(rollout, event)
            gone = erased_at.get(event.subject or "")
            if paired is not None and (gone is None or event.predicted_at >= gone):
                rollouts.count(rollout.request_id, paired)
        elif isinstance(event, LabelRetracted) and event.model_name in current:
            rollouts.retract(current[event.model_name].request_id, event.prediction_id)
    erased = [event for event in events if isinstance(event, SubjectErased)]
    if erased:
        _erase(connection, clock, erased)


def paired_label(rollout: Rollout, event: PredictionLabeled) -> PairedLabel | None:
    """What both models of a roll-out said of a labelled prediction, None where only one of them was asked."""
    said = {shadow.model_version: shadow.prediction for shadow in event.shadows}
    said[event.model_version] = event.prediction
    if rollout.champion not in said or rollout.challenger not in said:
        return None
    return PairedLabel(
        unit=unit(event.subject, event.prediction_id),
        prediction_id=event.prediction_id,
        predicted_at=event.predicted_at,
        label=bool(event.label),
        champion=said[rollout.champion],
        challenger=said[rollout.challenger],
    )


def _erase(connection: Connection, clock: Clock, events: Sequence[SubjectErased]) -> None:
    """Mark every training set that holds older rows of an erased subject; its file is deleted after the commit."""
    # The later of two erasures of one subject means more.
    erased = {one.subject: one.erased_at for one in sorted(events, key=lambda event: event.erased_at)}
    marked = SetStore(connection).erase(erased, clock())
    EvidenceStore(connection).remove(erased, clock())
    RolloutStore(connection).erase(erased)
    logger.info("subjects were erased", extra={"subjects": len(erased), "training_sets": marked})


def on_status(store: Store, events: Sequence[ModelStatus]) -> None:
    """Remember which revision each replica serves."""
    store.record_status(events)
