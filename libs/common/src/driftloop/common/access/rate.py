"""How often a caller may ask: a token bucket for each."""

import time
from collections.abc import Callable

MAX_CALLERS = 10_000


class RateLimit:
    """Lets each caller take `rate` tokens a second, and `burst` at once. For one process and one thread.

    At most `max_callers` are remembered, those that asked last; one that was forgotten has a full bucket.
    """

    def __init__(
        self,
        rate: float,
        burst: float,
        monotonic: Callable[[], float] = time.monotonic,
        max_callers: int = MAX_CALLERS,
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._monotonic = monotonic
        self._max_callers = max_callers
        # Caller → when its bucket will be full again. That one number is all that a bucket is.
        self._full_at: dict[str, float] = {}

    def take(self, caller: str, n: float = 1) -> float:
        """Take `n` tokens; returns 0, or the seconds to wait where there are too few, and then takes none.

        Who wants more than a whole burst needs a full bucket and goes into debt, or could never be served.
        """
        now = self._monotonic()
        full_at = max(self._full_at.pop(caller, now), now)
        wait = full_at - now - (self._burst - min(n, self._burst)) / self._rate
        # Less than a microsecond is what floats lose.
        if wait < 1e-6:
            wait = 0.0
            full_at += n / self._rate
        # Also of who is refused: who asks most must not be forgotten first.
        self._full_at[caller] = full_at
        if len(self._full_at) > self._max_callers:
            del self._full_at[next(iter(self._full_at))]
        return wait
