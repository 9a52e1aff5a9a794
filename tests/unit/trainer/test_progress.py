"""A training says what it does, at once and while it lasts."""

import re
import threading

from driftloop.trainer.progress import progress
from tests.support.waiting import wait_until


def test_a_step_is_said_at_once() -> None:
    said: list[str] = []
    with progress(said.append, every=60) as step:
        step("fitting")
        step("exporting")
        assert said == ["fitting", "exporting"]


def test_a_step_is_said_again_with_its_seconds_while_it_lasts() -> None:
    said: list[str] = []
    with progress(said.append, every=0.001) as step:
        step("fitting")
        wait_until(lambda: len(said) >= 3, "the step said again")
    assert re.fullmatch(r"fitting: \d+ s", said[1])


def test_nothing_is_said_afterwards() -> None:
    before = threading.active_count()
    with progress(lambda _: None, every=0.001) as step:
        step("fitting")
    assert threading.active_count() == before
