"""The end of a request whose challenger was judged: promoted, tried out or rejected, by what holds of it today."""

import logging
from datetime import datetime

from psycopg import Connection

from driftloop.common.contract import Contract
from driftloop.trainer import deciding
from driftloop.trainer.domain.evidence import Evidence, Reconsidered, reconsider
from driftloop.trainer.evidence_store import EvidenceStore
from driftloop.trainer.label_rows import fetch_rows
from driftloop.trainer.request_store import Request, RequestStore
from driftloop.trainer.resources import Job
from driftloop.trainer.store import Model, Store

logger = logging.getLogger(__name__)


def conclude(job: Job) -> None:
    """Promote, try out or reject a challenger that was judged."""
    name, challenger = job.contract.name, job.request.challenger
    assert challenger is not None
    against, again = _objections(job, challenger)
    published = job.resources.highest_revision(name)
    with job.resources.pool.connection() as connection:
        now = job.resources.clock()
        state = Store(connection).lock_model(name, now)
        found = RequestStore(connection).current(name, lock=True)
        if found is None or found.id != job.request.id or found.state != "evaluated":
            return
        if again is not None:
            EvidenceStore(connection).reconsidered(name, challenger, again, now)
        _concluded(connection, job.contract, state, found, challenger, against, again, published, now)
    job.resources.published()
    logger.info("a request was decided", extra={"model": name, "request": job.request.id, "against": against})


def _concluded(
    connection: Connection, contract: Contract, state: Model, request: Request, challenger: int,
    against: str, again: Reconsidered | None, published: int, now: datetime,
) -> None:  # fmt: skip
    if state.champion != request.model_version:
        reason = f"version {request.model_version}, which it would have replaced, does not serve any more"
        deciding.withdraw(connection, request, reason, now)
    elif against:
        deciding.reject(connection, request, against, now)
    elif contract.rollout.steps:
        deciding.try_out(connection, contract, state, request, challenger, published, now)
    else:
        decision = again.decision if again else Store(connection).decision(contract.name, challenger)
        deciding.promote(connection, state, request, challenger, "; ".join(decision.reasons), published, now)


def _objections(job: Job, challenger: int) -> tuple[str, Reconsidered | None]:
    """Why a challenger must not serve, "" if nothing is against it, and the decision where it was made again.

    Labels are amended, and taken back: what the gate has seen must still hold.
    """
    name = job.contract.name
    with job.resources.pool.connection() as connection:
        decision = Store(connection).decision(name, challenger)
        evidence = EvidenceStore(connection).get(name, challenger)
    if not decision.promoted:
        return "; ".join(decision.reasons), None
    if evidence is None:
        return "a patient whose rows judged it was erased meanwhile: it is judged anew on others", None
    changed = _changed(job, evidence)
    if not changed:
        return "", None
    again = reconsider(evidence, changed)
    if again.decision.promoted:
        return "", again
    reasons = "; ".join(again.decision.reasons)
    return f"{again.changed} labels that it was judged on were amended or taken back since: {reasons}", again


def _changed(job: Job, evidence: Evidence) -> dict[str, int | None]:
    """The judging rows whose label is another today, each with it, None where it has none."""
    limit = job.resources.max_rows
    rows = fetch_rows(job.resources.client, job.contract, limit=limit, labelled=True, since=job.request.judged_since)
    # Only labelled rows were asked for; where one comes without a label all the same, it has none.
    labels = [label if label >= 0 else None for label in rows.labels.tolist()]
    today = dict(zip(rows.ids.tolist(), labels, strict=True))
    judged = zip(evidence.ids.tolist(), evidence.newest.labels.tolist(), strict=True)
    # Of more rows than are fetched, those that are not among them may be older.
    whole = len(rows) < limit
    return {id_: today.get(id_) for id_, label in judged if (id_ in today or whole) and today.get(id_) != label}
