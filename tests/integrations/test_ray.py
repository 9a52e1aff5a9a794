"""A real Ray cluster, a head with two CPUs, trains the model that this machine trains."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from driftloop.devstack.processes import free_port
from tests.support.clusters import environment, python_with, running, trained_on
from tests.support.waiting import wait_until

STORE_BYTES = 100_000_000

pytestmark = [
    pytest.mark.slow("an environment is made once, and a cluster started"),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of the environment with Ray."""
    return python_with("ray")


@pytest.fixture(scope="module")
def head(python: Path) -> Iterator[str]:
    """The address of a cluster of one node."""
    env = environment() | {"RAY_USAGE_STATS_ENABLED": "0"}
    # The names of Ray's sockets are long, and must not be too long.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        log, port = Path(folder) / "head.log", free_port()
        start = [str(python), str(python.parent / "ray"), "start", "--head", "--block"]
        listening = ["--port", str(port), "--include-dashboard", "false"]
        taking = ["--num-cpus", "2", "--object-store-memory", str(STORE_BYTES), "--temp-dir", folder]
        with running([*start, *listening, *taking], env, log):
            try:
                wait_until(lambda: "Ray runtime started" in log.read_text(), "a head", timeout=120)
            except AssertionError:
                # Seen once in many starts. What is tested is how we train on a cluster that is there.
                pytest.skip(f"Ray's head does not start: {log.read_text()[-500:]}")
            yield f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def trained(python: Path, head: str) -> dict[str, object]:
    """What was trained, here and on the cluster."""
    return trained_on(python, "ray", head)


def test_the_clusters_workers_do_the_work(trained: dict[str, object]) -> None:
    assert trained["workers"] in (1, 2)


def test_the_model_its_scores_and_the_choice_are_those_of_this_machine_to_the_bit(trained: dict[str, object]) -> None:
    assert trained["cluster"] == trained["local"]
