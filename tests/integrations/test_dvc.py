"""DVC verifies the file of a training set by the manifest beside it."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.harness import PeerFailed, peer_python
from driftloop.trainer.training_sets import SetFiles

DIGEST = "ab" * 32
FILE = f"{DIGEST}.arrow"

Dvc = Callable[..., str]


@pytest.fixture
def dvc(tmp_path: Path) -> Dvc:
    """DVC, from an environment of its own, in the folder of a model of which it holds no copy."""
    try:
        command = str(peer_python("dvc").parent / "dvc")
    except PeerFailed as error:
        pytest.skip(str(error))
    SetFiles(tmp_path.as_uri()).write("loan", DIGEST, b"rows of patients")

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [command, *arguments],
            cwd=tmp_path / "loan", capture_output=True, text=True, timeout=60, check=True,
            env=os.environ | {"DVC_NO_ANALYTICS": "1"},
        )  # fmt: skip
        return done.stdout

    run("init", "--no-scm", "--quiet")
    return run


def modified(dvc: Dvc) -> list[str]:
    """The files that are not what their manifest says."""
    found: list[str] = json.loads(dvc("data", "status", "--json")).get("uncommitted", {}).get("modified", [])
    return found


def test_dvc_tells_a_file_that_has_changed_from_one_that_has_not(dvc: Dvc, tmp_path: Path) -> None:
    assert modified(dvc) == []
    (tmp_path / "loan" / FILE).write_bytes(b"rows of patience")
    assert modified(dvc) == [FILE]


def test_dvc_takes_a_file_over_by_the_digest_that_we_wrote(dvc: Dvc, tmp_path: Path) -> None:
    before = json.loads((tmp_path / "loan" / f"{FILE}.dvc").read_bytes())["outs"][0]["md5"]
    dvc("commit", "--force", "--quiet")
    assert before in (tmp_path / "loan" / f"{FILE}.dvc").read_text()
    assert "up to date" in dvc("status")
