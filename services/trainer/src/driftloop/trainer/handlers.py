"""One function per event: what the trainer does with drift alarms and with what replicas say of themselves."""

import logging
from collections.abc import Sequence

from driftloop.common.clock import Clock
from driftloop.common.events import DriftDetected, ModelStatus
from driftloop.trainer.store import Store

logger = logging.getLogger(__name__)


def on_drift(store: Store, clock: Clock, event_id: str, event: DriftDetected) -> None:
    """A CRITICAL alarm of the champion asks for a retraining; a champion that is GOOD again takes its request back.

    Alarms of older versions are history: the replicas that still serve them are about to swap.
    """
    model = store.lock_model(event.model_name, clock())
    if event.model_version != model.champion:
        return
    if event.change == "opened" and event.severity == "CRITICAL":
        since = event.changed_since or event.window_start
        if store.open_request(event_id, event.model_name, event.model_version, since, clock()):
            logger.info("a retraining was requested", extra={"model": event.model_name, "version": event.model_version})
    elif event.verdict == "GOOD":
        waiting = store.waiting_request(event.model_name, lock=True)
        if waiting is not None:
            store.close_request(waiting.id, "withdrawn", "the population is as it was: the alarm was cleared", clock())


def on_status(store: Store, events: Sequence[ModelStatus]) -> None:
    """Remember which revision each replica serves."""
    store.record_status(events)
