"""What comes in one turn of the event loop is served together, and each hears of its own."""

import asyncio
from collections.abc import Sequence

import pytest

from driftloop.predictor.turns import Turns


def test_those_of_one_turn_are_served_together_and_each_gets_its_own() -> None:
    served: list[list[int]] = []

    async def serve(items: Sequence[int]) -> list[int]:
        served.append(list(items))
        return [10 * item for item in items]

    async def ask() -> list[int]:
        turns = Turns(serve, most=3)
        return [*await asyncio.gather(*(turns.join(item) for item in range(5))), await turns.join(5)]

    assert asyncio.run(ask()) == [0, 10, 20, 30, 40, 50]
    assert served == [[0, 1, 2], [3, 4], [5]]


def test_a_failure_is_told_to_each_of_its_turn_and_to_no_other() -> None:
    async def serve(items: Sequence[int]) -> Sequence[int]:
        if 1 in items:
            raise ValueError("1 is there")
        return items

    async def ask() -> list[int | BaseException]:
        turns = Turns(serve, most=2)
        return await asyncio.gather(*(turns.join(item) for item in range(4)), return_exceptions=True)

    first, second, *others = asyncio.run(ask())
    assert (type(first), type(second), others) == (ValueError, ValueError, [2, 3])


def test_who_leaves_costs_the_others_nothing() -> None:
    served: list[list[int]] = []

    async def serve(items: Sequence[int]) -> Sequence[int]:
        served.append(list(items))
        return items

    async def ask() -> int:
        turns = Turns(serve)
        leaving, staying = (asyncio.ensure_future(turns.join(item)) for item in (1, 2))
        await asyncio.sleep(0)
        leaving.cancel()
        found = await staying
        with pytest.raises(asyncio.CancelledError):
            await leaving
        return found

    assert (asyncio.run(ask()), served) == (2, [[2]])
