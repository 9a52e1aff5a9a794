"""Tells the experiment trackers of versions, apart from everything else: a tracker that is away delays no decision.

What is to be told is written in the decision's transaction. Whoever dies between telling and noting it has it told
again, which is still one run.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import msgspec
from psycopg import Connection

from driftloop.common import metrics
from driftloop.common.clock import Clock
from driftloop.common.events import ArtifactRef
from driftloop.common.postgres.pool import Pool, repeat
from driftloop.trainer.resources import Artifacts
from driftloop.trainer.trackers import Param, TrackedRun, Tracker
from driftloop.trainer.tracking_store import DueRun, TrackingStore

logger = logging.getLogger(__name__)

FIRST_RETRY = timedelta(seconds=10)
LONGEST_RETRY = timedelta(hours=1)
_DOUBLINGS = 12
_TICK_SECONDS = 0.1


@dataclass(frozen=True)
class Limits:
    """How long one call of a tracker may take, and for how long a version is tried."""

    call_seconds: float = 120.0
    give_up_after: timedelta = timedelta(days=7)


def tracking_workers(
    pool: Pool, trackers: Sequence[Tracker], artifacts: Artifacts, clock: Clock
) -> list["TrackWorker"]:
    """A worker for each tracker, so that none waits for another."""

    def read_model(ref: ArtifactRef, model: str, version: int) -> bytes:
        return artifacts.fetch(ref, model, version).model

    return [TrackWorker(pool=pool, tracker=one, read_model=read_model, clock=clock) for one in trackers]


class TrackWorker:
    """Tells one tracker. Of several trainers one does it at a time."""

    def __init__(
        self,
        *,
        pool: Pool,
        tracker: Tracker,
        read_model: Callable[[ArtifactRef, str, int], bytes],
        clock: Clock,
        every_seconds: float = 5.0,
        limits: Limits = Limits(),
    ) -> None:
        self.name = f"tracking-{tracker.name}"
        self._pool = pool
        self._tracker = tracker
        self._read_model = read_model
        self._clock = clock
        self._every = every_seconds
        self._limits = limits

    def run(self, stop: threading.Event) -> None:
        """Tell what is to be told every now and then until told to stop; a database that is away is waited for."""
        repeat(self.round, stop, self._every, self.name)

    def round(self, stop: threading.Event) -> None:
        """Tell of all that is due. The first failure ends the round: the tracker is likely to be away."""
        with self._pool.connection() as connection:
            store = TrackingStore(connection, self._tracker.name)
            try:
                # Held while a call hangs, too: two calls for one version at once could make two runs.
                if store.own():
                    connection.commit()
                    while not stop.is_set() and self._tell_next(connection, store, stop):
                        pass
                    self._export(store)
            finally:
                if not connection.closed:
                    connection.rollback()
                    store.disown()

    def _tell_next(self, connection: Connection, store: TrackingStore, stop: threading.Event) -> bool:
        """Tell of one version. Returns whether it was told, and so whether another may be tried at once."""
        due = store.next_due(self._clock())
        # No transaction stays open while a tracker is talked to.
        connection.commit()
        if due is None:
            return False
        # What it is told is made in there, too: nothing that a card holds may end the trainer.
        call = _Call(self.name, lambda: self._tracker.record(tracked_run(due, self._read_model)))
        ended = call.wait(self._limits.call_seconds, stop)
        if not ended and stop.is_set():
            return False  # it is told again after the next start
        error = call.error if ended else TimeoutError()
        if error is None:
            store.set_sent(due, self._clock())
            metrics.TRACKED_RUNS.labels(self._tracker.name, "sent").inc()
        else:
            self._count_failure(store, due, error)
        connection.commit()
        if not ended:
            self._export(store)
            connection.commit()
            call.wait(math.inf, stop)
        return error is None

    def _count_failure(self, store: TrackingStore, due: DueRun, error: BaseException) -> None:
        now = self._clock()
        tries = store.count_failure(due, now)
        # A tracker's own texts may hold its address with a password.
        said = {
            "tracker": self._tracker.name,
            "model": due.model_name,
            "version": due.version,
            "attempts": tries.attempts,
            "error": type(error).__name__,
        }
        if now - tries.first_at >= self._limits.give_up_after:
            store.give_up(due, now)
            metrics.TRACKED_RUNS.labels(self._tracker.name, "given-up").inc()
            logger.error("a tracker is not told of a version any more: see docs/trackers.md", extra=said)
            return
        pause = min(LONGEST_RETRY, FIRST_RETRY * 2 ** min(tries.attempts - 1, _DOUBLINGS))
        store.try_again(due, now + pause)
        metrics.TRACKED_RUNS.labels(self._tracker.name, "failed").inc()
        logger.warning("a tracker has not taken a version", extra=said | {"again_in_seconds": pause.total_seconds()})

    def _export(self, store: TrackingStore) -> None:
        counts = store.counts()
        metrics.TRACKED_WAITING.labels(self._tracker.name).set(counts.waiting)
        metrics.TRACKED_GIVEN_UP.labels(self._tracker.name).set(counts.given_up)


class _Call:
    """One call of a tracker, in a thread that can be left behind: a library may hang whatever it promises."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self.error: BaseException | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, name=f"{name}-call", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - whatever a library raises is the tracker's failure, not ours
            self.error = error

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        """Whether it has ended, after so many seconds or as soon as it is told to stop."""
        deadline = time.monotonic() + seconds
        while self._thread.is_alive() and not stop.is_set() and time.monotonic() < deadline:
            self._thread.join(_TICK_SECONDS)
        return not self._thread.is_alive()


def tracked_run(due: DueRun, read_model: Callable[[ArtifactRef, str, int], bytes]) -> TrackedRun:
    """What a tracker is told. The card goes as it is; of it and the decision all numbers are metrics, too."""
    card = due.card
    training = card.get("training", {})
    settled = {
        name: card[name] for name in ("estimator", "seed", "decision_threshold", "contract_digest") if name in card
    }
    return TrackedRun(
        model_name=due.model_name,
        model_version=due.version,
        request=due.request,
        outcome=due.outcome,
        created_at=due.created_at,
        decided_at=due.decided_at,
        params=flat(settled | {"parameters": card.get("parameters"), "training": training}),
        metrics=numbers({**card.get("metrics", {}), "decision": card.get("decision"), **due.metrics}),
        card=msgspec.json.encode(card).decode(),
        training_set=msgspec.json.encode(training).decode(),
        artifact_uri=due.artifact.uri,
        artifact_sha256=due.artifact.sha256,
        champion=due.champion,
        challenger=due.challenger,
        read_model=lambda: read_model(due.artifact, due.model_name, due.version),
    )


def flat(tree: Mapping[str, object], prefix: str = "") -> dict[str, Param]:
    """The values of nested mappings by dotted names; lists and what is None are left out."""
    found: dict[str, Param] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, str | int | float):
            found[prefix + name] = value
    return found


def numbers(tree: Mapping[str, object]) -> dict[str, float]:
    """The finite numbers of nested mappings by dotted names; True and False are none."""
    return {
        name: float(value)
        for name, value in flat(tree).items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
