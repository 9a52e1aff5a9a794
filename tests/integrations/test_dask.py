"""A real Dask cluster, a scheduler and two workers as processes, trains the model that this machine trains."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from driftloop.devstack.processes import free_ports
from tests.support.clusters import environment, python_with, running, trained_on
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow("an environment is made once, and a cluster started"),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of the environment with Dask."""
    return python_with("dask")


@pytest.fixture(scope="module")
def scheduler(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler that has two workers, each a process of one thread."""
    folder, env = tmp_path_factory.mktemp("dask"), environment()
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
def trained(python: Path, scheduler: str) -> dict[str, object]:
    """What was trained, here and on the cluster."""
    return trained_on(python, "dask", scheduler)


def test_the_clusters_workers_do_the_work(trained: dict[str, object]) -> None:
    assert trained["workers"] in (1, 2)


def test_the_model_its_scores_and_the_choice_are_those_of_this_machine_to_the_bit(trained: dict[str, object]) -> None:
    assert trained["cluster"] == trained["local"]
