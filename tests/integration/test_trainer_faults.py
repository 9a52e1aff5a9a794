"""Database, broker or trainer dies while a request is in each of its states: it ends true, and each revision is once
in the log.
"""

import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import httpx
import msgspec
import pytest

from driftloop import devstack
from driftloop.common.events import ModelUpdated, PredictionLabeled
from driftloop.common.topics import DRIFT_EVENTS, LABELED_PREDICTIONS, MODEL_UPDATES, Namespace
from driftloop.devstack.processes import ServiceProcess
from driftloop.trainer.domain.requests import BEFORE
from tests.integration.test_trainer_rollouts import heard
from tests.support.house import House
from tests.support.own_stack import OWN_SERVERS, start_own
from tests.support.row_server import serving_rows
from tests.support.trainers import NAME, LabelIngest, Trainer, alarm, contract_of
from tests.support.waiting import TIMEOUT_SECONDS, wait_until

# It starts, and trains in another process that starts: more than anything else that is waited for.
PATIENCE = 2 * TIMEOUT_SECONDS
ROLLOUT = {"steps": [{"weight": 0, "min_labels": 10}, {"weight": 0.2}], "min_labels": 30}

OWN = [OWN_SERVERS, pytest.mark.xdist_group("trainer-faults")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("stack")
    folder.parent.chmod(0o755)
    yield folder
    devstack.stop(folder, purge=True)


@pytest.fixture
def own_house(folder: Path, tmp_path: Path) -> Iterator[House]:
    """A house whose servers may be killed; their folder is purged after the last test."""
    house = House(start_own(folder), Namespace(f"t{uuid.uuid4().hex[:12]}"), tmp_path)
    house.prepare()
    yield house
    house.remove()


@dataclass
class Rows:
    """A label-ingest of which a challenger learns a new law; while `held`, it says what it is not asked for.

    `held`: nothing at all, or not what became of the labels that judged a challenger.
    """

    answers: LabelIngest = field(default_factory=lambda: LabelIngest(700, lambda row: float(row["income"] or 0) >= 5e5))
    held: str = "all"

    def __call__(self, request: httpx.Request) -> httpx.Response:
        judging = "since" in request.url.params and int(request.url.params["limit"]) > 1_000
        if self.held == "all" or (self.held == "judging" and judging):
            return httpx.Response(503, text="not now")
        return self.answers(request)


@dataclass
class Scene:
    """A model's trainers, what they read, and a request of theirs."""

    trainer: Trainer
    rows: Rows
    folder: Path
    processes: list[ServiceProcess]
    urls: list[str]

    def becomes(self, state: str, reason: str = "") -> None:
        """Wait until the request has come to a state, which it may have left since, and says something."""

        def so() -> bool:
            requests = self.trainer.requests()
            return bool(requests) and (
                state in [one["state"] for one in requests[0]["history"]] and reason in requests[0]["reason"]
            )

        wait_until(so, f"the request is {state} and says {reason!r}", PATIENCE)

    def hear(self, first: int, count: int) -> None:
        """So many live labels come, each twice, by which the challenger is better."""
        challenger = self.trainer.requests()[0]["challenger"]
        labels = [alone_right(n, challenger) for n in range(first, first + count)]
        self.trainer.house.publish(LABELED_PREDICTIONS, [(one.prediction_id, one) for one in labels], copies=2)

    def counted(self) -> int:
        ((labels,),) = self.trainer.rows("SELECT count(*) FROM rollout_labels")
        return int(labels)


def alone_right(number: int, challenger: int) -> PredictionLabeled:
    """A labelled request that the champion answered wrong, and the challenger, as the shadow, right."""
    event = heard(number, winner=2, subject=f"{number:032x}")
    (shadow,) = event.shadows
    return msgspec.structs.replace(event, shadows=(msgspec.structs.replace(shadow, model_version=challenger),))


@contextmanager
def database_away(scene: Scene) -> Iterator[None]:
    devstack.kill_postgres(scene.folder)
    yield
    devstack.restart_postgres(scene.folder)


@contextmanager
def broker_away(scene: Scene) -> Iterator[None]:
    devstack.kill_kafka(scene.folder)
    yield
    devstack.restart_kafka(scene.folder)


@contextmanager
def trainer_away(scene: Scene) -> Iterator[None]:
    """The trainer is killed that has run the longer: the other one is still starting when the state comes."""
    killed, other = scene.processes
    killed.kill()
    yield
    killed.start()
    scene.processes[:] = [other, killed]


Away = Callable[[Scene], AbstractContextManager[None]]


@pytest.fixture
def scene(request: pytest.FixtureRequest, away: Away, folder: Path) -> Iterator[Scene]:
    """A model with its first version, and two trainers of it, not yet started; on servers of its own if one dies."""
    house: House = request.getfixturevalue("house" if away is trainer_away else "own_house")
    trainer = Trainer(house, house.pool("trainer"))
    trainer.first()
    rows = Rows()
    with serving_rows(rows) as address:
        contract = contract_of(house.folder, rollout=ROLLOUT)
        started = [process_of(house, contract, address, f"trainer-{n}") for n in range(2)]
        yield Scene(trainer, rows, folder, [process for process, _ in started], [url for _, url in started])
        house.end()


def process_of(house: House, contract: Path, label_ingest: str, name: str) -> tuple[ServiceProcess, str]:
    """A trainer's process, not yet started, and its API's URL."""
    return house.process(
        name,
        "driftloop.trainer.main",
        {
            "DATABASE_URL": house.database_url("trainer"),
            "DRIFTLOOP_CONTRACTS": str(contract),
            "DRIFTLOOP_SIGNING_KEY": str(house.folder / "keys" / "signing.pem"),
            "DRIFTLOOP_LABEL_INGEST_URL": label_ingest,
            "DRIFTLOOP_CHECK_SECONDS": "0.1",
        },
    )


@pytest.mark.slow(reason="two trainers start, train, and lose something in each of four states")
@pytest.mark.parametrize(
    "away",
    [pytest.param(database_away, marks=OWN), pytest.param(broker_away, marks=OWN), trainer_away],
)
def test_what_dies_in_each_state_changes_neither_the_end_nor_what_is_in_the_log(scene: Scene, away: Away) -> None:
    for process in scene.processes:
        process.start()
    scene.trainer.house.publish(DRIFT_EVENTS, [(NAME, alarm())], copies=2)
    scene.becomes("awaiting-labels", "not now")
    with away(scene):
        pass
    scene.rows.held = "judging"
    scene.becomes("training")
    with away(scene):
        pass
    scene.becomes("evaluated", "not now")
    with away(scene):
        scene.rows.held = ""
    scene.becomes("canary")
    scene.hear(0, 5)
    wait_until(lambda: scene.counted() == 5, "the labels are counted", PATIENCE)
    with away(scene):
        pass
    scene.hear(0, 60)
    scene.becomes("promoted")
    ended_well(scene)
    (request,) = scene.trainer.requests()
    challenger = request["challenger"]
    assert [(one.champion, one.shadow, one.canary is not None) for one in logged(scene.trainer)] == [
        (1, None, False), (1, challenger, False), (1, None, True), (challenger, None, False),
    ]  # fmt: skip


def ended_well(scene: Scene) -> None:
    """Nothing is left to publish, no process has failed, and log and database say the same."""
    trainer = scene.trainer
    wait_until(lambda: not trainer.rows("SELECT 1 FROM outbox"), "everything is published", PATIENCE)
    for process in scene.processes:
        process.wait_ready()
    for url in scene.urls:
        decided_the_same(url, trainer.requests()[0]["challenger"])
    for process in scene.processes:
        assert process.terminate() == 0, process.tail()
    log = logged(trainer)
    assert [state.revision for state in log] == list(range(1, len(log) + 1))
    decided = trainer.rows("SELECT state FROM revisions ORDER BY revision")
    assert [msgspec.convert(state, ModelUpdated) for (state,) in decided] == log
    assert trainer.rows("SELECT revision, champion FROM models") == [(len(log), log[-1].champion)]
    for request in trainer.requests():
        seen = [one["state"] for one in request["history"]]
        assert all(old == new or old in BEFORE[new] for old, new in pairwise(seen)), seen


def decided_the_same(url: str, version: int) -> None:
    """A trainer makes a version's decision again from what is stored."""
    again = httpx.get(f"{url}/v1/models/{NAME}/versions/{version}/decision", timeout=30).json()
    assert (again["same"], again["decision"]["promoted"]) == (True, True)


def logged(trainer: Trainer) -> list[ModelUpdated]:
    """The serving states in the log, by revision; what was sent again is the same to the byte."""
    found: dict[int, set[tuple[bytes, bytes, bytes]]] = {}
    for record in trainer.house.records(MODEL_UPDATES):
        assert record.value is not None
        state = msgspec.json.decode(record.value, type=ModelUpdated)
        same = (record.value, record.headers["ce_id"], record.headers["ce_sequence"])
        found.setdefault(state.revision, set()).add(same)
    assert {revision: len(copies) for revision, copies in found.items()} == dict.fromkeys(found, 1)
    return [msgspec.json.decode(next(iter(found[revision]))[0], type=ModelUpdated) for revision in sorted(found)]
