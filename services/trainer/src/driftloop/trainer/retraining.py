"""The retraining worker: a waiting request → labelled rows → challenger → gate → promotion, or the reason why not."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import httpx
import msgspec
import numpy as np
import psycopg
from confluent_kafka import KafkaException
from psycopg import Connection

from driftloop.common import metrics
from driftloop.common.clock import Clock
from driftloop.common.contract import Contract
from driftloop.common.contract import digest as contract_digest
from driftloop.common.events import ArtifactRef
from driftloop.common.kafka.reader import ReadTimeout
from driftloop.common.postgres.pool import Pool, is_transient
from driftloop.common.registry import ArtifactError, Bundle, KnownAnswers
from driftloop.common.tracing import Attributes, span
from driftloop.trainer.domain.challenger import BaselineData, Challenger, ReferenceRows, challenge
from driftloop.trainer.domain.dataset import divide, labels_wanted
from driftloop.trainer.domain.stability import unstable
from driftloop.trainer.label_rows import ProductionRows, RowsUnavailable, fetch_rows
from driftloop.trainer.serving import HighestRevision, promote
from driftloop.trainer.set_store import SetStore
from driftloop.trainer.store import Request, Store
from driftloop.trainer.training_sets import SetFiles, keep

logger = logging.getLogger(__name__)

_LOCK = 0x54726169
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
    """What an attempt works on: the labelled rows, and those that will be the reference."""

    labeled: ProductionRows
    reference: ReferenceRows


class RetrainingWorker:
    """Looks after every waiting request. Of several trainers only the one that holds the lock works."""

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

    def run(self, stop: threading.Event) -> None:
        """Look for waiting requests until told to stop; what is away for a while is waited for."""
        while not stop.is_set():
            try:
                # The lock lives as long as this connection; no transaction stays open while a model is trained.
                with self._pool.connection() as lock:
                    if _owns_lock(lock):
                        self._look(lock, stop)
                    else:
                        stop.wait(self._check_seconds)
            except psycopg.OperationalError as error:
                if not is_transient(error):
                    raise
                logger.warning("retraining waits for the database", extra={"error": type(error).__name__})
                stop.wait(self._check_seconds)

    def _look(self, lock: Connection, stop: threading.Event) -> None:
        try:
            while not stop.is_set():
                lock.execute("SELECT 1")  # notices that the session, and with it the lock, is gone
                lock.commit()
                for model in self._models.values():
                    self._look_after(model, stop)
                stop.wait(self._check_seconds)
        finally:
            if not lock.closed:
                lock.rollback()
                lock.execute("SELECT pg_advisory_unlock_all()")
                lock.commit()

    def _look_after(self, model: ModelData, stop: threading.Event) -> None:
        with self._pool.connection() as connection:
            store = Store(connection)
            state = store.model(model.contract.name)
            request = store.waiting_request(model.contract.name)
            if state is not None:
                metrics.CHAMPION_VERSION.labels(model.contract.name).set(state.champion or 0)
        if request is None or stop.is_set():
            return
        try:
            self._attempt(model, request)
        except TRANSIENT as error:
            self._wait(request, f"waiting for {error}", {})
        except ArtifactError as error:
            self._wait(request, f"what is kept of versions cannot be read or written: {error}", {})
        except ValueError as error:
            # The data allows no model (one class only, a leak): more rows may cure it, and someone should know.
            logger.exception("a challenger could not be built", extra={"model": model.contract.name})
            self._wait(request, f"no challenger could be built: {error}", {})

    def _attempt(self, model: ModelData, request: Request) -> None:
        data = self._data(model, request)
        if data is None:
            return
        said: Attributes = {
            "driftloop.model.name": request.model_name,
            "driftloop.model.version": request.model_version,
        }
        with span("retrain", "internal", request.traceparent, said):
            self._train(model, request, data)

    def _train(self, model: ModelData, request: Request, data: _Data) -> None:
        contract = model.contract
        self._wait(request, f"training on {len(data.labeled)} labelled rows and the baseline, then judging", {})
        with self._pool.connection() as connection:
            store = Store(connection)
            champion = self._artifacts.fetch(
                store.artifact(contract.name, request.model_version), contract.name, request.model_version
            )
            version = store.reserve_version(contract.name)
        logger.info("training a challenger", extra={"model": contract.name, "version": version})
        division = divide(data.labeled.labeled(), contract.gates.gate_labels)
        challenger = challenge(
            contract,
            model.baseline,
            division,
            data.reference,
            champion.model,
            since=np.datetime64(_naive(request.changed_since)),
            version=version,
            created=self._clock(),
            reason=f"CRITICAL drift of version {request.model_version}",
        )
        keep(self._pool, self._sets, contract, challenger.card.training, division.train, self._clock)
        artifact = self._artifacts.write(bundle(contract, challenger))
        published = self._highest_revision(contract.name)
        self._decide(request, challenger, artifact, published, _new_labels(data.labeled, request))

    def _data(self, model: ModelData, request: Request) -> _Data | None:
        """The rows of an attempt, or None while there are too few; then the request says what it waits for."""
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
        labeled = self._without_erased(fetch_rows(self._client, contract, limit=self._max_rows, labelled=True))
        recent = self._without_erased(recent)
        return _Data(labeled, ReferenceRows(recent.ids, recent.values))

    def _without_erased(self, rows: ProductionRows) -> ProductionRows:
        """The rows but those of erased subjects, which label-ingest may have again from a backup."""
        with self._pool.connection() as connection:
            erased = SetStore(connection).erased({subject for subject in rows.subjects.tolist() if subject})
        return rows.without(erased)

    def _decide(
        self, request: Request, challenger: Challenger, artifact: ArtifactRef, published: int, labels: int
    ) -> None:
        decision = challenger.card.decision
        assert decision is not None
        reason = "; ".join(decision.reasons)
        with self._pool.connection() as connection:
            store = Store(connection)
            model = store.lock_model(request.model_name, self._clock())
            waiting = store.waiting_request(request.model_name, lock=True)
            if waiting is None or waiting.id != request.id or model.champion != request.model_version:
                logger.info("the request was closed while a challenger was trained", extra={"request": request.id})
                return
            if challenger.promoted:
                promote(connection, model, challenger.card, artifact, published, self._clock())
                store.close_request(request.id, "promoted", reason, self._clock())
            else:
                store.add_version(challenger.card, artifact, champion=False)
                # Judging again on the same labels would only try its luck.
                gate_labels = decision.newest.rows
                store.count_attempt(request.id, f"rejected: {reason}", labels + gate_labels)
        self._published()
        outcome = "promoted" if challenger.promoted else "rejected"
        metrics.RETRAININGS.labels(request.model_name, outcome).inc()
        logger.info("a challenger was " + outcome, extra={"model": request.model_name, "reason": reason})

    def _wait(self, request: Request, reason: str, lacking: dict[str, int]) -> None:
        with self._pool.connection() as connection:
            Store(connection).keep_waiting(request.id, reason, lacking)


def bundle(contract: Contract, challenger: Challenger) -> Bundle:
    """What the registry keeps of a challenger."""
    return Bundle(
        model_name=contract.name,
        model_version=challenger.card.model_version,
        model=challenger.model,
        card=msgspec.json.encode(challenger.card),
        profile=challenger.profile,
        known_answers=KnownAnswers(
            inputs=tuple(
                tuple(None if np.isnan(value) else float(value) for value in row) for row in challenger.known_inputs
            ),
            probabilities=tuple(float(value) for value in challenger.known_probabilities),
            tolerance=1e-5,
        ),
        contract_digest=contract_digest(contract),
        created=challenger.card.created,
    )


def _owns_lock(connection: Connection) -> bool:
    row = connection.execute("SELECT pg_try_advisory_lock(%s, hashtext(current_schema()))", [_LOCK]).fetchone()
    connection.commit()
    return bool(row and row[0])


def _new_labels(rows: ProductionRows, request: Request) -> int:
    """How many labelled rows of the new population there are."""
    return int(np.sum(rows.times >= np.datetime64(_naive(request.changed_since))))


def _naive(time: datetime) -> datetime:
    return time.replace(tzinfo=None)
