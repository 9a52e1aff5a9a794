"""One real broker and one real database a run; fresh topics, groups, schemas and roles a test."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from driftloop import devstack
from driftloop.common.topics import Namespace
from tests.support.house import House

FOLDER = "DRIFTLOOP_TEST_STACK"

# How long an example takes says more about the machine, which runs a broker beside, than about the code.
settings.register_profile("driftloop", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("driftloop")


def pytest_configure(config: pytest.Config) -> None:
    """The controller chooses the folder of the stack; the workers are born with it in their environment."""
    if not hasattr(config, "workerinput"):
        folder = Path(tempfile.mkdtemp(prefix="driftloop-tests-"))
        # PostgreSQL, which does not run as root, must be able to get there.
        folder.chmod(0o755)
        os.environ[FOLDER] = str(folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Nobody needs the stack any more."""
    if not hasattr(config, "workerinput") and FOLDER in os.environ:
        folder = Path(os.environ.pop(FOLDER))
        devstack.stop(folder, purge=True)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def stack() -> devstack.Stack:
    """The run's broker and database, shared by all workers; ended when the run ends, however it ends."""
    return devstack.start(Path(os.environ[FOLDER]), fsync=False)


@pytest.fixture
def house(stack: devstack.Stack, tmp_path: Path) -> Iterator[House]:
    """A namespace of its own on the stack, with every topic, schema and role in it."""
    house = House(stack, Namespace(f"t{uuid.uuid4().hex[:12]}"), tmp_path)
    house.prepare()
    yield house
    house.remove()
