"""Trackers are told of every decision, once it is made, whatever they do: hang, fail, or are added later."""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec
import numpy as np
import psycopg
import pytest
from prometheus_client import REGISTRY

from driftloop.common.events import ArtifactRef
from driftloop.common.postgres.pool import Pool
from driftloop.trainer import tracking
from driftloop.trainer.domain.card import ModelCard, TrainingData, model_card
from driftloop.trainer.domain.challenger import BaselineData
from driftloop.trainer.domain.metrics import evaluate
from driftloop.trainer.first import train_first
from driftloop.trainer.resources import Artifacts
from driftloop.trainer.store import Store
from driftloop.trainer.trackers import Outcome
from driftloop.trainer.tracking import Limits, TrackWorker
from driftloop.trainer.tracking_store import RunFacts, TrackingStore, remember
from tests.support.house import House
from tests.support.models import shipped
from tests.support.paths import MODELS
from tests.support.predictions import START
from tests.support.trackers import FakeTracker, digest
from tests.support.waiting import wait_until

CONTRACT = shipped("loan").contract
NAME = CONTRACT.name
PATIENT = Limits(call_seconds=30.0)


def card(version: int) -> ModelCard:
    training = TrainingData(digest="d" * 64, rows=300, positives=100, baseline_rows=300, labeled_rows=0)
    figures = evaluate(np.array([0, 1], dtype=np.int8), np.array([0.1, 0.9]), 0.5)
    return model_card(CONTRACT, version, START, "a reason", training, {"newest": figures})


@dataclass
class Trainer:
    """What the trainer has decided, on a real database; `now` moves by hand."""

    house: House
    pool: Pool
    now: datetime = START
    read: list[int] = field(default_factory=list)

    def decide(self, version: int, outcome: Outcome, champion: int, challenger: int | None = None) -> None:
        """Decide on a version, made if need be, and have the trackers told."""
        with self.pool.connection() as connection:
            store = Store(connection)
            store.lock_model(NAME, self.now)
            if store.card(NAME, version) is None:
                ref = ArtifactRef(uri=f"s3://b/{version}", sha256=digest(version), signature="", key_id="")
                store.add_version(card(version), ref)
            remember(connection, RunFacts(NAME, version, outcome, champion, challenger, request=5), self.now)

    def read_model(self, _ref: ArtifactRef, _model: str, version: int) -> bytes:
        self.read.append(version)
        return b"model"

    def worker(self, tracker: FakeTracker, limits: Limits = PATIENT) -> TrackWorker:
        return TrackWorker(
            pool=self.pool, tracker=tracker, read_model=self.read_model, clock=lambda: self.now, every_seconds=0.05,
            limits=limits,
        )  # fmt: skip

    def tell(self, tracker: FakeTracker) -> None:
        """What a trainer that has just started does in its first round."""
        self.worker(tracker).round(threading.Event())

    def counts(self, tracker: str = "fake") -> tuple[int, int]:
        """Of how many versions a tracker is still to be told, and how many were given up."""
        with self.pool.connection() as connection:
            found = TrackingStore(connection, tracker).counts()
        return found.waiting, found.given_up


@pytest.fixture
def trainer(house: House) -> Trainer:
    return Trainer(house, house.pool("trainer"))


def fail() -> None:
    raise ConnectionError("http://someone:a-password@tracker")


@contextmanager
def running(*workers: TrackWorker) -> Iterator[threading.Event]:
    """Workers in threads, told to stop at the end, which they do."""
    stop = threading.Event()
    with ThreadPoolExecutor(len(workers)) as executor:
        futures = [executor.submit(one.run, stop) for one in workers]
        try:
            yield stop
        finally:
            stop.set()
        for future in futures:
            future.result(timeout=60)


@pytest.fixture
def hang() -> Iterator[Callable[[], object]]:
    """Hangs until the test ends."""
    release = threading.Event()
    yield release.wait
    release.set()


# --- what is told


def test_a_decision_is_told_with_what_the_card_says(trainer: Trainer) -> None:
    tracker = FakeTracker()
    trainer.decide(1, "promoted", champion=1)
    trainer.tell(tracker)
    (run,) = tracker.kept.values()
    assert (run.title, run.outcome, run.request, run.champion) == (f"{NAME} v1", "promoted", 5, digest(1))
    assert run.params["training.digest"] == "d" * 64
    assert run.metrics["newest.accuracy"] == 1.0
    assert msgspec.json.decode(run.card, type=ModelCard) == card(1)


def test_the_first_version_is_told_of_as_promoted_with_its_model(trainer: Trainer) -> None:
    loan = shipped("loan", trees=5)
    baseline = BaselineData.of(loan.contract, loan.values, loan.labels)
    artifacts = Artifacts(trainer.house.register, lambda *_: pytest.fail("nothing is fetched"), lambda _m: 0)
    train_first(trainer.pool, loan.contract, baseline, artifacts, lambda _m: 0, lambda: START, lambda _t: None)
    tracker = FakeTracker()
    trainer.tell(tracker)
    assert (tracker.told, tracker.champion(), trainer.read) == ([(f"{NAME} v1", "promoted")], f"{NAME} v1", [1])


def test_a_decision_that_is_rolled_back_is_told_to_nobody(trainer: Trainer) -> None:
    trainer.decide(1, "promoted", champion=1)
    with pytest.raises(RuntimeError), trainer.pool.connection() as connection:
        remember(connection, RunFacts(NAME, 1, "rolled-back", None), trainer.now)
        raise RuntimeError
    tracker = FakeTracker()
    trainer.tell(tracker)
    assert tracker.told == [(f"{NAME} v1", "promoted")]


def test_versions_are_told_in_the_order_of_their_decisions_and_once(trainer: Trainer) -> None:
    tracker = FakeTracker()
    for version in (1, 3, 2):
        trainer.now += timedelta(minutes=1)
        trainer.decide(version, "promoted" if version == 1 else "rejected", champion=1)
    trainer.tell(tracker)
    trainer.tell(tracker)
    assert [title for title, _ in tracker.told] == [f"{NAME} v{version}" for version in (1, 3, 2)]


def test_of_a_version_the_last_decision_is_told(trainer: Trainer) -> None:
    tracker = FakeTracker()
    trainer.decide(1, "promoted", champion=1)
    trainer.decide(2, "canary", champion=1, challenger=2)
    trainer.decide(2, "rejected", champion=1)
    trainer.tell(tracker)
    assert tracker.told == [(f"{NAME} v1", "promoted"), (f"{NAME} v2", "rejected")]
    trainer.decide(2, "promoted", champion=2)
    trainer.tell(tracker)
    assert tracker.told[2:] == [(f"{NAME} v2", "promoted")]


def test_a_version_that_serves_again_is_told_of_as_the_champion(trainer: Trainer) -> None:
    tracker = FakeTracker()
    trainer.decide(1, "promoted", champion=1)
    trainer.decide(2, "canary", champion=1, challenger=2)
    with trainer.pool.connection() as connection:
        remember(connection, RunFacts(NAME, 2, "promoted", 2), trainer.now)
    trainer.tell(tracker)
    trainer.decide(2, "rolled-back", champion=1)
    trainer.tell(tracker)
    assert tracker.champion() == f"{NAME} v1"
    assert {title for title, _ in tracker.told[2:]} == {f"{NAME} v1", f"{NAME} v2"}


def test_a_tracker_that_is_added_later_is_told_of_all_versions(trainer: Trainer) -> None:
    trainer.decide(1, "promoted", champion=1)
    trainer.decide(2, "rejected", champion=1)
    trainer.tell(FakeTracker())
    late = FakeTracker("late")
    trainer.tell(late)
    assert [outcome for _, outcome in late.told] == ["promoted", "rejected"]


def test_versions_of_before_the_migration_are_told_of(trainer: Trainer) -> None:
    trainer.decide(1, "promoted", champion=1)
    trainer.decide(2, "rejected", champion=1)
    with trainer.house.database("trainer") as connection:
        connection.execute("DROP TABLE tracked_sends, tracked_models, tracked_runs")
        connection.execute("DELETE FROM schema_migrations WHERE name = '0006_trackers.sql'")
        connection.execute("UPDATE models SET champion = 1")
        connection.execute("UPDATE versions SET status = 'rejected' WHERE version = 2")
    trainer.house.migrate()
    tracker = FakeTracker()
    trainer.tell(tracker)
    assert (dict(tracker.told), tracker.champion()) == (
        {f"{NAME} v1": "promoted", f"{NAME} v2": "rejected"}, f"{NAME} v1"
    )  # fmt: skip


# --- trackers that fail


def test_an_outage_is_waited_for_longer_each_time(trainer: Trainer) -> None:
    tracker = FakeTracker()
    tracker.before = calls = Calls(fail)  # type: ignore[method-assign]
    trainer.decide(1, "promoted", champion=1)
    tried = []
    for second in range(80):
        trainer.now = START + timedelta(seconds=second)
        if calls.tried_by(lambda: trainer.tell(tracker)):
            tried.append(second)
    assert tried == [0, 10, 30, 70]


def test_a_version_that_a_tracker_refuses_holds_up_no_other(trainer: Trainer) -> None:
    tracker = FakeTracker()
    trainer.decide(1, "promoted", champion=1)
    trainer.decide(2, "rejected", champion=1)
    tracker.before = fail  # type: ignore[method-assign]
    trainer.tell(tracker)
    tracker.before = lambda: None  # type: ignore[method-assign]
    trainer.tell(tracker)
    assert tracker.told == [(f"{NAME} v2", "rejected")]
    assert trainer.counts() == (1, 0)


def test_a_version_is_given_up_after_days_and_that_is_seen(trainer: Trainer, caplog: pytest.LogCaptureFixture) -> None:
    tracker = FakeTracker()
    tracker.before = fail  # type: ignore[method-assign]
    trainer.decide(1, "promoted", champion=1)
    trainer.tell(tracker)
    trainer.now += timedelta(days=7)
    trainer.tell(tracker)
    assert trainer.counts() == (0, 1)
    assert REGISTRY.get_sample_value("driftloop_tracked_runs_given_up", {"tracker": "fake"}) == 1
    assert logged(caplog)[-1].levelno == logging.ERROR
    tracker.before = lambda: None  # type: ignore[method-assign]
    trainer.now += timedelta(days=1)
    trainer.tell(tracker)
    assert tracker.told == []


def test_a_version_that_was_given_up_is_told_of_at_the_next_decision(trainer: Trainer) -> None:
    tracker = FakeTracker()
    tracker.before = fail  # type: ignore[method-assign]
    trainer.decide(1, "promoted", champion=1)
    trainer.tell(tracker)
    trainer.now += timedelta(days=8)
    trainer.tell(tracker)
    tracker.before = lambda: None  # type: ignore[method-assign]
    trainer.decide(1, "rolled-back", champion=1)
    assert trainer.counts() == (1, 0)
    trainer.tell(tracker)
    assert (tracker.told, trainer.counts()) == ([(f"{NAME} v1", "rolled-back")], (0, 0))


def test_what_a_tracker_says_of_its_failure_is_in_no_log(trainer: Trainer, caplog: pytest.LogCaptureFixture) -> None:
    tracker = FakeTracker()
    tracker.before = fail  # type: ignore[method-assign]
    trainer.decide(1, "promoted", champion=1)
    trainer.tell(tracker)
    (record,) = [one for one in logged(caplog) if one.levelno == logging.WARNING]
    assert record.__dict__["error"] == "ConnectionError"
    assert not any("a-password" in str(value) for one in caplog.records for value in one.__dict__.values())


def test_a_card_that_cannot_be_told_does_not_end_the_worker(trainer: Trainer) -> None:
    tracker = FakeTracker()
    trainer.decide(1, "promoted", champion=1)
    with trainer.pool.connection() as connection:
        connection.execute("""UPDATE versions SET card = '{"metrics": 7}'""")
    trainer.tell(tracker)
    assert trainer.counts() == (1, 0)


# --- trackers that hang


def test_a_call_that_hangs_is_a_failure_after_its_time(trainer: Trainer, hang: Callable[[], object]) -> None:
    tracker = FakeTracker()
    tracker.before = hang  # type: ignore[method-assign, assignment]
    trainer.decide(1, "promoted", champion=1)
    with running(trainer.worker(tracker, Limits(call_seconds=0.2))):
        wait_until(lambda: attempts(trainer) == 1, "the failure is noted")


def test_a_tracker_that_hangs_delays_neither_another_nor_a_decision(
    trainer: Trainer, hang: Callable[[], object]
) -> None:
    stuck, well = FakeTracker("stuck"), FakeTracker("well")
    entered = threading.Event()

    def enter() -> None:
        entered.set()
        hang()

    stuck.before = enter  # type: ignore[method-assign]
    trainer.decide(1, "promoted", champion=1)
    with running(trainer.worker(stuck), trainer.worker(well)):
        assert entered.wait(60)
        trainer.decide(2, "rejected", champion=1)
        wait_until(lambda: len(well.told) == 2, "the other tracker knows both")
    assert stuck.told == []


def test_nobody_calls_a_tracker_whose_call_still_hangs(trainer: Trainer, hang: Callable[[], object]) -> None:
    stuck = FakeTracker()
    stuck.before = calls = Calls(hang)  # type: ignore[method-assign]
    trainer.decide(1, "promoted", champion=1)
    trainer.decide(2, "rejected", champion=1)
    with running(trainer.worker(stuck, Limits(call_seconds=0.2))):
        wait_until(lambda: attempts(trainer) == 1, "the failure is noted")
        trainer.now += timedelta(hours=2)
        # Another trainer, which would not wait for long; the first one has its own next rounds meanwhile.
        another = trainer.worker(stuck, Limits(call_seconds=0.2))
        for _ in range(50):
            another.round(threading.Event())
        assert calls.count == 1


# --- processes that end


def test_a_trainer_that_dies_between_telling_and_noting_tells_it_again_as_the_same_run(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = FakeTracker()
    trainer.decide(1, "promoted", champion=1)
    with monkeypatch.context() as patched:
        patched.setattr(TrackingStore, "set_sent", dies)
        with pytest.raises(psycopg.OperationalError):
            trainer.tell(tracker)
    trainer.tell(tracker)
    assert (len(tracker.told), len(tracker.runs()), trainer.counts()) == (2, 1, (0, 0))


def test_a_trainer_that_is_told_to_stop_leaves_a_call_that_hangs(trainer: Trainer, hang: Callable[[], object]) -> None:
    tracker = FakeTracker()
    tracker.before = calls = Calls(hang)  # type: ignore[method-assign]
    trainer.decide(1, "promoted", champion=1)
    with running(trainer.worker(tracker)):
        wait_until(lambda: calls.count == 1, "the call hangs")
    assert trainer.counts() == (1, 0)
    assert attempts(trainer) is None


def test_a_trainer_without_the_package_of_its_tracker_says_so_and_works(trainer: Trainer) -> None:
    trainer.house.signing_key  # noqa: B018 - makes the keys
    environment = {
        "DATABASE_URL": trainer.house.database_url("trainer"),
        "DRIFTLOOP_CONTRACTS": str(MODELS / "loan" / "contract.yaml"),
        "DRIFTLOOP_SIGNING_KEY": str(trainer.house.folder / "keys" / "signing.pem"),
        "MLFLOW_TRACKING_URI": "http://someone:a-password@127.0.0.1:9",
    }
    process, _url = trainer.house.process("trainer", "driftloop.trainer.main", environment)
    process.start()
    process.wait_ready()
    assert process.terminate() == 0
    log = process.log_path.read_text()
    assert "install driftloop-trainer[mlflow]" in log
    assert "a-password" not in log


def logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What the worker has logged; threads of what the test does not look at log, too."""
    return [one for one in caplog.records if one.name == tracking.logger.name]


def dies(*_: object) -> None:
    raise psycopg.OperationalError


def attempts(trainer: Trainer) -> int | None:
    """How often the fake tracker was told of a decision without success."""
    with trainer.pool.connection() as connection:
        row = connection.execute("SELECT sum(attempts) FROM tracked_sends WHERE sent_at IS NULL").fetchone()
    return row[0] if row else None


@dataclass
class Calls:
    """Counts the calls of a function."""

    work: Callable[[], object]
    count: int = 0

    def __call__(self) -> None:
        self.count += 1
        self.work()

    def tried_by(self, work: Callable[[], object]) -> bool:
        """Whether `work` calls it."""
        before = self.count
        work()
        return self.count > before
