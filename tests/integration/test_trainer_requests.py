"""The life of a retraining request on a real database: its states, what limits it, and who dies in the middle."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from prometheus_client import REGISTRY

from driftloop.common.events import SubjectErased
from driftloop.common.registry import ArtifactMissing, Bundle, StoreUnavailable
from driftloop.common.rows import Row
from driftloop.trainer import training_runs
from driftloop.trainer.awaiting import open_scheduled
from driftloop.trainer.request_store import RequestStore
from driftloop.trainer.training_files import Trained, TrainingTask
from driftloop.trainer.training_runs import Standby, TrainingLimits, run_training
from tests.support.artifacts import small_bundle
from tests.support.children import children
from tests.support.house import House
from tests.support.trainers import CONTRACT, GATES, LATER, NAME, LabelIngest, Trainer, alarm, train_here
from tests.support.waiting import wait_until


def new_law(row: Row) -> bool:
    """What the population does that the champion has not learnt."""
    return float(row["income"] or 0) >= 500_000


@pytest.fixture
def trainer(house: House) -> Trainer:
    """A trainer whose model has its first version."""
    trainer = Trainer(house, house.pool("trainer", max_size=8))
    trainer.first()
    return trainer


@pytest.fixture
def learning(trainer: Trainer) -> Trainer:
    """The same with labels of which a challenger learns a new law, and no guard for the old one."""
    trainer.labels = LabelIngest(700, new_law)
    trainer.contract = msgspec.structs.replace(
        CONTRACT, gates=msgspec.structs.replace(GATES, train_labels=600, gate_labels=100, accepted_loss=1.0)
    )
    return trainer


def history(request: dict[str, Any]) -> list[str]:
    return [one["state"] for one in request["history"]]


# --- from alarm to decision


def test_a_request_goes_through_its_states_each_with_time_and_reason(learning: Trainer) -> None:
    learning.drift()
    request = learning.retrain()
    assert history(request) == ["awaiting-labels", "training", "evaluated", "promoted"]
    assert all(one["reason"] and datetime.fromisoformat(one["at"]) == LATER for one in request["history"])
    assert (request["challenger"], learning.versions()) == (2, {1: "retired", 2: "champion"})
    assert [(state.champion, state.revision) for state in learning.published()] == [(1, 1), (2, 2)]


def test_a_challenger_that_is_not_better_is_rejected_and_nothing_is_published(trainer: Trainer) -> None:
    trainer.drift()
    request = trainer.retrain()
    assert history(request) == ["awaiting-labels", "training", "evaluated", "rejected"]
    assert "not proven better" in request["reason"]
    assert trainer.versions() == {1: "champion", 2: "rejected"}
    assert len(trainer.published()) == 1


def test_while_the_alarm_is_open_a_rejected_request_is_followed_by_one_that_waits_for_labels_of_its_own(
    trainer: Trainer,
) -> None:
    trainer.drift()
    trainer.retrain()
    follower, rejected = trainer.requests()
    assert (follower["cause"], follower["state"], follower["attempts"]) == ("follow-up", "awaiting-labels", 1)
    with trainer.retraining():
        wait_until(lambda: "labels" in trainer.requests()[0]["lacking"], "it says what it waits for")
    # 150 were there, and the gate's 40 must be new.
    assert trainer.requests()[0]["lacking"]["labels"] == 40
    trainer.labels.add(40)
    assert trainer.retrain()["id"] == follower["id"] > rejected["id"]


def test_a_prediction_dated_a_year_ahead_does_not_judge_and_lets_the_next_attempt_wait_for_none_later(
    trainer: Trainer,
) -> None:
    trainer.labels.add(1, at=LATER + timedelta(days=365))
    trainer.drift()
    request = trainer.retrain()
    assert trainer.labels.ids[-1] not in trainer.judges(2)
    ((judged_until,),) = trainer.rows("SELECT judged_until FROM requests WHERE id = %s", request["id"])
    assert judged_until < LATER


def test_labels_that_come_late_are_learnt_from_and_judge_nothing_where_newer_rows_have_judged(trainer: Trainer) -> None:
    """By number there are enough new labels; by the newest rows the same would judge again."""
    trainer.labels = LabelIngest(190)
    trainer.labels.taken_back = set(trainer.labels.ids[1:80:2])
    trainer.drift()
    trainer.retrain()
    assert trainer.judges(2) == trainer.labels.ids[-40:]
    trainer.labels.taken_back = set()
    trainer.labels.add(30)
    with trainer.retraining():
        wait_until(lambda: trainer.requests()[0]["lacking"].get("labels") == 10, "of the newer ones ten are wanted")
    newest = "only rows predicted after 2026-03-01 12:03:10 UTC judge, older ones have done so"
    assert trainer.requests()[0]["reason"] == f"waiting for 10 more labels of the new population: {newest}"
    trainer.labels.add(10)
    trainer.retrain()
    assert trainer.judges(3) == trainer.labels.ids[-40:]
    trained = trainer.rows("SELECT (card->'training'->>'labeled_rows')::int FROM versions WHERE version = 3")
    assert trained == [(190,)]


def test_an_alarm_that_flickers_lets_no_row_judge_twice(trainer: Trainer) -> None:
    trainer.drift()
    trainer.retrain()
    trainer.drift(alarm(change="cleared", verdict="GOOD"), "drift:2")
    trainer.drift(event_id="drift:3")
    with trainer.retraining():
        wait_until(lambda: trainer.requests()[0]["lacking"].get("labels") == 40, "it waits for labels of its own")
    assert (trainer.requests()[0]["cause"], trainer.versions()) == ("drift", {1: "champion", 2: "rejected"})


def test_a_training_that_came_to_its_end_by_no_decision_has_judged_on_nothing(trainer: Trainer) -> None:
    trainer.drift()
    interrupted(trainer, 1)
    trainer.drift(alarm(change="cleared", verdict="GOOD"), "drift:2")
    trainer.drift(event_id="drift:3")
    assert trainer.retrain()["state"] == "rejected"
    assert trainer.judges(2) == trainer.labels.ids[-40:]


def test_what_judged_before_the_migration_judges_no_more(trainer: Trainer) -> None:
    trainer.drift()
    trainer.retrain()
    with trainer.house.database("trainer") as connection:
        connection.execute("ALTER TABLE requests DROP COLUMN judged_until")
        connection.execute("ALTER TABLE requests ADD labels_judged int, ADD labels_before_next int")
        connection.execute("ALTER TABLE rollout_labels DROP COLUMN predicted_at")
        connection.execute("DELETE FROM schema_migrations WHERE name = '0009_judged_once.sql'")
    trainer.house.migrate()
    with trainer.pool.connection() as connection:
        follower = RequestStore(connection).current(NAME)
    assert follower is not None
    assert follower.judges_after == LATER


def test_the_card_says_how_late_the_labels_came(learning: Trainer) -> None:
    learning.drift()
    learning.retrain()
    ((delays,),) = learning.rows("SELECT card->'label_delays' FROM versions WHERE version = 2")
    assert delays["newest"] == {"rows": 100, "p50_seconds": 300.0, "p90_seconds": 300.0}
    assert delays["training"]["rows"] == 600


# --- patients who come again


def test_of_a_patient_who_came_often_one_row_judges_and_the_others_teach_nothing(learning: Trainer) -> None:
    """120 patients, each seen ten times: 100 judge by their newest row, the other 20 are learnt from."""
    learning.labels = LabelIngest(1200, new_law, patients=120)
    learning.contract = msgspec.structs.replace(
        learning.contract, gates=msgspec.structs.replace(learning.contract.gates, train_labels=100)
    )
    learning.drift()
    learning.retrain()
    assert learning.judges(2) == learning.labels.ids[-100:]
    trained = learning.rows("SELECT (card->'training'->>'labeled_rows')::int FROM versions WHERE version = 2")
    # The newest 1,000 are fetched, of which the 20 have eight each.
    assert trained == [(160,)]


def test_what_patients_who_came_often_lack_is_waited_for(trainer: Trainer) -> None:
    """Of 50 patients 40 judge; of the other ten are 30 rows, and 60 are wanted."""
    trainer.labels = LabelIngest(150, patients=50)
    trainer.drift()
    with trainer.retraining():
        wait_until(lambda: trainer.requests()[0]["lacking"].get("labels") == 30, "it says what it waits for")
    assert trainer.requests()[0]["state"] == "awaiting-labels"


def test_a_request_whose_alarm_was_cleared_while_it_was_judged_is_followed_by_none(trainer: Trainer) -> None:
    trainer.drift()
    write = trainer.artifacts.write

    def cleared(bundle: Bundle) -> Any:
        with trainer.pool.connection() as connection:
            (request,) = connection.execute("SELECT id FROM requests").fetchone() or (0,)
            RequestStore(connection).clear(request)
        return write(bundle)

    trainer.artifacts = replace(trainer.artifacts, write=cleared)
    trainer.retrain()
    assert [one["state"] for one in trainer.requests()] == ["rejected"]


# --- who may ask, and how often


def test_what_drift_asks_for_waits_for_the_cool_down_and_says_so(trainer: Trainer) -> None:
    trainer.drift()
    trainer.retrain()
    trainer.contract = msgspec.structs.replace(
        CONTRACT, retraining=msgspec.structs.replace(CONTRACT.retraining, cooldown_seconds=600)
    )
    trainer.labels.add(100)
    with trainer.retraining():
        wait_until(lambda: "cool-down" in trainer.requests()[0]["reason"], "it rests")
    assert "until 2026-03-01 13:10:00 UTC" in trainer.requests()[0]["reason"]
    trainer.now += timedelta(seconds=600)
    assert trainer.retrain()["state"] == "rejected"


def test_no_more_trainings_begin_in_a_day_than_the_contract_allows(trainer: Trainer) -> None:
    trainer.contract = msgspec.structs.replace(
        CONTRACT, retraining=msgspec.structs.replace(CONTRACT.retraining, daily_limit=1)
    )
    trainer.drift()
    trainer.retrain()
    trainer.labels.add(100)
    with trainer.retraining():
        wait_until(lambda: "daily limit of 1" in trainer.requests()[0]["reason"], "it waits for tomorrow")
    trainer.now += timedelta(days=1)
    assert trainer.retrain()["state"] == "rejected"


def test_what_somebody_asks_for_begins_at_once_and_is_followed_by_nothing(trainer: Trainer) -> None:
    trainer.contract = msgspec.structs.replace(
        CONTRACT, retraining=msgspec.structs.replace(CONTRACT.retraining, cooldown_seconds=1e6, daily_limit=1)
    )
    trainer.drift()
    trainer.retrain()
    trainer.drift(alarm(change="cleared", verdict="GOOD"), "drift:2")
    opened, new = trainer.operations.retrain(trainer.contract, "anna", "the lab changed its method")
    assert new
    request = trainer.retrain()
    assert (request["id"], request["cause"], request["state"]) == (opened, "manual", "rejected")
    assert request["history"][0]["reason"] == "asked for by anna: the lab changed its method"
    assert all(one["closed_at"] for one in trainer.requests())


@pytest.fixture
def resting(trainer: Trainer) -> Trainer:
    """A trainer whose drift request has its labels and rests for 11 days."""
    trainer.drift()
    trainer.retrain()
    trainer.contract = msgspec.structs.replace(
        CONTRACT, retraining=msgspec.structs.replace(CONTRACT.retraining, cooldown_seconds=1e6, daily_limit=1)
    )
    trainer.labels.add(100)
    with trainer.retraining():
        wait_until(lambda: "cool-down" in trainer.requests()[0]["reason"], "it rests")
    return trainer


def test_what_somebody_asks_for_rests_no_more_though_drift_asked_first(resting: Trainer) -> None:
    (waiting, *_) = resting.requests()
    assert resting.operations.retrain(resting.contract, "anna", "the lab is back") == (waiting["id"], False)
    request = resting.retrain()
    assert (request["id"], request["cause"], request["state"]) == (waiting["id"], "follow-up", "rejected")
    assert request["history"][1]["reason"] == "asked for by anna: the lab is back"
    # The alarm is open: it is followed by one that nobody asked for, which rests.
    follower = resting.requests()[0]
    assert (follower["cause"], follower["state"]) == ("follow-up", "awaiting-labels")


def test_what_somebody_asks_for_goes_on_when_the_alarm_is_cleared_and_is_followed_by_nothing(resting: Trainer) -> None:
    resting.operations.retrain(resting.contract, "anna", "")
    resting.drift(alarm(change="cleared", verdict="GOOD"), "drift:2")
    assert resting.retrain()["state"] == "rejected"
    assert all(one["closed_at"] for one in resting.requests())


def test_an_alarm_that_takes_over_what_somebody_asked_for_does_not_have_it_rest(resting: Trainer) -> None:
    resting.drift(alarm(change="cleared", verdict="GOOD"), "drift:2")
    resting.operations.retrain(resting.contract, "anna", "")
    resting.drift(event_id="drift:3")
    assert resting.retrain()["state"] == "rejected"


def test_an_end_that_a_clock_noted_a_year_ahead_hides_no_other(resting: Trainer) -> None:
    ahead = "UPDATE requests SET closed_at = closed_at + interval '1 year' WHERE closed_at IS NOT NULL RETURNING id"
    assert len(resting.rows(ahead)) == 1
    resting.operations.retrain(resting.contract, "anna", "")
    resting.retrain()
    with resting.retraining():
        wait_until(lambda: "cool-down" in resting.requests()[0]["reason"], "what follows rests by the second end")


def test_who_asks_twice_is_noted_once(resting: Trainer) -> None:
    for _ in range(2):
        resting.operations.retrain(resting.contract, "anna", "")
    assert len(resting.requests()[0]["history"]) == 2


def test_a_schedule_opens_one_request_each_time_that_it_is_due(trainer: Trainer) -> None:
    contract = msgspec.structs.replace(
        CONTRACT, retraining=msgspec.structs.replace(CONTRACT.retraining, schedule="0 3 * * *")
    )

    def look(hours: float) -> list[str]:
        with trainer.pool.connection() as connection:
            open_scheduled(connection, contract, LATER + timedelta(hours=hours))
        return [one["cause"] for one in trainer.requests()]

    # It is 13:00; at 3:00 it is due, however long nobody looks.
    assert look(0) == look(13.9) == []
    assert look(14.1) == look(14.2) == ["schedule"]
    with trainer.pool.connection() as connection:
        RequestStore(connection).become(trainer.requests()[0]["id"], "withdrawn", "a test's", LATER)
    assert look(20) == ["schedule"]
    assert look(24 * 5) == look(24 * 5 + 1) == ["schedule", "schedule"]


def test_a_schedule_that_a_clock_noted_a_year_ahead_goes_on_by_the_clock_that_is_right(trainer: Trainer) -> None:
    contract = msgspec.structs.replace(
        CONTRACT, retraining=msgspec.structs.replace(CONTRACT.retraining, schedule="0 3 * * *")
    )
    for hours in (24 * 365, 0, 1, 14.1):
        with trainer.pool.connection() as connection:
            open_scheduled(connection, contract, LATER + timedelta(hours=hours))
    assert [one["opened_at"] for one in trainer.requests()] == [LATER + timedelta(hours=14.1)]


def test_an_alarm_takes_over_what_somebody_asked_for(trainer: Trainer) -> None:
    trainer.operations.retrain(trainer.contract, "anna", "")
    trainer.drift(alarm(attribution="concept"))
    assert trainer.retrain()["state"] == "rejected"
    assert [one["cause"] for one in trainer.requests()] == ["follow-up", "drift"]
    assert trainer.rows("SELECT DISTINCT concept_drift FROM requests") == [(True,)]


def test_an_alarm_that_comes_back_while_a_challenger_is_judged_is_followed_again(trainer: Trainer) -> None:
    trainer.drift()
    write = trainer.artifacts.write

    def back(bundle: Bundle) -> Any:
        with trainer.pool.connection() as connection:
            RequestStore(connection).clear(trainer.requests()[0]["id"])
        trainer.drift(event_id="drift:2")
        return write(bundle)

    trainer.artifacts = replace(trainer.artifacts, write=back)
    trainer.retrain()
    assert [one["state"] for one in trainer.requests()] == ["awaiting-labels", "rejected"]


def test_while_data_are_bad_the_schedule_asks_for_nothing_and_what_it_asked_for_is_taken_back(trainer: Trainer) -> None:
    contract = msgspec.structs.replace(
        CONTRACT, retraining=msgspec.structs.replace(CONTRACT.retraining, schedule="0 * * * *")
    )

    def look(hours: float) -> list[str]:
        with trainer.pool.connection() as connection:
            open_scheduled(connection, contract, LATER + timedelta(hours=hours))
        return [one["state"] for one in trainer.requests()]

    look(0.1)
    assert look(1.1) == ["awaiting-labels"]
    trainer.drift(alarm(severity="WARNING", retraining_blocked=True, explanation="Glucose is in other units"))
    assert look(2.1) == ["withdrawn"]
    trainer.drift(alarm(change="cleared", verdict="GOOD"), "drift:2")
    assert look(3.1) == ["awaiting-labels", "withdrawn"]


def test_what_blocked_one_champions_retraining_does_not_block_the_next_ones(trainer: Trainer) -> None:
    trainer.drift()
    trainer.retrain()
    trainer.drift(alarm(severity="WARNING", retraining_blocked=True, explanation="income is in other units"), "drift:2")
    trainer.operations.promote(trainer.contract, 2, "anna", "")
    assert trainer.rows("SELECT champion, blocked FROM models") == [(2, None)]


# --- what goes wrong in the training


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, trainer: Trainer) -> Callable[..., None]:
    """Let trainings go wrong in a way."""

    def break_it(fault: str, limits: TrainingLimits = TrainingLimits(60)) -> None:
        monkeypatch.setattr(training_runs, "MODULE", "tests.support.broken_training")
        monkeypatch.setenv("DRIFTLOOP_TEST_TRAINING", fault)
        trainer.run = partial(run_training, limits)

    return break_it


@pytest.mark.parametrize(
    ("fault", "limits", "said"),
    [
        ("killed", TrainingLimits(60), "it was killed by SIGKILL"),
        ("hungry", TrainingLimits(60, 200 * 2**20), "it took more than 200 MiB of memory"),
        ("hangs", TrainingLimits(1), "it took more than 1 s"),
        ("silent", TrainingLimits(60), "it ended with status 7"),
    ],
)
def test_a_training_that_dies_is_told_of_tried_once_more_and_then_rejected(
    trainer: Trainer, broken: Callable[..., None], fault: str, limits: TrainingLimits, said: str
) -> None:
    broken(fault, limits)
    trainer.drift()
    request = trainer.retrain()
    assert history(request) == ["awaiting-labels", "training", "awaiting-labels", "training", "rejected"]
    assert f"is tried once more: {said}" in request["history"][2]["reason"]
    assert f"no challenger could be made: {said}" in request["reason"]
    assert (request["tries"], trainer.versions()) == (2, {1: "champion"})
    # Nothing was judged: the attempt that follows needs no other rows.
    assert trainer.rows("SELECT judged_until FROM requests WHERE id = %s", request["id"]) == [(None,)]


def test_rows_that_allow_no_model_are_not_tried_again(trainer: Trainer, broken: Callable[..., None]) -> None:
    broken("data")
    trainer.drift()
    assert history(trainer.retrain()) == ["awaiting-labels", "training", "rejected"]


def test_labels_of_one_class_only_end_in_a_rejection_that_says_so(trainer: Trainer) -> None:
    trainer.labels = LabelIngest(150, lambda _row: True)
    trainer.drift()
    request = trainer.retrain()
    assert request["state"] == "rejected"
    assert "all 40 newest labelled rows are of class 1" in request["reason"]


def test_a_training_whose_request_is_taken_back_ends(trainer: Trainer, broken: Callable[..., None]) -> None:
    broken("hangs")
    trainer.drift()
    with trainer.retraining():
        wait_until(lambda: trainer.requests()[0]["reason"] == "training: hanging", "it trains, and says at what it is")
        trainer.drift(alarm(change="cleared", verdict="GOOD"), "drift:2")
        wait_until(lambda: not children(training_runs.MODULE), "the process is gone")
    assert [one["state"] for one in trainer.requests()] == ["withdrawn"]


def test_a_training_that_ends_with_its_trainer_was_no_try(trainer: Trainer, broken: Callable[..., None]) -> None:
    broken("hangs")
    trainer.drift()
    with trainer.retraining():
        wait_until(lambda: trainer.requests()[0]["reason"] == "training: hanging", "it trains")
    (request,) = trainer.requests()
    assert (request["state"], request["tries"]) == ("awaiting-labels", 0)
    assert children(training_runs.MODULE) == set()
    trainer.run = train_here
    assert trainer.retrain()["tries"] == 1


def test_a_process_of_its_own_makes_what_this_one_would_and_leaves_no_folder(learning: Trainer) -> None:
    made: list[tuple[TrainingTask, Trained]] = []

    def keep(task: TrainingTask, stopped: Callable[[], bool], say: Callable[[str], None]) -> Trained:
        made.append((task, train_here(task, stopped, say)))
        return made[-1][1]

    learning.run = keep
    learning.drift()
    assert learning.retrain()["state"] == "promoted"
    ((task, here),) = made
    standby = Standby()
    standby.prepare()
    there = run_training(TrainingLimits(60), task, lambda: False, lambda _text: None, standby.take)
    assert there.bundle == here.bundle
    assert there.evidence.digest == here.evidence.digest
    assert list(Path(tempfile.gettempdir()).glob(f"{training_runs.PREFIX}{psutil.Process().pid}-*")) == []


def test_a_folder_that_a_trainer_of_the_same_number_left_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container every trainer is process 1."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"{training_runs.PREFIX}{psutil.Process().pid}-left").mkdir()
    training_runs.sweep()
    assert list(tmp_path.iterdir()) == []


# --- what is shown


def test_whoever_works_on_requests_no_more_shows_nothing_of_them(trainer: Trainer) -> None:
    trainer.labels = LabelIngest(90)
    trainer.drift()
    with trainer.retraining():
        wait_until(lambda: shown("driftloop_retrain_waiting_rows") == 10, "it shows what it waits for")
        assert shown("driftloop_champion_version") == 1
    assert shown("driftloop_retrain_waiting_rows") is shown("driftloop_champion_version") is None


def shown(name: str) -> float | None:
    return REGISTRY.get_sample_value(name, {"model_name": NAME})


# --- who dies in the middle


def interrupted(trainer: Trainer, tries: int) -> None:
    """A trainer died while it trained for the newest request, for the nth time."""
    (request, *_) = trainer.requests()
    with trainer.pool.connection() as connection:
        store = RequestStore(connection)
        assert store.become(request["id"], "training", "a test's", trainer.now)
        for _ in range(tries):
            store.count_try(request["id"], LATER)


def test_a_training_in_whose_middle_the_trainer_died_is_begun_anew(trainer: Trainer) -> None:
    trainer.drift()
    interrupted(trainer, 1)
    states = history(trainer.retrain())
    assert states == ["awaiting-labels", "training", "awaiting-labels", "training", "evaluated", "rejected"]


def test_a_trainer_that_dies_at_each_of_two_trainings_is_not_made_to_die_for_ever(trainer: Trainer) -> None:
    trainer.drift()
    interrupted(trainer, 2)
    found = trainer.retrain()
    assert (found["state"], found["reason"]) == (
        "rejected",
        "no challenger could be made: its trainer ended, or lost its database and the model to another",
    )


def test_what_was_judged_before_the_trainer_died_is_decided_by_the_next(learning: Trainer) -> None:
    learning.drift()
    write = learning.artifacts.write

    def then_alone(bundle: Bundle) -> Any:
        learning.labels.down = True
        return write(bundle)

    learning.artifacts = replace(learning.artifacts, write=then_alone)
    assert learning.retrain("evaluated")["challenger"] == 2
    with learning.retraining():
        wait_until(lambda: "waiting for label-ingest" in learning.requests()[0]["reason"], "it says what it waits for")
    learning.labels.down = False
    assert learning.retrain()["state"] == "promoted"
    assert [state.champion for state in learning.published()] == [1, 2]


def test_two_trainers_at_once_promote_once(learning: Trainer) -> None:
    learning.drift()
    with learning.retraining():
        request = learning.retrain()
    assert history(request) == ["awaiting-labels", "training", "evaluated", "promoted"]
    assert len(learning.published()) == 2


# --- what changes meanwhile


def test_a_few_labels_that_are_taken_back_say_nothing_against_a_challenger(learning: Trainer) -> None:
    learning.drift()
    write = learning.artifacts.write

    def taken_back(bundle: Bundle) -> Any:
        learning.labels.taken_back = set(learning.labels.ids[-10:])
        return write(bundle)

    learning.artifacts = replace(learning.artifacts, write=taken_back)
    assert learning.retrain()["state"] == "promoted"
    found = learning.decision(2)
    assert (found["same"], found["decision"]["newest"]["rows"]) == (True, 100)
    later = found["relabelled"]
    assert (later["same"], later["decision"]["promoted"], later["decision"]["newest"]["rows"]) == (True, True, 90)
    assert learning.requests()[0]["reason"] == "; ".join(later["decision"]["reasons"])


def test_a_decision_that_no_label_changed_is_made_once(learning: Trainer) -> None:
    learning.drift()
    learning.retrain()
    assert "relabelled" not in learning.decision(2)


@pytest.fixture
def taken_back(learning: Trainer) -> Trainer:
    """A trainer whose challenger passed its gate, of whose labels all but ten were taken back then."""
    learning.drift()
    write = learning.artifacts.write

    def then(bundle: Bundle) -> Any:
        learning.labels.taken_back = set(learning.labels.ids[-90:])
        return write(bundle)

    learning.artifacts = replace(learning.artifacts, write=then)
    assert learning.retrain()["state"] == "rejected"
    return learning


def test_labels_that_are_taken_back_between_training_and_promotion_count_no_more(taken_back: Trainer) -> None:
    reason = taken_back.requests()[-1]["reason"]
    assert reason.startswith("90 labels that it was judged on were amended or taken back since: only 10 of")
    assert taken_back.versions() == {1: "champion", 2: "rejected"}
    found = taken_back.decision(2)
    assert (found["decision"]["promoted"], found["same"]) == (True, True)
    later = found["relabelled"]
    assert (later["decision"]["promoted"], later["same"]) == (False, True)
    assert later["decision"]["reasons"][0] in reason


def test_what_a_decision_was_made_again_from_goes_with_an_erased_judge(taken_back: Trainer) -> None:
    judge = taken_back.labels.ids[-95].removeprefix("p-")
    taken_back.hear(SubjectErased(subject=judge, erased_at=LATER, predictions=1))
    later = taken_back.decision(2)["relabelled"]
    assert (later["decision"]["promoted"], later["again"], later["same"]) == (False, None, None)
    assert taken_back.rows("SELECT data, relabelled FROM evidence WHERE version = 2") == [(None, None)]


def test_a_challenger_one_of_whose_judges_was_erased_meanwhile_does_not_serve(learning: Trainer) -> None:
    learning.drift()
    subject = learning.labels.ids[-1].removeprefix("p-")
    write = learning.artifacts.write

    def erased(bundle: Bundle) -> Any:
        learning.hear(SubjectErased(subject=subject, erased_at=LATER, predictions=1))
        return write(bundle)

    learning.artifacts = replace(learning.artifacts, write=erased)
    request = learning.retrain()
    assert (request["state"], "was erased meanwhile" in request["reason"]) == ("rejected", True)


def test_a_champion_that_was_exchanged_by_hand_is_not_replaced(learning: Trainer) -> None:
    learning.drift()
    learning.retrain()
    learning.drift(alarm(version=2), "drift:2")
    learning.operations.roll_back(learning.contract, "anna", "complaints")
    assert [one["state"] for one in learning.requests()] == ["withdrawn", "promoted"]


def test_a_contract_whose_features_were_exchanged_compares_no_model_with_one_that_takes_others(
    learning: Trainer,
) -> None:
    learning.drift()
    learning.contract = msgspec.structs.replace(learning.contract, features=learning.contract.features[::-1])
    request = learning.retrain()
    assert history(request) == ["awaiting-labels", "training", "rejected"]
    assert "version 1 learnt from other features than the contract has" in request["reason"]


# --- what is away


def test_a_champion_whose_artifact_is_gone_is_waited_for(learning: Trainer) -> None:
    learning.drift()
    fetch = learning.artifacts.fetch

    def gone(*_: object) -> Bundle:
        raise ArtifactMissing("version 1 is not where it was: restore it")

    learning.artifacts = replace(learning.artifacts, fetch=gone)
    with learning.retraining():
        wait_until(lambda: "restore it" in learning.requests()[0]["reason"], "it says what is missing")
    assert history(learning.requests()[0]) == ["awaiting-labels"]
    learning.artifacts = replace(learning.artifacts, fetch=fetch)
    assert learning.retrain()["state"] == "promoted"


def test_a_full_store_is_waited_for_without_training_again(learning: Trainer) -> None:
    learning.drift()
    write = learning.artifacts.write
    refused: list[str] = []

    def full(bundle: Bundle) -> Any:
        if len(refused) < 3:
            refused.append(learning.requests()[0]["state"])
            raise StoreUnavailable("no space left: make room")
        return write(bundle)

    learning.artifacts = replace(learning.artifacts, write=full)
    request = learning.retrain()
    assert (refused, request["state"], request["tries"]) == (["training"] * 3, "promoted", 1)


def test_numbers_that_the_store_has_given_are_not_given_again_by_a_database_that_was_restored(
    learning: Trainer,
) -> None:
    learning.house.register(small_bundle(CONTRACT, version=4))
    learning.drift()
    request = learning.retrain()
    assert (request["state"], request["challenger"]) == ("promoted", 5)


def test_a_number_that_another_takes_meanwhile_is_left_to_it(learning: Trainer) -> None:
    learning.drift()
    write = learning.artifacts.write

    def overtaken(bundle: Bundle) -> Any:
        if bundle.model_version == 2:
            learning.house.register(small_bundle(CONTRACT, version=2))
        return write(bundle)

    learning.artifacts = replace(learning.artifacts, write=overtaken)
    request = learning.retrain()
    assert (request["state"], request["challenger"], request["tries"]) == ("promoted", 3, 2)


def test_while_the_store_is_away_no_number_is_given(learning: Trainer) -> None:
    learning.drift()
    asked: list[str] = []

    def away(model: str) -> int:
        asked.append(model)
        raise StoreUnavailable("the store is away: see its log")

    highest = learning.artifacts.highest
    learning.artifacts = replace(learning.artifacts, highest=away)
    with learning.retraining():
        wait_until(lambda: len(asked) > 3, "it asks again and again")
    assert "see its log" in learning.requests()[0]["reason"]
    learning.artifacts = replace(learning.artifacts, highest=highest)
    assert learning.retrain()["challenger"] == 2


def test_a_label_ingest_that_is_away_is_waited_for_and_named(learning: Trainer) -> None:
    learning.drift()
    learning.labels.down = True
    with learning.retraining():
        wait_until(lambda: "label-ingest" in learning.requests()[0]["reason"], "it says who is away")
    learning.labels.down = False
    assert learning.retrain()["state"] == "promoted"
