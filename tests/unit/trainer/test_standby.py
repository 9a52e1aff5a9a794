"""A training process is kept ready, does one training, and never outlives its trainer."""

import io
import sys
from collections.abc import Iterator

import psutil
import pytest

from driftloop.trainer import training_process, training_runs
from driftloop.trainer.training_runs import Standby, TrainingProcess, start_process
from tests.support.children import children


@pytest.fixture
def standby(monkeypatch: pytest.MonkeyPatch) -> Iterator[Standby]:
    """Nothing is ready yet; its processes load no libraries, and wait for a task that does not come."""
    started: list[TrainingProcess] = []

    def start() -> TrainingProcess:
        started.append(start_process())
        return started[-1]

    monkeypatch.setattr(training_runs, "MODULE", "tests.support.broken_training")
    monkeypatch.setattr(training_runs, "start_process", start)
    standby = Standby()
    yield standby
    standby.close()
    for process in started:
        with process:
            process.kill()


def waiting() -> set[int]:
    """The training processes that this process has."""
    return children(training_runs.MODULE)


def test_the_process_that_is_ready_is_the_one_that_trains(standby: Standby) -> None:
    standby.prepare()
    (ready,) = waiting()
    assert standby.take().pid == ready


def test_one_is_ready_however_often_it_is_asked_for(standby: Standby) -> None:
    standby.prepare()
    standby.prepare()
    assert len(waiting()) == 1


def test_no_two_trainings_have_one_process(standby: Standby) -> None:
    standby.prepare()
    assert standby.take().pid != standby.take().pid


def test_after_a_training_the_next_process_is_made_ready(standby: Standby) -> None:
    standby.prepare()
    taken = standby.take()
    taken.kill()
    taken.wait()
    standby.prepare()
    (ready,) = waiting()
    assert standby.take().pid == ready != taken.pid


def test_while_one_trains_none_is_made_ready(standby: Standby) -> None:
    """It has the memory, and the cores."""
    standby.prepare()
    taken = standby.take().pid
    standby.prepare()
    assert waiting() == {taken}


def test_for_one_that_died_waiting_a_new_one_trains(standby: Standby) -> None:
    standby.prepare()
    dead = psutil.Process(*waiting())
    dead.kill()
    dead.wait()
    taken = standby.take()
    assert taken.pid != dead.pid
    assert taken.poll() is None


def test_one_that_died_waiting_is_not_replaced_before_it_is_needed(standby: Standby) -> None:
    """Where memory is short, it would die again and again."""
    standby.prepare()
    dead = psutil.Process(*waiting())
    dead.kill()
    dead.wait()
    standby.prepare()
    assert waiting() == set()


def test_nothing_is_left_of_a_standby_that_is_closed(standby: Standby) -> None:
    standby.prepare()
    standby.close()
    assert waiting() == set()


def test_a_machine_that_starts_no_process_is_no_reason_to_end(
    standby: Standby, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    standby.prepare()
    assert waiting() == set()


def test_a_process_whose_trainer_ends_before_there_is_a_task_ends_and_trains_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    monkeypatch.setattr(training_process, "train", lambda _folder: pytest.fail("there is no task"))
    training_process.main()
