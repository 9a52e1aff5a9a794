"""Deletes the files of versions that nobody needs any more; their cards stay in the database.

A version is released first, in a transaction in which no serving state is decided; its files are deleted after that,
and the deletion is noted last. Whoever dies in between leaves a released version, and deleting its files again is no
error. With the last version of a training set goes its file, by way of the worker that purges.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from driftloop.common import metrics
from driftloop.common.clock import Clock
from driftloop.common.postgres.pool import Pool, repeat
from driftloop.common.registry import ArtifactError
from driftloop.trainer.domain.retention import expendable
from driftloop.trainer.retention_store import RetentionStore
from driftloop.trainer.serving import KEPT_REVISIONS
from driftloop.trainer.set_store import SetStore

logger = logging.getLogger(__name__)


@dataclass
class PruneWorker:
    """Prunes what is more than `keep` versions a model. Several trainers may do it: each version is one's at a time.

    `delete` takes URI, model and version, and raises ArtifactError.
    """

    pool: Pool
    delete: Callable[[str, str, int], None]
    models: Sequence[str]
    keep: int
    clock: Clock
    every_seconds: float = 60.0
    name: str = "pruning"

    def run(self, stop: threading.Event) -> None:
        """Prune every now and then until told to stop; a store or database that is away is waited for."""
        repeat(self.round, stop, self.every_seconds, self.name)

    def round(self, stop: threading.Event) -> None:
        """Prune all that can be pruned now; one that cannot holds up no other."""
        for model in self.models:
            self._release(model)
        failed = 0
        while not stop.is_set():
            done = self._delete_next(failed)
            if done is None:
                break
            failed += not done
        self._export()

    def _release(self, model: str) -> None:
        now = self.clock()
        with self.pool.connection() as connection:
            store = RetentionStore(connection)
            facts = store.facts(model)
            free = expendable(
                facts.versions, facts.states, facts.replicas, keep=self.keep, kept_revisions=KEPT_REVISIONS, now=now
            )
            if free:
                store.release(model, free, now)
                logger.info("nobody needs these versions any more", extra={"model": model, "versions": free})

    def _delete_next(self, skip: int) -> bool | None:
        """Whether the next version's files were deleted; None if there is none."""
        with self.pool.connection() as connection:
            store = RetentionStore(connection)
            released = store.next_released(skip)
            if released is None:
                return None
            said = {"model": released.model_name, "version": released.version}
            try:
                self.delete(released.uri, released.model_name, released.version)
            except ArtifactError as error:
                logger.error("a version's files cannot be deleted yet", extra=said | {"error": str(error)})
                return False
            store.set_deleted(released, self.clock())
            if released.training_set is not None:
                SetStore(connection).expire(released.model_name, released.training_set, self.clock())
            logger.info("a version's files were deleted", extra=said)
            return True

    def _export(self) -> None:
        for model in self.models:
            with self.pool.connection() as connection:
                kept, released = RetentionStore(connection).counts(model)
            metrics.VERSIONS_KEPT.labels(model).set(kept)
            metrics.VERSIONS_UNDELETED.labels(model).set(released)
