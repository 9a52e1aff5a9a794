"""`label-ingest export` on a real database: labelled rows in a file, and who wrote it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from driftloop.label_ingest.cli import app
from tests.support.house import House
from tests.support.label_ingest import Desk, made, outcome
from tests.support.paths import MODELS

Export = Callable[..., Any]


@pytest.fixture
def desk(house: House) -> Desk:
    desk = Desk(house.pool("label_ingest"))
    desk.take([made(name, minute) for minute, name in enumerate("abcd")], [outcome("a"), outcome("c", 0)])
    return desk


@pytest.fixture
def export(house: House, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Export:
    monkeypatch.setenv("DATABASE_URL", house.database_url("label_ingest"))
    monkeypatch.setenv("DRIFTLOOP_NAMESPACE", house.namespace.prefix)
    contracts = (MODELS / name / "contract.yaml" for name in ("loan", "diabetes"))
    monkeypatch.setenv("DRIFTLOOP_CONTRACTS", ",".join(map(str, contracts)))
    return lambda *arguments: CliRunner().invoke(app, ["export", *map(str, arguments)])


def test_labelled_rows_are_written_as_parquet_and_as_csv(export: Export, tmp_path: Path) -> None:
    for suffix, read in ((".parquet", pq.read_table), (".csv", pa_csv.read_csv)):
        path = tmp_path / f"rows{suffix}"
        result = export("--model", "loan", "--output", path)
        assert result.exit_code == 0, result.output
        table = read(path)
        assert table["prediction_id"].to_pylist() == ["c", "a"]
        assert table["label"].to_pylist() == [0, 1]
        assert table["feature.income"].to_pylist() == [42_000.0] * 2
        assert path.stat().st_mode & 0o077 == 0


def test_a_time_range_and_rows_without_a_label_can_be_asked_for(export: Export, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    since, until = "2026-03-01T12:01:00Z", "2026-03-01T13:03:00+01:00"
    export("--model", "loan", "--output", path, "--from", since, "--to", until, "--labelled", "any")
    assert pq.read_table(path)["prediction_id"].to_pylist() == ["c", "b"]
    export("--model", "loan", "--output", path, "--labelled", "false")
    assert pq.read_table(path)["prediction_id"].to_pylist() == ["d", "b"]


def test_the_access_log_says_who_exported_what(export: Export, house: House, tmp_path: Path) -> None:
    export("--model", "loan", "--output", tmp_path / "rows.csv")
    with house.database("label_ingest") as connection:
        ((caller, action, parameters),) = connection.execute(
            "SELECT caller, action, parameters FROM access_log"
        ).fetchall()
    assert caller.startswith("cli:")
    assert (action, parameters["model"], parameters["format"]) == ("export", "loan", "csv")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--output", "rows.parquet"], "--model None: name one of diabetes, loan"),
        (["--output", "rows.xlsx", "--model", "loan"], "must end with .parquet or .csv"),
        (["--output", "nowhere/rows.csv", "--model", "loan"], "cannot be written (No such file or directory)"),
        (["--output", "rows.csv", "--model", "loan", "--variant", "all"], "champion, canary, shadow"),
        (["--output", "rows.csv", "--model", "loan", "--from", "yesterday"], "is no RFC 3339 time"),
    ],
)
def test_what_cannot_be_written_says_why_and_leaves_no_file(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = export(*arguments)
    assert result.exit_code != 0
    assert says in " ".join(result.output.replace("│", " ").split())
    assert list(tmp_path.glob("**/*rows*")) == []
