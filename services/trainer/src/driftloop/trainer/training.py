"""The training of a request: begun, run in a process of its own, and kept, tried once more, or rejected."""

import logging
from contextlib import ExitStack
from datetime import datetime
from functools import partial

import psycopg
from psycopg import Connection

from driftloop.common import metrics
from driftloop.common.postgres.pool import is_transient
from driftloop.common.registry import ArtifactConflict, ArtifactError
from driftloop.trainer import deciding
from driftloop.trainer.awaiting import Material, bounds
from driftloop.trainer.domain.card import card_of
from driftloop.trainer.domain.challenger import instant
from driftloop.trainer.domain.dataset import Division, division_of
from driftloop.trainer.domain.imported import unseen_holdout
from driftloop.trainer.domain.reference import require_features
from driftloop.trainer.domain.requests import TRIES
from driftloop.trainer.evidence_store import EvidenceStore
from driftloop.trainer.request_store import Request, RequestStore
from driftloop.trainer.resources import Job, Stopped
from driftloop.trainer.store import Store
from driftloop.trainer.training_files import Failure, FailureKind, Trained, TrainingTask
from driftloop.trainer.training_runs import TrainingFailed, TrainingStopped
from driftloop.trainer.training_sets import earliest, keep

logger = logging.getLogger(__name__)


def train(job: Job, material: Material, turn: ExitStack) -> bool:
    """Train a challenger, judge it and keep it. Says whether that came to an end; the request says to which.

    `turn` is closed as soon as the training's process has ended: what waits after that holds up no other model.
    """
    version = _begin(job, material)
    if version is None:
        return False
    tries = job.request.tries + 1
    ended = partial(_is_over, job, tries)
    try:
        task = _task(job, material, version)
        trained = job.resources.run(task, ended, partial(_say, job))
        turn.close()
        _register(job, tries, trained, task.division, ended)
    except TrainingStopped:
        _stopped(job, tries)
    except TrainingFailed as error:
        failed(job, tries, error.failure)
    except ValueError as error:
        failed(job, tries, Failure("data", str(error)))
    except OSError as error:
        failed(job, tries, Failure("internal", f"it could not be handed to a process of its own: {error.strerror}"))
    else:
        return True
    return False


def failed(job: Job, tries: int, failure: Failure) -> None:
    """Try once more what may have been an accident; reject what was none."""
    name, request = job.contract.name, job.request
    logger.error(
        "a training failed",
        extra={"model": name, "request": request.id, "kind": failure.kind, "why": failure.message},
    )
    metrics.TRAININGS_FAILED.labels(name, failure.kind).inc()
    with job.resources.pool.connection() as connection:
        now, store = job.resources.clock(), RequestStore(connection)
        found = _ours(connection, job, tries, now)
        if found is None:
            return
        if failure.kind != "data":
            # What was killed, or took too much, has judged nothing by any row.
            store.forget_judged(request.id)
            if tries < TRIES:
                reason = f"the training failed, and is tried once more: {failure.message}"
                store.become(request.id, "awaiting-labels", reason, now)
                return
        deciding.reject(connection, found, f"no challenger could be made: {failure.message}", now)


def _begin(job: Job, material: Material) -> int | None:
    """Note that a training begins. Returns the version that it will make, None where nobody wants it any more."""
    request = job.request
    # A database that was restored from a backup knows fewer versions than the store, and none there ever changes.
    free = job.resources.artifacts.highest(request.model_name) + 1
    reason = (
        f"training on {len(material.labeled)} labelled rows and the baseline, then judging "
        f"(try {request.tries + 1} of {TRIES})"
    )
    with job.resources.pool.connection() as connection:
        now, store = job.resources.clock(), RequestStore(connection)
        Store(connection).lock_model(request.model_name, now)
        if not store.become(request.id, "training", reason, now):
            return None
        times = material.labeled.times
        store.count_try(request.id, instant(times.max()) if len(times) else None)
        version = Store(connection).reserve_version(request.model_name, free, now)
    logger.info("training a challenger", extra={"model": request.model_name, "version": version})
    return version


def _task(job: Job, material: Material, version: int) -> TrainingTask:
    """What the training process is given. Raises ValueError where the rows allow none."""
    since, after = bounds(job.request)
    require_features(job.contract, material.champion.profile)
    return TrainingTask(
        contract=job.contract,
        baseline=job.model.baseline,
        division=division_of(job.contract, material.labeled, since, after),
        reference=material.reference,
        champion=material.champion.model,
        since=since,
        version=version,
        created=job.resources.clock(),
        reason=_reason(job.request),
        concept_drift=job.request.concept_drift,
        unseen=unseen_holdout(card_of(material.champion.card), job.model.baseline),
        backend=job.resources.backend,
    )


def _reason(request: Request) -> str:
    why = {
        "drift": f"CRITICAL drift of version {request.model_version}",
        "follow-up": f"CRITICAL drift of version {request.model_version}, attempt {request.attempts + 1}",
        "schedule": "the contract's schedule",
        "manual": "somebody asked for it",
    }
    return why[request.cause]


def _is_over(job: Job, tries: int) -> bool:
    """Whether nobody waits for this training any more. While the database is away, nothing has changed."""
    try:
        if job.stopped():
            return True
        with job.resources.pool.connection() as connection:
            return not _is_ours(RequestStore(connection).current(job.contract.name), job.request, tries)
    except psycopg.Error as error:
        if not is_transient(error):
            raise
        return False


def _say(job: Job, text: str) -> None:
    """Tell what a training is at; while the database is away, nobody."""
    try:
        job.wait(f"training: {text}")
    except psycopg.Error as error:
        if not is_transient(error):
            raise


def _register(job: Job, tries: int, trained: Trained, division: Division, ended: Stopped) -> None:
    """Keep what was made. What is away, or full, is waited for: training again would not help it."""
    while True:
        try:
            _evaluated(job, tries, trained, division)
            return
        except ArtifactError as error:
            if not error.transient:
                # Whose number another has taken is trained once more, under the next.
                kind: FailureKind = "internal" if isinstance(error, ArtifactConflict) else "data"
                raise TrainingFailed(Failure(kind, str(error))) from error
            _say(job, f"done; waiting to keep it: {error}")
        except psycopg.Error as error:
            if not is_transient(error):
                raise
            logger.warning("a training waits for the database", extra={"model": job.contract.name})
        job.pause()
        if ended():
            raise TrainingStopped


def _evaluated(job: Job, tries: int, trained: Trained, division: Division) -> None:
    """Write set and artifact, and note version, evidence and verdict in one transaction."""
    resources, card, gate = job.resources, card_of(trained.bundle.card), division.gate
    assert card.decision is not None
    keep(resources.pool, resources.sets, job.contract, card.training, division.train, resources.clock)
    artifact = resources.artifacts.write(trained.bundle)
    outcome = "passed the gate" if card.decision.promoted else "did not pass the gate"
    reason = f"version {card.model_version} {outcome}: " + "; ".join(card.decision.reasons)
    with resources.pool.connection() as connection:
        now, store = resources.clock(), RequestStore(connection)
        name, version = card.model_name, card.model_version
        if _ours(connection, job, tries, now) is not None:
            store.become(job.request.id, "evaluated", reason, now)
            Store(connection).add_version(card, artifact)
            EvidenceStore(connection).add(name, version, trained.evidence, earliest(gate), now)
            store.set_judged(job.request.id, version, instant(gate.times.min()) if len(gate) else None)


def _stopped(job: Job, tries: int) -> None:
    """A training that ended with the trainer, or whose request was withdrawn, was no try."""
    request = job.request
    with job.resources.pool.connection() as connection:
        now, store = job.resources.clock(), RequestStore(connection)
        if _ours(connection, job, tries, now) is not None:
            store.become(request.id, "awaiting-labels", "the training was stopped with the trainer", now)
            store.forget_try(request.id)


def _ours(connection: Connection, job: Job, tries: int, now: datetime) -> Request | None:
    """The request under its locks, None where it is not in our training any more.

    Who has lost the model's lock finds another at work, or its work done.
    """
    Store(connection).lock_model(job.contract.name, now)
    found = RequestStore(connection).current(job.contract.name, lock=True)
    return found if _is_ours(found, job.request, tries) else None


def _is_ours(found: Request | None, request: Request, tries: int) -> bool:
    """Whether a request is still in the training that was begun as its nth."""
    return found is not None and (found.id, found.state, found.tries) == (request.id, "training", tries)
