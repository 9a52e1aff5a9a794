"""A bundle becomes a model that answers, or says why it must not."""

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from driftloop.common.registry import Bundle, KnownAnswers
from driftloop.predictor.domain.model import UnusableModel, load_model
from tests.support.artifacts import logistic_answer, logistic_model, profile_for, small_bundle
from tests.support.models import shipped

DIABETES = shipped("diabetes").contract
LOAN = shipped("loan").contract


def reason_of(bundle: Bundle) -> str:
    with pytest.raises(UnusableModel) as refused:
        load_model(bundle, DIABETES)
    return refused.value.reason


def with_model(change: Callable[[ModelProto], object]) -> Bundle:
    model = logistic_model(5)
    change(model)
    return msgspec.structs.replace(small_bundle(DIABETES), model=model.SerializeToString())


def with_answers(**changes: object) -> Bundle:
    bundle = small_bundle(DIABETES)
    return msgspec.structs.replace(bundle, known_answers=msgspec.structs.replace(bundle.known_answers, **changes))


def test_a_loaded_model_answers_each_row() -> None:
    model = load_model(small_bundle(DIABETES, version=7), DIABETES)
    rows = [(1.0, 2.0, 3.0, 4.0, 5.0), (0.0, 0.0, 0.0, 0.0, 0.0)]
    scores = model.predict(np.array(rows, dtype=np.float32))
    assert (model.name, model.version, model.width) == ("diabetes", 7, 5)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, [logistic_answer(row) for row in rows], atol=1e-6)


def test_no_rows_give_no_scores() -> None:
    assert load_model(small_bundle(DIABETES), DIABETES).predict(np.empty((0, 5), dtype=np.float32)).shape == (0,)


def test_a_model_with_categories_serves_its_own_contract() -> None:
    assert load_model(small_bundle(LOAN), LOAN).width == 3


def test_another_models_bundle_is_refused() -> None:
    assert reason_of(small_bundle(LOAN)) == "contract"


def test_features_in_another_order_are_refused() -> None:
    turned = msgspec.structs.replace(DIABETES, features=DIABETES.features[::-1])
    with pytest.raises(UnusableModel, match=r"contract: version 1 was trained on Pregnancies, .* has Age, "):
        load_model(small_bundle(DIABETES), turned)


def test_categories_in_another_order_are_refused() -> None:
    features = tuple(msgspec.structs.replace(feature, categories=feature.categories[::-1]) for feature in LOAN.features)
    with pytest.raises(UnusableModel, match="contract: version 1 was trained on"):
        load_model(small_bundle(LOAN), msgspec.structs.replace(LOAN, features=features))


def test_another_alarm_threshold_does_not_make_a_model_unusable() -> None:
    stricter = msgspec.structs.replace(DIABETES, drift=msgspec.structs.replace(DIABETES.drift, psi_warning=0.05))
    assert load_model(small_bundle(DIABETES), stricter).version == 1


def test_the_policy_comes_before_the_runtime() -> None:
    assert reason_of(with_model(lambda model: model.opset_import.append(helper.make_opsetid("evil", 1)))) == "domain"


def test_bytes_that_are_no_model_are_refused() -> None:
    assert reason_of(msgspec.structs.replace(small_bundle(DIABETES), model=b"garbage")) == "not_onnx"


def test_what_the_runtime_cannot_open_is_refused() -> None:
    def mismatch(model: ModelProto) -> None:
        weights = model.graph.initializer[0]
        weights.dims[:] = [1, 5]

    assert reason_of(with_model(mismatch)) == "runtime"


def test_an_output_of_another_shape_is_refused() -> None:
    def widen(model: ModelProto) -> None:
        model.graph.node[3].input.append("positive")
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, None]))

    assert reason_of(with_model(widen)) == "output"


def test_a_model_that_answers_otherwise_is_refused() -> None:
    assert reason_of(with_answers(probabilities=(0.1, 0.2, 0.3))) == "known_answers"


def test_one_wrong_answer_among_many_is_enough() -> None:
    right = small_bundle(DIABETES).known_answers.probabilities
    assert reason_of(with_answers(probabilities=(*right[:2], right[2] + 2e-5))) == "known_answers"


def test_an_answer_that_is_not_a_number_is_refused() -> None:
    answers = KnownAnswers(inputs=((None, 1.0, 1.0, 1.0, 1.0),), probabilities=(0.5,))
    assert reason_of(msgspec.structs.replace(small_bundle(DIABETES), known_answers=answers)) == "known_answers"


def test_known_answers_of_another_width_are_refused() -> None:
    answers = KnownAnswers(inputs=((1.0, 1.0),), probabilities=(0.5,))
    assert reason_of(msgspec.structs.replace(small_bundle(DIABETES), known_answers=answers)) == "known_answers"


def test_a_profile_that_lacks_a_feature_is_refused() -> None:
    profile = profile_for(msgspec.structs.replace(DIABETES, features=DIABETES.features[:4]))
    assert reason_of(msgspec.structs.replace(small_bundle(DIABETES), profile=profile)) == "contract"
