"""The retraining worker: takes each model's open request from labels to a decision, and survives whatever happens.

What a request is at stands in the database before it is begun, so that the trainer that comes next goes on from there.
"""

import logging
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import httpx
import msgspec
import numpy as np
import psycopg
from confluent_kafka import KafkaException
from psycopg import Connection

from driftloop.common import metrics
from driftloop.common.clock import Clock
from driftloop.common.contract import Contract
from driftloop.common.events import ArtifactRef
from driftloop.common.kafka.reader import ReadTimeout
from driftloop.common.postgres.pool import Pool, is_transient
from driftloop.common.registry import ArtifactError, Bundle
from driftloop.common.tracing import Attributes, span
from driftloop.trainer import deciding
from driftloop.trainer.backends import Backend
from driftloop.trainer.domain.card import card_of
from driftloop.trainer.domain.challenger import BaselineData, ReferenceRows, instant
from driftloop.trainer.domain.dataset import Division, LabeledRows, division_of, labels_wanted
from driftloop.trainer.domain.evidence import Evidence, decide
from driftloop.trainer.domain.imported import unseen_holdout
from driftloop.trainer.domain.requests import DAY, TRIES, next_run, next_training
from driftloop.trainer.domain.stability import unstable
from driftloop.trainer.evidence_store import EvidenceStore
from driftloop.trainer.label_rows import ProductionRows, RowsUnavailable, fetch_rows
from driftloop.trainer.request_store import Request, RequestStore
from driftloop.trainer.serving import HighestRevision
from driftloop.trainer.set_store import SetStore
from driftloop.trainer.store import Model, Store
from driftloop.trainer.training_files import Failure, Trained, TrainingTask
from driftloop.trainer.training_runs import RunTraining, TrainingFailed, TrainingStopped, sweep
from driftloop.trainer.training_sets import SetFiles, earliest, keep

logger = logging.getLogger(__name__)

_LOCK = 0x54726169
# Of the labels that judged a challenger so many must still be there when it is to serve.
KEPT_LABELS = 0.9
Stopped = Callable[[], bool]
TRANSIENT = (RowsUnavailable, ReadTimeout, KafkaException, OSError)


@dataclass(frozen=True)
class ModelData:
    """A contract and its baseline, read once at start."""

    contract: Contract
    baseline: BaselineData


@dataclass(frozen=True)
class Artifacts:
    """Where bundles go and come from."""

    write: Callable[[Bundle], ArtifactRef]
    fetch: Callable[[ArtifactRef, str, int], Bundle]


@dataclass(frozen=True)
class _Data:
    """What a training works on: labelled rows, how many are of the new population, the reference's, the champion."""

    labeled: LabeledRows
    new_labels: int
    reference: ReferenceRows
    champion: Bundle


class RetrainingWorker:
    """Looks after every open request until its roll-out. Of several trainers only the one that holds the lock works."""

    name = "retraining"

    def __init__(
        self,
        *,
        pool: Pool,
        models: Mapping[str, ModelData],
        client: httpx.Client,
        artifacts: Artifacts,
        sets: SetFiles,
        highest_revision: HighestRevision,
        clock: Clock,
        published: Callable[[], None],
        check_seconds: float,
        max_rows: int,
        run: RunTraining,
        backend: Backend = Backend(),
    ) -> None:
        self._pool = pool
        self._models = models
        self._client = client
        self._artifacts = artifacts
        self._sets = sets
        self._highest_revision = highest_revision
        self._clock = clock
        self._published = published
        self._check_seconds = check_seconds
        self._max_rows = max_rows
        self._run = run
        self._backend = backend
        self._wake = threading.Event()

    def wake(self) -> None:
        """Say that a request may have been opened or withdrawn."""
        self._wake.set()

    def run(self, stop: threading.Event) -> None:
        """Look for open requests until told to stop; what is away for a while is waited for."""
        sweep()
        while not stop.is_set():
            try:
                # The lock lives as long as this connection; no transaction stays open while a model is trained.
                with self._pool.connection() as lock:
                    if _owns_lock(lock):
                        self._look(lock, stop)
            except psycopg.Error as error:
                if not is_transient(error):
                    raise
                logger.warning("retraining waits for the database", extra={"error": type(error).__name__})
            stop.wait(self._check_seconds)

    def _look(self, lock: Connection, stop: threading.Event) -> None:
        try:
            while not stop.is_set():
                self._wake.clear()
                lock.execute("SELECT 1")  # notices that the session, and with it the lock, is gone
                lock.commit()
                for model in self._models.values():
                    if not stop.is_set():
                        self._look_after(model, lock, stop)
                self._wake.wait(self._check_seconds)
        finally:
            if not lock.closed:
                lock.rollback()
                lock.execute("SELECT pg_advisory_unlock_all()")
                lock.commit()

    def _look_after(self, model: ModelData, lock: Connection, stop: threading.Event) -> None:
        request = self._current(model)
        if request is None:
            metrics.RETRAIN_WAITING.labels(model.contract.name).set(0)
            return
        said: Attributes = {
            "driftloop.model.name": request.model_name,
            "driftloop.model.version": request.model_version,
        }
        try:
            if request.state == "awaiting-labels":
                self._attempt(model, request, said, lambda: stop.is_set() or _is_lost(lock))
            elif request.state == "training":
                # Nobody trains but the holder of the lock: whoever began this is gone.
                self._failed(model, request, request.tries, Failure("killed", "the trainer ended in the middle of it"))
            elif request.state == "evaluated":
                with span("decide", "internal", request.traceparent, said):
                    self._decide(model, request)
        except TRANSIENT as error:
            self._wait(request, f"waiting for {error}", {})
        except ArtifactError as error:
            self._wait(request, f"what is kept of versions cannot be read or written: {error}", {})

    def _current(self, model: ModelData) -> Request | None:
        """The model's open request; opens one where the contract's schedule says so."""
        contract = model.contract
        with self._pool.connection() as connection:
            state = Store(connection).model(contract.name)
            if state is None or state.champion is None:
                return None
            metrics.CHAMPION_VERSION.labels(contract.name).set(state.champion)
            if contract.retraining.schedule is not None:
                open_scheduled(connection, contract, self._clock())
            return RequestStore(connection).current(contract.name)

    # --- waiting for labels

    def _attempt(self, model: ModelData, request: Request, said: Attributes, stopped: Stopped) -> None:
        if request.cause != "manual" and (reason := self._resting(model.contract, request)):
            self._wait(request, reason, {})
            return
        data = self._data(model, request)
        if data is not None:
            with span("retrain", "internal", request.traceparent, said):
                self._train(model, request, data, stopped)

    def _resting(self, contract: Contract, request: Request) -> str:
        """Why the request must not train yet, "" if it may."""
        now = self._clock()
        with self._pool.connection() as connection:
            store = RequestStore(connection)
            ended, begun = store.last_ended(contract.name), store.trainings(contract.name, now - DAY)
            blocked = Store(connection).blocked(contract.name)
        if blocked is not None:
            return f"waiting for better data: {blocked}"
        # A second try is part of the first.
        earliest, reason = next_training(contract.retraining, ended, begun if request.tries == 0 else (), now)
        return f"waiting until {earliest:%Y-%m-%d %H:%M:%S} UTC: {reason}" if reason else ""

    def _data(self, model: ModelData, request: Request) -> _Data | None:
        """The rows of a training, or None while there are too few; then the request says what it waits for."""
        contract, gates, since = model.contract, model.contract.gates, request.changed_since
        # Asked first, and no more than are needed: whoever waits for weeks must not fetch everything every time.
        enough = max(gates.train_labels + gates.gate_labels, request.labels_before_next)
        new = fetch_rows(self._client, contract, limit=enough, labelled=True, since=since)
        recent = fetch_rows(self._client, contract, limit=gates.reference_rows_max, labelled=False, since=since)
        # A version that is compared with what it was trained on needs no other reference.
        wanted = gates.reference_rows_min if contract.reference == "recent" else 0
        lacking = {
            "labels": max(
                labels_wanted(gates, new.times, np.datetime64(_naive(since))), request.labels_before_next - len(new)
            ),
            "reference_rows": max(0, wanted - len(recent)),
        }
        metrics.RETRAIN_WAITING.labels(contract.name).set(lacking["labels"])
        if any(lacking.values()):
            told = [f"{rows} more {name.replace('_', ' ')}" for name, rows in lacking.items() if rows]
            self._wait(request, "waiting for " + " and ".join(told) + " of the new population", lacking)
            return None
        if wanted and (unsettled := unstable(contract, recent.values)):
            self._wait(request, f"waiting for the population to settle: {unsettled}", {})
            return None
        # Before a million rows are fetched: without the champion nothing can be judged.
        champion = self._champion(contract, request)
        labeled = self._without_erased(fetch_rows(self._client, contract, limit=self._max_rows, labelled=True))
        recent = self._without_erased(recent)
        new_labels = _new_labels(labeled, request)
        return _Data(labeled.labeled(), new_labels, ReferenceRows(recent.ids, recent.values), champion)

    def _champion(self, contract: Contract, request: Request) -> Bundle:
        with self._pool.connection() as connection:
            reference = Store(connection).artifact(contract.name, request.model_version)
        return self._artifacts.fetch(reference, contract.name, request.model_version)

    def _without_erased(self, rows: ProductionRows) -> ProductionRows:
        """The rows but those of erased subjects, which label-ingest may have again from a backup."""
        with self._pool.connection() as connection:
            erased = SetStore(connection).erased({subject for subject in rows.subjects.tolist() if subject})
        return rows.without(erased)

    # --- training

    def _train(self, model: ModelData, request: Request, data: _Data, stopped: Stopped) -> None:
        version = self._begin(request, data)
        if version is None:
            return
        tries = request.tries + 1
        ended = partial(self._is_over, request, tries, stopped)
        try:
            task = _task(model, request, data, version, self._clock(), self._backend)
            trained = self._run(task, ended, partial(self._say, request))
            self._register(model, request, trained, task.division, ended)
        except TrainingStopped:
            self._stopped(request, tries)
        except TrainingFailed as error:
            self._failed(model, request, tries, error.failure)
        except ValueError as error:
            self._failed(model, request, tries, Failure("data", str(error)))
        except OSError as error:
            told = f"it could not be handed to a process of its own: {error.strerror}"
            self._failed(model, request, tries, Failure("internal", told))
        else:
            self._decide_anew(model)

    def _begin(self, request: Request, data: _Data) -> int | None:
        """Note that a training begins. Returns the version that it will make, None where nobody wants it any more."""
        reason = (
            f"training on {len(data.labeled)} labelled rows and the baseline, then judging "
            f"(try {request.tries + 1} of {TRIES})"
        )
        with self._pool.connection() as connection:
            now, store = self._clock(), RequestStore(connection)
            Store(connection).lock_model(request.model_name, now)
            if not store.become(request.id, "training", reason, now):
                return None
            store.count_try(request.id, data.new_labels)
            version = Store(connection).reserve_version(request.model_name)
        logger.info("training a challenger", extra={"model": request.model_name, "version": version})
        return version

    def _is_over(self, request: Request, tries: int, stopped: Stopped) -> bool:
        """Whether nobody waits for this training any more. While the database is away, nothing has changed."""
        try:
            if stopped():
                return True
            with self._pool.connection() as connection:
                return not _is_ours(RequestStore(connection).current(request.model_name), request, tries)
        except psycopg.Error as error:
            if not is_transient(error):
                raise
            return False

    def _say(self, request: Request, text: str) -> None:
        """Tell what a training is at; while the database is away, nobody."""
        try:
            self._wait(request, f"training: {text}", {})
        except psycopg.Error as error:
            if not is_transient(error):
                raise

    def _register(
        self, model: ModelData, request: Request, trained: Trained, division: Division, ended: Stopped
    ) -> None:
        """Keep what was made. What is away, or full, is waited for: training again would not help it."""
        while True:
            try:
                self._evaluated(model, request, trained, division)
                return
            except ArtifactError as error:
                if not error.transient:
                    raise TrainingFailed(Failure("data", str(error))) from error
                self._say(request, f"done; waiting to keep it: {error}")
            except psycopg.Error as error:
                if not is_transient(error):
                    raise
                logger.warning("a training waits for the database", extra={"model": request.model_name})
            # What woke it before says nothing of the store; with that still set it would not wait at all.
            self._wake.clear()
            self._wake.wait(self._check_seconds)
            if ended():
                raise TrainingStopped

    def _evaluated(self, model: ModelData, request: Request, trained: Trained, division: Division) -> None:
        """Write set and artifact, and note version, evidence and verdict in one transaction."""
        card, gate = card_of(trained.bundle.card), division.gate
        assert card.decision is not None
        keep(self._pool, self._sets, model.contract, card.training, division.train, self._clock)
        artifact = self._artifacts.write(trained.bundle)
        outcome = "passed the gate" if card.decision.promoted else "did not pass the gate"
        reason = f"version {card.model_version} {outcome}: " + "; ".join(card.decision.reasons)
        with self._pool.connection() as connection:
            now, store = self._clock(), RequestStore(connection)
            name, version = card.model_name, card.model_version
            Store(connection).lock_model(name, now)
            if store.become(request.id, "evaluated", reason, now):
                Store(connection).add_version(card, artifact)
                EvidenceStore(connection).add(name, version, trained.evidence, earliest(gate), now)
                store.set_judged(request.id, version, instant(gate.times.min()) if len(gate) else None)

    def _stopped(self, request: Request, tries: int) -> None:
        """A training that ended with the trainer, or whose request was withdrawn, was no try."""
        with self._pool.connection() as connection:
            now, store = self._clock(), RequestStore(connection)
            Store(connection).lock_model(request.model_name, now)
            if _is_ours(store.current(request.model_name, lock=True), request, tries):
                store.become(request.id, "awaiting-labels", "the training was stopped with the trainer", now)
                store.forget_try(request.id)

    def _failed(self, model: ModelData, request: Request, tries: int, failure: Failure) -> None:
        """Try once more what may have been an accident; reject what was none."""
        logger.error(
            "a training failed",
            extra={"model": request.model_name, "request": request.id, "kind": failure.kind, "why": failure.message},
        )
        metrics.TRAININGS_FAILED.labels(request.model_name, failure.kind).inc()
        with self._pool.connection() as connection:
            now, store = self._clock(), RequestStore(connection)
            Store(connection).lock_model(request.model_name, now)
            found = store.current(request.model_name, lock=True)
            if found is None or not _is_ours(found, request, tries):
                return
            if failure.kind != "data" and tries < TRIES:
                reason = f"the training failed, and is tried once more: {failure.message}"
                store.become(request.id, "awaiting-labels", reason, now)
                return
            reason = f"no challenger could be made: {failure.message}"
            deciding.reject(connection, model.contract, found, reason, now)

    # --- deciding

    def _decide_anew(self, model: ModelData) -> None:
        request = self._current(model)
        if request is not None and request.state == "evaluated":
            self._decide(model, request)

    def _decide(self, model: ModelData, request: Request) -> None:
        """Promote, try out or reject a challenger that was judged."""
        contract, challenger = model.contract, request.challenger
        assert challenger is not None
        against = self._objections(model, request, challenger)
        published = self._highest_revision(contract.name)
        with self._pool.connection() as connection:
            now = self._clock()
            state = Store(connection).lock_model(contract.name, now)
            found = RequestStore(connection).current(contract.name, lock=True)
            if found is None or found.id != request.id or found.state != "evaluated":
                return
            self._decided(connection, contract, state, found, challenger, against, published, now)
        self._published()
        logger.info("a request was decided", extra={"model": contract.name, "request": request.id, "against": against})

    def _decided(
        self, connection: Connection, contract: Contract, state: Model, request: Request, challenger: int,
        against: str, published: int, now: datetime,
    ) -> None:  # fmt: skip
        if state.champion != request.model_version:
            reason = f"version {request.model_version}, which it would have replaced, does not serve any more"
            deciding.withdraw(connection, request, reason, now)
        elif against:
            deciding.reject(connection, contract, request, against, now)
        elif contract.rollout.steps:
            deciding.try_out(connection, contract, state, request, challenger, published, now)
        else:
            reason = "; ".join(Store(connection).decision(contract.name, challenger).reasons)
            deciding.promote(connection, state, request, challenger, reason, published, now)

    def _objections(self, model: ModelData, request: Request, challenger: int) -> str:
        """Why a challenger must not serve, "" if nothing is against it.

        Labels are amended, and taken back: what the gate has seen must still hold.
        """
        with self._pool.connection() as connection:
            decision = Store(connection).decision(model.contract.name, challenger)
            evidence = EvidenceStore(connection).get(model.contract.name, challenger)
        if not decision.promoted:
            return "; ".join(decision.reasons)
        if evidence is None:
            return "a patient whose rows judged it was erased meanwhile: it is judged anew on others"
        changed = self._changed(model.contract, request, evidence)
        if not changed:
            return ""
        # It had enough labels; that a few of them went since says nothing against it.
        gates = msgspec.structs.replace(evidence.gates, gate_labels=math.ceil(KEPT_LABELS * evidence.gates.gate_labels))
        again = decide(replace(evidence.relabelled(changed), gates=gates))
        if again.promoted:
            return ""
        reasons = "; ".join(again.reasons)
        return f"{len(changed)} labels that it was judged on were amended or taken back since: {reasons}"

    def _changed(self, contract: Contract, request: Request, evidence: Evidence) -> dict[str, int | None]:
        """The judging rows whose label is another today, each with it, None where it has none."""
        rows = fetch_rows(self._client, contract, limit=self._max_rows, labelled=True, since=request.judged_since)
        today = dict(zip(rows.ids.tolist(), rows.labels.tolist(), strict=True))
        judged = zip(evidence.ids.tolist(), evidence.newest.labels.tolist(), strict=True)
        # Of more rows than are fetched, those that are not among them may be older.
        whole = len(rows) < self._max_rows
        return {id_: today.get(id_) for id_, label in judged if (id_ in today or whole) and today.get(id_) != label}

    def _wait(self, request: Request, reason: str, lacking: Mapping[str, int]) -> None:
        with self._pool.connection() as connection:
            RequestStore(connection).wait(request.id, reason, lacking)


def open_scheduled(connection: Connection, contract: Contract, now: datetime) -> None:
    """Open the request that the contract's schedule asks for by now, at most one however long nobody looked."""
    schedule, store = contract.retraining.schedule, RequestStore(connection)
    assert schedule is not None
    model = Store(connection).lock_model(contract.name, now)
    due = store.due(contract.name, schedule)
    if due is not None and now < due:
        return
    store.set_due(contract.name, schedule, next_run(schedule, now))
    if due is not None and model.champion is not None and Store(connection).blocked(contract.name) is None:
        since = Store(connection).serves_since(contract.name, model.champion)
        store.open(
            f"schedule:{contract.name}:{due.isoformat()}", "schedule", contract.name, model.champion, since, now,
            f"the schedule {schedule} was due at {due:%Y-%m-%d %H:%M} UTC",
        )  # fmt: skip


def _is_ours(found: Request | None, request: Request, tries: int) -> bool:
    """Whether a request is still in the training that was begun as its nth."""
    return found is not None and (found.id, found.state, found.tries) == (request.id, "training", tries)


def _is_lost(lock: Connection) -> bool:
    """Whether the session that holds the lock is gone: another trainer may have it by now."""
    try:
        lock.execute("SELECT 1")
        lock.commit()
    except psycopg.Error:
        return True
    return False


def _task(
    model: ModelData, request: Request, data: _Data, version: int, created: datetime, backend: Backend
) -> TrainingTask:
    """What the training process is given. Raises ValueError where the rows allow none."""
    since = np.datetime64(_naive(request.changed_since))
    return TrainingTask(
        contract=model.contract,
        baseline=model.baseline,
        division=division_of(model.contract, data.labeled, since),
        reference=data.reference,
        champion=data.champion.model,
        since=since,
        version=version,
        created=created,
        reason=_reason(request),
        concept_drift=request.concept_drift,
        unseen=unseen_holdout(card_of(data.champion.card), model.baseline),
        backend=backend,
    )


def _reason(request: Request) -> str:
    why = {
        "drift": f"CRITICAL drift of version {request.model_version}",
        "follow-up": f"CRITICAL drift of version {request.model_version}, attempt {request.attempts + 1}",
        "schedule": "the contract's schedule",
        "manual": "somebody asked for it",
    }
    return why[request.cause]


def _owns_lock(connection: Connection) -> bool:
    row = connection.execute("SELECT pg_try_advisory_lock(%s, hashtext(current_schema()))", [_LOCK]).fetchone()
    connection.commit()
    return bool(row and row[0])


def _new_labels(rows: ProductionRows, request: Request) -> int:
    """How many labelled rows of the new population there are."""
    return int(np.sum(rows.times >= np.datetime64(_naive(request.changed_since))))


def _naive(time: datetime) -> datetime:
    return time.replace(tzinfo=None)
