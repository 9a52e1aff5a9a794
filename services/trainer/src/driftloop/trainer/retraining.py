"""The retraining workers: each takes its model's open request from labels to a decision, and survives whatever happens.

What a request is at stands in the database before it is begun, so that the trainer that comes next goes on from there.
"""

import logging
import threading
from contextlib import ExitStack
from dataclasses import replace

import psycopg
from confluent_kafka import KafkaException

from driftloop.common import metrics
from driftloop.common.kafka.reader import ReadTimeout
from driftloop.common.postgres.pool import is_transient
from driftloop.common.registry import ArtifactError
from driftloop.common.tracing import Attributes, span
from driftloop.trainer.awaiting import material, open_scheduled, recent_rows, rests
from driftloop.trainer.concluding import conclude
from driftloop.trainer.label_rows import RowsUnavailable
from driftloop.trainer.model_locks import ModelLocks
from driftloop.trainer.request_store import Request, RequestStore
from driftloop.trainer.resources import Job, ModelData, Resources, Stopped
from driftloop.trainer.store import Store
from driftloop.trainer.training import failed, train
from driftloop.trainer.training_files import Failure

logger = logging.getLogger(__name__)

TRANSIENT = (RowsUnavailable, ReadTimeout, KafkaException, OSError)
INTERRUPTED = "its trainer ended, or lost its database and the model to another"
NO_TURN = "waiting for its turn: as many trainings run here as DRIFTLOOP_TRAININGS_AT_ONCE allows"


class RetrainingWorker:
    """Looks after one model's requests until their roll-out. Of several trainers one at a time works on a model."""

    def __init__(self, resources: Resources, model: ModelData, locks: ModelLocks) -> None:
        self.name = f"retraining-{model.contract.name}"
        self._resources = resources
        self._model = model
        self._locks = locks
        self._wake = threading.Event()

    def wake(self) -> None:
        """Say that a request may have been opened or withdrawn."""
        self._wake.set()

    def run(self, stop: threading.Event) -> None:
        """Look for an open request until told to stop; what is away for a while is waited for."""
        while not stop.is_set():
            self._wake.clear()
            try:
                self._look(stop.is_set)
            except psycopg.Error as error:
                if not is_transient(error):
                    raise
                self._show_nothing()
                said = {"model": self._model.contract.name, "error": type(error).__name__}
                logger.warning("retraining waits for the database", extra=said)
            # Only now: what was decided is on its way, and the next training may take long to come.
            self._resources.prepare()
            self._wake.wait(self._resources.check_seconds)
        self._show_nothing()

    def _look(self, stopped: Stopped) -> None:
        """One look; the lock is held no longer, so that another trainer may have what this one has no turn for."""
        with self._locks.hold(self._model.contract.name) as held:
            if held is None:
                self._show_nothing()
                return
            request = self._current()
            if request is not None:
                job = Job(self._resources, self._model, request, lambda: stopped() or not held(), self._pause)
                self._look_after(job)

    def _show_nothing(self) -> None:
        """Take down what another trainer shows, or nobody knows."""
        for gauge in (metrics.RETRAIN_WAITING, metrics.CHAMPION_VERSION):
            gauge.remove(self._model.contract.name)

    def _pause(self) -> None:
        # What woke it before says nothing of what it waits for now.
        self._wake.clear()
        self._wake.wait(self._resources.check_seconds)

    def _current(self) -> Request | None:
        """The model's open request; opens one where the contract's schedule says so."""
        contract = self._model.contract
        with self._resources.pool.connection() as connection:
            state = Store(connection).model(contract.name)
            if state is None or state.champion is None:
                return None
            metrics.CHAMPION_VERSION.labels(contract.name).set(state.champion)
            if contract.retraining.schedule is not None:
                open_scheduled(connection, contract, self._resources.clock())
            found = RequestStore(connection).current(contract.name)
        if found is None:
            metrics.RETRAIN_WAITING.labels(contract.name).set(0)
        return found

    def _look_after(self, job: Job) -> None:
        request = job.request
        try:
            if request.state == "awaiting-labels":
                self._attempt(job)
            elif request.state == "training":
                # Nobody trains but the holder of the lock: whoever began this is gone.
                failed(job, request.tries, Failure("killed", INTERRUPTED))
            elif request.state == "evaluated":
                with span("decide", "internal", request.traceparent, _said(request)):
                    conclude(job)
        except TRANSIENT as error:
            job.wait(f"waiting for {error}")
        except ArtifactError as error:
            job.wait(f"what is kept of versions cannot be read or written: {error}")

    def _attempt(self, job: Job) -> None:
        recent = None if rests(job) else recent_rows(job)
        if recent is None:
            return
        turns = job.resources.turns
        # Before all rows are fetched: they take the memory, too.
        if not turns.acquire(blocking=False):
            job.wait(NO_TURN)
            return
        with ExitStack() as turn:
            turn.callback(turns.release)
            found = material(job, recent)
            with span("retrain", "internal", job.request.traceparent, _said(job.request)):
                if train(job, found, turn):
                    self._conclude_anew(job)

    def _conclude_anew(self, job: Job) -> None:
        request = self._current()
        if request is not None and request.state == "evaluated":
            conclude(replace(job, request=request))


def _said(request: Request) -> Attributes:
    return {"driftloop.model.name": request.model_name, "driftloop.model.version": request.model_version}
