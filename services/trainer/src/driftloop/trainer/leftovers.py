"""Deletes what was written for a version that never came to be: its trainer died, or nobody wanted it any more.

A bundle is known by the number that was reserved for it, and a training set by its row, so that the database says what
may go: what is older than a day, of a model that is not being trained. A version that this database never reserved is
never deleted: after a backup was restored it may serve. A file of a training set that no row knows goes all the same:
nothing serves by it, and no erasure would reach it.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from driftloop.common.clock import Clock
from driftloop.common.postgres.pool import Pool, repeat
from driftloop.common.registry import ArtifactError
from driftloop.trainer.domain.requests import DAY
from driftloop.trainer.retention_store import RetentionStore
from driftloop.trainer.set_store import KeptSet, SetStore
from driftloop.trainer.store import Store
from driftloop.trainer.training_sets import SetFiles

logger = logging.getLogger(__name__)


@dataclass
class LeftoverWorker:
    """Looks for leftovers. Several trainers may do it at once.

    `delete` deletes the files of a model's version, and raises ArtifactError.
    """

    pool: Pool
    delete: Callable[[str, int], None]
    files: SetFiles
    models: Sequence[str]
    clock: Clock
    every_seconds: float = 3600.0
    name: str = "leftovers"

    def run(self, stop: threading.Event) -> None:
        """Look every now and then until told to stop; a store or database that is away is waited for."""
        repeat(self.round, stop, self.every_seconds, self.name)

    def round(self, stop: threading.Event) -> None:
        """Delete all that can be deleted now; one model's store that is away holds up no other."""
        for model in self.models:
            if stop.is_set():
                return
            try:
                self._delete_bundles(model)
                self._delete_sets(model)
            except ArtifactError as error:
                said = {"model": model, "error": str(error)}
                logger.error("what was left behind cannot be deleted yet", extra=said)

    def _delete_bundles(self, model: str) -> None:
        now = self.clock()
        with self.pool.connection() as connection:
            versions = RetentionStore(connection).left_behind(model, now - DAY)
            if versions is None:
                return
            # Of these the worker that purges deletes the files.
            unused = SetStore(connection).abandon(model, now - DAY, now)
        for digest in unused:
            logger.info("no version came of this training set", extra={"model": model, "digest": digest})
        for version in versions:
            self.delete(model, version)
            with self.pool.connection() as connection:
                Store(connection).forget_reserved(model, version)
            logger.info("what was left of this version was deleted", extra={"model": model, "version": version})

    def _delete_sets(self, model: str) -> None:
        found = self.files.written(model)
        with self.pool.connection() as connection:
            store = SetStore(connection)
            known = store.known(model)
            for digest in found:
                if known.get(digest):
                    # Whoever wrote it while it was purged died before saying so.
                    store.written(KeptSet(model, digest, stored=True), None)
        for digest, written in found.items():
            if digest not in known and written < self.clock() - DAY:
                self.files.delete(KeptSet(model, digest, stored=False))
                logger.info("a file of no known training set was deleted", extra={"model": model, "digest": digest})
