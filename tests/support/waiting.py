"""Waits for a condition, never for a time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(look: Callable[[], T | None], what: str, timeout: float = 30.0, pause: float = 0.05) -> T:
    """What `look` returns as soon as it is neither None nor False. Fails, naming `what`, after `timeout` s."""
    deadline = time.monotonic() + timeout
    while True:
        found = look()
        if found is not None and found is not False:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout:g} s, the last look gave {found!r}")
        time.sleep(pause)
