"""The files of versions that nobody needs go, whoever dies when; their cards stay, and say so."""

import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from prometheus_client import REGISTRY
from psycopg.types.json import Jsonb

from driftloop.common import registry
from driftloop.common.events import ArtifactRef, ModelStatus, ModelUpdated, ServedVersion
from driftloop.common.keys import load_public_keys
from driftloop.common.postgres.pool import Pool
from driftloop.trainer.domain.card import training_data
from driftloop.trainer.domain.challenger import BaselineData
from driftloop.trainer.domain.dataset import LabeledRows, training_set
from driftloop.trainer.first import train_first
from driftloop.trainer.pruning import PruneWorker
from driftloop.trainer.purging import PurgeWorker
from driftloop.trainer.resources import Artifacts
from driftloop.trainer.retention_store import RetentionStore
from driftloop.trainer.store import Store
from driftloop.trainer.training_sets import SetFiles, keep
from tests.support.artifacts import small_bundle
from tests.support.asgi import ask
from tests.support.house import House
from tests.support.models import shipped
from tests.support.paths import MODELS
from tests.support.predictions import START
from tests.support.trainers import Trainer as Desk
from tests.support.waiting import wait_until

LOAN = shipped("loan", trees=3)
CONTRACT = LOAN.contract
BASELINE = BaselineData.of(CONTRACT, LOAN.values, LOAN.labels)
NAME = CONTRACT.name
NOW = START + timedelta(days=200)


def version_state(revision: int, ref: ArtifactRef, version: int) -> ModelUpdated:
    """The serving state in which one version serves alone."""
    served = (ServedVersion(version=version, artifact=ref),)
    return ModelUpdated(model_name=NAME, revision=revision, decided_at=START, champion=version, versions=served)


@dataclass
class Trainer:
    """A trainer whose version 1 serves, on a real database and in real folders."""

    house: House
    pool: Pool

    @property
    def folder(self) -> Path:
        """Where the versions are."""
        return self.house.folder / "artifacts" / NAME

    @property
    def sets(self) -> SetFiles:
        """Where the training sets are."""
        return SetFiles((self.house.folder / "sets").as_uri())

    def fetch(self, ref: ArtifactRef, model: str, version: int) -> registry.Bundle:
        """A version, verified."""
        return registry.fetch_bundle(ref, model, version, load_public_keys(self.house.trusted_keys))

    def begin(self) -> None:
        """Version 1 is trained, and serves."""
        artifacts = Artifacts(self.house.register, self.fetch, lambda _m: 0)
        train_first(self.pool, CONTRACT, BASELINE, artifacts, lambda _m: 0, lambda: START, lambda _t: None)

    def add(self, version: int, status: str = "rejected", training_set: str | None = None) -> ArtifactRef:
        """A later version, registered and judged, with version 1's card."""
        ref = self.house.register(small_bundle(CONTRACT, version=version))
        with self.pool.connection() as connection:
            connection.execute(
                "INSERT INTO versions (model_name, version, status, artifact, card, created_at) "
                "SELECT model_name, %s, %s, %s, jsonb_set(card, '{training,digest}', "
                "coalesce(%s, card->'training'->'digest')), created_at FROM versions WHERE version = 1",
                [version, status, Jsonb(msgspec.to_builtins(ref)), training_set and Jsonb(training_set)],
            )
        return ref

    def keep_set(self, subject: str) -> str:
        """Keep a training set with one row of a subject; returns its digest."""
        rows = LabeledRows(
            ids=np.array([f"p-{subject[:1]}"]),
            times=np.array([START.replace(tzinfo=None)], dtype="datetime64[us]"),
            values=LOAN.values[:1] + ord(subject[0]),
            labels=LOAN.labels[:1],
            subjects=np.array([subject]),
        )
        data = training_data(training_set(BASELINE.values, BASELINE.labels, BASELINE.split, rows))
        keep(self.pool, self.sets, CONTRACT, data, rows, lambda: START)
        return data.digest

    def worker(self, keep: int = 1, delete: Any = registry.delete_version) -> PruneWorker:
        """What a trainer that has just started prunes by."""
        return PruneWorker(self.pool, delete, (NAME,), keep, lambda: NOW)

    def prune(self, keep: int = 1) -> None:
        """One round of it."""
        self.worker(keep).round(threading.Event())

    def purge(self) -> None:
        """One round of the worker that deletes marked training sets."""
        PurgeWorker(pool=self.pool, files=self.sets, models=[NAME], clock=lambda: NOW).round(threading.Event())

    def kept(self) -> list[int]:
        """The versions whose files are there."""
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())

    def noted(self, column: str = "files_deleted_at") -> list[int]:
        """The versions of which something is noted."""
        rows = self.rows(f"SELECT version FROM versions WHERE {column} IS NOT NULL ORDER BY version")
        return [version for (version,) in rows]

    def rows(self, query: str, *values: object) -> Sequence[tuple[Any, ...]]:
        """What the database answers."""
        with self.pool.connection() as connection:
            return connection.execute(query.encode(), values).fetchall()

    def sees(self, path: str) -> Any:
        """What the API answers."""
        return ask(Desk(self.house, self.pool).api, "GET", path).json()


@pytest.fixture
def trainer(house: House) -> Trainer:
    assert house.signing_key.key_id
    found = Trainer(house, house.pool("trainer", max_size=6))
    found.begin()
    return found


# --- what goes, and what is told of it


def test_what_is_too_much_goes_and_the_champion_stays(trainer: Trainer) -> None:
    for version in (2, 3, 4):
        trainer.add(version)
    trainer.prune(keep=2)
    assert (trainer.kept(), trainer.noted()) == ([1, 4], [2, 3])
    trainer.prune(keep=2)
    assert (trainer.kept(), trainer.noted()) == ([1, 4], [2, 3])


def test_a_version_whose_files_are_gone_says_so_and_has_its_card(trainer: Trainer) -> None:
    ref = trainer.add(2)
    trainer.prune()
    listed = {one["version"]: one["files_deleted_at"] for one in trainer.sees(f"/v1/models/{NAME}")["versions"]}
    card = trainer.sees(f"/v1/models/{NAME}/versions/2")
    assert listed[1] is None
    assert datetime.fromisoformat(listed[2]) == datetime.fromisoformat(card["files_deleted_at"]) == NOW
    assert card["training"] == trainer.sees(f"/v1/models/{NAME}/versions/1")["training"]
    with pytest.raises(registry.ArtifactMissing, match="serve another version"):
        trainer.fetch(ref, NAME, 2)


def test_a_version_that_a_replica_serves_stays(trainer: Trainer) -> None:
    trainer.add(2, "retired")
    trainer.add(3, "retired")
    status = ModelStatus(
        model_name=NAME, replica="r", revision=9, model_version=2, since=START, reported_at=NOW - timedelta(days=1)
    )
    with trainer.pool.connection() as connection:
        Store(connection).record_status([status])
    trainer.prune()
    assert trainer.kept() == [1, 2]


def test_the_gauges_count_what_is_there_and_what_should_not_be(trainer: Trainer) -> None:
    def gauges() -> tuple[float | None, float | None]:
        labels = {"model_name": NAME}
        names = ("driftloop_versions_kept", "driftloop_versions_undeleted")
        return REGISTRY.get_sample_value(names[0], labels), REGISTRY.get_sample_value(names[1], labels)

    trainer.add(2)
    trainer.prune(keep=2)
    assert gauges() == (2, 0)
    away = trainer.folder.rename(trainer.folder.with_name("away"))
    trainer.folder.symlink_to(away)
    trainer.prune()
    assert gauges() == (2, 1)
    trainer.folder.unlink()
    away.rename(trainer.folder)
    trainer.prune()
    assert gauges() == (1, 0)


def test_a_version_that_was_released_is_not_served_again(trainer: Trainer) -> None:
    ref = trainer.add(2)
    with trainer.pool.connection() as connection:
        store = Store(connection)
        assert store.artifact(NAME, 2) == ref
        RetentionStore(connection).release(NAME, [2], NOW)
        with pytest.raises(LookupError, match="are deleted: take one that has them"):
            store.artifact(NAME, 2)


# --- training sets


def test_a_training_set_goes_with_the_last_version_that_was_fitted_to_it(trainer: Trainer) -> None:
    shared, other = trainer.keep_set("a" * 32), trainer.keep_set("b" * 32)
    for version, digest in ((2, shared), (3, shared), (4, other)):
        trainer.add(version, training_set=digest)
    for number, left in ((3, {shared, other}), (2, {other})):
        trainer.prune(number)
        trainer.purge()
        assert {path.stem for path in (trainer.house.folder / "sets" / NAME).glob("*.arrow")} == left
    assert trainer.rows("SELECT DISTINCT subject FROM training_set_subjects") == [("b" * 32,)]
    found = trainer.sees(f"/v1/models/{NAME}/versions/3")["training_set"]
    assert (found["rebuildable"], found["reason"]) == (
        False,
        "the files of every version that was fitted to it were deleted",
    )


def test_a_set_of_the_baseline_alone_can_always_be_rebuilt(trainer: Trainer) -> None:
    trainer.add(2)
    trainer.rows("UPDATE versions SET status = 'retired' RETURNING 1")
    trainer.rows("DELETE FROM revisions RETURNING 1")
    trainer.prune()
    trainer.purge()
    assert trainer.noted() == [1]
    trainer.rows("UPDATE versions SET files_released_at = now() WHERE version = 2 RETURNING 1")
    trainer.prune()
    trainer.purge()
    assert trainer.noted() == [1, 2]
    assert trainer.sees(f"/v1/models/{NAME}/versions/1")["training_set"]["rebuildable"]


# --- crashes and races


def test_who_dies_between_release_and_deletion_is_followed_by_one_who_deletes(trainer: Trainer) -> None:
    trainer.add(2)
    with trainer.pool.connection() as connection:
        RetentionStore(connection).release(NAME, [2], NOW)
    trainer.prune(keep=20)
    assert (trainer.kept(), trainer.noted()) == ([1], [2])


def test_who_dies_between_deletion_and_note_is_followed_by_one_who_notes(trainer: Trainer) -> None:
    trainer.add(2)
    with trainer.pool.connection() as connection:
        RetentionStore(connection).release(NAME, [2], NOW)
    shutil.rmtree(trainer.folder / "2")
    trainer.prune()
    assert trainer.noted() == [2]


def test_files_that_cannot_be_deleted_hold_up_no_others(trainer: Trainer) -> None:
    trainer.add(2)
    trainer.add(3)

    def delete(uri: str, model: str, version: int) -> None:
        if version == 2:
            raise registry.StoreUnavailable("the store is away")
        registry.delete_version(uri, model, version)

    trainer.worker(delete=delete).round(threading.Event())
    assert (trainer.noted("files_released_at"), trainer.noted()) == ([2, 3], [3])
    trainer.prune()
    assert trainer.noted() == [2, 3]


def test_several_trainers_share_the_work(trainer: Trainer) -> None:
    for version in range(2, 8):
        trainer.add(version)
    deleted: list[int] = []
    met: set[int] = set()
    both = threading.Barrier(2, timeout=60)

    def delete(uri: str, model: str, version: int) -> None:
        # Each of them meets the other at its first version.
        if threading.get_ident() not in met:
            met.add(threading.get_ident())
            both.wait()
        registry.delete_version(uri, model, version)
        deleted.append(version)

    with ThreadPoolExecutor(2) as executor:
        rounds = [executor.submit(trainer.worker(delete=delete).round, threading.Event()) for _ in range(2)]
        for one in rounds:
            one.result(timeout=60)
    assert sorted(deleted) == trainer.noted() == [2, 3, 4, 5, 6, 7]


def test_a_version_that_is_promoted_meanwhile_is_not_released(trainer: Trainer) -> None:
    """A roll-back holds the model's lock; whoever prunes waits for it, and sees what it decided."""
    ref = trainer.add(2, "retired")
    trainer.add(3)
    with ThreadPoolExecutor(1) as executor:
        with trainer.pool.connection() as connection:
            store = Store(connection)
            revision = store.lock_model(NAME, NOW).revision + 1
            pruning = executor.submit(trainer.prune)
            wait_until(lambda: bool(waiting(trainer)), "the pruner waits for the model")
            store.set_state(version_state(revision, ref, 2))
        pruning.result(timeout=60)
    assert (trainer.kept(), trainer.noted()) == ([1, 2], [3])


def waiting(trainer: Trainer) -> Sequence[tuple[Any, ...]]:
    """Who in this schema waits for a lock that another holds."""
    return trainer.rows(
        "SELECT pid FROM pg_stat_activity WHERE usename = current_user AND cardinality(pg_blocking_pids(pid)) > 0"
    )


# --- the process


def test_the_service_prunes_as_its_setting_says(trainer: Trainer) -> None:
    trainer.add(2)
    trainer.add(3)
    environment = {
        "DATABASE_URL": trainer.house.database_url("trainer"),
        "DRIFTLOOP_CONTRACTS": str(MODELS / "loan" / "contract.yaml"),
        "DRIFTLOOP_SIGNING_KEY": str(trainer.house.folder / "keys" / "signing.pem"),
        "DRIFTLOOP_KEEP_VERSIONS": "2",
    }
    process, url = trainer.house.process("trainer", "driftloop.trainer.main", environment)
    process.start()
    process.wait_ready()

    def gone() -> list[int]:
        listed = httpx.get(f"{url}/v1/models/{NAME}", timeout=30).json()["versions"]
        return [one["version"] for one in listed if one["files_deleted_at"]]

    assert wait_until(gone, "a version's files are deleted") == [2]
    assert trainer.kept() == [1, 3]
    assert process.terminate() == 0
