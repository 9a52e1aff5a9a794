"""One function per event: a request becomes a logged inference, a published state becomes what serves."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftloop.common import metrics
from driftloop.common.clock import Clock
from driftloop.common.contract import Contract
from driftloop.common.envelope import Outgoing
from driftloop.common.events import ArtifactRef, ModelUpdated, PredictionMade, ServedVersion, ShadowScore
from driftloop.common.registry import ArtifactError
from driftloop.common.rows import Row, RowValidator, canonical_score, canonical_scores
from driftloop.common.topics import MODEL_UPDATES, PREDICTIONS
from driftloop.common.tracing import Attributes, messaging, producing, span
from driftloop.predictor.domain.identity import new_prediction_ids
from driftloop.predictor.domain.model import LoadedModel, UnusableModel
from driftloop.predictor.domain.revisions import Revisions
from driftloop.predictor.inference_log import InferenceLog, Unavailable
from driftloop.predictor.serving import Plan, Refusal, Replica, Serving
from driftloop.predictor.turns import Turns

logger = logging.getLogger(__name__)

# How a request can end.
RESULTS = ("ok", "invalid", "unavailable", "failed")

# How long a retry with the same Idempotency-Key may come; consumers remember its id as long.
REPEATABLE = timedelta(hours=24)

# Fetches, checks and opens one version. Raises ArtifactError, UnusableModel.
Load = Callable[[ServedVersion], LoadedModel]


class NoProbability(RuntimeError):
    """A model that had given its known answers gave no probability for a row."""

    def __init__(self, model: str) -> None:
        super().__init__(f"model {model!r} gave no probability for a row")


class Asked(NamedTuple):
    """One row of a request: canonical features, and its id where a retry has the same.

    `subject`, whose features they are, and `order`, whose results are awaited, are pseudonyms.
    """

    features: Row
    subject: str | None = None
    prediction_id: str | None = None
    order: str | None = None


class Answered(NamedTuple):
    """The inference of one row, and who made it."""

    made: PredictionMade
    plan: Plan


@dataclass(frozen=True)
class Predictor:
    """What every request needs, made once. `assignment_key` draws who meets a canary."""

    contract: Contract
    validator: RowValidator
    replica: Replica
    log: InferenceLog
    clock: Clock
    assignment_key: bytes

    def serving(self) -> Serving:
        """What serves now: a request takes it once, and sees one state from start to end. Raises Unavailable."""
        serving = self.replica.serving
        if serving is None:
            raise Unavailable(f"model {self.contract.name!r} is not loaded yet")
        return serving

    def problem(self) -> str | None:
        """Why no row can be answered, or None."""
        return self.replica.problem() or self.log.problem()

    async def predict(self, asked: Asked, traceparent: str | None) -> Answered:
        """Answer one row; returns when the inference is durable. Raises Unavailable, NoProbability."""
        answered = await self._turns.join((asked, traceparent))
        if answered is None:
            raise NoProbability(self.contract.name)
        return answered

    @cached_property
    def _turns(self) -> Turns[tuple[Asked, str | None], Answered | None]:
        return Turns(self._turn)

    async def _turn(self, came: Sequence[tuple[Asked, str | None]]) -> Sequence[Answered | None]:
        """Answer the rows of several requests by one state. Raises Unavailable."""
        answered = self.infer(self.serving(), [asked for asked, _traceparent in came])
        pairs = zip(answered, came, strict=True)
        kept = [(one, parent) for one, (_asked, parent) in pairs if one is not None]
        if kept:
            await self._keep([one for one, _parent in kept], [parent for _one, parent in kept])
        return answered

    def infer(self, serving: Serving, asked: Sequence[Asked]) -> list[Answered | None]:
        """The inferences of some rows, by one state, not yet kept; None where a model gave no probability."""
        matrix = self.validator.encode([one.features for one in asked])
        scores = {model.version: _scores(model, matrix) for model in serving.loaded}
        now = self.clock()
        ids = new_prediction_ids(now, len(asked))
        return [self._inference(serving, one, scores, row, ids[row], now) for row, one in enumerate(asked)]

    async def keep(self, answered: Sequence[Answered], traceparent: str | None) -> None:
        """Return once the inferences, which are one span of a trace, are durable. Raises Unavailable."""
        await self._keep(answered, [traceparent])

    async def _keep(self, answered: Sequence[Answered], parents: Sequence[str | None]) -> None:
        with producing(PREDICTIONS.name, [made.prediction_id for made, _plan in answered], parents) as contexts:
            await self.log.keep(
                [
                    Outgoing(
                        PREDICTIONS.name,
                        made.prediction_id,
                        made,
                        made.prediction_id,
                        made.predicted_at,
                        context,
                        # A retry must find the partition that has the first try.
                        alone=made.repeatable_until is None,
                    )
                    for (made, _plan), context in zip(answered, contexts, strict=True)
                ]
            )

    def _inference(
        self,
        serving: Serving,
        asked: Asked,
        scores: Mapping[int, Sequence[float]],
        row: int,
        new_id: str,
        now: datetime,
    ) -> Answered | None:
        prediction_id = asked.prediction_id or new_id
        plan = serving.plan(self.assignment_key, asked.subject or prediction_id)
        score = scores[plan.model.version][row]
        if not 0 <= score <= 1:
            # A canary that fails costs nobody an answer.
            serving.failing.add(plan.model.version)
            plan = serving.champion
            score = scores[plan.model.version][row]
            if not 0 <= score <= 1:
                return None
        made = PredictionMade(
            prediction_id=prediction_id,
            model_name=plan.model.name,
            model_version=plan.model.version,
            revision=serving.revision,
            predicted_at=now,
            features=asked.features,
            score=score,
            prediction=score >= self.contract.decision_threshold,
            variant=plan.variant,
            subject=asked.subject,
            shadows=self._shadows(serving, plan, scores, row) if plan.shadows else (),
            repeatable_until=None if asked.prediction_id is None else now + REPEATABLE,
            order=asked.order,
        )
        return Answered(made, plan)

    def _shadows(
        self, serving: Serving, plan: Plan, scores: Mapping[int, Sequence[float]], row: int
    ) -> tuple[ShadowScore, ...]:
        said = []
        for version in plan.shadows:
            score = scores[version][row]
            if 0 <= score <= 1:
                decision = score >= self.contract.decision_threshold
                said.append(ShadowScore(model_version=version, score=score, prediction=decision))
            else:
                serving.failing.add(version)
                metrics.SHADOWS_FAILED.labels(plan.model.name, str(version)).inc()
        return tuple(said)


def _scores(model: LoadedModel, matrix: NDArray[np.float32]) -> list[float]:
    """P(label = 1) of each row, canonical; NaN, which is no probability, where the model breaks."""
    try:
        probabilities = model.predict(matrix)
        if len(probabilities) == 1:
            return [canonical_score(probabilities.item())]
        scores: list[float] = canonical_scores(probabilities).tolist()
    except UnusableModel as error:
        logger.error("a model breaks", extra={"model_version": model.version, "reason": error.detail})
        return [math.nan] * len(matrix)
    return scores


def apply_newest(replica: Replica, revisions: Revisions, load: Load, clock: Clock) -> bool:
    """Let the highest valid revision serve. Returns whether there is something new to report.

    What cannot serve is refused, and what serves goes on.
    """
    changed = False
    while (state := revisions.next(time.monotonic())) is not None:
        changed = True
        try:
            with span(f"process {MODEL_UPDATES.name}", "consumer", revisions.cause(state.revision), _said(state)):
                serving = _prepare(replica.serving, state, load, clock)
        except ArtifactError as error:
            _refuse(replica, revisions, Refusal(state.revision, error.reason, str(error)), error.transient)
        except UnusableModel as error:
            _refuse(replica, revisions, Refusal(state.revision, error.reason, error.detail), transient=False)
        except Exception as error:
            # The boundary to what others made: a model that breaks its loader must not take the good one down.
            logger.exception("a revision broke the loader", extra={"revision": state.revision})
            detail = f"loading it raised {type(error).__name__}: see this replica's log"
            _refuse(replica, revisions, Refusal(state.revision, "loader", detail), transient=False)
        else:
            _swap(replica, revisions, serving)
    return changed


def _said(state: ModelUpdated) -> Attributes:
    said = messaging("process", MODEL_UPDATES.name)
    return said | {"driftloop.model.name": state.model_name, "driftloop.model.revision": state.revision}


def _prepare(current: Serving | None, state: ModelUpdated, load: Load, clock: Clock) -> Serving:
    """The serving value of a revision: all its versions or none. What is open already is not opened again."""
    opened = {} if current is None else current.models
    wanted = [state.champion]
    wanted += [] if state.canary is None else [state.canary.version]
    wanted += [] if state.shadow is None else [state.shadow]
    models: dict[int, tuple[ArtifactRef, LoadedModel]] = {}
    for version in wanted:
        try:
            served = state.served(version)
        except KeyError as error:
            raise UnusableModel(
                "state", f"it carries no version {version}, which it names: publish it whole"
            ) from error
        artifact, model = opened.get(version, (None, None))
        if model is None or artifact != served.artifact:
            model = load(served)
        models[version] = (served.artifact, model)
    return Serving(state, models, clock())


def _swap(replica: Replica, revisions: Revisions, serving: Serving) -> None:
    replica.serving = serving
    revisions.apply(serving.revision)
    replica.forget_refusals(serving.revision)
    metrics.MODEL_REVISION.labels(replica.model).set(serving.revision)
    metrics.MODEL_VERSION.labels(replica.model).set(replica.version)
    metrics.begin(metrics.PREDICTIONS, [replica.model], [str(replica.version)], RESULTS)
    metrics.begin(metrics.SHADOWS_FAILED, [replica.model], [str(version) for version in serving.models])
    logger.info("a revision serves", extra={"revision": serving.revision, "model_version": replica.version})


def _refuse(replica: Replica, revisions: Revisions, refusal: Refusal, transient: bool) -> None:
    if transient:
        revisions.postpone(refusal.revision, time.monotonic())
    else:
        revisions.refuse(refusal.revision)
    if replica.refuse(refusal):
        metrics.MODEL_REFUSED.labels(replica.model, refusal.reason).inc()
        logger.error("a revision is refused", extra={"revision": refusal.revision, "reason": str(refusal)})
