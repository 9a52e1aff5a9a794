"""`driftloop-demo-traffic` names what it cannot use."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from driftloop.demo.remote import app
from tests.support.paths import ROOT

OPTIONS = {
    "--predictor": "predictor-1=http://127.0.0.1:1",
    "--label-ingest": "http://127.0.0.1:1",
    "--drift-monitor": "http://127.0.0.1:1",
    "--trainer": "http://127.0.0.1:1",
    "--bootstrap-servers": "127.0.0.1:1",
    "--contract": str(ROOT / "models" / "diabetes" / "contract.yaml"),
}


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--predictor", "http://predictor-1:8000", "--predictor 'http://predictor-1:8000' is not NAME=URL"),
        ("--predictor", "predictor-1=predictor-1:8000", "is not NAME=URL"),
        ("--client-key-file", "/nothing/api-key", "/nothing/api-key"),
        ("--contract", "/nothing/contract.yaml", "/nothing/contract.yaml"),
    ],
)
def test_an_option_that_cannot_be_is_named(tmp_path: Path, option: str, value: str, said: str) -> None:
    key = tmp_path / "key"
    key.write_text("k")
    options = OPTIONS | {"--client-key-file": str(key), "--operator-key-file": str(key)} | {option: value}
    done = CliRunner().invoke(app, [part for pair in options.items() for part in pair])
    assert done.exit_code == 1
    assert said in done.stderr


def test_a_model_whose_patients_nobody_can_draw_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("k")
    options = OPTIONS | {"--client-key-file": str(key), "--operator-key-file": str(key)}
    options["--contract"] = str(ROOT / "models" / "loan" / "contract.yaml")
    done = CliRunner().invoke(app, [part for pair in options.items() for part in pair])
    assert (done.exit_code, "loan" in done.stderr) == (1, True)
