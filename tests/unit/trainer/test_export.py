"""Training is repeatable, and what is exported says what was trained."""

import numpy as np
import onnx
import pytest
from sklearn.impute import SimpleImputer
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline

from driftloop.common.onnx_policy import UnusableModel
from driftloop.trainer.domain.export import ExportMismatch, check_export, export_onnx, known_answers, score
from driftloop.trainer.domain.training import out_of_fold_scores, train
from tests.support.models import Shipped, shipped

MODELS = {name: shipped(name) for name in ("diabetes", "loan")}


@pytest.fixture(params=["diabetes", "loan"])
def model(request: pytest.FixtureRequest) -> Shipped:
    return MODELS[request.param]


def exported(model: Shipped) -> bytes:
    return export_onnx(train(model.contract, model.features, model.labels), model.features.shape[1])


def test_the_same_rows_give_the_same_bytes(model: Shipped) -> None:
    assert exported(model) == exported(model)


def test_the_exported_model_equals_the_estimator(model: Shipped) -> None:
    pipeline = train(model.contract, model.features, model.labels)
    data = export_onnx(pipeline, model.features.shape[1])
    assert check_export(pipeline, data, model.features, model.contract.decision_threshold) <= 1e-5


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


def test_a_column_without_a_single_value_can_be_trained_on() -> None:
    model = MODELS["diabetes"]
    features = model.features.copy()
    features[:, 3] = np.nan
    pipeline = train(model.contract, features, model.labels)
    assert check_export(pipeline, export_onnx(pipeline, 5), features, 0.5) <= 1e-5


def test_no_rows_give_no_scores() -> None:
    assert score(exported(MODELS["diabetes"]), np.empty((0, 5), dtype=np.float32)).shape == (0,)


def test_one_class_alone_is_refused() -> None:
    model = MODELS["diabetes"]
    with pytest.raises(ValueError, match="0 negative and 768 positive training rows"):
        train(model.contract, model.features, np.ones(768, dtype=np.int8))


def test_a_class_that_counts_more_gets_higher_scores_in_and_out_of_fold(model: Shipped) -> None:
    weights = np.where(model.labels == 1, 3.0, 1.0)
    plain, weighted = (
        score(export_onnx(train(model.contract, model.features, model.labels, given), model.features.shape[1]), rows)
        for given, rows in ((None, model.features), (weights, model.features))
    )
    unseen, unseen_weighted = (
        out_of_fold_scores(model.contract, model.features, model.labels, 3, given) for given in (None, weights)
    )
    assert weighted.mean() > plain.mean() + 0.02
    assert unseen_weighted.mean() > unseen.mean() + 0.02


def test_out_of_fold_scores_are_less_sure_than_those_of_rows_that_were_seen(model: Shipped) -> None:
    unseen = out_of_fold_scores(model.contract, model.features, model.labels, folds=4)
    seen = score(exported(model), model.features)
    assert np.abs(seen - model.labels).mean() < np.abs(unseen - model.labels).mean()
