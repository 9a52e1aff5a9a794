"""Whatever arrives, in whatever order, at once or twice: the labels are those that a simple account of all of it says.

`DRIFTLOOP_TEST_HISTORIES=20000` tries so many histories instead of a few; a failure names its seed.
"""

import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import msgspec
import psycopg
import pytest

from driftloop.common.events import LabelRetracted, PredictionLabeled
from driftloop.common.pseudonyms import order_pseudonym, pseudonym
from tests.support.house import House
from tests.support.label_histories import CONTRACTS, POLICIES, Batch, History, history, verdict
from tests.support.label_ingest import PSEUDONYM_KEY, Desk
from tests.support.predictions import START
from tests.support.reference_labels import Name, Truth, truth

HISTORIES = int(os.environ.get("DRIFTLOOP_TEST_HISTORIES", "60"))
FIRST = int(os.environ.get("DRIFTLOOP_TEST_FIRST_HISTORY", "0"))
PIECES = 4


@pytest.fixture
def desk(opened_desk: tuple[House, Desk]) -> Desk:
    return Desk(opened_desk[1].pool, now=START.replace(year=START.year + 1), contracts=CONTRACTS)


class _Crash(Exception):
    """The process ends between the join and the commit."""


def deliver(desk: Desk, batch: Batch) -> None:
    """A batch arrives; of two transactions that meet the one that does not get through comes again."""
    while True:
        try:
            with desk.pool.connection() as connection, connection.transaction():
                desk.join(connection, batch.predictions, batch.reports)
                if batch.lost:
                    raise _Crash
        except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
            continue
        except _Crash:
            pass
        return


def live(desk: Desk, lived: History) -> None:
    """Let it all arrive, on an empty desk."""
    desk.clear()
    for one in lived.reports:
        # The doors refuse those without an id; the rule holds for them all the same.
        assert desk.intake.problem(one if one.result_id else msgspec.structs.replace(one, result_id="L")) is None
    with ThreadPoolExecutor(4) as threads:
        for batches in lived.rounds:
            list(threads.map(lambda batch: deliver(desk, batch), batches))


@dataclass(frozen=True)
class Story:
    """What was published of a prediction: (label, the label before, revision), in order."""

    chapters: tuple[tuple[int | None, int | None, int], ...]

    def is_whole(self) -> bool:
        """Whether revisions have no gap, and each label before is the one before."""
        before = None
        for place, (label, previous, revision) in enumerate(self.chapters, start=1):
            if revision != place or previous != before or label == before:
                return False
            before = label
        return True

    @property
    def end(self) -> int | None:
        """The label that a reader of the topic holds."""
        return self.chapters[-1][0] if self.chapters else None


def stories(desk: Desk) -> dict[str, Story]:
    """What the outbox tells of each prediction."""
    found: dict[str, list[tuple[int | None, int | None, int]]] = defaultdict(list)
    for event in desk.events():
        if isinstance(event, PredictionLabeled):
            found[event.prediction_id].append((event.label, event.previous_label, event.label_revision))
        elif isinstance(event, LabelRetracted):
            found[event.prediction_id].append((None, event.previous_label, event.label_revision))
    return {id_: Story(tuple(chapters)) for id_, chapters in found.items()}


def query(desk: Desk, statement: str) -> list[tuple[Any, ...]]:
    with desk.pool.connection() as connection:
        return connection.execute(statement.encode()).fetchall()


def called(name: Name) -> str:
    """What the table `results` calls a result."""
    kind, named, source, result_id = name
    if not kind:
        return f"{source}\x1f{result_id}"
    keys = {
        "prediction": "p" + named,
        "order": "o" + order_pseudonym(PSEUDONYM_KEY, named),
        "patient": "s" + pseudonym(PSEUDONYM_KEY, named),
    }
    return f"{keys[kind]}\x1f{source}\x1f{result_id}"


def expected(desk: Desk, lived: History) -> Truth:
    """The truth about a history. Which try of a prediction came first is the one thing that arrival decides."""
    kept = {(id_, at) for id_, at in query(desk, "SELECT prediction_id, predicted_at FROM predictions")}
    predictions = [
        one for tried in lived.tries.values() for one in tried if (one.prediction_id, one.predicted_at) in kept
    ]
    assert sorted(one.prediction_id for one in predictions) == sorted(lived.tries)
    assert len(kept) == len(predictions)
    return truth(
        [(one, lived.patients[one.prediction_id], lived.orders[one.prediction_id]) for one in predictions],
        lived.reports, POLICIES, verdict,
    )  # fmt: skip


def check(desk: Desk, lived: History) -> None:
    """Compare all that the service keeps and tells with the truth."""
    real = expected(desk, lived)
    kept = {id_: rest for id_, *rest in query(desk, "SELECT prediction_id, label, contested, revision FROM labels")}
    assert {id_: kept[id_][0] if id_ in kept else None for id_ in lived.tries} == real.labels
    assert {id_: kept[id_][1] if id_ in kept else False for id_ in lived.tries} == real.contested
    told = stories(desk)
    assert all(story.is_whole() for story in told.values()), told
    assert {id_: told[id_].end if id_ in told else None for id_ in lived.tries} == real.labels
    assert {id_: len(story.chapters) for id_, story in told.items()} == {
        id_: revision for id_, (_, _, revision) in kept.items() if revision
    }
    flags: dict[str, bool] = dict(query(desk, "SELECT result, matched FROM results"))
    assert flags.keys() == set(map(called, real.belongs))
    certain = {name: ids for name, ids in real.belongs.items() if name not in real.timeless}
    assert {called(name): flags[called(name)] for name in certain} == {
        called(n): bool(ids) for n, ids in certain.items()
    }
    known = set(map(called, certain))
    matches = {(id_, result) for id_, result in query(desk, "SELECT prediction_id, result FROM matches")}
    assert {one for one in matches if one[1] in known} == {
        (id_, called(name)) for name, ids in certain.items() for id_ in ids if name not in real.by_id
    }


@pytest.mark.timeout(max(120, HISTORIES))
@pytest.mark.parametrize("piece", range(PIECES))
def test_labels_are_what_the_results_say_however_they_arrive(desk: Desk, piece: int) -> None:
    for seed in range(FIRST + piece, FIRST + HISTORIES, PIECES):
        lived = history(seed)
        live(desk, lived)
        try:
            check(desk, lived)
        except AssertionError as error:
            raise AssertionError(f"history {seed} ended otherwise") from error
