"""One installation for all of these tests: built from this tree, started, and taken down with all that it kept."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator

import pytest
import yaml

from driftloop.demo.scenarios import write_contract
from driftloop.devstack.processes import free_ports
from tests.support.compose import PORTS, SERVICES, STAND_INS, UP_SECONDS, Containers, missing
from tests.support.paths import ROOT

BUILD_SECONDS = 2400


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whichever test comes first waits for the images."""
    for item in items:
        item.add_marker(pytest.mark.slow("six images are built, and their containers started, once for all tests"))
        item.add_marker(pytest.mark.timeout(BUILD_SECONDS + 2 * UP_SECONDS))


def public_images() -> list[str]:
    """What docker-compose.yml and the Dockerfiles take from elsewhere."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values()
    named = {one["image"] for one in services if not one["image"].startswith("driftloop/")}
    if os.environ.get(STAND_INS):
        named = {one for one in named if not one.startswith("grafana/")}
    return ["python:3.11-slim-bookworm", *sorted(named)]


def pull(image: str) -> bool:
    """Fetch a public image."""
    if os.environ.get(STAND_INS):
        return False
    return subprocess.run(["docker", "pull", image], stdout=subprocess.DEVNULL, check=False).returncode == 0


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Shows a line at once: what comes takes minutes."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def show(text: str) -> None:
        with capture.global_and_fixture_disabled():
            sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    return show


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, say: Callable[[str], None]) -> Containers:
    """An installation whose images are there, and which has not been started."""
    if reason := missing(public_images(), pull):
        pytest.skip(reason)
    models = tmp_path_factory.mktemp("models")
    models.chmod(0o755)
    # A pane of half a second: what takes minutes on the wards takes seconds here.
    shipped = ROOT / "models" / "diabetes" / "contract.yaml"
    write_contract(shipped, models / "diabetes", {"drift": {"pane_seconds": 0.5}})
    name = f"driftloop-e2e-{uuid.uuid4().hex[:8]}"
    found = Containers(name, dict(zip(PORTS, free_ports(len(PORTS)), strict=True)), models)
    for service in ("secrets", *SERVICES[1:], "demo"):
        say(f"building the image of {service}")
        found.compose("build", service, seconds=BUILD_SECONDS)
    return found


@pytest.fixture(scope="session")
def containers(built: Containers, say: Callable[[str], None]) -> Iterator[Containers]:
    """The installation, started."""
    try:
        say("docker compose up --wait")
        built.up()
        say("all of it is healthy")
        yield built
    finally:
        built.compose("--profile", "demo", "down", "--volumes", "--remove-orphans", "--timeout", "10", seconds=180)
