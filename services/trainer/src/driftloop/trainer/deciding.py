"""What becomes of a request: request, version, serving state and event change in one transaction, or none of them.

Whoever calls these holds the model's lock, and has just read the request under it. `published` is the highest revision
that the topic holds.
"""

from datetime import datetime

from psycopg import Connection

from driftloop.common import metrics
from driftloop.common.contract import Contract
from driftloop.trainer.domain.canary import CanaryVerdict
from driftloop.trainer.domain.requests import BY_DRIFT, CLOCK_ERROR, State
from driftloop.trainer.request_store import Request, RequestStore
from driftloop.trainer.rollout_store import Rollout, RolloutStore
from driftloop.trainer.serving import crown, serve
from driftloop.trainer.store import Model, Store
from driftloop.trainer.trackers import Outcome
from driftloop.trainer.tracking_store import RunFacts, remember


def promote(
    connection: Connection, model: Model, request: Request, challenger: int, reason: str, published: int, now: datetime,
    verdict: CanaryVerdict | None = None,
) -> None:  # fmt: skip
    """The challenger becomes the champion."""
    _become(connection, request, "promoted", reason, now)
    crown(connection, model, challenger, published, reason, now, request=request.id, figures=_figures(verdict))
    metrics.RETRAININGS.labels(model.name, "promoted").inc()


def reject(connection: Connection, request: Request, reason: str, now: datetime) -> None:
    """The request came to nothing."""
    _become(connection, request, "rejected", reason, now)
    if request.challenger is not None:
        name, challenger = request.model_name, request.challenger
        Store(connection).set_status(name, challenger, "rejected")
        remember(connection, RunFacts(name, challenger, "rejected", request.model_version, request=request.id), now)
    _follow(connection, request, now)
    metrics.RETRAININGS.labels(request.model_name, "rejected").inc()


def withdraw(connection: Connection, request: Request, reason: str, now: datetime) -> None:
    """Nobody wants the request any more. What it made stays on record, and is not served."""
    _become(connection, request, "withdrawn", reason, now)
    if request.challenger is not None:
        name, challenger = request.model_name, request.challenger
        Store(connection).set_status(name, challenger, "abandoned")
        outcome: Outcome = "rolled-back" if request.state == "canary" else "rejected"
        remember(connection, RunFacts(name, challenger, outcome, request.model_version, request=request.id), now)
    metrics.RETRAININGS.labels(request.model_name, "withdrawn").inc()


def try_out(
    connection: Connection, contract: Contract, model: Model, request: Request, challenger: int, published: int,
    now: datetime,
) -> None:  # fmt: skip
    """Begin the challenger's roll-out with the contract's first step."""
    assert model.champion is not None
    step = contract.rollout.steps[0]
    reason = f"step 1 of {len(contract.rollout.steps)}: version {challenger} answers {step.weight:.0%} of the requests"
    _become(connection, request, "canary", reason, now)
    Store(connection).set_status(model.name, challenger, "canary")
    RolloutStore(connection).start(request.id, model.name, model.champion, challenger, now)
    remember(connection, RunFacts(model.name, challenger, "canary", model.champion, challenger, request.id), now)
    serve(connection, model, model.champion, published, reason, now, challenger, step.weight)


def step_on(
    connection: Connection, contract: Contract, model: Model, rollout: Rollout, rows: int, published: int, now: datetime
) -> None:
    """Go on to the roll-out's next step."""
    number = rollout.step + 1
    step = contract.rollout.steps[number]
    reason = (
        f"step {number + 1} of {len(contract.rollout.steps)}: version {rollout.challenger} answers "
        f"{step.weight:.0%} of the requests"
    )
    RolloutStore(connection).advance(rollout.request_id, number, rows, now)
    RequestStore(connection).say(rollout.request_id, "canary", reason, now)
    serve(connection, model, rollout.champion, published, reason, now, rollout.challenger, step.weight)


def accept(
    connection: Connection, model: Model, request: Request, rollout: Rollout, verdict: CanaryVerdict | None,
    reason: str, published: int, now: datetime,
) -> None:  # fmt: skip
    """The roll-out's challenger has proven itself, or somebody says so."""
    RolloutStore(connection).end(rollout.request_id, verdict, now)
    promote(connection, model, request, rollout.challenger, reason, published, now, verdict)


def roll_back(
    connection: Connection, model: Model, request: Request, rollout: Rollout, verdict: CanaryVerdict | None,
    reason: str, published: int, now: datetime,
) -> None:  # fmt: skip
    """The champion serves alone again. Without a verdict somebody has decided, and nothing follows."""
    newest = RolloutStore(connection).newest(rollout.request_id)
    if newest is not None:
        # What is dated further ahead judges in no gate, and must not keep others from it.
        RequestStore(connection).judged_until(request.id, min(newest, now + CLOCK_ERROR))
    RolloutStore(connection).end(rollout.request_id, verdict, now)
    _become(connection, request, "rolled-back", reason, now)
    Store(connection).set_status(model.name, rollout.challenger, "rolled-back")
    facts = RunFacts(
        model.name, rollout.challenger, "rolled-back", rollout.champion, request=request.id, metrics=_figures(verdict)
    )
    remember(connection, facts, now)
    serve(connection, model, rollout.champion, published, reason, now)
    if verdict is not None:
        _follow(connection, request, now)
    metrics.RETRAININGS.labels(model.name, "rolled-back").inc()


def _become(connection: Connection, request: Request, state: State, reason: str, now: datetime) -> None:
    if not RequestStore(connection).become(request.id, state, reason, now):
        raise RuntimeError(
            f"request {request.id} is {request.state}, and cannot become {state}: read it under the lock"
        )


def _figures(verdict: CanaryVerdict | None) -> dict[str, float]:
    """What the live labels said, for those who keep figures of versions."""
    if verdict is None:
        return {}
    tally = verdict.tally
    return {"rollout.wins": tally.wins, "rollout.losses": tally.losses, "rollout.rows": tally.rows}


def _follow(connection: Connection, request: Request, now: datetime) -> None:
    """While the alarm is open, a request that came to nothing is followed by one that waits for labels of its own.

    Judging again on the same labels would only try its luck: see `Request.judges_after`.
    """
    if request.cleared or request.cause not in BY_DRIFT:
        return
    RequestStore(connection).open(
        f"follow-up:{request.id}",
        "follow-up",
        request.model_name,
        request.model_version,
        request.changed_since,
        now,
        f"request {request.id} came to nothing, and its alarm is still open",
        concept_drift=request.concept_drift,
        attempts=request.attempts + 1,
        traceparent=request.traceparent,
    )
