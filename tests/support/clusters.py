"""Trainings on a real cluster, whose processes and whose client have an environment of their own."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.harness import PeerFailed, peer_python
from tests.support.paths import ROOT

_SOURCES = ("libs/common/src", "services/trainer/src")
_SCRIPT = ROOT / "tests" / "support" / "cluster_training.py"


def python_with(peer: str) -> Path:
    """The interpreter of the environment with a cluster's client. Skips the test where there can be none."""
    try:
        return peer_python(peer)
    except PeerFailed as error:
        pytest.skip(f"{peer} cannot be installed: {str(error).splitlines()[-1]}")


def environment() -> dict[str, str]:
    """An environment in which scripts and workers find our sources."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(str(ROOT / source) for source in _SOURCES)}


@contextmanager
def running(command: Sequence[str], env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process, until the block ends."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=env, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def trained_on(python: Path, kind: str, address: str) -> dict[str, object]:
    """What the script says that it did, here and on the cluster."""
    done = subprocess.run(
        [str(python), "-P", str(_SCRIPT), kind, address],
        env=environment(), capture_output=True, timeout=800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    found: dict[str, object] = json.loads(done.stdout)
    return found
