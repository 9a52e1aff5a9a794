"""A request that waits: whether it must rest, what it lacks, and the rows that it is trained on when it has them.

What it waits for is told in the request.
"""

import time
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from psycopg import Connection

from driftloop.common import metrics
from driftloop.common.contract import Contract
from driftloop.common.registry import Bundle
from driftloop.trainer.domain.challenger import ReferenceRows
from driftloop.trainer.domain.dataset import LabeledRows, LabelsWanted, labels_wanted
from driftloop.trainer.domain.requests import CLOCK_ERROR, DAY, next_run, next_training, waiting_for
from driftloop.trainer.domain.stability import unstable
from driftloop.trainer.label_rows import ProductionRows, fetch_rows, instant64
from driftloop.trainer.request_store import Request, RequestStore
from driftloop.trainer.resources import Job
from driftloop.trainer.set_store import SetStore
from driftloop.trainer.store import Store

# A look at more rows than a training needs is followed by a rest of so many times its length.
REST = 9


@dataclass(frozen=True)
class Material:
    """What a training works on: labelled rows, the reference's, the champion."""

    labeled: LabeledRows
    reference: ReferenceRows
    champion: Bundle


def open_scheduled(connection: Connection, contract: Contract, now: datetime) -> None:
    """Open the request that the contract's schedule asks for by now, at most one however long nobody looked."""
    schedule, store = contract.retraining.schedule, RequestStore(connection)
    assert schedule is not None
    model = Store(connection).lock_model(contract.name, now)
    due = store.due(contract.name, schedule)
    upcoming = next_run(schedule, now)
    # One that is later than the next was noted when a clock had jumped ahead.
    if due is not None and now < due <= upcoming:
        return
    store.set_due(contract.name, schedule, upcoming)
    blocked = Store(connection).blocked(contract.name)
    if due is not None and due <= now and model.champion is not None and blocked is None:
        since = Store(connection).serves_since(contract.name, model.champion)
        store.open(
            f"schedule:{contract.name}:{due.isoformat()}", "schedule", contract.name, model.champion, since, now,
            f"the schedule {schedule} was due at {due:%Y-%m-%d %H:%M} UTC",
        )  # fmt: skip


def rests(job: Job) -> bool:
    """Whether the request must not train yet, however many labels there are. What somebody asked for never rests."""
    if job.request.by_hand:
        return False
    reason = _resting(job)
    if reason:
        job.wait(reason)
    return bool(reason)


def _resting(job: Job) -> str:
    contract, now = job.contract, job.resources.clock()
    with job.resources.pool.connection() as connection:
        store = RequestStore(connection)
        # What a clock that went wrong has noted far ahead is not waited for, and hides no end that is.
        ended = store.last_ended(contract.name, now + CLOCK_ERROR)
        begun = store.trainings(contract.name, now - DAY)
        blocked = Store(connection).blocked(contract.name)
    if blocked is not None:
        return f"waiting for better data: {blocked}"
    # A second try is part of the first.
    earliest, reason = next_training(contract.retraining, ended, begun if job.request.tries == 0 else (), now)
    return f"waiting until {earliest:%Y-%m-%d %H:%M:%S} UTC: {reason}" if reason else ""


def recent_rows(job: Job) -> ProductionRows | None:
    """The newest rows, with a label or without, where all that a training needs is there; else None.

    Asked before anything is trained, and no more than is needed: whoever waits for weeks must not fetch everything
    every time.
    """
    contract, gates, request = job.contract, job.contract.gates, job.request
    labels, rest = _labels_wanted(job)
    recent = _fetched(job, gates.reference_rows_max, labelled=False, since=request.changed_since)
    # A version that is compared with what it was trained on needs no other reference.
    wanted = gates.reference_rows_min if contract.reference == "recent" else 0
    lacking = {"labels": labels.total, "reference_rows": max(0, wanted - len(recent))}
    metrics.RETRAIN_WAITING.labels(contract.name).set(lacking["labels"])
    if any(lacking.values()):
        job.wait(waiting_for(lacking, request.judges_after if labels.judging else None), lacking)
        end = time.monotonic() + rest
        while time.monotonic() < end and not job.stopped():
            job.pause()
        return None
    if wanted and (unsettled := unstable(contract, recent.values)):
        job.wait(f"waiting for the population to settle: {unsettled}")
        return None
    return recent


def _labels_wanted(job: Job) -> tuple[LabelsWanted, float]:
    """Which labels a request lacks, and for how many seconds not to look again: more than 0 after a look at many rows.

    Where patients come often more rows are looked at than a training needs.
    """
    begun, (since, after), gates = time.monotonic(), bounds(job.request), job.contract.gates
    most = job.resources.max_rows
    limit = enough = gates.train_labels + gates.gate_labels
    while True:
        rows = _fetched(job, limit, labelled=True, since=job.request.changed_since)
        wanted = labels_wanted(gates, _without_erased(job, rows).labeled(), since, after)
        if not wanted.deeper or len(rows) < limit or limit >= most:
            return wanted, REST * (time.monotonic() - begun) if limit > enough else 0.0
        limit = min(2 * limit, most)


def material(job: Job, recent: ProductionRows) -> Material:
    """All that a training works on. Raises what `fetch_rows` and the store of artifacts raise."""
    # Before a million rows are fetched: without the champion nothing can be judged.
    champion = _champion(job)
    labeled = _without_erased(job, _fetched(job, job.resources.max_rows, labelled=True))
    recent = _without_erased(job, recent)
    return Material(
        labeled=labeled.labeled(),
        reference=ReferenceRows(recent.ids, recent.values),
        champion=champion,
    )


def _fetched(job: Job, limit: int, *, labelled: bool, since: datetime | None = None) -> ProductionRows:
    """Rows as label-ingest has them, but for those that a predictor's clock has dated far ahead.

    These would be the newest, and judge each time; and who is to be judged on newer ones would wait for years.
    """
    until = job.resources.clock() + CLOCK_ERROR
    return fetch_rows(job.resources.client, job.contract, limit=limit, labelled=labelled, since=since, until=until)


def _champion(job: Job) -> Bundle:
    name, version = job.contract.name, job.request.model_version
    with job.resources.pool.connection() as connection:
        reference = Store(connection).artifact(name, version)
    return job.resources.artifacts.fetch(reference, name, version)


def _without_erased(job: Job, rows: ProductionRows) -> ProductionRows:
    """The rows but those of erased subjects, which label-ingest may have again from a backup."""
    with job.resources.pool.connection() as connection:
        erased = SetStore(connection).erased({subject for subject in rows.subjects.tolist() if subject})
    return rows.without(erased)


def bounds(request: Request) -> tuple[np.datetime64, np.datetime64 | None]:
    """Since when rows are of the new population, and after when they may judge, None for all."""
    after = request.judges_after
    return instant64(request.changed_since), None if after is None else instant64(after)
