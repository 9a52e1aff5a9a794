"""The highest valid revision holds, whatever order they came in."""

import itertools

import pytest

from driftloop.predictor.domain.revisions import BACKOFF_SECONDS, Revisions
from tests.unit.predictor.builders import state


def test_the_highest_is_tried_first() -> None:
    revisions = Revisions()
    for number in (2, 5, 3):
        revisions.offer(state(number))
    assert revisions.next(0.0) == state(5)


def test_one_that_is_not_above_the_applied_one_is_never_tried() -> None:
    revisions = Revisions()
    revisions.offer(state(5))
    revisions.apply(5)
    for number in (4, 5):
        revisions.offer(state(number))
    assert revisions.next(0.0) is None


def test_below_a_refused_one_the_next_is_tried() -> None:
    revisions = Revisions()
    revisions.offer(state(4))
    revisions.offer(state(5))
    revisions.refuse(5)
    assert revisions.next(0.0) == state(4)


def test_below_a_postponed_one_the_next_is_tried_meanwhile() -> None:
    revisions = Revisions()
    revisions.offer(state(4))
    revisions.offer(state(5))
    revisions.postpone(5, 0.0)
    assert revisions.next(0.0) == state(4)


def test_a_postponed_one_is_tried_again_although_a_lower_one_serves() -> None:
    revisions = Revisions()
    revisions.offer(state(4))
    revisions.offer(state(5))
    revisions.postpone(5, 0.0)
    revisions.apply(4)
    assert revisions.next(BACKOFF_SECONDS[0]) == state(5)


def test_a_postponed_one_is_forgotten_once_a_higher_one_serves() -> None:
    revisions = Revisions()
    revisions.offer(state(5))
    revisions.postpone(5, 0.0)
    revisions.offer(state(6))
    revisions.apply(6)
    assert revisions.next(1e9) is None


def test_a_record_that_comes_again_does_not_hasten_a_postponed_one() -> None:
    revisions = Revisions()
    revisions.offer(state(5))
    revisions.postpone(5, 0.0)
    revisions.offer(state(5))
    assert revisions.next(0.0) is None


def test_it_is_tried_more_and_more_seldom_and_never_given_up() -> None:
    revisions = Revisions()
    revisions.offer(state(1))
    now, waits = 0.0, []
    for _ in range(len(BACKOFF_SECONDS) + 2):
        revisions.postpone(1, now)
        wait = next(wait for wait in BACKOFF_SECONDS if revisions.next(now + wait))
        waits.append(wait)
        now += wait
    assert waits == [*BACKOFF_SECONDS, BACKOFF_SECONDS[-1], BACKOFF_SECONDS[-1]]


@pytest.mark.parametrize("order", list(itertools.permutations((1, 2, 3, 4))))
def test_in_any_order_of_arrival_the_same_one_serves_in_the_end(order: tuple[int, ...]) -> None:
    revisions = Revisions()
    for number in order:
        revisions.offer(state(number))
        while (wanted := revisions.next(0.0)) is not None:
            if wanted.revision == 4:  # the highest is not valid
                revisions.refuse(4)
            else:
                revisions.apply(wanted.revision)
    assert revisions.applied == 3
