"""Several models, several trainers: none waits for another's training, and one trainer at a time works on a model."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from driftloop.common.postgres.pool import Pool
from driftloop.common.registry import Bundle, StoreUnavailable
from driftloop.trainer.model_locks import ModelLocks
from driftloop.trainer.retraining import NO_TURN
from driftloop.trainer.training_files import Trained, TrainingTask
from tests.support.house import House
from tests.support.trainers import CONTRACT, GATES, LabelIngest, Trainer, train_here
from tests.support.waiting import TIMEOUT_SECONDS, wait_until

# Of it a challenger learns a new law, and no guard is for the old one.
LEARNING = msgspec.structs.replace(
    CONTRACT,
    name="learning",
    gates=msgspec.structs.replace(GATES, train_labels=600, gate_labels=100, accepted_loss=1.0),
)


@pytest.fixture
def pool(house: House) -> Pool:
    return house.pool("trainer", max_size=8)


@pytest.fixture
def trainers(house: House, pool: Pool) -> tuple[Trainer, Trainer]:
    """One trainer's parts for two models, of which one is trained at a time. Both have an alarm."""
    one = Trainer(house, pool)
    labels = LabelIngest(700, lambda row: float(row["income"] or 0) >= 500_000)
    other = Trainer(house, pool, labels, LEARNING, turns=one.turns)
    for trainer in (one, other):
        trainer.first()
        trainer.drift(event_id=f"drift:{trainer.contract.name}")
    return one, other


@contextmanager
def in_training(trainer: Trainer) -> Iterator[None]:
    """For the time of a block, a trainer trains."""
    began, end = threading.Event(), threading.Event()

    def train(task: TrainingTask, stopped: Callable[[], bool], say: Callable[[str], None]) -> Trained:
        began.set()
        assert end.wait(4 * TIMEOUT_SECONDS)
        return train_here(task, stopped, say)

    trainer.run = train
    with trainer.retraining():
        assert began.wait(TIMEOUT_SECONDS)
        try:
            yield
        finally:
            end.set()


def state(trainer: Trainer) -> str:
    return str(trainer.requests()[-1]["state"])


# --- models


def test_what_was_judged_is_decided_while_another_model_is_trained(trainers: tuple[Trainer, Trainer]) -> None:
    one, other = trainers
    write = other.artifacts.write

    def then_alone(bundle: Bundle) -> Any:
        other.labels.down = True
        return write(bundle)

    other.artifacts = replace(other.artifacts, write=then_alone)
    other.retrain("evaluated")
    other.labels.down = False
    with in_training(one):
        other.retrain("promoted")
        assert state(one) == "training"


def test_no_more_models_are_trained_at_once_than_there_are_turns_and_who_waits_says_so(
    trainers: tuple[Trainer, Trainer],
) -> None:
    one, other = trainers
    with ExitStack() as stack:
        with in_training(one):
            # Not before: it would have the turn itself.
            stack.enter_context(other.retraining())
            wait_until(lambda: other.requests()[0]["reason"] == NO_TURN, "it says that it waits")
            assert state(other) == "awaiting-labels"
        wait_until(lambda: state(other) == "promoted", "it is trained when the other is done")


def test_with_two_turns_two_models_are_trained_at_once(trainers: tuple[Trainer, Trainer]) -> None:
    one, other = trainers
    one.turns = other.turns = threading.BoundedSemaphore(2)
    with in_training(one), in_training(other):
        assert (state(one), state(other)) == ("training", "training")


def test_a_store_that_is_full_holds_up_no_other_models_training(trainers: tuple[Trainer, Trainer]) -> None:
    one, other = trainers
    write, room = one.artifacts.write, threading.Event()

    def full(bundle: Bundle) -> Any:
        if not room.is_set():
            raise StoreUnavailable("no space left: make room")
        return write(bundle)

    one.artifacts = replace(one.artifacts, write=full)
    with one.retraining():
        wait_until(lambda: "waiting to keep it" in one.requests()[0]["reason"], "its training is done")
        other.retrain("promoted")
        assert state(one) == "training"
        room.set()
        wait_until(lambda: state(one) == "rejected", "it is kept, and judged")


def test_a_model_for_which_one_trainer_has_no_turn_is_trained_by_another(trainers: tuple[Trainer, Trainer]) -> None:
    one, other = trainers
    second = Trainer(other.house, other.pool, other.labels, other.contract)
    with in_training(one), other.retraining():
        wait_until(lambda: other.requests()[0]["reason"] == NO_TURN, "it waits")
        second.retrain("promoted")
        assert state(one) == "training"


# --- locks


@pytest.fixture
def locks(pool: Pool) -> Iterator[tuple[ModelLocks, ModelLocks]]:
    """Two trainers'."""
    found = ModelLocks(pool), ModelLocks(pool)
    yield found
    for one in found:
        one.close()


def test_one_trainer_at_a_time_holds_a_model_and_another_may_hold_another(locks: tuple[ModelLocks, ModelLocks]) -> None:
    one, other = locks
    with one.hold("a") as held:
        assert held is not None
        assert held()
        with other.hold("a") as refused, other.hold("b") as another:
            assert (refused, another is not None) == (None, True)
    with other.hold("a") as held:
        assert held is not None


def test_the_locks_of_twenty_models_take_one_connection(house: House) -> None:
    pool = house.pool("trainer", max_size=2)
    locks = ModelLocks(pool)
    with ExitStack() as stack:
        held = [stack.enter_context(locks.hold(f"model-{n}")) for n in range(20)]
        assert None not in held
        with pool.connection(timeout=5) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    locks.close()


def cut_off(pool: Pool) -> None:
    """End the sessions that hold locks."""
    with pool.connection() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE usename = current_user AND query LIKE '%pg_try_advisory_lock%' AND pid <> pg_backend_pid()"
        )


def test_where_a_session_is_gone_the_quicker_one_has_its_locks(
    pool: Pool, locks: tuple[ModelLocks, ModelLocks]
) -> None:
    one, other = locks
    with one.hold("a") as held:
        assert held is not None
        cut_off(pool)
        with other.hold("a") as quicker:
            assert quicker is not None
            assert not held()
        assert held()
        with other.hold("a") as slower:
            assert slower is None
    # What is asked of the lost session first fails, or finds it closed; then there is another one.
    with one.hold("a") as held:
        assert held is not None


def test_a_training_outlives_the_session_that_held_its_models_lock(
    trainers: tuple[Trainer, Trainer], pool: Pool
) -> None:
    _, trainer = trainers

    def train(task: TrainingTask, stopped: Callable[[], bool], say: Callable[[str], None]) -> Trained:
        cut_off(pool)
        assert not stopped()
        return train_here(task, stopped, say)

    trainer.run = train
    assert trainer.retrain("promoted")["tries"] == 1


def test_who_ends_gives_back_all_that_it_holds(locks: tuple[ModelLocks, ModelLocks]) -> None:
    one, other = locks
    with one.hold("a") as held:
        assert held is not None
        one.close()
        with other.hold("a") as found:
            assert found is not None
