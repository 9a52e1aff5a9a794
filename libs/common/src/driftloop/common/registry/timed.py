"""Fetches versions within a time limit: a store that hangs must not hang whoever reads from it."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait

from driftloop.common.events import ArtifactRef
from driftloop.common.registry.bundle import Bundle
from driftloop.common.registry.errors import StoreUnavailable

FETCH_SECONDS = 5.0
# A thread that hangs in the system cannot be ended, only be left behind.
MAX_HANGING = 4

# Fetches version `version` of a model. Raises ArtifactError.
Fetch = Callable[[ArtifactRef, str, int], Bundle]


class TimedFetch:
    """Calls `fetch` in a thread of its own. What takes longer goes on, and is there for whoever asks again.

    For one thread at a time.
    """

    def __init__(self, fetch: Fetch, seconds: float = FETCH_SECONDS) -> None:
        self._fetch = fetch
        self._seconds = seconds
        self._running: dict[tuple[ArtifactRef, str, int], Future[Bundle]] = {}

    def __call__(self, ref: ArtifactRef, model: str, version: int) -> Bundle:
        """The version. Raises what `fetch` raises, and StoreUnavailable where it does not come in time."""
        asked = (ref, model, version)
        found = self._running.get(asked) or self._start(asked)
        wait([found], self._seconds)
        if not found.done():
            raise StoreUnavailable(
                f"version {version} of model {model!r} has not come within {self._seconds:g} s and is still waited for:"
                " check the store that holds the artifacts"
            )
        del self._running[asked]
        return found.result()

    def _start(self, asked: tuple[ArtifactRef, str, int]) -> "Future[Bundle]":
        self._running = {key: one for key, one in self._running.items() if not one.done()}
        if len(self._running) >= MAX_HANGING:
            raise StoreUnavailable(
                f"{len(self._running)} other versions are still waited for: check the store that holds the artifacts"
            )
        found: Future[Bundle] = Future()

        def work() -> None:
            try:
                found.set_result(self._fetch(*asked))
            except BaseException as error:  # noqa: BLE001
                # The boundary of a thread: whoever asked is told.
                found.set_exception(error)

        self._running[asked] = found
        threading.Thread(target=work, name="artifact-fetch", daemon=True).start()
        return found
