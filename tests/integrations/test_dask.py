"""A real Dask cluster, a scheduler and two workers as processes, trains the model that this machine trains."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from benchmarks.harness import PeerFailed, peer_python
from driftloop.devstack.processes import free_ports
from tests.support.paths import ROOT
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow("an environment is made once, and a cluster started"),
    pytest.mark.timeout(900),
]
SOURCES = ("libs/common/src", "services/trainer/src")
SCRIPT = ROOT / "tests" / "support" / "cluster_training.py"


@contextmanager
def running(command: list[str], env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process, until the block ends."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=env, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of the environment with Dask."""
    try:
        return peer_python("dask")
    except PeerFailed as error:
        pytest.skip(f"Dask cannot be installed: {str(error).splitlines()[-1]}")


@pytest.fixture(scope="module")
def env() -> dict[str, str]:
    """An environment in which scripts find our sources."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(str(ROOT / source) for source in SOURCES)}


@pytest.fixture(scope="module")
def scheduler(python: Path, env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler that has two workers, each a process of one thread."""
    folder = tmp_path_factory.mktemp("dask")
    port, dashboard = free_ports(2)
    address, log = f"tcp://127.0.0.1:{port}", folder / "scheduler.log"
    start = [str(python), "-m", "dask"]
    listening = ["--host", "127.0.0.1", "--port", str(port), "--dashboard-address", f"127.0.0.1:{dashboard}"]
    working = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(folder)]
    with ExitStack() as cluster:
        cluster.enter_context(running([*start, "scheduler", *listening], env, log))
        for number in range(2):
            worker = [*start, "worker", address, *working, "--name", f"worker-{number}"]
            cluster.enter_context(running(worker, env, folder / f"worker-{number}.log"))
        wait_until(lambda: log.read_text().count("Register worker") == 2, "two workers", timeout=120)
        yield address


@pytest.fixture(scope="module")
def trained(python: Path, env: dict[str, str], scheduler: str) -> dict[str, object]:
    """What the script says that it did, here and on the cluster."""
    done = subprocess.run(
        [str(python), "-P", str(SCRIPT), "dask", scheduler], env=env, capture_output=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_the_clusters_workers_do_the_work(trained: dict[str, object]) -> None:
    assert trained["workers"] in (1, 2)


def test_the_model_its_scores_and_the_choice_are_those_of_this_machine_to_the_bit(trained: dict[str, object]) -> None:
    assert trained["cluster"] == trained["local"]
