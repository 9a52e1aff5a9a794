"""Deletes the files of training sets that may not be kept any more, and says how many cannot be rebuilt.

The mark is committed with the offset of the erasure; the file is deleted after it, and the deletion noted last. Whoever
dies in between leaves a marked set, and deleting its file again is no error.
"""

import logging
import threading
from collections.abc import Sequence

from driftloop.common import metrics
from driftloop.common.clock import Clock
from driftloop.common.postgres.pool import Pool, repeat
from driftloop.common.registry import ArtifactError
from driftloop.trainer.set_store import SetStore
from driftloop.trainer.training_sets import SetFiles

logger = logging.getLogger(__name__)


class PurgeWorker:
    """Purges marked sets. Several trainers may do it at once: each set is taken by one of them."""

    name = "purging"

    def __init__(
        self, *, pool: Pool, files: SetFiles, models: Sequence[str], clock: Clock, every_seconds: float = 5.0
    ) -> None:
        self._pool = pool
        self._files = files
        self._models = models
        self._clock = clock
        self._every = every_seconds

    def run(self, stop: threading.Event) -> None:
        """Purge every now and then until told to stop; a store or database that is away is waited for."""
        repeat(self.round, stop, self._every, self.name)

    def round(self, stop: threading.Event) -> None:
        """Purge all that can be purged now; one that cannot holds up no other."""
        failed = 0
        while not stop.is_set():
            with self._pool.connection() as connection:
                store = SetStore(connection)
                kept = store.next_unpurged(failed)
                if kept is None:
                    break
                said = {"model": kept.model_name, "digest": kept.digest}
                try:
                    self._files.delete(kept)
                except ArtifactError as error:
                    failed += 1
                    logger.error("a training set cannot be deleted yet", extra=said | {"error": str(error)})
                else:
                    store.set_purged(kept, self._clock())
                    logger.info("a training set was deleted", extra=said)
        self._export()

    def _export(self) -> None:
        for model in self._models:
            with self._pool.connection() as connection:
                counts = SetStore(connection).counts(model)
            metrics.SETS_NOT_REBUILDABLE.labels(model).set(counts.not_rebuildable)
            metrics.SETS_UNPURGED.labels(model).set(counts.unpurged)
