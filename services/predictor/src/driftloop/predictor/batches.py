"""Many rows of one request: inferred in chunks, between which other requests have their turn."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import chain

from driftloop.common.rows import InvalidRow
from driftloop.predictor.body import InvalidBody
from driftloop.predictor.handlers import Answered, Asked, NoProbability, Predictor
from driftloop.predictor.inference_log import Unavailable
from driftloop.predictor.serving import Serving

CHUNK_ROWS = 100

# Why a row has no inference.
Failure = InvalidRow | InvalidBody | NoProbability | Unavailable
Outcome = Answered | Failure


async def answer_rows(
    predictor: Predictor, serving: Serving, count: int, ask: Callable[[int], Asked], traceparent: str | None
) -> list[Outcome]:
    """Each row's inference, which is durable, or why it has none, in order. `ask` may raise InvalidRow, InvalidBody."""
    refused: dict[int, Failure] = {}
    keeping = []
    for start in range(0, count, CHUNK_ROWS):
        asked: list[Asked] = []
        for row in range(start, min(start + CHUNK_ROWS, count)):
            try:
                asked.append(ask(row))
            except (InvalidRow, InvalidBody) as invalid:
                refused[row] = invalid
        answered = predictor.infer(serving, asked)
        keeping.append(asyncio.ensure_future(_keep(predictor, answered, traceparent)))
        # Others have their turn, and what is there goes out.
        await asyncio.sleep(0)
    kept = chain.from_iterable(await asyncio.gather(*keeping))
    return [refused[row] if row in refused else next(kept) for row in range(count)]


async def _keep(predictor: Predictor, answered: Sequence[Answered | None], traceparent: str | None) -> list[Outcome]:
    there = [one for one in answered if one is not None]
    unavailable = None
    if there:
        try:
            await predictor.keep(there, traceparent)
        except Unavailable as error:
            unavailable = error
    failed = NoProbability(predictor.contract.name)
    return [failed if one is None else unavailable or one for one in answered]
