"""A folder and an object store keep the registry's promises alike; a driver in memory stands for the latter.

tests/integrations/test_s3.py asks the same of a server that speaks S3.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from driftloop.common import registry
from driftloop.common.registry import objects
from tests.support.stores import FolderFiles, ObjectFiles, Place, StoreContract


@pytest.fixture(params=["folder", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A store with nothing in it."""
    if request.param == "folder":
        root = tmp_path / "artifacts"
        root.mkdir()
        yield Place.of(root.as_uri(), FolderFiles(root), tmp_path / "keys")
        return
    with patch.dict(registry.STORES, {"memory": registry.OBJECTS}):
        root_uri = f"memory://{uuid.uuid4().hex}/artifacts"
        driver, path = objects._opened(root_uri)
        driver.mkdir(path)
        yield Place.of(root_uri, ObjectFiles(driver, path), tmp_path / "keys")
        driver.rm(path.partition("/")[0], recursive=True)


class TestStore(StoreContract):
    """Every promise, of both."""
