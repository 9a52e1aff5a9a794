"""The ONNX runtime reports to nobody."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from driftloop.common.onnx import ort
from tests.support.artifacts import small_bundle
from tests.support.models import shipped

OPEN = "from driftloop.common.onnx import ort; import sys; ort.InferenceSession(sys.argv[1])"


@pytest.mark.parametrize("module", ["driftloop.predictor.main", "driftloop.trainer.cli", "driftloop.demo.scoring"])
def test_a_model_is_opened_and_nothing_is_kept_of_it_at_home(tmp_path: Path, module: str) -> None:
    assert ort.get_available_providers()
    model, home = tmp_path / "model.onnx", tmp_path / "home"
    home.mkdir()
    model.write_bytes(small_bundle(shipped("diabetes").contract).model)
    # Where tests run by themselves the runtime is silent anyway.
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LD_LIBRARY_PATH")}
    command = [sys.executable, "-c", f"import {module}; {OPEN}", str(model)]
    subprocess.run(command, env=kept | {"HOME": str(home)}, check=True, timeout=60)
    assert not list(home.rglob("*onnxruntime*"))
