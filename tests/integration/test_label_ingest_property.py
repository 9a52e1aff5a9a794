"""Whatever arrives, in whatever order, at once or twice: the labels are those that a simple account of all of it says.

Patients are erased meanwhile, and what waits too long expires: before a batch, after it, or at the same moment. What
happens at one moment may come out in any order, but has to come out in one. `DRIFTLOOP_TEST_HISTORIES=20000` tries so
many histories instead of a few; a failure names its seed.
"""

import os
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

import msgspec
import psycopg
import pytest

from driftloop.common.events import OutcomeReported, PredictionLabeled, SubjectErased
from driftloop.common.pseudonyms import order_pseudonym, pseudonym
from driftloop.label_ingest.domain.outcomes import Terms, version_of
from driftloop.label_ingest.intake import Intake
from driftloop.label_ingest.keeping import Keeper
from tests.support.house import House
from tests.support.label_histories import (
    CONTRACTS,
    POLICIES,
    Act,
    Batch,
    Erasure,
    History,
    Round,
    Upkeep,
    history,
    in_clear,
    verdict,
)
from tests.support.label_ingest import PSEUDONYM_KEY, Desk
from tests.support.predictions import START
from tests.support.reference_labels import (
    Name,
    Rules,
    World,
    arrived,
    belongs,
    forgotten,
    labels,
    waited_too_long,
)

HISTORIES = int(os.environ.get("DRIFTLOOP_TEST_HISTORIES", "60"))
FIRST = int(os.environ.get("DRIFTLOOP_TEST_FIRST_HISTORY", "0"))
PIECES = 4
# More than any history has of anything.
ALL = 1_000


@pytest.fixture
def desk(opened_desk: tuple[House, Desk]) -> Desk:
    return Desk(opened_desk[1].pool, now=START.replace(year=START.year + 1), contracts=CONTRACTS)


# --- what happens to the service


class _Crash(Exception):
    """The process ends between the join and the commit."""


# How long, in seconds, a transaction waits before its commit for the others of its moment: they may wait for it.
OVERLAP = 0.01


def meet(others: threading.Barrier) -> None:
    """Wait for the others, so that all of one moment really overlap."""
    with suppress(threading.BrokenBarrierError):
        others.wait(OVERLAP)


def deliver(desk: Desk, batch: Batch, others: threading.Barrier) -> None:
    """A batch arrives; of two transactions that meet the one that does not get through comes again."""
    left = 2 if batch.fate == "unanswered" else 1
    while left:
        try:
            with desk.pool.connection() as connection, connection.transaction():
                desk.join(connection, batch.predictions, batch.reports)
                meet(others)
                if batch.fate == "lost":
                    raise _Crash
        except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
            continue
        except _Crash:
            pass
        left -= 1


def erase(desk: Desk, erasure: Erasure) -> None:
    intake = Intake(desk.pool, desk.terms, lambda: desk.now, lambda: None)
    intake.erase(pseudonym(PSEUDONYM_KEY, erasure.patient), "the test")


def look_after(desk: Desk, upkeep: Upkeep, others: threading.Barrier) -> None:
    """What upkeep does with results and rows that wait."""
    while True:
        try:
            if upkeep.empty_first:
                forget_empty(desk, others)
            with desk.pool.connection() as connection:
                Keeper(connection).expire(desk.now - upkeep.parked, desk.now, ALL)
                meet(others)
            if not upkeep.empty_first:
                forget_empty(desk, others)
        except psycopg.errors.DeadlockDetected:
            continue
        return


def forget_empty(desk: Desk, others: threading.Barrier) -> None:
    with desk.pool.connection() as connection:
        Keeper(connection).forget_empty("", ALL)
        meet(others)


def do(desk: Desk, act: Act, others: threading.Barrier) -> None:
    if isinstance(act, Batch):
        deliver(desk, act, others)
    elif isinstance(act, Erasure):
        erase(desk, act)
    else:
        look_after(desk, act, others)


def happen(desk: Desk, round_: Round, threads: ThreadPoolExecutor) -> None:
    """Let all acts of a round happen at once. An erasure waits for the others anyway."""
    others = threading.Barrier(max(1, sum(not isinstance(act, Erasure) for act in round_.acts)))
    list(threads.map(lambda act: do(desk, act, others), round_.acts))


# --- what should come of it


def tie(report: OutcomeReported) -> tuple[str, ...]:
    """Which of two reports that differ in nothing else is to hold is nobody's concern."""
    one = version_of(report, Terms(POLICIES, PSEUDONYM_KEY))
    texts = (one.comparator, one.unit, one.analyte, one.status, one.model_name, one.subject, one.key)
    return tuple(text or "" for text in texts)


RULES = Rules(POLICIES, verdict, tie)


def done(world: World, act: Act, now: datetime) -> World:
    """What an act makes of the world."""
    if isinstance(act, Batch):
        return arrived(world, [in_clear(one) for one in act.predictions], act.reports, now, RULES)
    if isinstance(act, Erasure):
        return forgotten(world, act.patient, now, RULES)
    return waited_too_long(world, now - act.parked, RULES)


def outcomes(worlds: frozenset[World], round_: Round) -> frozenset[World]:
    """All that a round can come to, whichever of its acts comes first."""
    acts: list[Act] = []
    for act in round_.acts:
        if not isinstance(act, Batch) or act.fate != "lost":
            acts += [act] * (2 if isinstance(act, Batch) and act.fate == "unanswered" else 1)
    # By the places of the acts that are done.
    reached: dict[frozenset[int], set[World]] = {frozenset(): set(worlds)}
    for size in range(len(acts)):
        for done_ in [one for one in reached if len(one) == size]:
            for place in set(range(len(acts))) - done_:
                after = {done(world, acts[place], round_.now) for world in reached[done_]}
                reached.setdefault(done_ | {place}, set()).update(after)
    return frozenset(reached[frozenset(range(len(acts)))])


# --- what is there


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


@dataclass(frozen=True)
class Sight:
    """What can be seen: in the tables, and in a world.

    `predictions` are ids with their times, `labels` those that are not None, or contested; `waits` are results that
    belong nowhere, `belongs` pairs of a prediction and a result which names an order or a patient.
    """

    predictions: frozenset[tuple[str, datetime]]
    labels: frozenset[tuple[str, int | None, bool]]
    results: frozenset[str]
    waits: frozenset[str]
    belongs: frozenset[tuple[str, str]]
    expired: frozenset[str]


def without_a_row(desk: Desk) -> list[str]:
    """Results that name a prediction by its id, and have no row at which it would meet them."""
    rows = query(
        desk,
        "SELECT result FROM results WHERE left(key, 1) = 'p' "
        "AND NOT EXISTS (SELECT 1 FROM joins WHERE prediction_id = substr(key, 2))",
    )
    return [result for (result,) in rows]


def seen(desk: Desk) -> Sight:
    """What the tables say."""
    kept = query(desk, "SELECT prediction_id, label, contested FROM labels WHERE label IS NOT NULL OR contested")
    results = query(desk, "SELECT result, matched FROM results")
    return Sight(
        frozenset((id_, at) for id_, at in query(desk, "SELECT prediction_id, predicted_at FROM predictions")),
        frozenset((id_, label, contested) for id_, label, contested in kept),
        frozenset(result for result, _ in results),
        frozenset(result for result, matched in results if not matched),
        frozenset((id_, result) for id_, result in query(desk, "SELECT prediction_id, result FROM matches")),
        frozenset(result for (result,) in query(desk, "SELECT result FROM expired_results")),
    )


def to_be_seen(world: World) -> Sight:
    """What the tables should say."""
    known = world.names - world.expired
    belonging = belongs(world, RULES)
    return Sight(
        frozenset((one.id, one.at) for one in world.predictions),
        frozenset(
            (id_, label, contested)
            for id_, (label, contested) in labels(world, RULES).items()
            if label is not None or contested
        ),
        frozenset(map(called, known)),
        frozenset(called(name) for name in known if not belonging[name]),
        frozenset((id_, called(name)) for name, id_ in world.places),
        frozenset(map(called, world.expired)),
    )


def difference(sight: Sight, possible: set[Sight]) -> str:
    """What is, and should be, other than in the possibility that is nearest."""

    def apart(one: Sight) -> dict[str, tuple[set[object], set[object]]]:
        pairs = {field.name: (getattr(sight, field.name), getattr(one, field.name)) for field in fields(Sight)}
        return {name: (set(is_ - should), set(should - is_)) for name, (is_, should) in pairs.items() if is_ != should}

    nearest = min(map(apart, possible), key=lambda one: sum(len(is_) + len(should) for is_, should in one.values()))
    return "; ".join(f"{name} are {is_} too many, {should} too few" for name, (is_, should) in nearest.items())


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
        return self.chapters[-1][0]


def stories(desk: Desk) -> dict[str, Story]:
    """What the outbox tells of each prediction, as a reader knows it who deletes the rows of who is erased."""
    found: dict[str, list[tuple[int | None, int | None, int]]] = defaultdict(list)
    whose: dict[str, str | None] = {}
    for event in desk.events():
        if isinstance(event, SubjectErased):
            for id_ in [id_ for id_, subject in whose.items() if subject == event.subject]:
                del found[id_], whose[id_]
            continue
        label = event.label if isinstance(event, PredictionLabeled) else None
        found[event.prediction_id].append((label, event.previous_label, event.label_revision))
        whose[event.prediction_id] = event.subject
    return {id_: Story(tuple(chapters)) for id_, chapters in found.items()}


def check_stories(desk: Desk) -> None:
    """Compare what was published of each prediction with what is kept of it."""
    told = stories(desk)
    assert all(story.is_whole() for story in told.values()), told
    kept = query(desk, "SELECT prediction_id, label, revision FROM labels WHERE revision > 0")
    assert {id_: (story.end, len(story.chapters)) for id_, story in told.items()} == {
        id_: (label, revision) for id_, label, revision in kept
    }


def live(desk: Desk, lived: History) -> None:
    """Let it all happen, on an empty desk, and compare what comes of each round with what may."""
    desk.clear()
    worlds = frozenset({World()})
    with ThreadPoolExecutor(6) as threads:
        for number, round_ in enumerate(lived.rounds):
            desk.now = round_.now
            told = [] if any(isinstance(act, Batch) for act in round_.acts) else desk.events()
            happen(desk, round_, threads)
            possible = outcomes(worlds, round_)
            sight = seen(desk)
            worlds = frozenset(world for world in possible if to_be_seen(world) == sight)
            assert worlds, f"round {number}, {round_}: {difference(sight, set(map(to_be_seen, possible)))}"
            assert without_a_row(desk) == [], f"round {number}, {round_}"
            if not any(isinstance(act, Batch) for act in round_.acts):
                # A result of the patient may have belonged to a prediction of nobody.
                news = [one for one in desk.events()[len(told) :] if not isinstance(one, SubjectErased)]
                assert all(one.subject is None for one in news), f"round {number}: labels of others have changed"
    check_stories(desk)


@pytest.mark.timeout(max(120, HISTORIES))
@pytest.mark.parametrize("piece", range(PIECES))
def test_labels_are_what_the_results_say_however_they_arrive(desk: Desk, piece: int) -> None:
    for seed in range(FIRST + piece, FIRST + HISTORIES, PIECES):
        lived = history(seed)
        desk.now = START + timedelta(days=365)
        for one in lived.reports:
            # The doors refuse those without an id; the rule holds for them all the same.
            assert desk.intake.problem(one if one.result_id else msgspec.structs.replace(one, result_id="L")) is None
        try:
            live(desk, lived)
        except AssertionError as error:
            raise AssertionError(f"history {seed} went otherwise") from error
