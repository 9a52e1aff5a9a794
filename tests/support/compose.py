"""docker-compose.yml under a project name and ports of its own, with the shipped model in a hurry."""

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from driftloop.common.kafka.reader import read_to_end
from driftloop.common.topics import PREDICTIONS
from driftloop.devstack import docker
from tests.support.paths import ROOT

PATIENT = {"Pregnancies": 2, "Glucose": 165, "BloodPressure": 72, "BMI": 33.6, "Age": 51}
TAG = "e2e"
IMAGES = ("operator", "predictor", "label-ingest", "drift-monitor", "trainer", "demo")
SERVICES = ("predictor-2", "predictor-1", "label-ingest", "drift-monitor", "trainer")
WATCHING = ("prometheus", "alertmanager")
PORTS = (
    "PREDICTOR_1_PORT",
    "PREDICTOR_2_PORT",
    "LABEL_INGEST_PORT",
    "DRIFT_MONITOR_PORT",
    "TRAINER_PORT",
    "KAFKA_PORT",
    "PROMETHEUS_PORT",
    "ALERTMANAGER_PORT",
    "GRAFANA_PORT",
)
UP_SECONDS = 300
# Set by tests/support/container-engine/run, whose engine can ask no registry of images.
STAND_INS = "DRIFTLOOP_STAND_INS"


@dataclass(frozen=True)
class Containers:
    """An installation of its own; `models` is mounted in the place of ./models."""

    project: str
    ports: dict[str, int]
    models: Path
    _keys: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run one `docker compose` command, however it ends."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DRIFTLOOP_")}
        own = {"DRIFTLOOP_TAG": TAG, "DRIFTLOOP_MODELS": str(self.models)}
        return subprocess.run(
            ["docker", "compose", "--project-name", self.project, "--env-file", os.devnull, *arguments],
            cwd=ROOT,
            env=kept | own | {name: str(port) for name, port in self.ports.items()},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def compose(self, *arguments: str, seconds: float = 60.0) -> str:
        """Run one `docker compose` command; returns what it wrote. Fails if the command does."""
        done = self.run(*arguments, seconds=seconds)
        assert done.returncode == 0, f"docker compose {' '.join(arguments)}: {(done.stdout + done.stderr)[-3000:]}"
        return done.stdout

    def up(self) -> str:
        """`docker compose up --wait`."""
        wait = ("--wait", "--wait-timeout", str(UP_SECONDS))
        return self.compose("up", *wait, *all_but_grafana(), seconds=UP_SECONDS + 60)

    def heal(self, service: str) -> None:
        """Start one service that was killed, and wait until it is healthy."""
        self.compose("up", "--detach", "--no-deps", "--no-recreate", "--wait", service, seconds=UP_SECONDS)

    def url(self, port: str, path: str) -> str:
        """Where a service answers on this machine."""
        return f"http://127.0.0.1:{self.ports[port]}{path}"

    def get(self, port: str, path: str, **headers: str) -> Any:
        """What a service answers on this machine."""
        return httpx.get(self.url(port, path), headers=headers, timeout=15).raise_for_status().json()

    def predict(self, port: str = "PREDICTOR_1_PORT") -> str:
        """Predict once; returns the prediction's id."""
        answer = httpx.post(self.url(port, "/v1/predict"), json=PATIENT, headers=self.key(), timeout=15)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["prediction_id"])

    def key(self, name: str = "api-key") -> dict[str, str]:
        """The header with an API key that was made for people on this machine."""
        if name not in self._keys:
            self._keys[name] = self.compose("run", "--rm", "-T", "secrets", "cat", f"/secrets/client/{name}").strip()
        return {"x-api-key": self._keys[name]}

    def model(self) -> Any:
        """What the trainer tells of the model."""
        return self.get("TRAINER_PORT", "/v1/models/diabetes", **self.key("operator-key"))

    def logged(self) -> list[bytes | None]:
        """The keys of all predictions in the log."""
        bootstrap = f"127.0.0.1:{self.ports['KAFKA_PORT']}"
        return [record.key for record in read_to_end(bootstrap, "tests", PREDICTIONS.name)]

    def counted(self) -> tuple[int, int]:
        """How many predictions the monitor has counted, and how many of them with their outcome."""
        versions = self.get("DRIFT_MONITOR_PORT", "/v1/report")["versions"]
        return sum(one["counted"] for one in versions), sum(one["performance"]["n"] for one in versions)

    def keys(self) -> str:
        """The digests of the keys that sign and that are trusted."""
        return self.compose("exec", "-T", "trainer", "sh", "-c", "sha256sum /secrets/trainer/* /secrets/trusted/*")


def all_but_grafana() -> tuple[str, ...]:
    """What to name to `docker compose up` where there is no image of Grafana; elsewhere nothing, which is all."""
    return (*SERVICES, *WATCHING) if os.environ.get(STAND_INS) else ()


def missing(images: list[str], fetch: Callable[[str], bool]) -> str | None:
    """Why the tests cannot run here, if they cannot. `fetch` gets a public image that is not here."""
    if not docker.available():
        return "no Docker engine answers"
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0:
        return "the Docker engine has no `docker compose`"
    for image in images:
        here = subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False)
        if here.returncode != 0 and not fetch(image):
            return f"the image {image} is neither here nor to be had: docker pull {image}"
    return None
