"""What comes in one turn of the event loop is served together.

The model's runtime and the log cost nearly as much for one row as for ten: the processor's caches forget all between.
Nobody waits for others: a turn ends when all have had their say that were there when it began.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

# Enough to share the cost. With more, all clients of a busy replica would wait for the same acknowledgement, and the
# processor for them.
MOST = 4

T = TypeVar("T")
R = TypeVar("R")


class Turns(Generic[T, R]):
    """Serves items in groups; `serve` gives each item its result in order, or raises for all. For one event loop."""

    def __init__(self, serve: Callable[[Sequence[T]], Awaitable[Sequence[R]]], most: int = MOST) -> None:
        self._serve = serve
        self._most = most
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        # A task that nobody holds may be collected while it runs.
        self._running: set[asyncio.Task[None]] = set()

    async def join(self, item: T) -> R:
        """The item's result. Raises what `serve` raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._waiting.append((item, future))
        if len(self._waiting) == 1:
            loop.call_soon(self._end, loop)
        return await future

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), self._most):
            task = loop.create_task(self._answer(waiting[start : start + self._most]))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _answer(self, waiting: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        # Who was cancelled has left.
        waiting = [(item, future) for item, future in waiting if not future.done()]
        try:
            results = await self._serve([item for item, _future in waiting])
        except BaseException as error:
            # Whatever it is, it is theirs: nobody else would ever tell them.
            for _item, future in waiting:
                if not future.done():
                    future.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))
            if not isinstance(error, Exception):
                raise
            return
        for (_item, future), result in zip(waiting, results, strict=True):
            if not future.done():
                future.set_result(result)
