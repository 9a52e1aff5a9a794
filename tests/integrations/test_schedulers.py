"""The schedulers' examples, each by its own tool, at a monitor that sees drift and a trainer that learns it.

All of them name their run by the day: however many run, and in whatever order, one retraining comes of it.
"""

import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from benchmarks.harness import PeerFailed, peer_python
from driftloop.common.access.issuing import create_key
from driftloop.common.contract import load_contract
from driftloop.common.rows import Row
from driftloop.common.topics import PREDICTIONS, Namespace
from driftloop.devstack import Stack
from tests.support.house import House
from tests.support.models import shipped
from tests.support.paths import ROOT
from tests.support.predictions import START, prediction
from tests.support.row_server import serving_rows
from tests.support.trainers import LabelIngest, Trainer, contract_of
from tests.support.waiting import wait_until

EXAMPLES = ROOT / "examples" / "schedulers"
MODEL = "loan"
# What a tool may take on a busy machine.
SECONDS = 400.0
# A version that is tried out for good: the champion stays, and so does its verdict.
ROLLOUT = {"steps": [{"weight": 0, "min_labels": 1_000_000}, {"weight": 0.5}]}

pytestmark = [
    pytest.mark.slow("Airflow and Prefect are started, and a monitor and a trainer for all of them"),
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("schedulers"),
]


@dataclass
class Night:
    """A monitor and a trainer with drift to learn, and a folder."""

    monitor: str
    trainer: str
    key_file: Path
    folder: Path

    @property
    def key(self) -> str:
        """The operator's API key."""
        return self.key_file.read_text().strip()

    @property
    def environment(self) -> dict[str, str]:
        """What the programs take from their scheduler."""
        return {"DRIFTLOOP_MONITOR_URL": self.monitor, "DRIFTLOOP_TRAINER_URL": self.trainer, "DRIFTLOOP_SECONDS": "90"}

    def requests(self) -> list[int]:
        """The numbers of all retrainings that there are, whoever asked for them."""
        answer = httpx.get(f"{self.trainer}/v1/requests", headers={"x-api-key": self.key}, timeout=30)
        return [one["id"] for one in answer.json()["requests"]]

    def learnt(self, said: str) -> None:
        """Somebody was told that the version is tried out, and one retraining was ordered, whoever did so."""
        assert f"{MODEL}: CRITICAL; request 1 is canary: " in said
        assert self.requests() == [1]


def new_law(row: Row) -> bool:
    """What the population does that the champion has not learnt."""
    return float(row["income"] or 0) >= 500_000


@pytest.fixture(scope="module")
def night(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    """Started once for all: a model whose richer borrowers come, and labels of which the trainer learns."""
    house = House(stack, Namespace(f"t{uuid.uuid4().hex[:12]}"), tmp_path_factory.mktemp("schedulers"))
    house.prepare()
    drift = {"min_samples": 100, "pane_seconds": 1}
    path = contract_of(house.folder, rollout=ROLLOUT, drift=drift)
    Trainer(house, house.pool("trainer")).first()
    keys, key_file = house.folder / "keys.json", house.folder / "operator-key"
    key_file.write_text(create_key(keys, "operator", ["admin"], datetime.now(UTC)).text)
    with serving_rows(LabelIngest(750, new_law)) as rows:
        common = {"DRIFTLOOP_CONTRACTS": str(path)}
        monitor, monitor_url = house.process(
            "monitor", "driftloop.drift_monitor.main", common | {"DATABASE_URL": house.database_url("drift_monitor")}
        )
        trainer, trainer_url = house.process(
            "trainer",
            "driftloop.trainer.main",
            common
            | {
                "DATABASE_URL": house.database_url("trainer"),
                "DRIFTLOOP_SIGNING_KEY": str(house.folder / "keys" / "signing.pem"),
                "DRIFTLOOP_LABEL_INGEST_URL": rows,
                "DRIFTLOOP_ACCESS": "on",
                "DRIFTLOOP_API_KEYS": str(keys),
                "DRIFTLOOP_CHECK_SECONDS": "0.1",
            },
        )
        for process in (monitor, trainer):
            process.start()
        for process in (monitor, trainer):
            process.wait_ready()
        publish_drift(house, path)
        found = Night(monitor_url, trainer_url, key_file, house.folder)
        wait_until(lambda: verdict(found) == "CRITICAL", "the monitor sees the drift", timeout=90)
        yield found
        house.remove()


def publish_drift(house: House, contract: Path) -> None:
    """Predictions of borrowers of the baseline's richer half."""
    richer = sorted(shipped(MODEL).rows, key=lambda row: float(row["income"] or 0))[-150:]
    drawn = np.random.default_rng(3).integers(0, len(richer), 600)
    early = START - timedelta(hours=1)
    made = [
        prediction(load_contract(contract), richer[index], early + timedelta(milliseconds=10 * place))
        for place, index in enumerate(drawn)
    ]
    house.publish(PREDICTIONS, [(one.prediction_id, one) for one in made])


def verdict(night: Night) -> str:
    return str(httpx.get(f"{night.monitor}/v1/report", timeout=30).json()["verdict"])


def python_of(peer: str) -> Path:
    try:
        return peer_python(peer)
    except PeerFailed as error:
        pytest.skip(str(error))


def run(
    command: Sequence[str | Path], environment: dict[str, str], folder: Path, status: int = 0, given: str = ""
) -> str:
    """What a command says; what it says beside that is shown if it does not end as it must."""
    plain = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    with subprocess.Popen(
        command, env=plain | environment, cwd=folder, text=True, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            said, beside = process.communicate(given, timeout=SECONDS)
        finally:
            # Prefect's has a server of its own, which would stay.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == status, said[-3000:] + beside[-3000:]
    return f"{said}{beside if status else ''}"


# --- cron


def test_cron_s_line_is_run_by_a_shell_again_and_again(night: Night) -> None:
    lines = (EXAMPLES / "crontab").read_text().splitlines()
    variables = dict(line.split("=", 1) for line in lines if re.match(r"[A-Z_]+=", line))
    assert set(variables) >= {"DRIFTLOOP_MONITOR_URL", "DRIFTLOOP_TRAINER_URL", "DRIFTLOOP_OPERATOR_KEY_FILE"}
    (job,) = [line for line in lines if re.match(r"[0-9*]", line)]
    *times, user, command = job.split(maxsplit=6)
    assert (len(times), user) == (5, "driftloop")
    command = command.replace("/opt/driftloop/schedulers", str(EXAMPLES)).replace("diabetes", MODEL)
    own = night.environment | {"DRIFTLOOP_OPERATOR_KEY_FILE": str(night.key_file)}
    for _ in range(2):
        night.learnt(run(["/bin/sh", "-c", command], own, night.folder))


def test_of_several_models_each_is_looked_at_and_a_failure_is_told(night: Night) -> None:
    own = night.environment | {"DRIFTLOOP_OPERATOR_KEY_FILE": str(night.key_file)}
    said = run(["bash", EXAMPLES / "driftloop-nightly.sh", "none", MODEL], own, night.folder, status=1)
    night.learnt(said)
    assert "/v1/report?model=none&windows=1 answers 404" in said


# --- the program itself


def program(night: Night, *arguments: str, status: int = 0, key: str | None = None) -> str:
    own = night.environment | {"DRIFTLOOP_OPERATOR_KEY": night.key if key is None else key}
    command: list[str | Path] = [sys.executable, EXAMPLES / "driftloop_nightly.py", "--model", MODEL, *arguments]
    return run(command, own, night.folder, status)


def test_a_wrong_key_is_told_at_once(night: Night) -> None:
    said = program(night, status=1, key="dl_wrong")
    assert "/v1/requests?model=loan answers 401" in said
    assert "dl_wrong" not in said


def test_a_service_that_is_away_is_asked_again_and_then_told(night: Night) -> None:
    said = program(night, "--monitor", "http://127.0.0.1:9", "--seconds", "3", status=1)
    assert "http://127.0.0.1:9/v1/report?model=loan&windows=1 does not answer: " in said


def test_what_the_policy_does_not_name_orders_nothing(night: Night) -> None:
    before = night.requests()
    assert program(night, "--run", "a run of its own", "--on", "WARNING") == "loan: no retraining is called for\n"
    assert night.requests() == before


# --- GitHub Actions


def test_the_workflow_s_steps_run(night: Night) -> None:
    workflow = yaml.safe_load((EXAMPLES / "github-workflow.yml").read_text())
    assert workflow[True]["schedule"] == [{"cron": "17 3 * * *"}]
    (job,) = workflow["jobs"].values()
    known = {"vars.DRIFTLOOP_MONITOR_URL": night.monitor, "vars.DRIFTLOOP_TRAINER_URL": night.trainer}
    known |= {"secrets.DRIFTLOOP_OPERATOR_KEY": night.key}
    (step,) = [one for one in job["steps"] if "run" in one]
    own = {name: re.sub(r"\$\{\{ (.*) \}\}", lambda match: known[match[1]], text) for name, text in step["env"].items()}
    # As GitHub's own runner calls it, in a checkout.
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"].replace("diabetes", MODEL)]
    night.learnt(run(shell, own, ROOT))


# --- Airflow


def test_airflow_loads_and_runs_the_dag(night: Night) -> None:
    python = python_of("airflow")
    monitor = {"conn_type": "http", "host": night.monitor}
    trainer = {"conn_type": "http", "host": night.trainer, "password": night.key}
    own = {
        "AIRFLOW_HOME": str(night.folder / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(EXAMPLES),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "AIRFLOW_CONN_DRIFTLOOP_MONITOR": json.dumps(monitor),
        "AIRFLOW_CONN_DRIFTLOOP_TRAINER": json.dumps(trainer),
    }
    run([python.parent / "airflow", "db", "migrate"], own, night.folder)
    program, params = ROOT / "tests/support/airflow_client.py", json.dumps({"model": MODEL})
    client: list[str | Path] = [python, program, EXAMPLES, "driftloop_nightly", params]
    found = json.loads(run(client, own, night.folder).splitlines()[-1])
    assert (found["errors"], found["dags"]) == ({}, ["driftloop_nightly"])
    assert found["tasks"] == dict.fromkeys(("wanted", "order", "decided"), "success"), found
    assert found["state"] == "success"
    assert night.requests() == [1]


# --- Prefect


def test_prefect_runs_the_flow(night: Night) -> None:
    told = {"monitor": night.monitor, "trainer": night.trainer, "model": MODEL, "seconds": 90, "key": night.key}
    client: list[str | Path] = [python_of("prefect"), ROOT / "tests/support/prefect_client.py", EXAMPLES]
    own = {"PREFECT_HOME": str(night.folder / "prefect"), "DO_NOT_TRACK": "1"}
    night.learnt(json.loads(run(client, own, night.folder, given=json.dumps(told)).splitlines()[-1]))


# --- Kubeflow


def test_kubeflow_compiles_the_pipeline_and_its_step_runs(night: Night) -> None:
    run([python_of("kfp"), EXAMPLES / "kubeflow_pipeline.py"], {}, night.folder)
    pipeline, platform = yaml.safe_load_all((night.folder / "driftloop_nightly.yaml").read_text())
    (executor,) = pipeline["deploymentSpec"]["executors"].values()
    (mounted,) = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
    assert mounted["secretAsVolume"][0]["mountPath"] == "/secrets/driftloop"
    container: dict[str, Any] = executor["container"]
    inputs = {"monitor": night.monitor, "trainer": night.trainer, "model": MODEL, "seconds": "90.0"}
    arguments = [re.sub(r"\{\{.*\['(.*)'\]\}\}", lambda match: inputs[match[1]], one) for one in container["args"]]
    arguments = [str(night.key_file) if one == "/secrets/driftloop/key" else one for one in arguments]
    assert container["command"][:2] == ["python", "-c"]
    command: list[str | Path] = [sys.executable, *container["command"][1:], *arguments]
    night.learnt(run(command, {}, night.folder))
