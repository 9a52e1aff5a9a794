"""`docker compose up --wait` gives an installation that predicts, logs, joins and counts, and is confined."""

import os
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from driftloop.common.kafka.reader import read_to_end
from driftloop.common.topics import PREDICTIONS
from driftloop.devstack import docker
from driftloop.devstack.processes import free_ports
from tests.support.paths import ROOT
from tests.support.waiting import wait_until

PATIENT = {"Pregnancies": 2, "Glucose": 165, "BloodPressure": 72, "BMI": 33.6, "Age": 51}
SERVICES = ("predictor-1", "predictor-2", "label-ingest", "drift-monitor", "trainer")
PORTS = (
    "PREDICTOR_1_PORT",
    "PREDICTOR_2_PORT",
    "LABEL_INGEST_PORT",
    "DRIFT_MONITOR_PORT",
    "TRAINER_PORT",
    "KAFKA_PORT",
)
IMAGES = (docker.KAFKA_IMAGE, docker.POSTGRES_IMAGE, "python:3.11-slim-bookworm")
BUILD_SECONDS, UP_SECONDS = 1500, 300

pytestmark = [
    pytest.mark.slow("five images are built, and their containers started, once for all tests of this file"),
    pytest.mark.timeout(BUILD_SECONDS + 2 * UP_SECONDS),
    pytest.mark.xdist_group("compose"),
]


@dataclass(frozen=True)
class Containers:
    """A running installation under a project name and ports of its own."""

    project: str
    ports: dict[str, int]

    def compose(self, *arguments: str, seconds: float = 60.0) -> str:
        """Run one `docker compose` command; returns what it wrote."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DRIFTLOOP_")}
        done = subprocess.run(
            ["docker", "compose", "--project-name", self.project, "--env-file", os.devnull, *arguments],
            cwd=ROOT,
            env=kept | {"DRIFTLOOP_TAG": "e2e"} | {name: str(port) for name, port in self.ports.items()},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"docker compose {' '.join(arguments)}: {(done.stdout + done.stderr)[-3000:]}"
        return done.stdout

    def url(self, port: str, path: str) -> str:
        """Where a service answers on this machine."""
        return f"http://127.0.0.1:{self.ports[port]}{path}"

    def predict(self, port: str = "PREDICTOR_1_PORT") -> str:
        """Predict once; returns the prediction's id."""
        answer = httpx.post(self.url(port, "/v1/predict"), json=PATIENT, headers=self.key(), timeout=15)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["prediction_id"])

    def key(self, name: str = "api-key") -> dict[str, str]:
        """The header with an API key that was made for people on this machine."""
        return {"x-api-key": self.compose("run", "--rm", "-T", "secrets", "cat", f"/secrets/client/{name}").strip()}

    def logged(self) -> list[bytes | None]:
        """The keys of all predictions in the log."""
        bootstrap = f"127.0.0.1:{self.ports['KAFKA_PORT']}"
        return [record.key for record in read_to_end(bootstrap, "tests", PREDICTIONS.name)]

    def counted(self) -> tuple[int, int]:
        """How many predictions the monitor has counted, and how many of them with their outcome."""
        versions = httpx.get(self.url("DRIFT_MONITOR_PORT", "/v1/report"), timeout=15).json()["versions"]
        return sum(one["counted"] for one in versions), sum(one["performance"]["n"] for one in versions)

    def keys(self) -> str:
        """The digests of the keys that sign and that are trusted."""
        return self.compose("exec", "-T", "trainer", "sh", "-c", "sha256sum /secrets/trainer/* /secrets/trusted/*")


@pytest.fixture(scope="module")
def containers() -> Iterator[Containers]:
    """Built from this tree, started, and taken down with all that they kept."""
    if not docker.available():
        pytest.skip("no Docker engine answers")
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("the Docker engine has no `docker compose`")
    for image in IMAGES:
        if subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode != 0:
            pytest.skip(f"the image {image} is not here: docker pull {image}")
    found = Containers(f"driftloop-e2e-{uuid.uuid4().hex[:8]}", dict(zip(PORTS, free_ports(len(PORTS)), strict=True)))
    try:
        found.compose("build", seconds=BUILD_SECONDS)
        found.compose("up", "--wait", "--wait-timeout", str(UP_SECONDS), seconds=UP_SECONDS + 60)
        yield found
    finally:
        found.compose("down", "--volumes", "--remove-orphans", "--timeout", "10", seconds=120)


@pytest.mark.parametrize("port", ["PREDICTOR_1_PORT", "PREDICTOR_2_PORT"])
def test_each_predictor_answers_as_the_service_that_it_replaces(containers: Containers, port: str) -> None:
    answer = httpx.post(containers.url(port, "/predict"), json=PATIENT, headers=containers.key(), timeout=15)
    assert (answer.status_code, answer.text) in {(200, '{"diabetic":true}'), (200, '{"diabetic":false}')}


@pytest.mark.parametrize(("port", "path"), [("PREDICTOR_1_PORT", "/predict"), ("LABEL_INGEST_PORT", "/v1/outcomes")])
def test_without_a_key_nothing_is_answered(containers: Containers, port: str, path: str) -> None:
    assert httpx.post(containers.url(port, path), json=PATIENT, timeout=15).status_code == 401


def test_what_was_answered_is_in_the_log(containers: Containers) -> None:
    assert containers.predict().encode() in containers.logged()


def test_an_outcome_meets_its_prediction(containers: Containers) -> None:
    prediction = containers.predict("PREDICTOR_2_PORT")
    outcomes = containers.url("LABEL_INGEST_PORT", "/v1/outcomes")
    before = containers.counted()[1]
    outcome, key = {"prediction_id": prediction, "label": 1}, containers.key()
    assert httpx.post(outcomes, json=outcome, headers=key, timeout=15).status_code == 200
    wait_until(lambda: containers.counted()[1] == before + 1, "the monitor's count of the outcome")


def test_what_was_predicted_while_the_monitor_was_dead_is_counted_once(containers: Containers) -> None:
    containers.compose("kill", "--signal", "KILL", "drift-monitor")
    for port in ("PREDICTOR_1_PORT", "PREDICTOR_2_PORT"):
        containers.predict(port)
    containers.compose("up", "--detach", "--no-deps", "--no-recreate", "--wait", "drift-monitor", seconds=UP_SECONDS)
    wait_until(lambda: containers.counted()[0] == len(containers.logged()), "the monitor's count of all predictions")


@pytest.mark.parametrize("service", SERVICES)
def test_no_service_is_root_or_can_write_beside_its_program(containers: Containers, service: str) -> None:
    look = "id -u; touch /opt/driftloop/x 2>/dev/null || echo refused"
    assert containers.compose("exec", "-T", service, "sh", "-c", look).split() == ["10001", "refused"]


def test_a_second_start_keeps_the_keys_and_the_model(containers: Containers) -> None:
    before = containers.keys()
    containers.compose("up", "--wait", "--wait-timeout", str(UP_SECONDS), seconds=UP_SECONDS + 60)
    url, key = containers.url("TRAINER_PORT", "/v1/models/diabetes"), containers.key("operator-key")
    model = httpx.get(url, headers=key, timeout=15).json()
    assert (containers.keys(), model["champion"], model["revision"]) == (before, 1, 1)
