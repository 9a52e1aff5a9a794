"""`label-ingest export`: what is said where nothing can be written."""

from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from driftloop.label_ingest import cli
from tests.support.paths import MODELS


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@localhost/nothing")
    monkeypatch.setenv("DRIFTLOOP_CONTRACTS", str(MODELS / "diabetes" / "contract.yaml"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (psycopg.OperationalError("connection refused\nIs the server running?"), "connection refused"),
        (psycopg.OperationalError(), "OperationalError"),
    ],
)
def test_a_database_that_fails_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: psycopg.Error, said: str
) -> None:
    def connect(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(psycopg, "connect", connect)
    result = CliRunner().invoke(cli.app, ["export", "--output", str(tmp_path / "rows.csv")])
    assert (result.exit_code, result.output) == (1, f"error: the database refused: {said}\n")


def test_a_name_is_said_as_it_is_and_not_taken_for_a_style() -> None:
    result = CliRunner().invoke(cli.app, ["export", "--output", "[bold]rows[/nothing].xlsx"])
    assert result.exit_code == 1
    assert "--output [bold]rows[/nothing].xlsx: its name must end with" in result.output
