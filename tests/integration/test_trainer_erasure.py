"""A patient is erased: which training sets can be rebuilt no more, and that their files go, whoever dies when."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from prometheus_client import REGISTRY

from driftloop.common import registry
from driftloop.common.contract import Contract, Recipe
from driftloop.common.events import SubjectErased
from driftloop.common.postgres.pool import Pool
from driftloop.common.topics import LABELED_PREDICTIONS
from driftloop.trainer import handlers
from driftloop.trainer.domain.card import TrainingData, training_data
from driftloop.trainer.domain.dataset import LabeledRows, training_set
from driftloop.trainer.purging import PurgeWorker
from driftloop.trainer.set_store import SetStore
from driftloop.trainer.training_sets import SetFiles, decode, keep, rebuilt, verify
from tests.support.asgi import ask
from tests.support.house import House
from tests.support.paths import MODELS
from tests.support.predictions import START, labeled, prediction, rows_like
from tests.support.trainers import BASELINE, CONTRACT, LATER, LOAN, NAME
from tests.support.trainers import Trainer as Desk
from tests.support.waiting import wait_until

ANNA, BERT = "a" * 32, "b" * 32


def rows_of(subjects: Sequence[str], first: int = 0, start: datetime = START) -> LabeledRows:
    """A labelled row of each subject, a second apart, with values of their own from the baseline."""
    n = len(subjects)
    return LabeledRows(
        ids=np.array([f"p-{first + row}" for row in range(n)]),
        times=np.datetime64(start.replace(tzinfo=None), "us") + np.arange(n).astype("m8[s]"),
        values=LOAN.values[first : first + n],
        labels=LOAN.labels[first : first + n],
        subjects=np.array(subjects, dtype=np.str_),
    )


def summed_up(rows: LabeledRows) -> TrainingData:
    return training_data(training_set(BASELINE.values, BASELINE.labels, BASELINE.split, rows))


def erasure(subject: str = ANNA, at: datetime = LATER) -> SubjectErased:
    return SubjectErased(subject=subject, erased_at=at, predictions=1)


@dataclass
class Trainer:
    """A trainer's sets, on a real database and in a real folder."""

    house: House
    pool: Pool
    files: SetFiles
    now: datetime = field(default=LATER)

    @property
    def folder(self) -> Path:
        return self.house.folder / "sets" / NAME

    def keep(self, rows: LabeledRows) -> str:
        """Keep a set; returns its digest."""
        data = summed_up(rows)
        keep(self.pool, self.files, CONTRACT, data, rows, lambda: self.now)
        return data.digest

    def erase(self, *events: SubjectErased) -> None:
        with self.pool.connection() as connection:
            handlers.on_labels(connection, lambda: self.now, events or [erasure()])

    def purge(self) -> None:
        """What a trainer that has just started does."""
        PurgeWorker(pool=self.pool, files=self.files, models=[NAME], clock=lambda: self.now).round(threading.Event())

    def kept(self) -> list[str]:
        """The digests of the files that are there."""
        return sorted(one.stem for one in self.folder.glob("*.arrow"))

    def set(self, digest: str) -> tuple[Any, ...]:
        """Whether a set is stored, can be rebuilt, and is purged."""
        (found,) = self.rows(
            "SELECT stored_at IS NOT NULL, rebuildable, purged_at IS NOT NULL FROM training_sets WHERE digest = %s",
            digest,
        )
        return found

    def subjects(self) -> list[str]:
        """Whose rows the sets are known to hold."""
        return [one for (one,) in self.rows("SELECT DISTINCT subject FROM training_set_subjects ORDER BY subject")]

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self.pool.connection() as connection:
            return connection.execute(query.encode(), values).fetchall()


@pytest.fixture
def trainer(house: House) -> Trainer:
    assert house.signing_key.key_id
    return Trainer(house, house.pool("trainer", max_size=6), SetFiles((house.folder / "sets").as_uri()))


# --- marking and purging


def test_a_set_is_kept_until_one_of_its_subjects_is_erased(trainer: Trainer) -> None:
    digest = trainer.keep(rows_of([ANNA, BERT, ""]))
    assert (trainer.kept(), trainer.set(digest)) == ([digest], (True, True, False))
    trainer.erase()
    trainer.purge()
    assert (trainer.kept(), trainer.set(digest)) == ([], (True, False, True))
    assert trainer.subjects() == []
    # Its manifests are gone, too.
    assert [one.name for one in trainer.folder.iterdir()] == [".lock"]


def test_a_set_without_the_subject_stays_as_it_is(trainer: Trainer) -> None:
    gone, left = trainer.keep(rows_of([ANNA, BERT])), trainer.keep(rows_of([BERT, ""], first=2))
    trainer.erase()
    trainer.purge()
    assert (trainer.set(gone)[1], trainer.set(left)[1]) == (False, True)
    assert (trainer.kept(), trainer.subjects()) == ([left], [BERT])


def test_rows_that_are_younger_than_the_erasure_are_not_meant(trainer: Trainer) -> None:
    digest = trainer.keep(rows_of([ANNA], start=LATER))
    trainer.erase()
    assert trainer.set(digest)[1]
    trainer.erase(erasure(at=LATER + timedelta(seconds=1)))
    assert not trainer.set(digest)[1]


def test_an_erasure_that_comes_again_changes_nothing(trainer: Trainer) -> None:
    digest = trainer.keep(rows_of([ANNA]))
    trainer.erase()
    trainer.purge()
    before = trainer.rows("SELECT * FROM training_sets")
    trainer.now += timedelta(days=1)
    trainer.erase(erasure(), erasure(at=START))
    trainer.purge()
    assert trainer.rows("SELECT * FROM training_sets") == before
    assert trainer.rows("SELECT erased_at FROM erased_subjects") == [(LATER,)]
    assert trainer.set(digest)[2]


def test_a_set_is_found_by_the_index_of_its_subjects(trainer: Trainer) -> None:
    trainer.keep(rows_of([f"{n:032x}" for n in range(80)]))
    with trainer.pool.connection() as connection:
        connection.execute("SET enable_seqscan = off")
        plan = connection.execute("EXPLAIN SELECT digest FROM training_set_subjects WHERE subject = %s", [ANNA])
        assert "training_set_subjects_pkey" in "".join(line for (line,) in plan)


def test_the_gauges_count_what_cannot_be_rebuilt_and_what_is_still_to_be_deleted(trainer: Trainer) -> None:
    def gauges() -> tuple[float | None, float | None]:
        labels = {"model_name": NAME}
        names = ("driftloop_training_sets_not_rebuildable", "driftloop_training_sets_unpurged")
        return REGISTRY.get_sample_value(names[0], labels), REGISTRY.get_sample_value(names[1], labels)

    trainer.keep(rows_of([ANNA]))
    trainer.keep(rows_of([BERT], first=1))
    trainer.purge()
    assert gauges() == (0, 0)
    trainer.erase()
    away = trainer.folder.rename(trainer.folder.with_name("away"))
    trainer.folder.symlink_to(away)
    trainer.purge()
    assert gauges() == (1, 1)
    trainer.folder.unlink()
    away.rename(trainer.folder)
    trainer.purge()
    assert gauges() == (1, 0)


# --- crashes and races


def test_who_dies_between_mark_and_deletion_is_followed_by_one_who_deletes(trainer: Trainer) -> None:
    digest = trainer.keep(rows_of([ANNA]))
    trainer.erase()
    assert (trainer.kept(), trainer.set(digest)) == ([digest], (True, False, False))
    trainer.purge()
    assert (trainer.kept(), trainer.set(digest)) == ([], (True, False, True))


def test_who_dies_between_deletion_and_note_is_followed_by_one_who_notes(trainer: Trainer) -> None:
    digest = trainer.keep(rows_of([ANNA]))
    trainer.erase()
    (trainer.folder / f"{digest}.arrow").unlink()
    trainer.purge()
    assert trainer.set(digest) == (True, False, True)


def test_who_dies_between_writing_and_note_leaves_a_file_that_is_deleted_all_the_same(trainer: Trainer) -> None:
    rows = rows_of([ANNA])
    digest = trainer.keep(rows)
    trainer.rows("UPDATE training_sets SET stored_at = NULL RETURNING 1")
    trainer.erase()
    trainer.purge()
    assert (trainer.kept(), trainer.set(digest)) == ([], (False, False, True))


def test_a_file_that_cannot_be_deleted_holds_up_no_other(trainer: Trainer) -> None:
    stuck, other = trainer.keep(rows_of([ANNA])), trainer.keep(rows_of([ANNA], first=1))
    trainer.erase()
    (trainer.folder / f"{stuck}.arrow").unlink()
    (trainer.folder / f"{stuck}.arrow").mkdir()
    trainer.purge()
    assert (trainer.set(stuck)[2], trainer.set(other)[2]) == (False, True)
    (trainer.folder / f"{stuck}.arrow").rmdir()
    trainer.purge()
    assert trainer.set(stuck)[2]


def test_rows_that_were_fetched_before_an_erasure_do_not_come_back_with_their_set(trainer: Trainer) -> None:
    trainer.erase()
    digest = trainer.keep(rows_of([ANNA, BERT]))
    trainer.purge()
    assert (trainer.kept(), trainer.set(digest)) == ([], (False, False, True))
    assert trainer.subjects() == []


def test_a_set_that_was_purged_does_not_come_back_when_it_is_made_again(trainer: Trainer) -> None:
    digest = trainer.keep(rows_of([ANNA]))
    trainer.erase()
    trainer.purge()
    assert trainer.keep(rows_of([ANNA])) == digest
    assert (trainer.kept(), trainer.subjects()) == ([], [])


@dataclass(frozen=True)
class Interrupted(SetFiles):
    """Files while one of which is written something else happens."""

    meanwhile: Any = None

    def write(self, model: str, digest: str, data: bytes) -> None:
        self.meanwhile()
        super().write(model, digest, data)


@pytest.mark.parametrize("purged", [False, True], ids=["marked", "purged"])
def test_a_file_that_is_written_while_its_set_is_erased_is_deleted(trainer: Trainer, purged: bool) -> None:
    """The erasure does not wait for the store, nor does whoever purges."""

    def meanwhile() -> None:
        trainer.erase()
        if purged:
            trainer.purge()

    calm, trainer.files = trainer.files, Interrupted(trainer.files.root, meanwhile)
    digest = trainer.keep(rows_of([ANNA]))
    trainer.files = calm
    assert (trainer.kept(), trainer.set(digest)) == ([digest], (True, False, False))
    trainer.purge()
    assert (trainer.kept(), trainer.set(digest)) == ([], (True, False, True))


def test_a_file_of_which_a_manifest_could_not_be_written_is_deleted_where_its_set_was_erased(trainer: Trainer) -> None:
    @dataclass(frozen=True)
    class Full(SetFiles):
        def write(self, model: str, digest: str, data: bytes) -> None:
            trainer.erase()
            trainer.purge()
            registry.write_object(self.root, model, f"{digest}.arrow", data)
            raise registry.StoreUnavailable("no space left: make room")

    calm, trainer.files = trainer.files, Full(trainer.files.root)
    with pytest.raises(registry.StoreUnavailable):
        trainer.keep(rows_of([ANNA]))
    trainer.files = calm
    assert len(trainer.kept()) == 1
    trainer.purge()
    assert trainer.kept() == []


def test_no_transaction_is_open_while_a_file_is_written(trainer: Trainer) -> None:
    """The database would end one in which nothing happens for a minute."""
    open_ones: list[tuple[Any, ...]] = []

    def look() -> None:
        open_ones.extend(
            trainer.rows(
                "SELECT query FROM pg_stat_activity WHERE usename = current_user AND pid <> pg_backend_pid() "
                "AND state = 'idle in transaction'"
            )
        )

    trainer.files = Interrupted(trainer.files.root, look)
    trainer.keep(rows_of([ANNA]))
    assert open_ones == []


def test_a_set_that_nobody_needed_any_more_is_kept_again_where_somebody_does(trainer: Trainer) -> None:
    digest = trainer.keep(rows_of([ANNA]))
    with trainer.pool.connection() as connection:
        SetStore(connection).expire(NAME, digest, trainer.now)
    trainer.purge()
    assert (trainer.kept(), trainer.set(digest)) == ([], (True, False, True))
    trainer.keep(rows_of([ANNA]))
    assert (trainer.kept(), trainer.set(digest), trainer.subjects()) == ([digest], (True, True, False), [ANNA])


def test_of_an_erasure_and_a_set_that_come_at_once_one_sees_the_other(trainer: Trainer) -> None:
    """Whichever is first, nothing of the subject is left; 20 pairs at once."""
    with ThreadPoolExecutor(2) as executor:
        for n in range(20):
            subject = f"{n:032x}"
            keeping = executor.submit(trainer.keep, rows_of([subject], first=n))
            erasing = executor.submit(trainer.erase, erasure(subject))
            keeping.result(timeout=60)
            erasing.result(timeout=60)
    trainer.purge()
    assert (trainer.kept(), trainer.subjects()) == ([], [])


# --- versions


def first(trainer: Trainer) -> None:
    Desk(trainer.house, trainer.pool).first()


def shown(trainer: Trainer, version: int) -> dict[str, Any]:
    """What the API says of a version's training set; the list and the card say the same."""
    app = Desk(trainer.house, trainer.pool).api
    listed = ask(app, "GET", f"/v1/models/{NAME}").json()["versions"]
    card = ask(app, "GET", f"/v1/models/{NAME}/versions/{version}").json()
    found: dict[str, Any] = next(one for one in listed if one["version"] == version)["training_set"]
    assert card["training_set"] == found
    assert found is None or found["digest"] == card["training"]["digest"]
    return found


def test_a_first_version_has_the_baseline_which_is_in_no_file(trainer: Trainer) -> None:
    first(trainer)
    assert (shown(trainer, 1)["rebuildable"], trainer.subjects()) == (True, [])
    assert not trainer.folder.exists()
    assert rebuilt(CONTRACT, BASELINE, shown(trainer, 1)["digest"], None).baseline_rows == len(BASELINE.split.train)


def test_of_versions_that_are_older_than_this_the_baselines_alone_can_be_rebuilt(trainer: Trainer) -> None:
    first(trainer)
    with trainer.house.database("trainer") as connection:
        connection.execute(
            "INSERT INTO versions SELECT model_name, 2, 'rejected', artifact, jsonb_set(card, '{training}', "
            "card->'training' || jsonb_build_object('labeled_rows', 7, 'digest', repeat('c', 64))), created_at "
            "FROM versions"
        )
        connection.execute("DROP TABLE training_set_subjects, training_sets, erased_subjects")
        connection.execute("DELETE FROM schema_migrations WHERE name = '0003_training_sets.sql'")
    trainer.house.migrate()
    assert [shown(trainer, version)["rebuildable"] for version in (1, 2)] == [True, False]
    assert shown(trainer, 2)["reason"] == "its rows were not kept"
    trainer.purge()


def retrain(trainer: Trainer, contract: Contract = CONTRACT) -> None:
    """An alarm came; the worker judges a challenger on 150 rows."""
    desk = Desk(trainer.house, trainer.pool, contract=contract, now=trainer.now)
    desk.drift()
    desk.retrain()


def test_a_challenger_keeps_what_it_learnt_from_and_nothing_of_the_gate(trainer: Trainer) -> None:
    first(trainer)
    retrain(trainer)
    found = shown(trainer, 2)
    assert found["rebuildable"]
    rows = decode(CONTRACT, trainer.files.read(NAME, found["digest"]))
    assert len(rows) == len(trainer.subjects()) == 110
    assert rows.times.max() == np.datetime64((START + timedelta(seconds=110)).replace(tzinfo=None))
    assert rebuilt(CONTRACT, BASELINE, found["digest"], rows).labeled_rows == 110


def test_a_challenger_learns_and_keeps_what_its_recipe_says(trainer: Trainer) -> None:
    recipe = Recipe(rows="window", window_rows=70, baseline=False, half_life_days=60 / 86_400)
    contract = msgspec.structs.replace(CONTRACT, training=recipe)
    first(trainer)
    retrain(trainer, contract)
    digest = shown(trainer, 2)["digest"]
    rows = decode(contract, verify(trainer.files, NAME, digest))
    assert (len(rows), len(trainer.subjects())) == (70, 70)
    found = rebuilt(contract, BASELINE, digest, rows)
    assert found.weights is not None
    assert (found.baseline_rows, found.weights[-1] > found.weights[0]) == (0, True)


def test_a_version_says_that_its_set_cannot_be_rebuilt_since_when_and_why(trainer: Trainer) -> None:
    first(trainer)
    retrain(trainer)
    trainer.now += timedelta(days=3)
    trainer.erase(erasure(trainer.subjects()[0]))
    trainer.purge()
    found = shown(trainer, 2)
    assert (found["rebuildable"], found["reason"]) == (False, "a patient whose rows it held was erased")
    assert [datetime.fromisoformat(found[name]) for name in ("not_rebuildable_since", "purged_at")] == [trainer.now] * 2
    assert shown(trainer, 1)["rebuildable"]


def test_rows_of_subjects_that_were_erased_are_not_learnt_from_though_label_ingest_has_them(trainer: Trainer) -> None:
    first(trainer)
    erased = f"{149:032x}"
    trainer.erase(erasure(erased))
    retrain(trainer)
    found = shown(trainer, 2)
    rows = decode(CONTRACT, trainer.files.read(NAME, found["digest"]))
    assert (len(rows), erased in rows.subjects) == (109, False)


# --- the process


@pytest.fixture
def url(trainer: Trainer) -> Iterator[str]:
    """A trainer's real process, in whose folder a set of Anna's and Bert's is."""
    first(trainer)
    retrain(trainer)
    environment = {
        "DATABASE_URL": trainer.house.database_url("trainer"),
        "DRIFTLOOP_CONTRACTS": str(MODELS / "loan" / "contract.yaml"),
        "DRIFTLOOP_SIGNING_KEY": str(trainer.house.folder / "keys" / "signing.pem"),
        "DRIFTLOOP_TRAINING_SETS": trainer.files.root,
    }
    process, url = trainer.house.process("trainer", "driftloop.trainer.main", environment)
    process.start()
    process.wait_ready()
    yield url
    assert process.terminate() == 0


def test_an_erasure_on_the_topic_among_labels_ends_with_the_file_gone(trainer: Trainer, url: str) -> None:
    (digest,) = trainer.kept()
    made = [prediction(CONTRACT, row) for row in rows_like(CONTRACT, np.random.default_rng(4), 50)]
    trainer.house.publish(LABELED_PREDICTIONS, [(one.prediction_id, labeled(one, 1)) for one in made])
    subject = trainer.subjects()[0]
    trainer.house.publish(LABELED_PREDICTIONS, [(subject, erasure(subject, datetime.now(UTC)))])

    def version() -> dict[str, Any] | None:
        listed = httpx.get(f"{url}/v1/models/{NAME}", timeout=30).json()["versions"]
        found: dict[str, Any] = next(one for one in listed if one["version"] == 2)["training_set"]
        return found if found["purged_at"] else None

    assert wait_until(version, "the set is purged")["digest"] == digest
    assert trainer.kept() == []
