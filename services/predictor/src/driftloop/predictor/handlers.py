"""One function per event: a request becomes a logged inference, a published state becomes what serves."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from driftloop.common import metrics
from driftloop.common.clock import Clock
from driftloop.common.contract import Contract
from driftloop.common.envelope import Outgoing
from driftloop.common.events import ModelUpdated, PredictionMade, ServedVersion
from driftloop.common.kafka.publisher import Publish
from driftloop.common.registry import ArtifactError
from driftloop.common.rows import RowValidator, canonical_scores
from driftloop.common.topics import PREDICTIONS
from driftloop.common.tracing import child_traceparent
from driftloop.predictor.acknowledging import Acknowledgements, Unavailable
from driftloop.predictor.domain.identity import new_prediction_id
from driftloop.predictor.domain.model import LoadedModel, UnusableModel
from driftloop.predictor.domain.revisions import Revisions
from driftloop.predictor.serving import Refusal, Replica, Serving

logger = logging.getLogger(__name__)

# Fetches, checks and opens one version. Raises ArtifactError, UnusableModel.
Load = Callable[[ServedVersion], LoadedModel]


class NoProbability(RuntimeError):
    """A model that had given its known answers gave no probability for a row."""


@dataclass(frozen=True)
class Predictor:
    """What every request needs, made once."""

    contract: Contract
    validator: RowValidator
    replica: Replica
    publish: Publish
    acknowledgements: Acknowledgements
    clock: Clock

    async def predict(
        self, row: Mapping[str, object], subject: str | None, traceparent: str | None
    ) -> tuple[Serving, PredictionMade]:
        """Answer one row; returns when the inference is in the log. Raises InvalidRow, Unavailable, NoProbability."""
        features = self.validator.canonicalise(row)
        serving = self.replica.serving
        if serving is None:
            raise Unavailable(f"model {self.contract.name!r} is not loaded yet")
        score = float(canonical_scores(serving.model.predict(self.validator.encode([features])))[0])
        if not 0 <= score <= 1:
            raise NoProbability(f"version {serving.model.version} of model {self.contract.name!r} gave {score}")
        now = self.clock()
        made = PredictionMade(
            prediction_id=new_prediction_id(now),
            model_name=serving.model.name,
            model_version=serving.model.version,
            revision=serving.revision,
            predicted_at=now,
            features=dict(features),
            score=score,
            prediction=score >= self.contract.decision_threshold,
            subject=subject,
        )
        outgoing = Outgoing(
            PREDICTIONS.name, made.prediction_id, made, made.prediction_id, now, child_traceparent(traceparent)
        )
        await self.acknowledgements.log(self.publish, outgoing)
        return serving, made


def apply_newest(replica: Replica, revisions: Revisions, load: Load, clock: Clock) -> bool:
    """Let the highest valid revision serve. Returns whether there is something new to report.

    What cannot serve is refused, and what serves goes on.
    """
    changed = False
    while (state := revisions.next(time.monotonic())) is not None:
        changed = True
        try:
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


def _prepare(current: Serving | None, state: ModelUpdated, load: Load, clock: Clock) -> Serving:
    """The serving value of a revision. Only its champion answers: its canary and its shadow are let be."""
    try:
        champion = state.served(state.champion)
    except KeyError as error:
        raise UnusableModel(
            "state", f"it carries no version {state.champion}, its champion: publish it whole"
        ) from error
    same = current is not None and (current.model.version, current.artifact) == (champion.version, champion.artifact)
    model = current.model if current is not None and same else load(champion)
    return Serving(state.revision, champion.artifact, model, clock())


def _swap(replica: Replica, revisions: Revisions, serving: Serving) -> None:
    replica.serving = serving
    revisions.apply(serving.revision)
    replica.forget_refusals(serving.revision)
    metrics.MODEL_REVISION.labels(replica.model).set(serving.revision)
    metrics.MODEL_VERSION.labels(replica.model).set(serving.model.version)
    logger.info("a revision serves", extra={"revision": serving.revision, "model_version": serving.model.version})


def _refuse(replica: Replica, revisions: Revisions, refusal: Refusal, transient: bool) -> None:
    if transient:
        revisions.postpone(refusal.revision, time.monotonic())
    else:
        revisions.refuse(refusal.revision)
    if replica.refuse(refusal):
        metrics.MODEL_REFUSED.labels(replica.model, refusal.reason).inc()
        logger.error("a revision is refused", extra={"revision": refusal.revision, "reason": str(refusal)})
