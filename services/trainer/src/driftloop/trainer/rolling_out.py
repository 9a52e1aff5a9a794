"""The roll-out worker: moves each challenger on trial on, to the champion's place, or out.

Several trainers may do it at once: each decision is made under the model's lock, on what stands in the database then.
"""

import logging
import threading
from collections.abc import Callable, Mapping

from confluent_kafka import KafkaException
from psycopg import Connection

from driftloop.common import metrics
from driftloop.common.clock import Clock
from driftloop.common.contract import Contract
from driftloop.common.kafka.reader import ReadTimeout
from driftloop.common.postgres.pool import Pool, repeat
from driftloop.trainer import deciding
from driftloop.trainer.domain.rollout import Move, next_move
from driftloop.trainer.request_store import RequestStore
from driftloop.trainer.rollout_store import Rollout, RolloutStore
from driftloop.trainer.serving import HighestRevision
from driftloop.trainer.store import Model, Store

logger = logging.getLogger(__name__)


class RolloutWorker:
    """Looks at every roll-out, now and then."""

    name = "roll-out"

    def __init__(
        self,
        *,
        pool: Pool,
        contracts: Mapping[str, Contract],
        highest_revision: HighestRevision,
        clock: Clock,
        published: Callable[[], None],
        check_seconds: float,
    ) -> None:
        self._pool = pool
        self._contracts = contracts
        self._highest_revision = highest_revision
        self._clock = clock
        self._published = published
        self._check_seconds = check_seconds

    def run(self, stop: threading.Event) -> None:
        """Look until told to stop; a database or broker that is away is waited for."""
        repeat(self.round, stop, self._check_seconds, self.name, (KafkaException, ReadTimeout))

    def round(self, _stop: threading.Event) -> None:
        """Look at each roll-out once."""
        with self._pool.connection() as connection:
            current = RolloutStore(connection).current()
        for model, contract in self._contracts.items():
            if model in current:
                self._look_at(contract)
            else:
                metrics.ROLLOUT_LABELS.remove(model)

    def _look_at(self, contract: Contract) -> None:
        with self._pool.connection() as connection:
            state = Store(connection).model(contract.name)
            found = RolloutStore(connection).current().get(contract.name)
            if state is None or found is None or self._move(connection, contract, state, found).kind == "stay":
                return
        # Asked before the lock is taken: it waits for the broker.
        published = self._highest_revision(contract.name)
        with self._pool.connection() as connection:
            self._do(connection, contract, published)
        self._published()

    def _do(self, connection: Connection, contract: Contract, published: int) -> None:
        now = self._clock()
        model = Store(connection).lock_model(contract.name, now)
        request = RequestStore(connection).current(contract.name, lock=True)
        rollout = RolloutStore(connection).current().get(contract.name)
        if rollout is None or request is None or request.id != rollout.request_id:
            return
        move = self._move(connection, contract, model, rollout)
        if move.kind == "step":
            rows = RolloutStore(connection).tally(rollout.request_id).rows
            deciding.step_on(connection, contract, model, rollout, rows, published, now)
        elif move.kind == "promote":
            deciding.accept(connection, model, request, rollout, move.verdict, move.reason, published, now)
        elif move.kind == "roll back":
            deciding.roll_back(connection, model, request, rollout, move.verdict, move.reason, published, now)
        else:
            # Another label came, or another trainer was here, since it was looked at without the lock.
            return
        said = {"model": contract.name, "version": rollout.challenger, "move": move.kind, "reason": move.reason}
        logger.info("a roll-out moves", extra=said)

    def _move(self, connection: Connection, contract: Contract, model: Model, rollout: Rollout) -> Move:
        store = RolloutStore(connection)
        tally = store.tally(rollout.request_id)
        metrics.ROLLOUT_LABELS.labels(contract.name).set(tally.rows)
        return next_move(contract.rollout, rollout, tally, store.errors(rollout, model.revision), self._clock())
