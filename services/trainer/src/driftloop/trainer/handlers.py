"""One function per event: what the trainer does with drift alarms, erasures, and what replicas say of themselves."""

import logging
from collections.abc import Sequence

from driftloop.common.clock import Clock
from driftloop.common.events import DriftDetected, ModelStatus, SubjectErased
from driftloop.trainer.set_store import SetStore
from driftloop.trainer.store import Store

logger = logging.getLogger(__name__)


def on_drift(store: Store, clock: Clock, event_id: str, event: DriftDetected, traceparent: str | None = None) -> None:
    """A CRITICAL alarm of the champion asks for a retraining; a champion that is GOOD again takes its request back.

    Bad data take it back too: a unit error must not teach the model. The monitor alarms again when the data are well
    and the drift remains. Alarms of older versions are history: the replicas that still serve them are about to swap.
    """
    model = store.lock_model(event.model_name, clock())
    if event.model_version != model.champion:
        return
    if event.retraining_blocked:
        _withdraw(store, clock, event.model_name, f"nothing is learnt from bad data: {event.explanation}")
    elif event.change == "opened" and event.severity == "CRITICAL":
        since = event.changed_since or event.window_start
        if store.open_request(event_id, traceparent, event.model_name, event.model_version, since, clock()):
            logger.info("a retraining was requested", extra={"model": event.model_name, "version": event.model_version})
        else:
            # What was proven by labels first is known of the inputs later: from when on all rows are new.
            store.move_request(event.model_name, since)
    elif event.verdict == "GOOD":
        _withdraw(store, clock, event.model_name, "the population is as it was: the alarm was cleared")


def _withdraw(store: Store, clock: Clock, model: str, reason: str) -> None:
    waiting = store.waiting_request(model, lock=True)
    if waiting is not None:
        store.close_request(waiting.id, "withdrawn", reason, clock())


def on_status(store: Store, events: Sequence[ModelStatus]) -> None:
    """Remember which revision each replica serves."""
    store.record_status(events)


def on_erased(store: SetStore, clock: Clock, events: Sequence[SubjectErased]) -> None:
    """Mark every training set that holds older rows of an erased subject; its file is deleted after the commit."""
    # The later of two erasures of one subject means more.
    erased = {one.subject: one.erased_at for one in sorted(events, key=lambda event: event.erased_at)}
    marked = store.erase(erased, clock())
    logger.info("subjects were erased", extra={"subjects": len(erased), "training_sets": marked})
