"""`driftloop contract export`: the suite says what the contract says, and a contract that cannot be read is named."""

import json
from typing import Any

from typer.testing import CliRunner, Result

from driftloop.cli.main import app
from tests.support.models import shipped
from tests.support.paths import MODELS


def export(contract: str) -> Result:
    return CliRunner().invoke(app, ["contract", "export", contract, "--format", "great-expectations"])


def expected(column: str, kind: str) -> dict[str, Any]:
    """The one expectation of a kind that the diabetes model has of a column."""
    suite = json.loads(export(str(MODELS / "diabetes" / "contract.yaml")).stdout)
    (found,) = [
        one for one in suite["expectations"] if (one["type"], one["kwargs"].get("column")) == (f"expect_{kind}", column)
    ]
    return dict(found)


def test_a_range_leaves_the_codes_for_a_missing_value_out() -> None:
    found = expected("Glucose", "column_values_to_be_between")
    assert (found["kwargs"]["min_value"], found["kwargs"]["max_value"], found["severity"]) == (10, 1000, "critical")
    assert found["kwargs"]["row_condition"]["parameter"] == [0]


def test_so_much_may_be_missing_as_in_the_baseline_and_the_quality_rule_s_change() -> None:
    model = shipped("diabetes")
    missing = sum(row["BloodPressure"] is None for row in model.rows)
    least = expected("BloodPressure", "column_values_to_not_be_in_set")["kwargs"]["mostly"]
    assert least == round(1 - missing / len(model.rows) - 0.03, 4)


def test_a_contract_that_is_not_there_is_named() -> None:
    result = export("no/contract.yaml")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no/contract.yaml" in result.stderr
