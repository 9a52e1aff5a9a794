"""What labels prove and bad data block: the drift monitor's signals, and what they say on `drift-events`."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
import pytest

from driftloop.common.events import (
    LabelRetracted,
    PredictionMade,
)
from driftloop.common.rows import Row
from tests.support.monitored import LOAN, RNG, Monitor, listed, spread, version_of
from tests.support.predictions import START, labeled, rows_like

# --- labels


def test_a_retraction_takes_its_label_away(monitor: Monitor) -> None:
    monitor.learn()
    made = spread(rows_like(LOAN, RNG, 4))
    monitor.label([labeled(one, 1) for one in made])
    monitor.label([retracted(made[0], 1)], partition=1)
    report = version_of(monitor.report())
    assert report["labelled"] == 3
    assert report["performance"]["n"] == 3  # type: ignore[index]


def retracted(made: PredictionMade, previous: int) -> LabelRetracted:
    return LabelRetracted(
        prediction_id=made.prediction_id, model_name=made.model_name, model_version=made.model_version,
        predicted_at=made.predicted_at, score=made.score, prediction=made.prediction, variant=made.variant,
        previous_label=previous, label_revision=2, retracted_at=START + timedelta(days=1),
    )  # fmt: skip


def with_truth(rows: Sequence[Row], start: datetime, flip: float = 0.0) -> tuple[list[PredictionMade], list[int]]:
    """Predictions of scores that are calibrated, and labels drawn by them; `flip` of the labels are the other one."""
    made = spread(rows, start)
    drawn = RNG.random(len(made))
    return made, [int((draw < one.score) != (RNG.random() < flip)) for one, draw in zip(made, drawn, strict=True)]


def stream(monitor: Monitor, seconds: Sequence[int], flip: float = 0.0, shift: float = 0.0) -> None:
    """500 predictions in each of these seconds, with all their labels."""
    for second in seconds:
        made, labels = with_truth(rows_like(LOAN, RNG, 500, shift), START + timedelta(seconds=second), flip)
        monitor.count(made, second % 2)
        monitor.label([labeled(one, label) for one, label in zip(made, labels, strict=True)], second % 3)


def test_labelled_windows_say_how_the_model_does_and_what_was_estimated(monitor: Monitor) -> None:
    monitor.learn()
    stream(monitor, range(2))
    monitor.evaluator().round()
    (window,) = listed(monitor, "performance_windows")
    assert (window["n"], window["labelled"], window["coverage"]) == (1000, 1000, 1.0)
    assert window["realised"]["accuracy"] == pytest.approx(0.75, abs=0.05)
    assert window["estimated"]["accuracy"] == pytest.approx(window["realised"]["accuracy"], abs=0.05)
    assert not window["concept"]["concept"]
    assert not window["decline"]["declined"]
    assert window["sets"]["coverage"] == pytest.approx(0.9, abs=0.04)
    assert monitor.outbox() == []


def test_a_changed_law_is_concept_drift_and_proven(monitor: Monitor) -> None:
    monitor.learn()
    stream(monitor, range(2), flip=0.3)
    monitor.evaluator().round()
    (event,) = monitor.outbox()
    assert (event.change, event.severity, event.attribution, event.proven) == ("opened", "CRITICAL", "concept", True)
    assert event.changed_since == START + timedelta(seconds=1)
    assert {one.name for one in event.signals} == {"concept", "performance"}
    report = monitor.report()
    assert report["verdict"] == "CRITICAL"
    assert "concept drift" in report["attribution"]["sentence"]  # type: ignore[index]


def test_a_labelled_window_that_is_well_again_clears_what_was_proven(monitor: Monitor) -> None:
    monitor.learn()
    stream(monitor, range(2), flip=0.3)
    monitor.evaluator().round()
    stream(monitor, range(2, 4))
    monitor.evaluator().round()
    opened, cleared = monitor.outbox()
    assert (cleared.change, cleared.verdict, cleared.closes) == ("cleared", "GOOD", "drift:loan:1:2.1:opened")
    assert opened.closes is None


# --- data quality


def without(rows: Sequence[Row], name: str, share: float) -> list[Row]:
    return [row | {name: None} if place < share * len(rows) else row for place, row in enumerate(rows)]


def test_missing_values_are_a_fault_of_the_data_and_block_retraining(monitor: Monitor) -> None:
    monitor.learn()
    monitor.count(spread(without(rows_like(LOAN, RNG, 500), "income", 0.2)))
    monitor.evaluator().round()
    (event,) = monitor.outbox()
    assert (event.severity, event.attribution, event.retraining_blocked) == ("CRITICAL", "quality", True)
    assert "income" in event.explanation


def test_a_drift_that_remains_when_the_data_are_well_is_told_anew(monitor: Monitor) -> None:
    monitor.learn()
    for second in range(2):
        rows = without(rows_like(LOAN, RNG, 500, shift=1), "income", 0.2)
        monitor.count(spread(rows, START + timedelta(seconds=second)))
    for second in range(2, 4):
        monitor.count(spread(rows_like(LOAN, RNG, 500, shift=1), START + timedelta(seconds=second)))
    monitor.evaluator().round()
    blocked, free = monitor.outbox()
    assert (blocked.retraining_blocked, blocked.attribution) == (True, "quality")
    assert (free.change, free.severity, free.retraining_blocked) == ("opened", "CRITICAL", False)
    assert free.reason == "the data are well again, the drift remains"
    assert free.changed_since is not None


# --- a roll-out


def test_the_report_says_what_a_roll_out_did(monitor: Monitor) -> None:
    monitor.learn(1)
    stream(monitor, range(2), flip=0.3, shift=1)
    monitor.evaluator().round()
    monitor.learn(2)
    monitor.now += timedelta(seconds=10)
    after = [
        msgspec.structs.replace(one, model_version=2)
        for one in spread(rows_like(LOAN, RNG, 500), START + timedelta(seconds=10))
    ]
    monitor.count(after)
    monitor.evaluator().round()
    rollout = monitor.report()["rollout"]
    assert (rollout["from"], rollout["to"], rollout["drift_went_down"]) == (1, 2, True)  # type: ignore[index]
    assert rollout["performance_came_back"] is None  # type: ignore[index]
    *_, cleared = monitor.outbox()
    assert cleared.reason == "version 2 serves"
    assert cleared.closes is not None
