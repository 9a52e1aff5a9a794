"""The model contract: what it accepts, what it refuses and how it says so."""

from pathlib import Path

import pytest

from driftloop.common.contract import (
    ContractError,
    GradientBoosting,
    Grid,
    LogisticRegression,
    RandomForest,
    RandomForestParameters,
    Rollout,
    baseline_path,
    digest,
    load_contract,
    load_contracts,
)
from tests.support.paths import MODELS

SHORT = """
name: coin
features:
  - {name: weight, type: number}
target: {name: heads}
baseline: {path: coin.csv}
"""
STEPS = "rollout: {{steps: [{{{}}}, {{weight: 0.1}}]}}"


HUNDRED = list(range(1, 101))


def write(folder: Path, text: str) -> Path:
    path = folder / "contract.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_contract_needs_a_name_features_target_and_baseline_and_nothing_else(tmp_path: Path) -> None:
    contract = load_contract(write(tmp_path, SHORT))
    assert contract.feature_names == ("weight",)
    assert contract.estimator == RandomForest(parameters=RandomForestParameters(n_estimators=100))
    assert contract.candidates == ()
    assert (contract.gates.train_labels, contract.gates.gate_labels) == (800, 300)
    assert (contract.drift.alpha, contract.drift.psi_critical, contract.drift.min_samples) == (0.05, 0.2, 500)


def test_a_rollout_is_a_ramp_of_steps_and_has_none_by_default(tmp_path: Path) -> None:
    assert load_contract(write(tmp_path, SHORT)).rollout == Rollout()
    text = "rollout: {steps: [{weight: 0, min_seconds: 60}, {weight: 0.1, min_labels: 50}, {weight: 0.5}]}"
    steps = load_contract(write(tmp_path, SHORT + text)).rollout.steps
    assert [(step.weight, step.min_labels, step.min_seconds) for step in steps] == [
        (0, None, 60),
        (0.1, 50, None),
        (0.5, None, None),
    ]


@pytest.mark.parametrize("model", ["diabetes", "loan"])
def test_the_shipped_contracts_load_and_their_baselines_are_there(model: str) -> None:
    path = MODELS / model / "contract.yaml"
    contract = load_contract(path)
    assert contract.name == model
    assert baseline_path(path, contract).is_file()


def test_the_digest_is_of_the_meaning_not_of_the_text(tmp_path: Path) -> None:
    one = load_contract(write(tmp_path, SHORT))
    spelled_out = load_contract(write(tmp_path, "decision_threshold: 0.5  # the default\n" + SHORT))
    other = load_contract(write(tmp_path, "decision_threshold: 0.4\n" + SHORT))
    assert digest(one) == digest(spelled_out) != digest(other)


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ("", "$", "Expected `object`, got `null`"),
        (SHORT + "colour: red", "$", "unknown field `colour`"),
        (SHORT + "decision_threshold: 1.5", "$.decision_threshold", "= 1.5: Expected `float` < 1.0"),
        (SHORT + "gates: {train_labels: many}", "$.gates.train_labels", "= 'many': Expected `int`"),
        (
            SHORT + "estimator: {kind: oracle}",
            "$.estimator.kind",
            "= 'oracle': is no kind of estimator: use one of random",
        ),
        (SHORT + "estimator: {parameters: {n_estimators: 0}}", "$.estimator.parameters.n_estimators", "= 0: Expected"),
        (
            SHORT + "estimator: {kind: logistic_regression, parameters: {max_depth: 2}}",
            "$.estimator.parameters",
            "`max_depth`",
        ),
        (SHORT + "candidates: [{kind: gradient_boosting, seed: -1}]", "$.candidates[0].seed", "= -1: Expected"),
        (SHORT + "selection: luck", "$.selection", "Invalid enum value 'luck'"),
        (SHORT + "name: twice", "$", "['name'] given twice"),
        (SHORT + "drift: {psi_warning: 0.3}", "$.drift.psi_warning", "at most psi_critical = 0.2"),
        (SHORT + "gates: {reference_rows_min: 5000}", "$.gates.reference_rows_min", "reference_rows_max = 2000"),
        (SHORT + "gates: {accepted_recall_drop: 2}", "$.gates.accepted_recall_drop", "Expected `float` <= 1.0"),
        (SHORT + "rollout: {evidence: 1}", "$.rollout.evidence", "Expected `float` > 1.0"),
        (SHORT + "rollout: {min_labels: 4000}", "$.rollout.min_labels", "at most max_labels = 3000"),
        (
            SHORT + STEPS.format("weight: 0.5, min_labels: 9"),
            "$.rollout.steps[1].weight",
            "= 0.1: must be at least that",
        ),
        (SHORT + STEPS.format("weight: 0"), "$.rollout.steps[0]", "give it min_labels or min_seconds"),
        (SHORT + "training: {rows: window}", "$.training.rows", "give window_days, window_rows or both"),
        (SHORT + "training: {window_days: 9}", "$.training.window_days", "means nothing without rows: window"),
        (SHORT + "training: {rows: window, window_rows: 9}", "$.training.window_rows", "gates.train_labels = 800"),
        (SHORT + "training: {half_life_days: 0}", "$.training.half_life_days", "Expected `float` > 0.0"),
        (SHORT + "training: {baseline_age_days: 9}", "$.training.baseline_age_days", "without half_life_days"),
        (
            SHORT + "training: {balance: balanced}\nestimator: {parameters: {class_weight: balanced}}",
            "$.training.balance",
            "balances the classes a second time",
        ),
        (SHORT.replace("coin.csv", "/etc/coin.csv"), "$.baseline.path", "relative to the contract"),
        (SHORT.replace("heads", "weight"), "$.target.name", "is also a feature"),
        (SHORT.replace("heads}", "heads, positive: 0}"), "$.target.positive", "must differ"),
        (SHORT.replace("name: coin", "name: ../coin"), "$.name", "matching regex"),
        ("features: [", "$", "is not valid YAML"),
    ],
)
def test_an_error_names_the_file_the_field_the_value_and_the_remedy(
    tmp_path: Path, text: str, field: str, says: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ContractError) as caught:
        load_contract(path)
    assert caught.value.field == field
    assert str(path) in str(caught.value)
    assert says in str(caught.value)


def test_estimators_of_any_kind_compete_and_one_without_a_kind_is_a_random_forest(tmp_path: Path) -> None:
    competing = "candidates: [{kind: gradient_boosting}, {kind: logistic_regression}, {seed: 3}]"
    contract = load_contract(write(tmp_path, SHORT + competing))
    assert contract.candidates == (GradientBoosting(), LogisticRegression(), RandomForest(seed=3))
    assert [candidate.kind for candidate in contract.candidates][:2] == ["gradient_boosting", "logistic_regression"]


@pytest.mark.parametrize(
    ("search", "field", "says"),
    [
        ("{parameters: [{name: max_depth, values: [1, 0]}]}", ".parameters[0].values[1]", "= 0: Expected `int` >= 1"),
        (
            "{parameters: [{name: depth, values: [1]}]}",
            ".parameters[0].name",
            "= 'depth': Object contains unknown field",
        ),
        ("{parameters: [{name: max_depth, values: []}]}", ".parameters[0].values", "length >= 1"),
        (
            "{parameters: [{name: max_depth, values: [1]}, {name: max_depth, values: [2]}]}",
            ".parameters[1].name",
            "= 'max_depth': is given twice: list all its values once",
        ),
        (
            "{iterations: 3, parameters: [{name: max_depth, values: [1, 2]}]}",
            ".iterations",
            "= 3: there are 2 combinations, of which at most 2 can be tried: set `iterations` to 2 or fewer",
        ),
        (
            f"{{parameters: [{{name: n_estimators, values: {HUNDRED}}}, {{name: max_depth, values: [1, 2]}}]}}",
            ".iterations",
            "there are 200 combinations, of which at most 100 can be tried: set `iterations` to 100 or fewer, or",
        ),
    ],
)
def test_a_search_that_cannot_be_is_refused(tmp_path: Path, search: str, field: str, says: str) -> None:
    with pytest.raises(ContractError) as caught:
        load_contract(write(tmp_path, SHORT + f"candidates: [{{search: {search}}}]"))
    assert caught.value.field == "$.candidates[0].search" + field
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("feature", "field", "says"),
    [
        ("type: number, minimum: 5, maximum: 5", "minimum", "must be below maximum = 5"),
        ("type: number, minimum: 0.05, resolution: 0.1", "minimum", "multiple of the resolution 0.1"),
        ("type: number, categories: [a]", "categories", "a number has none"),
        ("type: number, missing: [none]", "missing", "must be a number"),
        ("type: integer, resolution: 0.5", "resolution", "must be whole"),
        ("type: category", "categories", "list each category once"),
        ("type: category, categories: [a, a]", "categories", "list each category once"),
        ("type: category, categories: [a], minimum: 1", "minimum", "a category has none"),
        ("type: category, categories: [a], missing: [a]", "missing", "not one of the categories"),
        ("type: date", "type", "Invalid enum value 'date'"),
    ],
)
def test_a_feature_that_contradicts_itself_is_refused(tmp_path: Path, feature: str, field: str, says: str) -> None:
    with pytest.raises(ContractError) as caught:
        load_contract(write(tmp_path, SHORT.replace("type: number", feature)))
    assert caught.value.field == f"$.features[0].{field}"
    assert says in str(caught.value)


def test_two_features_of_one_name_are_refused(tmp_path: Path) -> None:
    twice = SHORT.replace("target:", "  - {name: weight, type: integer}\ntarget:")
    with pytest.raises(ContractError, match=r"features\[1\].name = 'weight': is taken"):
        load_contract(write(tmp_path, twice))


def test_an_absent_file_is_a_contract_error(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="cannot be read"):
        load_contract(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("step", "value", "rounded"),
    [
        (0.1, 0.30000000000000004, 0.3),
        (0.1, 33.599998474121094, 33.6),
        (0.25, 1.13, 1.25),
        (0.001, 2.0005001, 2.001),
        (5.0, 12.4, 10.0),
        (100.0, 12_345.0, 12_300.0),
        (1e-7, 1.23456789e-3, 0.0012346),
        (0.1, 1e300, 1e300),
        (1.0, -0.2, 0.0),
    ],
)
def test_rounding_gives_the_float_nearest_the_decimal(step: float, value: float, rounded: float) -> None:
    assert Grid(step).round(value) == rounded


def test_two_contracts_of_one_name_are_refused() -> None:
    path = MODELS / "loan" / "contract.yaml"
    assert set(load_contracts([path, MODELS / "diabetes" / "contract.yaml"])) == {"loan", "diabetes"}
    with pytest.raises(ContractError, match="another contract has this name"):
        load_contracts([path, path])
