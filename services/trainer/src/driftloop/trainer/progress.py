"""Says which step of a training runs, and says it again while it lasts."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Say = Callable[[str], None]


@contextmanager
def progress(say: Say, every: float = 5.0) -> Iterator[Say]:
    """A function to tell each step to: `say` gets it at once, and again with its duration every `every` seconds."""
    steps = _Steps(say)
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(every):
            steps.repeat()

    thread = threading.Thread(target=repeat, name="progress", daemon=True)
    thread.start()
    try:
        yield steps.begin
    finally:
        stop.set()
        thread.join()


class _Steps:
    """The step that runs, and since when."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._lock = threading.Lock()
        self._step: str | None = None
        self._since = 0.0

    def begin(self, step: str) -> None:
        """A step begins; the one before has ended."""
        with self._lock:
            self._step, self._since = step, time.monotonic()
            self._say(step)

    def repeat(self) -> None:
        """Say the step again, with how long it takes already."""
        with self._lock:
            if self._step is not None:
                self._say(f"{self._step}: {time.monotonic() - self._since:.0f} s")
