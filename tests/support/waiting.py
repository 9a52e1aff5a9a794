"""Waits for a condition, never for a time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
# Only what will never come waits so long: ten times what anything here takes on a machine that has nothing else to do.
TIMEOUT_SECONDS = 60.0


def wait_until(look: Callable[[], T | None], what: str, timeout: float = TIMEOUT_SECONDS, pause: float = 0.05) -> T:
    """What `look` returns as soon as it is true; an empty list is not. Fails, naming `what`, after `timeout` s."""
    deadline = time.monotonic() + timeout
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout:g} s, the last look gave {found!r}")
        time.sleep(pause)
