"""Servers that a test may kill: a local stack of its own, beside the run's."""

import os
from pathlib import Path

import pytest

from driftloop import devstack
from driftloop.devstack import Stack

OWN_SERVERS = pytest.mark.skipif(
    "KAFKA_BOOTSTRAP_SERVERS" in os.environ or "DATABASE_URL" in os.environ,
    reason="servers from the environment are not this test's to kill",
)


def start_own(folder: Path) -> Stack:
    """The folder's stack, started where it does not run. Skips the test where its servers would be containers."""
    found = devstack.start(folder, fsync=False)
    if (found.kind, found.database_kind) != ("local", "local"):
        pytest.skip("the servers run in containers here")
    return found
