"""What was written for a version that never came to be goes; what may yet be registered, or may serve, stays."""

import os
import threading
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from driftloop.common import registry
from driftloop.common.events import SubjectErased
from driftloop.common.registry import Bundle
from driftloop.trainer.leftovers import LeftoverWorker
from driftloop.trainer.purging import PurgeWorker
from driftloop.trainer.request_store import RequestStore
from driftloop.trainer.store import Store
from tests.support.artifacts import small_bundle
from tests.support.house import House
from tests.support.trainers import CONTRACT, LATER, NAME, Trainer, alarm

DAY = timedelta(days=1)


@pytest.fixture
def trainer(house: House) -> Trainer:
    """A trainer whose version 1 serves."""
    trainer = Trainer(house, house.pool("trainer", max_size=6))
    trainer.first()
    return trainer


def look(trainer: Trainer, now: datetime, *models: str) -> None:
    """One look for leftovers, and one of the worker that purges."""

    def delete(model: str, version: int) -> None:
        registry.delete_version(registry.version_uri(trainer.house.artifacts, model, version), model, version)

    LeftoverWorker(trainer.pool, delete, trainer.sets, models or (NAME,), lambda: now).round(threading.Event())
    PurgeWorker(pool=trainer.pool, files=trainer.sets, models=[NAME], clock=lambda: now).round(threading.Event())


def versions(trainer: Trainer) -> list[str]:
    return sorted(one.name for one in (trainer.house.folder / "artifacts" / NAME).iterdir() if one.name.isdigit())


def sets(trainer: Trainer) -> list[Path]:
    return sorted((trainer.house.folder / "sets" / NAME).glob("*.arrow*"))


def leave(trainer: Trainer) -> None:
    """Version 2 is made, with its set, and nobody wants it any more when it is to be registered."""
    write = trainer.artifacts.write

    def withdrawn(bundle: Bundle) -> Any:
        found = write(bundle)
        trainer.drift(alarm(change="cleared", verdict="GOOD"), "drift:2")
        return found

    trainer.artifacts = replace(trainer.artifacts, write=withdrawn)
    trainer.drift()
    trainer.retrain("withdrawn")
    trainer.artifacts = replace(trainer.artifacts, write=write)
    assert (versions(trainer), len(sets(trainer)), trainer.versions()) == (["1", "2"], 3, {1: "champion"})


def reserve(trainer: Trainer) -> None:
    with trainer.pool.connection() as connection:
        assert Store(connection).reserve_version(NAME, 2, trainer.now) == 2
    trainer.house.register(small_bundle(CONTRACT, version=2))


# --- bundles and sets that the database knows


def test_what_was_never_registered_goes_after_a_day(trainer: Trainer) -> None:
    leave(trainer)
    look(trainer, LATER + DAY)
    assert (versions(trainer), len(sets(trainer))) == (["1", "2"], 3)
    look(trainer, LATER + DAY * 1.01)
    assert (versions(trainer), sets(trainer)) == (["1"], [])
    assert trainer.rows("SELECT reason FROM training_sets WHERE NOT rebuildable") == [("no version came of it",)]
    assert trainer.rows("SELECT * FROM reserved_versions") == []


def test_what_was_registered_stays(trainer: Trainer) -> None:
    trainer.drift()
    trainer.retrain("rejected")
    look(trainer, LATER + 9 * DAY)
    assert (versions(trainer), len(sets(trainer))) == (["1", "2"], 3)


@pytest.mark.parametrize("tries_over", [False, True], ids=["trained", "tried again"])
def test_of_a_model_that_is_trained_nothing_goes(trainer: Trainer, tries_over: bool) -> None:
    """Another trainer may be about to register it, however long the store was away."""
    leave(trainer)
    trainer.drift(event_id="drift:3")
    with trainer.pool.connection() as connection:
        requests = RequestStore(connection)
        found = requests.current(NAME)
        assert found is not None
        requests.become(found.id, "training", "a test's", LATER)
        requests.count_try(found.id, LATER)
        if tries_over:
            requests.become(found.id, "awaiting-labels", "a test's", LATER)
    look(trainer, LATER + 9 * DAY)
    assert (versions(trainer), len(sets(trainer))) == (["1", "2"], 3)


def test_a_version_that_this_database_never_reserved_stays_for_it_may_serve(trainer: Trainer) -> None:
    """The database was restored from a backup that is older than the version."""
    trainer.house.register(small_bundle(CONTRACT, version=7))
    reserve(trainer)
    look(trainer, LATER + 9 * DAY)
    assert versions(trainer) == ["1", "7"]


def test_a_store_that_is_away_holds_up_no_other_model_and_is_looked_at_again(trainer: Trainer) -> None:
    reserve(trainer)
    folder = trainer.house.folder / "artifacts" / NAME
    away = folder.rename(folder.with_name("away"))
    folder.symlink_to(away)
    look(trainer, LATER + 9 * DAY, NAME, "other")
    assert trainer.rows("SELECT version FROM reserved_versions") == [(2,)]
    folder.unlink()
    away.rename(folder)
    look(trainer, LATER + 9 * DAY)
    assert versions(trainer) == ["1"]


# --- files of sets that it does not know, or knows as deleted


def write_set(trainer: Trainer, digest: str, written: datetime = LATER) -> None:
    trainer.sets.write(NAME, digest, b"rows")
    for path in sets(trainer):
        if path.name.startswith(digest):
            os.utime(path, (written.timestamp(),) * 2)


def test_a_file_of_a_set_that_no_row_knows_goes_after_a_day(trainer: Trainer) -> None:
    """No erasure would reach it: the database was restored from a backup."""
    write_set(trainer, "a" * 64)
    write_set(trainer, "b" * 64, LATER + DAY)
    # What a writer that died left half written, and what is none of ours.
    for name in (f".unfinished-{'c' * 64}.arrow", "notes.txt"):
        path = trainer.house.folder / "sets" / NAME / name
        path.write_bytes(b"rows")
        os.utime(path, (LATER.timestamp(),) * 2)
    look(trainer, LATER + DAY * 1.01)
    assert {path.name.partition(".")[0] for path in sets(trainer)} == {"b" * 64}
    left = sorted(one.name for one in (trainer.house.folder / "sets" / NAME).iterdir())
    assert (len(left), left[0], left[-1]) == (5, ".lock", "notes.txt")


def test_a_file_that_was_written_while_its_set_was_purged_goes_though_its_writer_died(trainer: Trainer) -> None:
    leave(trainer)
    (subject,) = trainer.rows("SELECT min(subject) FROM training_set_subjects")[0]
    kept = {path: path.read_bytes() for path in sets(trainer)}
    trainer.hear(SubjectErased(subject=subject, erased_at=LATER, predictions=1))
    look(trainer, LATER)
    assert sets(trainer) == []
    for path, data in kept.items():
        path.write_bytes(data)
    look(trainer, LATER)
    assert sets(trainer) == []
