"""Great Expectations takes the suite that is made of a contract: the baseline passes, damaged rows fail."""

import csv
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.harness import PeerFailed, peer_python
from driftloop.cli.main import app
from tests.support.paths import MODELS, ROOT

Row = dict[str, Any]
Damage = Callable[[list[Row]], object]
COLUMNS = "expect_table_columns_to_match_ordered_list"
EXISTS = "expect_column_to_exist"
TYPE = "expect_column_values_to_be_in_type_list"
NULL = "expect_column_values_to_not_be_null"
CODE = "expect_column_values_to_not_be_in_set"
RANGE = "expect_column_values_to_be_between"
SET = "expect_column_values_to_be_in_set"


def each(name: str, value: object, step: int) -> Damage:
    """Puts a value into a column of every so many rows."""
    return lambda rows: [row.update({name: value}) for row in rows[::step]]


def renamed(name: str) -> Damage:
    return lambda rows: [row.update({"other": row.pop(name)}) for row in rows]


def moved_to_the_end(name: str) -> Damage:
    return lambda rows: [row.update({name: row.pop(name)}) for row in rows]


# What is done to the baseline, and which expectations it fails then.
DAMAGED: dict[str, dict[str, tuple[Damage, set[tuple[str, str | None, str]]]]] = {
    "diabetes": {
        "whole": (lambda _rows: None, set()),
        "high": (each("Glucose", 5000, 300), {(RANGE, "Glucose", "critical")}),
        "low": (each("BMI", 4.9, 300), {(RANGE, "BMI", "critical")}),
        "few-missing": (each("Glucose", "", 60), set()),
        "missing": (each("Glucose", "", 10), {(NULL, "Glucose", "warning")}),
        "coded": (each("Glucose", 0, 10), {(CODE, "Glucose", "warning")}),
        "gap": (each("Age", "", 300), {(NULL, "Age", "critical"), (TYPE, "Age", "critical")}),
        "fraction": (each("Pregnancies", 2.5, 300), {(TYPE, "Pregnancies", "critical")}),
        "target": (each("Outcome", 2, 300), {(SET, "Outcome", "critical")}),
        "unlabelled": (each("Outcome", "", 300), {(NULL, "Outcome", "critical")}),
        "renamed": (
            renamed("BMI"),
            {(COLUMNS, None, "warning"), *((one, "BMI", "critical") for one in (EXISTS, TYPE, RANGE))}
            | {(one, "BMI", "warning") for one in (NULL, CODE)},
        ),
        "moved": (moved_to_the_end("Age"), {(COLUMNS, None, "warning")}),
    },
    "loan": {
        "whole": (lambda _rows: None, set()),
        "category": (each("employment", "astronaut", 300), {(SET, "employment", "critical")}),
        "known-code": (each("employment", "unknown", 60), set()),
        "target": (each("status", "lost", 300), {(SET, "status", "critical")}),
    },
}


@pytest.mark.parametrize("model", DAMAGED)
def test_the_baseline_passes_and_damaged_rows_fail_where_they_are_damaged(model: str, tmp_path: Path) -> None:
    try:
        python = peer_python("great-expectations")
    except PeerFailed as error:
        pytest.skip(str(error))
    made = CliRunner().invoke(
        app, ["contract", "export", str(MODELS / model / "contract.yaml"), "--format", "great-expectations"]
    )
    assert made.exit_code == 0, made.output
    (tmp_path / "suite.json").write_text(made.stdout, encoding="utf-8")
    files = []
    for name, (damage, _failed) in DAMAGED[model].items():
        with (MODELS / model / "baseline.csv").open(encoding="utf-8", newline="") as source:
            rows = list(csv.DictReader(source))
        damage(rows)
        files.append(tmp_path / f"{name}.csv")
        with files[-1].open("w", encoding="utf-8", newline="") as sink:
            writer = csv.DictWriter(sink, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    done = subprocess.run(
        [python, ROOT / "tests/support/great_expectations_client.py", tmp_path / "suite.json", *files],
        capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path,
        env=os.environ | {"GX_ANALYTICS_ENABLED": "false"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {one["checked"] for one in found.values()} == {len(json.loads(made.stdout)["expectations"])}
    assert {name: {tuple(one) for one in said["failed"]} for name, said in found.items()} == {
        name: failed for name, (_damage, failed) in DAMAGED[model].items()
    }
