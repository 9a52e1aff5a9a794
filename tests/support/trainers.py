"""A trainer's parts on a real database, with a label-ingest whose rows a test decides."""

import io
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pyarrow as pa
import yaml
from fastapi import FastAPI

from driftloop.common import registry
from driftloop.common.contract import Contract
from driftloop.common.events import DriftDetected, ModelUpdated
from driftloop.common.keys import load_public_keys
from driftloop.common.postgres.pool import Pool
from driftloop.common.rows import Row
from driftloop.trainer import handlers
from driftloop.trainer.api import create_app
from driftloop.trainer.domain.challenger import BaselineData
from driftloop.trainer.evidence_store import EvidenceStore, recomputed
from driftloop.trainer.first import train_first
from driftloop.trainer.model_locks import ModelLocks
from driftloop.trainer.operations import Operations
from driftloop.trainer.request_store import RequestStore
from driftloop.trainer.resources import Artifacts, ModelData, Resources
from driftloop.trainer.retraining import RetrainingWorker
from driftloop.trainer.rolling_out import RolloutWorker
from driftloop.trainer.store import Store
from driftloop.trainer.training_files import Trained, TrainingTask, read_trained, write_task
from driftloop.trainer.training_process import train
from driftloop.trainer.training_runs import RunTraining, TrainingFailed
from driftloop.trainer.training_sets import SetFiles
from tests.support.house import House
from tests.support.models import shipped
from tests.support.paths import MODELS
from tests.support.predictions import START, rows_like
from tests.support.waiting import wait_until

LOAN = shipped("loan", trees=5)
GATES = msgspec.structs.replace(
    LOAN.contract.gates, train_labels=60, gate_labels=40, reference_rows_min=50, reference_rows_max=100
)
RESTLESS = msgspec.structs.replace(LOAN.contract.retraining, cooldown_seconds=0)
# A model that is trained in a moment, again and again, and at once.
CONTRACT = msgspec.structs.replace(LOAN.contract, gates=GATES, retraining=RESTLESS)
BASELINE = BaselineData.of(CONTRACT, LOAN.values, LOAN.labels)
NAME = CONTRACT.name
LATER = START + timedelta(hours=1)


def alarm(
    version: int = 1,
    severity: str = "CRITICAL",
    change: str = "opened",
    verdict: str | None = None,
    since: datetime = START,
    **more: object,
) -> DriftDetected:
    """What the monitor says of a version."""
    return msgspec.convert(
        {
            "model_name": NAME, "model_version": version, "change": change, "severity": severity,
            "verdict": verdict or severity, "window_start": START, "window_end": START + timedelta(minutes=1),
            "detected_at": START, "features": (), "changed_since": since,
        } | more,
        DriftDetected,
    )  # fmt: skip


def contract_of(folder: Path, **changes: object) -> Path:
    """The loan model's contract, changed, beside its baseline: a trainer of its own process learns a new law by it."""
    source = MODELS / "loan"
    document = yaml.safe_load((source / "contract.yaml").read_text(encoding="utf-8"))
    document["gates"] |= {"train_labels": 600, "gate_labels": 100, "reference_rows_min": 50, "accepted_loss": 1.0}
    document["estimator"]["parameters"]["n_estimators"] = 5
    document |= {"retraining": {"cooldown_seconds": 0}} | changes
    (folder / "baseline.csv").write_bytes((source / "baseline.csv").read_bytes())
    path = folder / "contract.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


class LabelIngest:
    """label-ingest as the trainer sees it: `n` labelled rows of as many subjects, a second apart, newest first.

    `law` makes the labels of rows; `taken_back` are predictions without one. While `down`, it does not answer. Where
    there are no more `patients` than so many, they come again in turn.
    """

    def __init__(
        self,
        n: int,
        law: Callable[[Row], bool] | None = None,
        contract: Contract = CONTRACT,
        patients: int | None = None,
    ) -> None:
        self._contract = contract
        self._law = law
        self._patients = patients
        self._random = np.random.default_rng(3)
        self._cases: list[tuple[datetime, int, Row, int]] = []
        self.taken_back: set[str] = set()
        self.down = False
        self.add(n)

    def add(self, n: int, at: datetime | None = None) -> None:
        """So many more labelled rows, newer than all, or predicted at an instant."""
        for row in rows_like(self._contract, self._random, n):
            number = len(self._cases)
            label = number % 2 if self._law is None else int(self._law(row))
            self._cases.append((at or START + timedelta(seconds=number + 1), number, row, label))

    @property
    def ids(self) -> list[str]:
        """The predictions, oldest first."""
        return [f"p-{number:032x}" for _time, number, _row, _label in self._cases]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer `GET /v1/rows`."""
        if self.down:
            raise httpx.ConnectError("nobody listens", request=request)
        since = datetime.fromisoformat(request.url.params.get("since", START.isoformat()))
        until = datetime.fromisoformat(request.url.params.get("until", "9999-12-31T00:00:00+00:00"))
        labelled = request.url.params["labelled"] == "true"
        rows = [self._row(*case) for case in reversed(self._cases) if since <= case[0] < until]
        rows = [one for one in rows if not labelled or one["label"] is not None][: int(request.url.params["limit"])]
        table = pa.Table.from_pylist(rows, schema=self._schema())
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return httpx.Response(200, content=sink.getvalue())

    def _schema(self) -> pa.Schema:
        return pa.Table.from_pylist([self._row(*case) for case in self._cases[:1]]).schema

    def _row(self, time: datetime, number: int, row: Row, label: int) -> dict[str, object]:
        name, subject = f"p-{number:032x}", number % self._patients if self._patients else number
        known = {"prediction_id": name, "predicted_at": time, "subject": f"{subject:032x}"}
        known |= {"labeled_at": time + timedelta(minutes=5)}
        return known | {"label": None if name in self.taken_back else label} | {
            f"feature.{feature}": value for feature, value in row.items()
        }  # fmt: skip


def train_here(task: TrainingTask, _stopped: Callable[[], bool], _say: Callable[[str], None]) -> Trained:
    """Train as the training process does, but in this one, which has all the libraries already."""
    with tempfile.TemporaryDirectory() as name:
        write_task(Path(name), task)
        files = tuple(sorted((one.name, one.read_bytes()) for one in Path(name).iterdir()))
    return _trained(files, task.contract.name, task.version)


@cache
def _trained(files: tuple[tuple[str, bytes], ...], model: str, version: int) -> Trained:
    """What comes of a task's files. Many tests give the same task, of which the same comes."""
    with tempfile.TemporaryDirectory() as name:
        for file, data in files:
            (Path(name) / file).write_bytes(data)
        failure = train(Path(name))
        if failure is not None:
            raise TrainingFailed(failure)
        return read_trained(Path(name), model, version)


@dataclass
class Trainer:
    """The trainer of one model; `now` is its clock. `artifacts` may be exchanged for those that fail."""

    house: House
    pool: Pool
    labels: LabelIngest = field(default_factory=lambda: LabelIngest(150))
    contract: Contract = CONTRACT
    now: datetime = LATER
    run: RunTraining = field(default_factory=lambda: train_here)
    turns: threading.Semaphore = field(default_factory=threading.BoundedSemaphore)
    artifacts: Artifacts = field(init=False)
    sets: SetFiles = field(init=False)

    def __post_init__(self) -> None:
        """Make the keys before several threads ask for them."""
        assert self.house.signing_key.key_id
        trusted = load_public_keys(self.house.trusted_keys)
        self.artifacts = Artifacts(
            self.house.register,
            lambda ref, model, version: registry.fetch_bundle(ref, model, version, trusted),
            partial(registry.highest_version, self.house.artifacts),
        )
        self.sets = SetFiles((self.house.folder / "sets").as_uri())

    def first(self) -> None:
        """Train version 1."""
        train_first(self.pool, self.contract, BASELINE, self.artifacts, lambda _m: 0, lambda: START, lambda _t: None)

    def drift(self, event: DriftDetected | None = None, event_id: str = "drift:1") -> None:
        """An event of the monitor's comes."""
        with self.pool.connection() as connection:
            handlers.on_drift(connection, lambda: self.now, event_id, event or alarm(model_name=self.contract.name))

    def hear(self, *events: object) -> None:
        """Events of the topic of labels come."""
        with self.pool.connection() as connection:
            handlers.on_labels(connection, lambda: self.now, events)

    @contextmanager
    def retraining(self) -> Iterator[RetrainingWorker]:
        """The worker, at work for the time of a block."""
        stop = threading.Event()
        transport = httpx.MockTransport(self.labels)
        with httpx.Client(base_url="http://label-ingest", transport=transport) as client:
            resources = Resources(
                pool=self.pool, client=client,
                artifacts=Artifacts(
                    lambda bundle: self.artifacts.write(bundle),
                    lambda ref, model, version: self.artifacts.fetch(ref, model, version),
                    lambda model: self.artifacts.highest(model),
                ),
                sets=self.sets, highest_revision=lambda _m: 1, clock=lambda: self.now, published=lambda: None,
                run=self.run, max_rows=1000, check_seconds=0.05, turns=self.turns,
            )  # fmt: skip
            locks = ModelLocks(self.pool)
            worker = RetrainingWorker(resources, ModelData(self.contract, BASELINE), locks)
            with ThreadPoolExecutor(1) as executor:
                running = executor.submit(worker.run, stop)
                try:
                    yield worker
                finally:
                    stop.set()
                    running.result(timeout=120)
                    locks.close()

    def retrain(self, *states: str) -> dict[str, Any]:
        """Let the worker work until the newest request that it began with is in one of these states."""
        wanted = states or ("promoted", "rejected", "canary")
        (request, *_) = self.requests()
        with self.retraining():
            return wait_until(
                lambda: next(
                    (one for one in self.requests() if one["id"] == request["id"] and one["state"] in wanted), None
                ),
                f"the request is one of {wanted}",
            )

    def roll_out(self) -> None:
        """One look of the roll-out worker."""
        worker = RolloutWorker(
            pool=self.pool, contracts={self.contract.name: self.contract}, highest_revision=lambda _m: 1,
            clock=lambda: self.now, published=lambda: None, check_seconds=0.05,
        )  # fmt: skip
        worker.round(threading.Event())

    @property
    def operations(self) -> Operations:
        """The orders that people give."""
        return Operations(self.pool, lambda _m: 1, lambda: self.now, lambda: None)

    @property
    def api(self) -> FastAPI:
        """The trainer's HTTP face."""
        return create_app(self.pool, {self.contract.name: self.contract}, self.operations)

    def requests(self) -> list[dict[str, Any]]:
        """All requests, newest first."""
        with self.pool.connection() as connection:
            return RequestStore(connection).shown(self.contract.name)

    def judges(self, version: int) -> list[str]:
        """The predictions that judged a version, oldest first."""
        with self.pool.connection() as connection:
            evidence = EvidenceStore(connection).get(self.contract.name, version)
        assert evidence is not None
        found: list[str] = evidence.ids.tolist()
        return found

    def decision(self, version: int) -> dict[str, Any]:
        """A version's decision, made again."""
        with self.pool.connection() as connection:
            return recomputed(connection, self.contract.name, version)

    def versions(self) -> dict[int, str]:
        """What became of each version."""
        with self.pool.connection() as connection:
            return {one["version"]: one["status"] for one in Store(connection).overview(self.contract.name)["versions"]}

    def published(self) -> list[ModelUpdated]:
        """Every serving state that was decided, in order."""
        return [
            msgspec.json.decode(value, type=ModelUpdated)
            for (value,) in self.rows("SELECT value FROM outbox WHERE topic = 'model-updates' ORDER BY id")
        ]

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """What a query finds."""
        with self.pool.connection() as connection:
            return connection.execute(query.encode(), values).fetchall()
