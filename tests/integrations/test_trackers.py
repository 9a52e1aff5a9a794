"""MLflow on a real server and W&B offline show what they are told, as the tracker in memory does that tests use."""

import base64
import json
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks.harness import PeerFailed, peer_python
from driftloop.devstack.processes import free_ports
from driftloop.trainer.domain.challenger import BaselineData, first_version
from driftloop.trainer.trackers import TrackedRun
from tests.support.models import shipped
from tests.support.paths import ROOT
from tests.support.predictions import START
from tests.support.trackers import CARD, FakeTracker, SeenRun, SeenTracker, digest, texts, then, tracked
from tests.support.waiting import wait_until

SECONDS = 120.0
SERVER = (
    "server", "--workers", "1", "--host", "127.0.0.1", "--backend-store-uri", "sqlite:///mlflow.db",
    "--artifacts-destination", "./artifacts",
)  # fmt: skip
PASSWORD = "a-password-of-the-tests"

pytestmark = [
    pytest.mark.slow("an MLflow server is started, and clients are installed where they are not"),
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("trackers"),
]


def python_of(peer: str) -> str:
    try:
        return str(peer_python(peer))
    except PeerFailed as error:
        pytest.skip(f"requirements/peers/{peer}.txt cannot be installed: {error}")


# --- the client, in its own environment


@dataclass
class Client:
    """A process with the trackers that its variables ask for."""

    process: "subprocess.Popen[str]"
    log: Path

    def ask(self, kind: str, told: object) -> Any:
        source, sink = self.process.stdin, self.process.stdout
        assert source is not None
        assert sink is not None
        source.write(json.dumps([kind, told]) + "\n")
        source.flush()
        answer = sink.readline()
        assert answer, self.log.read_text()[-3000:]
        return json.loads(answer)

    def record(self, kind: str, run: TrackedRun) -> str | None:
        """Record a run; returns the class of the error, None for none."""
        told = {name: getattr(run, name) for name in run.__dataclass_fields__ if name != "read_model"}
        told |= {"model": base64.b64encode(run.read_model()).decode()}
        told |= {name: told[name].isoformat() for name in ("created_at", "decided_at")}
        return self.ask(kind, told)  # type: ignore[no-any-return]


@contextmanager
def client(folder: Path, environ: Mapping[str, str]) -> Iterator[Client]:
    log = folder / "client.log"
    sources = f"{ROOT / 'services/trainer/src'}:{ROOT / 'libs/common/src'}"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [python_of("trackers"), str(ROOT / "tests/support/tracker_client.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=folder,
            env={"PYTHONPATH": sources, "PATH": "/usr/bin:/bin", "HOME": str(folder), **environ},
        )
        with process:
            yield Client(process, log)
            assert process.stdin is not None
            process.stdin.close()


# --- MLflow


@pytest.fixture(scope="module")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server with an empty database."""
    folder = tmp_path_factory.mktemp("mlflow")
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [str(Path(python_of("mlflow")).parent / "mlflow"), *SERVER, "--port", str(port)]
    path = f"{Path(command[0]).parent}:/usr/bin:/bin"
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, start_new_session=True,
            env={"PATH": path, "HOME": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true"},
        )  # fmt: skip
    try:
        wait_until(lambda: _answers(url), "the MLflow server answers", SECONDS, pause=0.5)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@dataclass
class Mlflow:
    """MLflow as a person sees it, by its REST API."""

    url: str
    client: Client
    model: str

    def record(self, run: TrackedRun) -> None:
        assert self.client.record("mlflow", run) is None, self.client.log.read_text()[-3000:]

    def api(self, method: str, path: str, **said: Any) -> Any:
        url = f"{self.url}/api/2.0/mlflow/{path}"
        answer = httpx.get(url, params=said, timeout=30) if method == "GET" else httpx.post(url, json=said, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def kept(self) -> list[dict[str, Any]]:
        known = self.api("GET", "experiments/get-by-name", experiment_name=self.model)
        found = self.api("POST", "runs/search", experiment_ids=[known["experiment"]["experiment_id"]])
        return sorted(found.get("runs", []), key=lambda run: run["info"]["run_name"])

    def file(self, run: Mapping[str, Any], path: str) -> bytes:
        said = {"run_uuid": run["info"]["run_id"], "path": path}
        return httpx.get(f"{self.url}/get-artifact", params=said, timeout=30).raise_for_status().content

    def runs(self) -> list[SeenRun]:
        return [
            SeenRun(
                title=run["info"]["run_name"],
                outcome=_pairs(run["data"]["tags"])["driftloop.outcome"],
                params=_pairs(run["data"]["params"]),
                metrics=_pairs(run["data"]["metrics"]),
                card=self.file(run, "card.json").decode(),
                training_set=self.file(run, "training_set.json").decode(),
            )
            for run in self.kept()
        ]

    def aliases(self) -> dict[str, str]:
        """Our versions by the registry's aliases."""
        named = self.api("GET", "registered-models/get", name=self.model)["registered_model"].get("aliases", [])
        versions = self.versions()
        return {one["alias"]: versions[one["version"]] for one in named}

    def versions(self) -> dict[str, str]:
        """Our versions by the registry's."""
        found = self.api("GET", "model-versions/search", filter=f"name = '{self.model}'")
        return {one["version"]: _pairs(one["tags"])["driftloop.version"] for one in found.get("model_versions", [])}

    def champion(self) -> str | None:
        version = self.aliases().get("champion")
        return version and f"{self.model} v{version}"


def _pairs(listed: list[dict[str, Any]]) -> dict[str, Any]:
    return {one["key"]: one["value"] for one in listed}


@pytest.fixture
def model() -> str:
    """The name of a model that no other test uses: they share a server."""
    return f"loan-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def mlflow(mlflow_url: str, tmp_path: Path, model: str) -> Iterator[Mlflow]:
    with client(tmp_path, {"MLFLOW_TRACKING_URI": mlflow_url}) as one:
        yield Mlflow(mlflow_url, one, model)


# --- W&B


@dataclass
class Wandb:
    """The files that W&B has written, runs with one id taken for one, as it does itself when it uploads them."""

    client: Client
    folder: Path

    def record(self, run: TrackedRun) -> None:
        assert self.client.record("wandb", run) is None, self.client.log.read_text()[-3000:]

    def written(self) -> list[dict[str, Any]]:
        return self.client.ask("seen", str(self.folder))  # type: ignore[no-any-return]

    def runs(self) -> list[SeenRun]:
        by_id = {one["id"]: one for one in self.written()}
        about = ("model_name", "model_version", "request", "_wandb")
        return sorted(
            (
                SeenRun(
                    title=one["title"],
                    outcome=one["summary"]["outcome"],
                    params=texts({name: value for name, value in one["config"].items() if name not in about}),
                    metrics={
                        name: value
                        for name, value in one["summary"].items()
                        if isinstance(value, float) and not name.startswith("_")
                    },
                    card=one["files"]["card.json"],
                    training_set=one["files"]["training_set.json"],
                )
                for one in by_id.values()
            ),
            key=lambda run: run.title,
        )

    def champion(self) -> str | None:
        named = [one["title"] for one in self.written() if "champion" in one["aliases"]]
        return named[-1] if named else None


@pytest.fixture
def wandb(tmp_path: Path) -> Iterator[Wandb]:
    with client(tmp_path, {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path)}) as one:
        yield Wandb(one, tmp_path)


# --- what all have in common


@pytest.fixture(params=["memory", "mlflow", "wandb"])
def tracker(request: pytest.FixtureRequest) -> SeenTracker:
    """A tracker that knows nothing of the model."""
    return FakeTracker() if request.param == "memory" else request.getfixturevalue(request.param)


def test_a_version_is_a_run_that_shows_what_is_told_of_it(tracker: SeenTracker, model: str) -> None:
    told = tracked(1, model=model)
    tracker.record(told)
    assert tracker.runs() == [
        SeenRun(f"{model} v1", "promoted", texts(told.params), told.metrics, CARD, told.training_set)
    ]


def test_a_version_that_is_told_of_again_is_the_same_run(tracker: SeenTracker, model: str) -> None:
    tracker.record(tracked(1, model=model))
    before = tracker.runs()
    tracker.record(tracked(1, model=model))
    assert tracker.runs() == before


def test_a_later_decision_is_seen_in_the_same_run(tracker: SeenTracker, model: str) -> None:
    canary = tracked(2, "canary", model=model)
    tracker.record(canary)
    tracker.record(then(canary, "rolled-back", 1, **{"canary.e_worse": 61.5}))
    (run,) = tracker.runs()
    assert (run.outcome, run.metrics) == ("rolled-back", {**canary.metrics, "canary.e_worse": 61.5})


def test_the_name_of_champion_goes_to_what_is_promoted_and_back_where_that_is_rolled_back(
    tracker: SeenTracker, model: str
) -> None:
    first, second = tracked(1, model=model), tracked(2, champion=2, model=model)
    seen = []
    for run in (first, second, then(second, "rolled-back", 1), first):
        tracker.record(run)
        seen.append(tracker.champion())
    assert (seen[0], seen[1], seen[3]) == (f"{model} v1", f"{model} v2", f"{model} v1")


# --- MLflow alone


def test_the_model_of_the_champion_loads_from_the_registry_and_answers_as_ours(mlflow: Mlflow) -> None:
    loan = shipped("loan", trees=5)
    made = first_version(loan.contract, BaselineData.of(loan.contract, loan.values, loan.labels), 1, START)
    card = json.dumps({"libraries": made.card.libraries})
    mlflow.record(replace(tracked(1, model=mlflow.model), card=card, read_model=lambda: made.model))
    asked = json.dumps([[None if np.isnan(value) else value for value in row] for row in made.known_inputs.tolist()])
    done = subprocess.run(
        [python_of("mlflow"), "-c", LOAD, mlflow.url, mlflow.model], input=asked, capture_output=True, text=True,
        timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == pytest.approx(made.known_probabilities.tolist(), abs=1e-5)


LOAD = """
import json, sys
import mlflow, numpy as np
url, model = sys.argv[1:]
mlflow.set_tracking_uri(url)
rows = np.array(json.load(sys.stdin), dtype=np.float32)
answer = mlflow.pyfunc.load_model(f"models:/{model}@champion").predict(rows)
print(json.dumps(next(v for v in answer.values() if np.ndim(v) == 2)[:, 1].tolist()))
"""


def test_a_rejected_challenger_has_a_run_with_its_model_and_is_not_registered(mlflow: Mlflow) -> None:
    mlflow.record(tracked(1, model=mlflow.model))
    mlflow.record(tracked(2, "rejected", model=mlflow.model))
    _first, second = mlflow.kept()
    assert mlflow.file(second, "model/model.onnx") == b"model 2"
    assert list(mlflow.versions().values()) == ["1"]


def test_a_version_that_is_told_of_again_is_registered_once(mlflow: Mlflow) -> None:
    for _ in range(2):
        mlflow.record(tracked(1, model=mlflow.model))
    assert mlflow.versions() == {"1": "1"}


def test_the_registry_names_the_canary_challenger_as_long_as_it_is_one(mlflow: Mlflow) -> None:
    canary = tracked(2, "canary", model=mlflow.model)
    mlflow.record(tracked(1, model=mlflow.model))
    mlflow.record(canary)
    assert mlflow.aliases() == {"champion": "1", "challenger": "2"}
    mlflow.record(then(canary, "promoted", 2))
    assert mlflow.aliases() == {"champion": "2"}


def test_an_alias_names_nothing_rather_than_a_version_that_does_not_serve(mlflow: Mlflow) -> None:
    mlflow.record(tracked(1, model=mlflow.model))
    mlflow.record(tracked(2, "rejected", champion=3, model=mlflow.model))
    assert mlflow.aliases() == {}


def test_a_server_that_is_away_is_an_error_soon_and_its_password_is_in_no_log(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    uri = f"http://someone:{PASSWORD}@127.0.0.1:{port}"
    with client(tmp_path, {"MLFLOW_TRACKING_URI": uri}) as one:
        assert one.record("mlflow", tracked(1)) == "MlflowException"
    assert PASSWORD not in one.log.read_text()


# --- W&B alone


def test_offline_runs_hold_the_references_and_neither_the_model_nor_the_machine(wandb: Wandb) -> None:
    wandb.record(tracked(1))
    (written,) = wandb.written()
    assert written["metadata"] == {"uri": "s3://bucket/loan/1", "sha256": digest(1), "version": 1}
    assert set(written["files"]) == {"artifact.json", "card.json", "training_set.json"}
    files = [one for one in wandb.folder.glob("wandb/*/files/**/*") if one.is_file()]
    assert [one.name for one in files] == []


def test_a_service_that_is_away_is_an_error_and_its_key_is_in_no_log_or_file(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    key = "k" * 40
    environ = {"WANDB_API_KEY": key, "WANDB_BASE_URL": f"http://127.0.0.1:{port}", "WANDB_DIR": str(tmp_path)}
    with client(tmp_path, environ) as one:
        assert one.record("wandb", tracked(1)) is not None
    assert [file for file in tmp_path.rglob("*") if file.is_file() and key.encode() in file.read_bytes()] == []
