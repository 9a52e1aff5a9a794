"""The model contract: one YAML file that says all that Driftloop needs to know of a binary classifier.

Features with type, range and missing-value codes, target, estimator, baseline data, thresholds and gates. Everything
but the name, the features, the target and the baseline has a default, so that a contract can be short.
"""

import hashlib
import math
import re
from collections.abc import Hashable, Iterable, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import yaml
from cronsim import CronSim, CronSimError
from msgspec import Meta

ModelName = Annotated[str, Meta(pattern=r"\A[a-z0-9][a-z0-9._-]{0,62}\Z")]
FieldName = Annotated[str, Meta(pattern=r"\A[A-Za-z_][A-Za-z0-9_. -]{0,99}\Z")]
Text = Annotated[str, Meta(max_length=2000)]
Share = Annotated[float, Meta(ge=0, le=1)]
Level = Annotated[float, Meta(gt=0, lt=1)]
Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
Seed = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Code = int | float | str


class ContractError(ValueError):
    """A contract cannot be used. Names the file, the field in it, the value found there and the remedy."""

    def __init__(self, file: Path | str, field: str, value: object, remedy: str) -> None:
        self.file, self.field, self.value, self.remedy = str(file), field, value, remedy
        shown = "" if value is None else f" = {_shown(value)}"
        super().__init__(f"{file}: {field}{shown}: {remedy}")


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every part of a contract is: a value that knows no field but its own."""


class Feature(_Part, frozen=True, kw_only=True):
    """One input of the model.

    `missing` lists the codes that mean *no value*. `resolution` is the step that values are rounded to before they are
    logged and compared: 1 for integers; a number without one is left as it is. `required` says that a row must carry
    the field, `nullable` that it may carry null there. `minimum` and `maximum` are inclusive.
    """

    name: FieldName
    type: Literal["integer", "number", "category"]
    minimum: float | None = None
    maximum: float | None = None
    missing: tuple[Code, ...] = ()
    resolution: Positive | None = None
    categories: tuple[str, ...] = ()
    unit: Annotated[str, Meta(max_length=40)] = ""
    description: Text = ""
    required: bool = True
    nullable: bool = True

    @property
    def step(self) -> float | None:
        """The step that values are rounded to, None for none."""
        if self.resolution is None and self.type == "integer":
            return 1.0
        return self.resolution


class Target(_Part, frozen=True, kw_only=True):
    """What is predicted: the baseline's column, the values in it that mean 1 and 0, and what 1 is called."""

    name: FieldName
    positive: Code = 1
    negative: Code = 0
    title: Text = ""


class RandomForestParameters(_Part, frozen=True, kw_only=True):
    """Parameters of `sklearn.ensemble.RandomForestClassifier`, by its own names."""

    n_estimators: Annotated[int, Meta(ge=1, le=5000)] = 100
    min_samples_leaf: Count = 2
    max_depth: Count | None = None
    max_features: Literal["sqrt", "log2"] | Annotated[float, Meta(gt=0, le=1)] | None = "sqrt"
    max_samples: Annotated[float, Meta(gt=0, le=1)] | None = None
    max_samples_rows: Count | None = None
    class_weight: Literal["balanced", "balanced_subsample"] | None = None


class GradientBoostingParameters(_Part, frozen=True, kw_only=True):
    """Parameters of `sklearn.ensemble.HistGradientBoostingClassifier`, by its own names; it never stops early."""

    learning_rate: Annotated[float, Meta(gt=0, le=1)] = 0.1
    max_iter: Annotated[int, Meta(ge=1, le=5000)] = 100
    max_leaf_nodes: Annotated[int, Meta(ge=2, le=10_000)] | None = 31
    max_depth: Count | None = None
    min_samples_leaf: Count = 20
    l2_regularization: Annotated[float, Meta(ge=0)] = 0.0
    max_bins: Annotated[int, Meta(ge=2, le=255)] = 255
    class_weight: Literal["balanced"] | None = None


class LogisticRegressionParameters(_Part, frozen=True, kw_only=True):
    """Parameters of `sklearn.linear_model.LogisticRegression`, by its own names; its columns are standardised."""

    C: Positive = 1.0
    max_iter: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    class_weight: Literal["balanced"] | None = None


class SearchedParameter(_Part, frozen=True, kw_only=True):
    """One of an estimator's parameters by its name, and the values to try."""

    name: Annotated[str, Meta(min_length=1, max_length=40)]
    values: Annotated[tuple[int | float | str | None, ...], Meta(min_length=1, max_length=100)]


class Search(_Part, frozen=True, kw_only=True):
    """Values to try beside those in `parameters`: every combination, or `iterations` of them, drawn by the seed."""

    parameters: Annotated[tuple[SearchedParameter, ...], Meta(min_length=1, max_length=10)]
    iterations: Count | None = None

    @property
    def combinations(self) -> int:
        """How many there are, whether all are tried or not."""
        return math.prod(len(one.values) for one in self.parameters)


class _Estimator(_Part, frozen=True, kw_only=True, tag_field="kind"):
    """What is trained, the seed that makes training repeatable, and what else to try; each kind has `parameters`."""

    seed: Seed = 0
    search: Search | None = None

    @property
    def kind(self) -> str:
        """The name by which a contract asks for it."""
        return str(self.__struct_config__.tag)


class RandomForest(_Estimator, frozen=True, kw_only=True, tag="random_forest"):
    """A forest, each tree grown on rows drawn with replacement.

    As many as there are, a share of them (`max_samples`), and never more than `max_samples_rows`, so that trees stay
    small however many rows there are.
    """

    parameters: RandomForestParameters = RandomForestParameters()


class GradientBoosting(_Estimator, frozen=True, kw_only=True, tag="gradient_boosting"):
    """Boosted trees over histograms."""

    parameters: GradientBoostingParameters = GradientBoostingParameters()


class LogisticRegression(_Estimator, frozen=True, kw_only=True, tag="logistic_regression"):
    """A logistic regression on standardised columns."""

    parameters: LogisticRegressionParameters = LogisticRegressionParameters()


# A contract that names no kind means a random forest.
Estimator = RandomForest | GradientBoosting | LogisticRegression
KINDS = tuple(kind().kind for kind in (RandomForest, GradientBoosting, LogisticRegression))
MOST_COMBINATIONS = 100


class Baseline(_Part, frozen=True, kw_only=True):
    """The labelled data that version 1 learns from: a CSV file, its `path` relative to the contract.

    `holdout_rows` of them, drawn by `seed` and stratified by label, are never trained on by any version.
    """

    path: Annotated[str, Meta(min_length=1)]
    holdout_rows: Count = 154
    seed: Seed = 0


class Recipe(_Part, frozen=True, kw_only=True):
    """Which rows a challenger learns from, and how much each counts. The newest labels are always the gate's.

    `rows`: `all` labelled production rows; a `window` of the last `window_days` before the newest label, and of these
    no more than the newest `window_rows`; or the `new` population's, predicted since the drift began. `baseline` says
    whether the baseline's training rows are among them; a first version always learns from these.

    With `half_life_days` a row counts half as much for each such span that it is older than the newest row trained on.
    The baseline, whose rows have no time, is `baseline_age_days` older than that, by default as old as the oldest
    production row. `balance: balanced` gives both classes the same weight, whatever each row's age has left of its own.
    """

    rows: Literal["all", "window", "new"] = "all"
    window_days: Positive | None = None
    window_rows: Count | None = None
    baseline: bool = True
    half_life_days: Positive | None = None
    baseline_age_days: Annotated[float, Meta(ge=0)] | None = None
    balance: Literal["none", "balanced"] = "none"


class Drift(_Part, frozen=True, kw_only=True):
    """When a window of production rows counts as drifted, and how long it must last to be an alarm.

    A feature is CRITICAL in a window where p < `alpha` and PSI >= `psi_critical`, WARNING where p < `alpha` or
    PSI >= `psi_warning`. Its alarm opens after `windows_critical` (`windows_warning`) consecutive windows; a WARNING
    alarm also needs D >= `warning_min_d` or PSI >= `warning_min_psi`. `psi_floor` is the least share of a bin.
    """

    alpha: Level = 0.05
    psi_warning: Positive = 0.1
    psi_critical: Positive = 0.2
    psi_bins: Annotated[int, Meta(ge=2, le=100)] = 10
    psi_floor: Level = 1e-4
    warning_min_d: Share = 0.085
    warning_min_psi: Annotated[float, Meta(ge=0)] = 0.1
    windows_critical: Count = 2
    windows_warning: Count = 3
    correction: Literal["none", "benjamini-hochberg"] = "none"
    min_samples: Annotated[int, Meta(ge=2)] = 500
    pane_seconds: Annotated[float, Meta(ge=0.001, le=86_400)] = 60.0
    max_age_seconds: Positive = 86_400.0
    max_distinct: Annotated[int, Meta(ge=2, le=100_000)] = 1024


class Quality(_Part, frozen=True, kw_only=True):
    """When a window's rows are bad, and not just others.

    Missing, invalid, out-of-range values and unseen categories each raise an alarm where their share rose significantly
    (p < `alpha` / features) by `warning_change` or more (a share: .03 is three points), a CRITICAL one by
    `critical_change`. Where more than `outlying_share` of the values lie outside the middle 98 % of the reference and
    are distributed as it is but for a factor, a unit has changed. While an alarm is open nothing is retrained.
    """

    alpha: Level = 0.01
    warning_change: Level = 0.03
    critical_change: Level = 0.10
    outlying_share: Level = 0.8


class Performance(_Part, frozen=True, kw_only=True):
    """When labelled rows prove that the model has become worse.

    A performance window closes at the first data window where it has `min_labels` labels and `min_coverage` of its rows
    are labelled. `concept_alpha` is the concept test's level, `concept_margin` what the estimate may be wrong by. A
    decline needs p < `decline_alpha` and a drop of `decline_min` or more (a share) below the held-out figure.
    """

    min_labels: Count = 1000
    min_coverage: Annotated[float, Meta(gt=0, le=1)] = 0.5
    concept_alpha: Level = 0.01
    concept_margin: Annotated[float, Meta(ge=0, lt=1)] = 0.015
    decline_alpha: Level = 0.01
    decline_min: Annotated[float, Meta(ge=0, lt=1)] = 0.03
    interval_level: Level = 0.90


class Gates(_Part, frozen=True, kw_only=True):
    """What a retraining needs before it starts, and what a challenger must prove before it serves.

    Of the labelled production rows the newest `gate_labels` are the gate's and at least `train_labels` others are
    trained on. `alpha` is the level of McNemar's test, `bootstrap_alpha` that of the bootstrap's two-sided interval of
    `bootstrap` resamples, `segment_alpha` the family-wise one of all segments with `segment_rows` rows or more.
    `accepted_loss` is the largest drop of accuracy on the baseline's held-out slice (a share: .05 is five points),
    `accepted_loss_concept` the same where concept drift is declared. The guards after it hold on the newest rows, and
    only where they are given: the largest rise of Brier score and calibration error, the largest drop of recall and
    ROC AUC.
    """

    train_labels: Count = 800
    gate_labels: Count = 300
    alpha: Level = 0.05
    bootstrap: Annotated[int, Meta(ge=100, le=100_000)] = 2000
    bootstrap_alpha: Level = 0.05
    accepted_loss: Share = 0.05
    accepted_loss_concept: Share = 0.10
    segment_rows: Count = 100
    segment_alpha: Level = 0.05
    accepted_brier_rise: Share | None = None
    accepted_calibration_rise: Share | None = None
    accepted_recall_drop: Share | None = None
    accepted_roc_auc_drop: Share | None = None
    reference_rows_min: Annotated[int, Meta(ge=2)] = 1000
    reference_rows_max: Annotated[int, Meta(ge=2, le=1_000_000)] = 2000


class Retraining(_Part, frozen=True, kw_only=True):
    """When models are trained again, beside on CRITICAL drift.

    `schedule` is a cron expression of five fields, in UTC. What drift or schedule ask for begins no sooner than
    `cooldown_seconds` after the last retraining ended, and not where `daily_limit` trainings began within a day; what
    somebody asks for by hand begins at once.
    """

    schedule: Annotated[str, Meta(max_length=100)] | None = None
    cooldown_seconds: Annotated[float, Meta(ge=0, le=366 * 86_400)] = 600.0
    daily_limit: Count = 8


class RolloutStep(_Part, frozen=True, kw_only=True):
    """One step of a canary: the share of requests that it answers (0: none, it is a shadow).

    The step ends with `min_labels` labels or after `min_seconds`, whichever comes first. Only the last step may have
    neither.
    """

    weight: Share
    min_labels: Count | None = None
    min_seconds: Positive | None = None


class Rollout(_Part, frozen=True, kw_only=True):
    """How a version that passed the gate comes to serve, and what its live outcomes must show.

    Without `steps` it serves at once. With them it is compared with the champion on every labelled request: an e-value
    of `evidence` for worse rolls it back, one for better promotes it once there are `min_labels` labels. Where neither
    is shown by `max_labels` labels, or in `max_seconds`, it is rolled back.
    """

    steps: Annotated[tuple[RolloutStep, ...], Meta(max_length=100)] = ()
    evidence: Annotated[float, Meta(gt=1)] = 50.0
    min_labels: Count = 100
    max_labels: Count = 3000
    max_seconds: Positive | None = 7_776_000.0


class Limit(_Part, frozen=True, kw_only=True):
    """When a value in one unit is abnormal, and between which values (inclusive) it is possible at all."""

    unit: Annotated[str, Meta(min_length=1, max_length=40)]
    threshold: float
    minimum: float | None = None
    maximum: float | None = None


class LabelTest(_Part, frozen=True, kw_only=True):
    """One laboratory test that makes labels: its LOINC codes, and a limit for each unit system.

    A value is abnormal where `value comparator threshold` holds. A value in another unit that can be converted to one
    of the limits' is converted to the first such.
    """

    name: Annotated[str, Meta(min_length=1, max_length=100)]
    loinc: Annotated[tuple[Annotated[str, Meta(pattern=r"\A[0-9]{1,7}-[0-9]\Z")], ...], Meta(min_length=1)]
    comparator: Literal["<", "<=", ">=", ">"] = ">="
    limits: Annotated[tuple[Limit, ...], Meta(min_length=1)]

    def limit(self, unit: str) -> Limit | None:
        """The limit in exactly this unit."""
        return next((one for one in self.limits if one.unit == unit), None)


class Labels(_Part, frozen=True, kw_only=True):
    """How laboratory results become labels. Raise `version` with each change: every label says which one made it.

    `decide`: the label is 1 after a `single` abnormal result, or once it is `confirmed` by a second one, taken at most
    `confirm_within_days` from the first. A result that names a patient only belongs to the patient's `nearest`
    prediction at or before its specimen, or to `all` of them, that are at most `match_within_days` older. One that
    names an order belongs to the order's predictions that are no further from its specimen than that.
    """

    version: Count = 1
    decide: Literal["single", "confirmed"] = "single"
    confirm_within_days: Positive = 180.0
    match: Literal["nearest", "all"] = "nearest"
    match_within_days: Positive = 365.0
    tests: tuple[LabelTest, ...] = ()

    def test(self, analyte: str) -> LabelTest | None:
        """The test that a LOINC code stands for."""
        return next((one for one in self.tests if analyte in one.loinc), None)


class Contract(_Part, frozen=True, kw_only=True, cache_hash=True):
    """One model, completely described.

    `candidates` compete with `estimator`: which of them is trained is decided by cross-validation on the training rows,
    by `selection`. `reference` says what a promoted version is compared with: the `recent` production rows that it was
    proven on, or the rows that it was trained on (`training`).
    """

    name: ModelName
    features: Annotated[tuple[Feature, ...], Meta(min_length=1, max_length=1000)]
    target: Target
    baseline: Baseline
    description: Text = ""
    estimator: Estimator = RandomForest()
    candidates: Annotated[tuple[Estimator, ...], Meta(max_length=20)] = ()
    selection: Literal["log_loss", "brier", "roc_auc", "accuracy"] = "log_loss"
    training: Recipe = Recipe()
    decision_threshold: Level = 0.5
    drift: Drift = Drift()
    quality: Quality = Quality()
    performance: Performance = Performance()
    gates: Gates = Gates()
    retraining: Retraining = Retraining()
    rollout: Rollout = Rollout()
    labels: Labels = Labels()
    reference: Literal["recent", "training"] = "recent"

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The features' names in the order of the model's input columns."""
        return tuple(feature.name for feature in self.features)

    def feature(self, name: str) -> Feature:
        """One feature by its name. Raises KeyError, naming those that there are."""
        for feature in self.features:
            if feature.name == name:
                return feature
        raise KeyError(f"model {self.name!r} has no feature {name!r}, only {list(self.feature_names)}")


def load_contract(path: Path) -> Contract:
    """Read, decode and check one contract. Raises ContractError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ContractError(path, "$", None, f"cannot be read ({error}): give a readable UTF-8 YAML file") from error
    try:
        document = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise ContractError(path, "$", None, f"is not valid YAML: {' '.join(str(error).split())}") from error
    document = _kinds_named(document)
    try:
        contract = msgspec.convert(document, Contract)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).partition(" - at `")
        field = where.removesuffix("`") or "$"
        if field.endswith(".kind"):
            reason = f"is no kind of estimator: use one of {', '.join(KINDS)}"
        raise ContractError(path, field, _value_at(document, field), reason) from error
    _check(path, contract)
    return contract


def load_contracts(paths: Iterable[Path]) -> dict[str, Contract]:
    """Several contracts, by model name. Raises ContractError, also where two have one name."""
    contracts: dict[str, Contract] = {}
    for path in paths:
        contract = load_contract(path)
        if contract.name in contracts:
            raise ContractError(path, "name", contract.name, "another contract has this name: give each model its own")
        contracts[contract.name] = contract
    return contracts


def chosen(contracts: Mapping[str, Contract], model: str | None) -> Contract | None:
    """The contract of a model; without a name the only one there is. None where that does not say which."""
    if model is None:
        return next(iter(contracts.values())) if len(contracts) == 1 else None
    return contracts.get(model)


def baseline_path(contract_file: Path, contract: Contract) -> Path:
    """Where the contract's baseline CSV is: its path is relative to the contract's own folder."""
    return contract_file.parent / contract.baseline.path


def digest(contract: Contract) -> str:
    """SHA-256 (hex) of the contract's canonical JSON: the same meaning gives the same digest, however it was typed."""
    return hashlib.sha256(msgspec.json.encode(contract, order="deterministic")).hexdigest()


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML keeps the last of two equal keys in silence; a contract must not lose a setting that way."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        """The mapping as YAML means it. Raises ConstructorError where a key is given twice."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{twice} given twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


def _kinds_named(document: object) -> object:
    """The document with the kind of each estimator that names none."""
    if not isinstance(document, dict):
        return document

    def named(estimator: object) -> object:
        return {"kind": KINDS[0]} | estimator if isinstance(estimator, dict) else estimator

    found = dict(document)
    if "estimator" in found:
        found["estimator"] = named(found["estimator"])
    if isinstance(found.get("candidates"), list):
        found["candidates"] = [named(one) for one in found["candidates"]]
    return found


def _value_at(document: object, field: str) -> object:
    """The value at a path as msgspec writes it (`$.features[0].type`), None where the path leads nowhere."""
    value = document
    for key, index in re.findall(r"\.([^.\[]+)|\[(\d+)\]", field):
        if key and isinstance(value, dict):
            value = value.get(key)
        elif index and isinstance(value, list) and int(index) < len(value):
            value = value[int(index)]
        else:
            return None
    return None if isinstance(value, dict | list) else value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _check(path: Path, contract: Contract) -> None:
    """What no single field's type can say."""
    names = contract.feature_names
    for index, feature in enumerate(contract.features):
        if names.index(feature.name) != index:
            raise ContractError(path, f"$.features[{index}].name", feature.name, "is taken: give each feature its own")
        _check_feature(path, f"$.features[{index}]", feature)
    target, drift, gates = contract.target, contract.drift, contract.gates
    if target.name in names:
        raise ContractError(path, "$.target.name", target.name, "is also a feature: the target must not be an input")
    if target.positive == target.negative:
        raise ContractError(path, "$.target.positive", target.positive, "equals `negative`: they must differ")
    if drift.psi_warning > drift.psi_critical:
        raise ContractError(
            path, "$.drift.psi_warning", drift.psi_warning, f"must be at most psi_critical = {drift.psi_critical:g}"
        )
    quality = contract.quality
    if quality.warning_change > quality.critical_change:
        limit = f"must be at most critical_change = {quality.critical_change:g}"
        raise ContractError(path, "$.quality.warning_change", quality.warning_change, limit)
    if gates.reference_rows_min > gates.reference_rows_max:
        limit = f"must be at most reference_rows_max = {gates.reference_rows_max}"
        raise ContractError(path, "$.gates.reference_rows_min", gates.reference_rows_min, limit)
    if contract.retraining.schedule is not None:
        _check_schedule(path, contract.retraining.schedule)
    _check_rollout(path, contract.rollout)
    _check_labels(path, contract.labels)
    _check_recipe(path, contract)
    _check_search(path, "$.estimator", contract.estimator)
    for index, candidate in enumerate(contract.candidates):
        _check_search(path, f"$.candidates[{index}]", candidate)
    if Path(contract.baseline.path).is_absolute():
        raise ContractError(path, "$.baseline.path", contract.baseline.path, "must be relative to the contract")


def _check_schedule(path: Path, schedule: str) -> None:
    try:
        next(CronSim(schedule, datetime(2000, 1, 1, tzinfo=UTC)))
    except (CronSimError, StopIteration) as error:
        remedy = "is no cron expression that is ever due: five fields, for instance 0 3 * * 1 for Mondays at 3:00 UTC"
        raise ContractError(path, "$.retraining.schedule", schedule, remedy) from error


def _check_rollout(path: Path, rollout: Rollout) -> None:
    if rollout.min_labels > rollout.max_labels:
        limit = f"must be at most max_labels = {rollout.max_labels}"
        raise ContractError(path, "$.rollout.min_labels", rollout.min_labels, limit)
    for place, (step, following) in enumerate(pairwise(rollout.steps)):
        if following.weight < step.weight:
            lowest = f"must be at least that of the step before, {step.weight:g}"
            raise ContractError(path, f"$.rollout.steps[{place + 1}].weight", following.weight, lowest)
        if step.min_labels is None and step.min_seconds is None:
            remedy = "ends by nothing, and another follows: give it min_labels or min_seconds"
            raise ContractError(path, f"$.rollout.steps[{place}]", None, remedy)


def _check_recipe(path: Path, contract: Contract) -> None:
    recipe, least = contract.training, contract.gates.train_labels
    windows = {"window_days": recipe.window_days, "window_rows": recipe.window_rows}
    given = {name: value for name, value in windows.items() if value is not None}
    if recipe.rows == "window" and not given:
        raise ContractError(path, "$.training.rows", "window", "give window_days, window_rows or both")
    if recipe.rows != "window" and given:
        name, value = next(iter(given.items()))
        raise ContractError(path, f"$.training.{name}", value, "means nothing without rows: window")
    if recipe.window_rows is not None and recipe.window_rows < least:
        limit = f"must be at least gates.train_labels = {least}"
        raise ContractError(path, "$.training.window_rows", recipe.window_rows, limit)
    if recipe.baseline_age_days is not None and (recipe.half_life_days is None or not recipe.baseline):
        limit = "means nothing without half_life_days and the baseline"
        raise ContractError(path, "$.training.baseline_age_days", recipe.baseline_age_days, limit)
    weighted = getattr(contract.estimator.parameters, "class_weight", None)
    if recipe.balance == "balanced" and weighted is not None:
        limit = "balances the classes a second time: leave out one of it and estimator.parameters.class_weight"
        raise ContractError(path, "$.training.balance", recipe.balance, limit)


def _check_search(path: Path, where: str, estimator: Estimator) -> None:
    if (search := estimator.search) is None:
        return
    names = [one.name for one in search.parameters]
    for index, one in enumerate(search.parameters):
        here = f"{where}.search.parameters[{index}]"
        if names.index(one.name) != index:
            raise ContractError(path, f"{here}.name", one.name, "is given twice: list all its values once")
        for place, value in enumerate(one.values):
            try:
                msgspec.convert({one.name: value}, type(estimator.parameters))
            except msgspec.ValidationError as error:
                reason, _, field = str(error).partition(" - at `")
                wrong, found = (f".values[{place}]", value) if field else (".name", one.name)
                raise ContractError(path, here + wrong, found, f"{reason} of a {estimator.kind}") from error
    tried, most = search.iterations or search.combinations, min(MOST_COMBINATIONS, search.combinations)
    if tried > most:
        remedy = f"there are {search.combinations} combinations, of which at most {most} can be tried: "
        how = f"set `iterations` to {most} or fewer" + ("" if search.iterations else ", or list fewer values")
        raise ContractError(path, f"{where}.search.iterations", search.iterations, remedy + how)


def _check_labels(path: Path, labels: Labels) -> None:
    known: set[str] = set()
    for place, test in enumerate(labels.tests):
        where = f"$.labels.tests[{place}]"
        for code in test.loinc:
            if code in known:
                raise ContractError(path, f"{where}.loinc", code, "is given twice: a code can mean one test only")
            known.add(code)
        for nth, limit in enumerate(test.limits):
            here = f"{where}.limits[{nth}]"
            if test.limit(limit.unit) is not limit:
                raise ContractError(path, f"{here}.unit", limit.unit, "is given twice: give each unit one limit")
            low, high = limit.minimum, limit.maximum
            if low is not None and high is not None and low >= high:
                raise ContractError(path, f"{here}.minimum", low, f"must be below maximum = {high:g}")


def _check_feature(path: Path, where: str, feature: Feature) -> None:
    if feature.type == "category":
        _check_category(path, where, feature)
    else:
        _check_number(path, where, feature)


def _check_category(path: Path, where: str, feature: Feature) -> None:
    if not feature.categories or len(set(feature.categories)) != len(feature.categories):
        raise ContractError(path, f"{where}.categories", list(feature.categories), "list each category once")
    for field in ("minimum", "maximum", "resolution"):
        if getattr(feature, field) is not None:
            raise ContractError(path, f"{where}.{field}", getattr(feature, field), "a category has none: remove it")
    for code in feature.missing:
        if not isinstance(code, str) or code in feature.categories:
            raise ContractError(path, f"{where}.missing", code, "must be a text that is not one of the categories")


def _check_number(path: Path, where: str, feature: Feature) -> None:
    if feature.categories:
        raise ContractError(path, f"{where}.categories", list(feature.categories), f"a {feature.type} has none")
    for code in feature.missing:
        if isinstance(code, str):
            raise ContractError(path, f"{where}.missing", code, "must be a number")
    low, high, step = feature.minimum, feature.maximum, feature.step
    if low is not None and high is not None and low >= high:
        raise ContractError(path, f"{where}.minimum", low, f"must be below maximum = {high:g}")
    if feature.type == "integer" and step is not None and step != int(step):
        raise ContractError(path, f"{where}.resolution", step, "must be whole for an integer")
    for field, bound in (("minimum", low), ("maximum", high)):
        # A bound off the grid would let rounding carry a valid value out of its range.
        if bound is not None and step is not None and Grid(step).round(bound) != bound:
            raise ContractError(path, f"{where}.{field}", bound, f"must be a multiple of the resolution {step:g}")


class Grid:
    """Rounds to multiples of a decimal step, to the float64 nearest the decimal result (3 · 0.1 is 0.3).

    >>> Grid(0.1).round(33.599998474121094)
    33.6
    """

    def __init__(self, step: float) -> None:
        """Keep the step as a fraction of whole numbers, `step = numerator / scale`; scale is a power of ten."""
        mantissa, _, exponent = f"{step!r}".lower().partition("e")
        whole, _, decimals = mantissa.partition(".")
        power = len(decimals) - int(exponent or 0)
        self.numerator = int(whole + decimals) * 10 ** max(0, -power)
        self.scale = 10 ** max(0, power)
        # Beyond this size neighbouring floats are further apart than the step: there is nothing to round.
        self.limit = 2.0**52 * self.numerator / self.scale

    def round(self, value: float) -> float:
        """The nearest multiple, of two equally near ones the even; exact, because one division rounds once."""
        if abs(value) >= self.limit:
            return float(value)
        multiple: int = round(value * self.scale / self.numerator)
        return float(multiple * self.numerator / self.scale)
