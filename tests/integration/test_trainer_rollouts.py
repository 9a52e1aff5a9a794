"""Roll-outs on a real database: what is published at each step, what counts, and what ends them."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import msgspec
import numpy as np
import pytest
from prometheus_client import REGISTRY

from driftloop.common.contract import Rollout, RolloutStep
from driftloop.common.events import (
    LabelRetracted,
    ModelStatus,
    PredictionLabeled,
    ShadowScore,
    SubjectErased,
)
from driftloop.trainer import handlers
from driftloop.trainer.exporting import ExportWorker
from driftloop.trainer.operations import Refused, Unknown
from driftloop.trainer.request_store import RequestStore
from driftloop.trainer.store import Store
from tests.support.house import House
from tests.support.predictions import labeled, prediction, rows_like
from tests.support.trainers import CONTRACT, GATES, LATER, NAME, LabelIngest, Trainer, alarm
from tests.support.waiting import wait_until

RAMP = Rollout(
    steps=(
        RolloutStep(weight=0, min_labels=20),
        RolloutStep(weight=0.1, min_labels=20, min_seconds=3600),
        RolloutStep(weight=0.5, min_labels=20),
    ),
    min_labels=50,
)
ROW = rows_like(CONTRACT, np.random.default_rng(5), 1)[0]


@pytest.fixture
def trainer(house: House) -> Trainer:
    """A trainer whose challenger, version 2, is a shadow: its roll-out has just begun."""
    gates = msgspec.structs.replace(GATES, train_labels=600, gate_labels=100, accepted_loss=1.0)
    trainer = Trainer(
        house,
        house.pool("trainer", max_size=8),
        LabelIngest(700, lambda row: float(row["income"] or 0) >= 500_000),
        msgspec.structs.replace(CONTRACT, gates=gates, rollout=RAMP),
    )
    trainer.first()
    trainer.drift()
    assert trainer.retrain()["state"] == "canary"
    return trainer


def heard(
    number: int, *, winner: int, subject: str | None = None, answered_by: int = 1, label: int = 1
) -> PredictionLabeled:
    """A labelled request that both versions scored, and only `winner` was right about."""
    said = {version: (0.9 if label else 0.1) if version == winner else (0.1 if label else 0.9) for version in (1, 2)}
    other = 3 - answered_by
    made = prediction(
        CONTRACT, ROW, version=answered_by, score=said[answered_by], subject=subject, prediction_id=f"r-{number}"
    )
    shadow = ShadowScore(model_version=other, score=said[other], prediction=said[other] >= 0.5)
    return msgspec.structs.replace(
        labeled(made, label), shadows=(shadow,), variant="champion" if answered_by == 1 else "canary"
    )


def hear(trainer: Trainer, first: int, count: int, winner: int) -> None:
    """So many labels, each of another patient; every other request was answered by the challenger."""
    trainer.hear(
        *(heard(n, winner=winner, subject=f"{n:032x}", answered_by=1 + n % 2) for n in range(first, first + count))
    )


def served(trainer: Trainer) -> tuple[int, int | None, tuple[int, float] | None]:
    """The champion, the shadow, and the canary with its weight, as last decided."""
    state = trainer.published()[-1]
    return state.champion, state.shadow, None if state.canary is None else (state.canary.version, state.canary.weight)


def status(**said: object) -> ModelStatus:
    """What a predictor says of itself."""
    return msgspec.convert(
        {
            "model_name": NAME, "replica": "p-1", "revision": 2, "model_version": 1, "since": LATER,
            "reported_at": LATER + timedelta(seconds=1),
        } | said,
        ModelStatus,
    )  # fmt: skip


def report(trainer: Trainer, *events: ModelStatus) -> None:
    with trainer.pool.connection() as connection:
        handlers.on_status(Store(connection), events)


# --- the ramp


def test_a_challenger_goes_from_shadow_over_each_weight_to_the_champions_place(trainer: Trainer) -> None:
    seen = [served(trainer)]
    for step in range(3):
        hear(trainer, 20 * step, 20, winner=2)
        trainer.roll_out()
        seen.append(served(trainer))
    assert seen == [(1, 2, None), (1, None, (2, 0.1)), (1, None, (2, 0.5)), (2, None, None)]
    assert [state.revision for state in trainer.published()] == [1, 2, 3, 4, 5]
    (request,) = trainer.requests()
    assert [one["state"] for one in request["history"][-4:]] == ["canary", "canary", "canary", "promoted"]
    assert trainer.versions() == {1: "retired", 2: "champion"}


def test_every_state_of_a_roll_out_carries_both_versions(trainer: Trainer) -> None:
    hear(trainer, 0, 20, winner=2)
    trainer.roll_out()
    for state in trainer.published()[1:]:
        assert {one.version for one in state.versions} == {1, 2}


def test_a_step_that_is_not_over_changes_nothing(trainer: Trainer) -> None:
    hear(trainer, 0, 19, winner=2)
    for _ in range(3):
        trainer.roll_out()
    assert len(trainer.published()) == 2


def test_a_step_ends_with_its_time_where_labels_are_few(trainer: Trainer) -> None:
    hear(trainer, 0, 20, winner=2)
    trainer.roll_out()
    trainer.now += timedelta(hours=1)
    trainer.roll_out()
    assert served(trainer) == (1, None, (2, 0.5))


def test_a_challenger_that_is_worse_on_live_labels_is_rolled_back_and_followed(trainer: Trainer) -> None:
    hear(trainer, 0, 12, winner=1)
    trainer.roll_out()
    assert served(trainer) == (1, None, None)
    assert trainer.versions() == {1: "champion", 2: "rolled-back"}
    follower, request = trainer.requests()
    assert (request["state"], follower["cause"], follower["state"]) == ("rolled-back", "follow-up", "awaiting-labels")
    assert request["reason"].startswith("proven worse: 0 rows won, 12 lost of 12")
    (verdict,) = trainer.rows("SELECT verdict->'tally' FROM rollouts WHERE ended_at IS NOT NULL")
    assert verdict[0] == {"wins": 0, "losses": 12, "rows": 12}


def test_what_was_compared_in_a_roll_out_judges_no_challenger_that_follows(trainer: Trainer) -> None:
    """Its labels have judged, too, the gate's being older."""
    hear(trainer, 0, 11, winner=1)
    newest = LATER + timedelta(minutes=5)
    trainer.hear(msgspec.structs.replace(heard(11, winner=1), predicted_at=newest))
    trainer.roll_out()
    with trainer.pool.connection() as connection:
        follower = RequestStore(connection).current(NAME)
    assert follower is not None
    assert (follower.cause, follower.judges_after) == ("follow-up", newest)


def test_a_roll_out_that_is_over_is_not_shown(trainer: Trainer) -> None:
    hear(trainer, 0, 12, winner=1)
    trainer.roll_out()
    name = "driftloop_rollout_labels", {"model_name": NAME}
    assert REGISTRY.get_sample_value(*name) == 12
    trainer.roll_out()
    assert REGISTRY.get_sample_value(*name) is None


def test_what_a_model_is_at_is_shown(trainer: Trainer) -> None:
    worker = ExportWorker(trainer.pool, [NAME], lambda: trainer.now, 1.0)
    (made,) = trainer.rows("SELECT created_at FROM versions WHERE version = 1")
    hear(trainer, 0, 20, winner=2)
    trainer.roll_out()
    trainer.now += timedelta(minutes=10)
    worker.round(threading.Event())
    assert shown("canary_version") == 2
    assert shown("canary_weight") == 0.1
    assert shown("champion_age_seconds") == (trainer.now - made[0]).total_seconds()
    # Another step is no other state.
    (since,) = trainer.rows("SELECT min(at) FROM request_changes WHERE state = 'canary'")
    assert shown("retraining_state_seconds", state="canary") == (trainer.now - since[0]).total_seconds()
    hear(trainer, 20, 80, winner=1)
    trainer.roll_out()
    worker.round(threading.Event())
    assert (shown("canary_version"), shown("canary_weight")) == (None, None)
    assert shown("retraining_state_seconds", state="canary") is None
    # An alarm is still open: another request follows.
    assert shown("retraining_state_seconds", state="awaiting-labels") == 0
    stop = threading.Event()
    stop.set()
    worker.run(stop)
    assert (shown("champion_age_seconds"), shown("retraining_state_seconds", state="awaiting-labels")) == (None, None)


def shown(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"driftloop_{name}", {"model_name": NAME} | labels)


def test_two_workers_at_once_decide_once(trainer: Trainer) -> None:
    hear(trainer, 0, 12, winner=1)
    trainer.roll_out()
    trainer.roll_out()
    assert len(trainer.published()) == 3


# --- what counts


def tally(trainer: Trainer) -> tuple[int, ...]:
    """Rows that only the challenger, and only the champion, got right, of how many."""
    (found,) = trainer.rows(
        "SELECT count(*) FILTER (WHERE challenger = label AND champion <> label), "
        "count(*) FILTER (WHERE champion = label AND challenger <> label), count(label) FROM rollout_labels"
    )
    return found


def test_requests_count_whichever_version_answered_them(trainer: Trainer) -> None:
    trainer.hear(heard(1, winner=2, answered_by=1), heard(2, winner=2, answered_by=2), heard(3, winner=1, label=0))
    assert tally(trainer) == (2, 1, 3)


def test_of_a_patient_the_first_label_counts(trainer: Trainer) -> None:
    trainer.hear(*(heard(n, winner=winner, subject="a" * 32) for n, winner in ((1, 2), (2, 1), (3, 1))))
    trainer.hear(heard(4, winner=1, subject="b" * 32))
    assert tally(trainer) == (1, 1, 2)


def test_requests_of_unknown_patients_count_each(trainer: Trainer) -> None:
    trainer.hear(heard(1, winner=2), heard(2, winner=2))
    assert tally(trainer) == (2, 0, 2)


def test_a_label_that_comes_twice_counts_once(trainer: Trainer) -> None:
    trainer.hear(heard(1, winner=2), heard(1, winner=2))
    assert tally(trainer) == (1, 0, 1)


def test_a_corrected_label_counts_as_what_it_became(trainer: Trainer) -> None:
    trainer.hear(heard(1, winner=2))
    trainer.hear(msgspec.structs.replace(heard(1, winner=2), label=0, previous_label=1, label_revision=2))
    assert tally(trainer) == (0, 1, 1)


def retracted(event: PredictionLabeled) -> LabelRetracted:
    return LabelRetracted(
        prediction_id=event.prediction_id, model_name=NAME, model_version=1, predicted_at=LATER, score=0.1,
        prediction=False, variant="champion", previous_label=1, label_revision=2, retracted_at=LATER,
    )  # fmt: skip


def test_a_label_that_is_taken_back_counts_no_more_and_the_patients_next_does(trainer: Trainer) -> None:
    first, second = (heard(n, winner=winner, subject="a" * 32) for n, winner in ((1, 2), (2, 1)))
    trainer.hear(first, retracted(first))
    assert tally(trainer) == (0, 0, 0)
    trainer.hear(second)
    assert tally(trainer) == (0, 1, 1)


def test_an_erased_patient_counts_no_more(trainer: Trainer) -> None:
    trainer.hear(heard(1, winner=2, subject="a" * 32), heard(2, winner=2, subject="b" * 32))
    trainer.hear(SubjectErased(subject="a" * 32, erased_at=LATER, predictions=1))
    assert tally(trainer) == (1, 0, 1)


def test_a_label_that_comes_after_its_patient_was_erased_does_not_count(trainer: Trainer) -> None:
    """They come in different partitions."""
    trainer.hear(SubjectErased(subject="a" * 32, erased_at=LATER, predictions=1))
    trainer.hear(heard(1, winner=2, subject="a" * 32), heard(2, winner=2, subject="b" * 32))
    assert tally(trainer) == (1, 0, 1)


def test_of_a_roll_out_that_has_ended_no_label_is_kept(trainer: Trainer) -> None:
    hear(trainer, 0, 12, winner=1)
    trainer.roll_out()
    assert tally(trainer) == (0, 0, 0)


def test_a_label_that_comes_while_its_roll_out_ends_is_not_kept(trainer: Trainer) -> None:
    hear(trainer, 0, 12, winner=1)

    def waits() -> bool:
        return bool(trainer.rows("SELECT 1 FROM pg_stat_activity WHERE usename = user AND wait_event_type = 'Lock'"))

    with ThreadPoolExecutor(1) as executor:
        with trainer.pool.connection() as connection:
            handlers.on_labels(connection, lambda: LATER, [heard(99, winner=2)])
            ending = executor.submit(trainer.roll_out)
            wait_until(lambda: ending.done() or waits(), "the roll-out ends, or waits")
        ending.result(60)
    assert (served(trainer), tally(trainer)) == ((1, None, None), (0, 0, 0))


@pytest.mark.parametrize(
    "alone",
    [
        lambda event: msgspec.structs.replace(event, shadows=()),
        lambda event: msgspec.structs.replace(event, model_version=7),
        lambda event: msgspec.structs.replace(event, model_name="other"),
    ],
)
def test_a_request_that_not_both_of_them_scored_does_not_count(
    trainer: Trainer, alone: Callable[[PredictionLabeled], PredictionLabeled]
) -> None:
    trainer.hear(alone(heard(1, winner=2)))
    assert tally(trainer) == (0, 0, 0)


# --- what predictors report


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"refused_revision": 2, "error": "signature: no trusted key"}, "p-1: signature: no trusted key"),
        ({"failing": (2,)}, "p-1: it gave no probability"),
        # Its clock is an hour behind.
        ({"failing": (2,), "reported_at": LATER - timedelta(hours=1)}, "p-1: it gave no probability"),
    ],
)
def test_what_a_predictor_cannot_serve_is_rolled_back(trainer: Trainer, said: dict[str, object], reason: str) -> None:
    hear(trainer, 0, 20, winner=2)
    report(trainer, status(**said))
    trainer.roll_out()
    assert served(trainer) == (1, None, None)
    assert trainer.requests()[1]["reason"] == f"predictors report errors: {reason}"


@pytest.mark.parametrize(
    "said",
    [
        {"refused_revision": 2, "error": "unavailable: no store"},
        {"refused_revision": 1, "error": "signature: of an older revision"},
        {"failing": (1,)},
        {"failing": (2,), "revision": 1},
    ],
)
def test_what_says_nothing_of_the_challenger_rolls_nothing_back(trainer: Trainer, said: dict[str, object]) -> None:
    report(trainer, status(**said))
    trainer.roll_out()
    assert served(trainer) == (1, 2, None)


def test_a_predictor_that_cannot_fetch_it_for_long_is_an_error_at_last(trainer: Trainer) -> None:
    late = LATER + timedelta(minutes=6)
    report(trainer, status(refused_revision=2, error="unavailable: no store", reported_at=late))
    trainer.roll_out()
    assert served(trainer) == (1, None, None)


# --- orders


def test_the_alarm_that_is_cleared_meanwhile_lets_the_roll_out_go_on_and_nothing_follow(trainer: Trainer) -> None:
    trainer.drift(alarm(change="cleared", verdict="GOOD"), "drift:2")
    hear(trainer, 0, 12, winner=1)
    trainer.roll_out()
    assert [one["state"] for one in trainer.requests()] == ["rolled-back"]


def test_a_roll_back_by_hand_ends_the_roll_out_first_and_the_champion_next(trainer: Trainer) -> None:
    trainer.operations.roll_back(trainer.contract, "anna", "complaints")
    assert served(trainer) == (1, None, None)
    (request,) = trainer.requests()
    assert (request["state"], request["reason"]) == ("rolled-back", "rolled back by anna: complaints")
    with pytest.raises(Refused, match="nothing served before it"):
        trainer.operations.roll_back(trainer.contract, "anna", "")


def test_the_champion_that_is_named_in_a_roll_back_ends_the_roll_out(trainer: Trainer) -> None:
    trainer.operations.roll_back(trainer.contract, "anna", "", to=1)
    assert (served(trainer), trainer.versions()) == ((1, None, None), {1: "champion", 2: "rolled-back"})


def test_a_roll_back_that_is_sent_twice_does_not_bring_the_bad_version_back(trainer: Trainer) -> None:
    trainer.operations.promote(trainer.contract, 2, "anna", "")
    trainer.operations.roll_back(trainer.contract, "anna", "")
    with pytest.raises(Refused, match="nothing served before it that was not rolled back"):
        trainer.operations.roll_back(trainer.contract, "anna", "")
    assert served(trainer) == (1, None, None)


def test_a_promotion_by_hand_ends_the_roll_out_in_its_favour(trainer: Trainer) -> None:
    found = trainer.operations.promote(trainer.contract, 2, "anna", "I have looked at it")
    assert (found.champion, served(trainer)) == (2, (2, None, None))
    assert [one["state"] for one in trainer.requests()] == ["promoted"]
    trainer.operations.roll_back(trainer.contract, "anna", "it was a mistake")
    assert trainer.versions() == {1: "champion", 2: "rolled-back"}
    trainer.operations.promote(trainer.contract, 2, "bert", "it was none")
    assert trainer.versions() == {1: "retired", 2: "champion"}
    last = [state.reason for state in trainer.published()[-2:]]
    assert last == ["rolled back by anna: it was a mistake", "promoted by bert: it was none"]


def test_what_serves_already_and_what_does_not_exist_is_refused(trainer: Trainer) -> None:
    with pytest.raises(Refused, match="version 1 of model 'loan' serves already"):
        trainer.operations.promote(trainer.contract, 1, "anna", "")
    with pytest.raises(Unknown, match="has no version 9"):
        trainer.operations.promote(trainer.contract, 9, "anna", "")
    with pytest.raises(Unknown, match="has no version 9"):
        trainer.operations.roll_back(trainer.contract, "anna", "", to=9)
    assert len(trainer.published()) == 2


# --- after a restore


def test_what_the_database_says_is_published_above_what_the_topic_holds(trainer: Trainer) -> None:
    state = trainer.published()[-1]
    operations = replace(trainer.operations, highest_revision=lambda _model: state.revision + 5)
    found = operations.republish(trainer.contract, "anna", "restored")
    again = trainer.published()[-1]
    assert (found.champion, found.revision) == (state.champion, state.revision + 6)
    assert again.reason == "published anew by anna: restored"
    # The roll-out goes on where it was.
    assert (again.champion, again.canary, again.shadow) == (state.champion, state.canary, state.shadow)
    with pytest.raises(Refused, match="nothing to publish anew"):
        operations.republish(trainer.contract, "anna", "")
