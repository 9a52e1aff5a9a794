"""Training is repeatable, and what is exported says what was trained."""

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline

from driftloop.common.contract import (
    Estimator,
    GradientBoosting,
    GradientBoostingParameters,
    LogisticRegression,
    RandomForest,
    RandomForestParameters,
)
from driftloop.common.onnx_policy import UnusableModel, check_model
from driftloop.trainer.domain.export import (
    ExportMismatch,
    ModelTooBig,
    check_export,
    export_onnx,
    known_answers,
    score,
    spread_rows,
)
from driftloop.trainer.domain.training import out_of_fold_scores, train
from tests.support.models import Shipped, shipped

MODELS = {name: shipped(name) for name in ("diabetes", "loan")}


KINDS: dict[str, Estimator] = {
    "random_forest": RandomForest(parameters=RandomForestParameters(n_estimators=10)),
    "gradient_boosting": GradientBoosting(parameters=GradientBoostingParameters(max_iter=10, min_samples_leaf=5)),
    "logistic_regression": LogisticRegression(),
}
EVERY_MODEL_AND_KIND = [(name, kind) for name in MODELS for kind in KINDS]


def with_kind(name: str, kind: str) -> Shipped:
    """A shipped model with another estimator."""
    model = MODELS[name]
    return model._replace(contract=msgspec.structs.replace(model.contract, estimator=KINDS[kind]))


@pytest.fixture(params=EVERY_MODEL_AND_KIND, ids="-".join)
def model(request: pytest.FixtureRequest) -> Shipped:
    return with_kind(*request.param)


@pytest.fixture(params=KINDS)
def diabetes(request: pytest.FixtureRequest) -> Shipped:
    return with_kind("diabetes", request.param)


def unseen(model: Shipped, rows: int = 5000) -> NDArray[np.float32]:
    """Rows that were not trained on: each column drawn by itself, numbers now and then missing or off their grid."""
    rng = np.random.default_rng(1)
    drawn = np.column_stack([rng.choice(column, rows) for column in model.features.T])
    numbers = [index for index, f in enumerate(model.contract.features) if f.type != "category"]
    drawn[:, numbers] += rng.integers(-5, 6, (rows, len(numbers))) * np.float32(0.05)
    drawn[:, numbers] = np.where(rng.random((rows, len(numbers))) < 0.1, np.nan, drawn[:, numbers])
    return drawn.astype(np.float32)


def exported(model: Shipped) -> bytes:
    return export_onnx(train(model.contract, model.features, model.labels), model.features.shape[1])


def test_the_same_rows_give_the_same_bytes(model: Shipped) -> None:
    assert exported(model) == exported(model)


def test_the_exported_model_equals_the_estimator(model: Shipped) -> None:
    pipeline = train(model.contract, model.features, model.labels)
    data = export_onnx(pipeline, model.features.shape[1])
    assert check_export(pipeline, data, model.features, model.contract.decision_threshold) <= 1e-5


def test_the_exported_model_equals_the_estimator_on_rows_that_it_has_not_seen(model: Shipped) -> None:
    pipeline = train(model.contract, model.features, model.labels)
    data = export_onnx(pipeline, model.features.shape[1])
    assert check_export(pipeline, data, unseen(model), model.contract.decision_threshold) <= 1e-5


def test_a_value_on_a_threshold_of_boosted_trees_goes_the_estimators_way() -> None:
    """Thresholds lie between training values, in float64: rounded up to float32, they would let a value through."""
    model = with_kind("diabetes", "gradient_boosting")
    pipeline = train(model.contract, model.features, model.labels)
    cuts = np.unique(np.concatenate([tree.nodes["num_threshold"] for (tree,) in pipeline[-1]._predictors]))
    near = np.float32(cuts)
    values = np.concatenate([near, np.nextafter(near, np.float32(-1e9)), np.nextafter(near, np.float32(1e9))])
    rows = np.repeat(values[:, np.newaxis], 5, axis=1)
    expected = pipeline.predict_proba(rows)[:, 1]
    np.testing.assert_allclose(score(export_onnx(pipeline, 5), rows), expected, atol=1e-5)


def test_a_predictor_allows_every_operator_of_the_exported_model(model: Shipped) -> None:
    check_model(exported(model), model.features.shape[1])


def test_its_interface_is_features_in_probabilities_out(model: Shipped) -> None:
    loaded = onnx.load_from_string(exported(model))
    onnx.checker.check_model(loaded, full_check=True)
    width = model.features.shape[1]
    assert [(i.name, i.type.tensor_type.shape.dim[1].dim_value) for i in loaded.graph.input] == [("features", width)]
    assert "probabilities" in [output.name for output in loaded.graph.output]
    assert {entry.domain for entry in loaded.opset_import} == {"", "ai.onnx.ml"}
    assert len(loaded.opset_import) == 2


def test_what_every_predictor_would_refuse_is_not_exported() -> None:
    model = MODELS["loan"]
    bayes = make_pipeline(SimpleImputer(), GaussianNB()).fit(model.features, model.labels)
    with pytest.raises(UnusableModel, match="ReduceLogSumExp"):
        export_onnx(bayes, model.features.shape[1])


def test_a_row_scores_alone_as_it_does_among_others(model: Shipped) -> None:
    data = exported(model)
    together = score(data, model.features[:20])
    alone = [score(data, model.features[row : row + 1])[0] for row in range(20)]
    np.testing.assert_array_equal(together, alone)


def test_another_models_bytes_are_a_mismatch() -> None:
    model = MODELS["diabetes"]
    upside_down = train(model.contract, model.features, (1 - model.labels).astype(np.int8))
    with pytest.raises(ExportMismatch, match="differs from the estimator by up to"):
        check_export(upside_down, exported(model), model.features, 0.5)


def test_known_answers_hold_for_the_exported_model_and_cover_missing_values(model: Shipped) -> None:
    pipeline = train(model.contract, model.features, model.labels)
    inputs, answers = known_answers(model.contract, pipeline, model.features)
    assert inputs.shape == (16, model.features.shape[1])
    np.testing.assert_allclose(score(export_onnx(pipeline, inputs.shape[1]), inputs), answers, atol=1e-5)
    assert np.isnan(inputs).any()
    assert len(np.unique(answers)) > 4


def test_a_category_never_seen_and_a_missing_one_are_answered() -> None:
    data = exported(MODELS["loan"])
    rows = np.array([[30_000, -1, 24], [np.nan, 9, np.nan]], dtype=np.float32)
    assert np.all((score(data, rows) >= 0) & (score(data, rows) <= 1))


def test_a_column_without_a_single_value_can_be_trained_on(diabetes: Shipped) -> None:
    features = diabetes.features.copy()
    features[:, 3] = np.nan
    pipeline = train(diabetes.contract, features, diabetes.labels)
    assert check_export(pipeline, export_onnx(pipeline, 5), np.vstack([features, diabetes.features]), 0.5) <= 1e-5


def test_a_constant_column_changes_no_decision(diabetes: Shipped) -> None:
    features = diabetes.features.copy()
    features[:, 3] = 33.6
    pipeline = train(diabetes.contract, features, diabetes.labels)
    assert check_export(pipeline, export_onnx(pipeline, 5), np.vstack([features, diabetes.features]), 0.5) <= 1e-5


def test_rows_without_a_single_value_get_the_share_of_positives(diabetes: Shipped) -> None:
    nothing = np.full_like(diabetes.features, np.nan)
    data = export_onnx(train(diabetes.contract, nothing, diabetes.labels), 5)
    np.testing.assert_allclose(score(data, nothing), diabetes.labels.mean(), atol=0.03)


def test_contradictory_rows_get_the_share_of_their_labels(diabetes: Shipped) -> None:
    rows = np.repeat(diabetes.features[:20], 40, axis=0)
    labels = np.tile(np.array([0, 0, 0, 1], dtype=np.int8), 200)
    pipeline = train(diabetes.contract, rows, labels)
    data = export_onnx(pipeline, 5)
    assert check_export(pipeline, data, rows, 0.5) <= 1e-5
    np.testing.assert_allclose(score(data, rows), 0.25, atol=0.1)


def test_three_rows_are_enough_to_train_and_too_few_to_hold_any_out(diabetes: Shipped) -> None:
    features, labels = diabetes.features[:3], np.array([0, 1, 1], dtype=np.int8)
    pipeline = train(diabetes.contract, features, labels)
    assert check_export(pipeline, export_onnx(pipeline, 5), features, 0.5) <= 1e-5
    with pytest.raises(ValueError, match=r"1 negative and 2 positive training rows: .* at least 2 of each"):
        out_of_fold_scores(diabetes.contract, features, labels)


def test_no_row_at_all_is_refused(diabetes: Shipped) -> None:
    with pytest.raises(ValueError, match="0 negative and 0 positive training rows"):
        train(diabetes.contract, diabetes.features[:0], diabetes.labels[:0])


def test_no_rows_give_no_scores() -> None:
    assert score(exported(MODELS["diabetes"]), np.empty((0, 5), dtype=np.float32)).shape == (0,)


def test_one_class_alone_is_refused(diabetes: Shipped) -> None:
    with pytest.raises(ValueError, match="0 negative and 768 positive training rows"):
        train(diabetes.contract, diabetes.features, np.ones(768, dtype=np.int8))


def test_a_model_that_no_predictor_would_load_is_refused_with_the_remedy() -> None:
    model = MODELS["diabetes"]
    pipeline = train(model.contract, model.features, model.labels)
    size = len(export_onnx(pipeline, 5))
    with pytest.raises(ModelTooBig, match=r"predictors load at most .*: raise the estimator's min_samples_leaf"):
        export_onnx(pipeline, 5, size_limit=size - 1)
    assert len(export_onnx(pipeline, 5, size_limit=size)) == size


def test_a_forest_that_is_far_too_big_is_refused_before_it_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS["diabetes"]
    pipeline = train(model.contract, model.features, model.labels)
    monkeypatch.delattr("driftloop.trainer.domain.export.convert_sklearn")
    with pytest.raises(ModelTooBig):
        export_onnx(pipeline, 5, size_limit=1000)


def test_many_rows_are_checked_at_even_distances() -> None:
    rows = np.arange(1000, dtype=np.float32).reshape(500, 2)
    assert len(spread_rows(rows)) == 500
    np.testing.assert_array_equal(spread_rows(rows, 3)[:, 0], [0, 498, 998])


def test_a_class_that_counts_more_gets_higher_scores_in_and_out_of_fold(model: Shipped) -> None:
    weights = np.where(model.labels == 1, 3.0, 1.0)
    plain, weighted = (
        score(export_onnx(train(model.contract, model.features, model.labels, given), model.features.shape[1]), rows)
        for given, rows in ((None, model.features), (weights, model.features))
    )
    unseen, unseen_weighted = (
        out_of_fold_scores(model.contract, model.features, model.labels, 3, weights=given) for given in (None, weights)
    )
    assert weighted.mean() > plain.mean() + 0.02
    assert unseen_weighted.mean() > unseen.mean() + 0.02


def test_out_of_fold_scores_are_less_sure_than_those_of_rows_that_were_seen(model: Shipped) -> None:
    unseen = out_of_fold_scores(model.contract, model.features, model.labels, folds=4)
    seen = score(exported(model), model.features)
    assert np.abs(seen - model.labels).mean() < np.abs(unseen - model.labels).mean()
