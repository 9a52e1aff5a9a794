"""Where every door's outcomes, and the predictions of the log, come in: judged, joined, committed, counted."""

import logging
import random
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TypeVar

import psycopg
from psycopg import Connection

from driftloop.common import metrics
from driftloop.common.clock import Clock
from driftloop.common.envelope import Outgoing
from driftloop.common.events import OutcomeReported, PredictionMade
from driftloop.common.kafka.consumer import Delivery, InvalidEvent
from driftloop.common.postgres.outbox import emit
from driftloop.common.postgres.pool import Pool
from driftloop.label_ingest import audit, handlers
from driftloop.label_ingest.domain.limits import prediction_problem
from driftloop.label_ingest.domain.matching import PREDICTION
from driftloop.label_ingest.domain.outcomes import Terms, outcome_problem, version_of
from driftloop.label_ingest.domain.results import Version
from driftloop.label_ingest.erasing import Erased, erase
from driftloop.label_ingest.reports import Answer, Rejected
from driftloop.label_ingest.store import Store, begin, hold_off, nothing

logger = logging.getLogger(__name__)

# Of two transactions that wait for each other the server ends one; it passes when it is tried again.
DEADLOCK_TRIES = 5

T = TypeVar("T")


class Intake:
    """The one way in. `published` is called after a transaction that may have emitted.

    `meanwhile` may be set to what is to be done while the database works on a batch of the log.
    """

    def __init__(self, pool: Pool, terms: Terms, clock: Clock, published: Callable[[], None]) -> None:
        self.meanwhile = nothing
        self._pool = pool
        self._terms = terms
        self._clock = clock
        self._published = published
        self._uncommitted: handlers.Joined | None = None

    def problem(self, outcome: OutcomeReported) -> str | None:
        """Why an outcome can never count, or None."""
        return outcome_problem(outcome, self._terms, self._clock())

    def take(self, items: Sequence[OutcomeReported | Rejected], traceparent: str | None = None) -> list[Answer]:
        """Keep all that is good, in one committed transaction; an answer for each item, in order.

        Raises psycopg.Error: then all must be sent again, which is harmless.
        """
        problems = [one.detail if isinstance(one, Rejected) else self.problem(one) for one in items]
        versions = [
            version_of(one, self._terms)
            for one, problem in zip(items, problems, strict=True)
            if isinstance(one, OutcomeReported) and problem is None
        ]
        taken: list[Answer] = []
        if versions:
            joined = self._committed(versions, traceparent)
            handlers.observe(joined)
            taken = joined.answers
        metrics.OUTCOMES.labels("rejected").inc(len(items) - len(versions))
        answers = iter(taken)
        return [next(answers) if problem is None else Answer("rejected", problem) for problem in problems]

    def _committed(self, versions: Sequence[Version], traceparent: str | None) -> handlers.Joined:
        traces = {one.key: traceparent for one in versions}
        return self._transact(lambda connection: self._join(connection, (), versions, traces))

    def _transact(self, work: Callable[[Connection], T]) -> T:
        """Do the work in a transaction of its own, and tell the outbox that there may be something in it."""
        for attempt in range(DEADLOCK_TRIES):
            try:
                with self._pool.connection() as connection, connection.transaction():
                    done = work(connection)
                self._published()
                return done
            except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
                if attempt == DEADLOCK_TRIES - 1:
                    raise
                # Not both at once again.
                time.sleep(random.uniform(0, 0.02))
        raise AssertionError("unreachable")

    def erase(self, subject: str, caller: str) -> tuple[Erased, datetime]:
        """Erase a patient, by pseudonym, and note who asked. Raises psycopg.Error: then nothing is gone."""
        now = self._clock()

        def work(connection: Connection) -> tuple[Erased, handlers.Joined]:
            def emitting(events: Iterable[Outgoing]) -> None:
                emit(connection, events)

            hold_off(connection)
            erased, others = erase(connection, emitting, subject, now)
            joined = handlers.look_again(Store(connection), emitting, now, self._terms.policies, others)
            audit.record(connection, now, caller, "erasure", {"subject": subject} | vars(erased))
            return erased, joined

        erased, joined = self._transact(work)
        handlers.observe(joined)
        metrics.SUBJECTS_ERASED.inc()
        logger.info("a patient's rows were erased", extra=vars(erased))
        return erased, now

    def batch(self, connection: Connection, batch: Sequence[Delivery]) -> None:
        """Join what the topics brought, in the transaction of their offsets. Raises InvalidEvent."""
        self._uncommitted = None
        predictions: list[PredictionMade] = []
        versions: list[Version] = []
        traces: dict[str, str | None] = {}
        now = self._clock()
        for one in batch:
            event = one.event
            if isinstance(event, PredictionMade):
                _refuse(prediction_problem(event))
                predictions.append(event)
                if one.envelope.traceparent is not None:
                    traces[PREDICTION + event.prediction_id] = one.envelope.traceparent
            elif isinstance(event, OutcomeReported):
                _refuse(outcome_problem(event, self._terms, now))
                versions.append(version := version_of(event, self._terms))
                if one.envelope.traceparent is not None:
                    traces[version.key] = one.envelope.traceparent
        self._uncommitted = self._join(connection, predictions, versions, traces, self.meanwhile)

    def committed(self) -> None:
        """What the last batch did is durable."""
        if self._uncommitted is not None:
            handlers.observe(self._uncommitted)
            self._uncommitted = None
        self._published()

    def _join(
        self,
        connection: Connection,
        predictions: Sequence[PredictionMade],
        versions: Sequence[Version],
        traces: handlers.Traces,
        meanwhile: Callable[[], None] = nothing,
    ) -> handlers.Joined:
        begin(connection)
        return handlers.join(
            Store(connection, meanwhile), lambda events: emit(connection, events), self._clock(), self._terms.policies,
            predictions, versions, traces,
        )  # fmt: skip


def _refuse(problem: str | None) -> None:
    if problem is not None:
        raise InvalidEvent(problem)
