"""ONNX files of other makers: what can be given the house's form is, and the rest is refused with what to do."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType
from sklearn.linear_model import LogisticRegression

from driftloop.common.contract import Target
from driftloop.common.onnx_policy import check_model
from driftloop.trainer.domain.adapting import ImportRefused, adapted
from driftloop.trainer.domain.export import score
from tests.support.artifacts import logistic_model

WIDTH = 3
TARGET = Target(name="status", positive="default", negative="repaid")
ROWS = np.random.default_rng(0).normal(size=(50, WIDTH)).astype(np.float32)
LABELS = (ROWS[:, 0] + ROWS[:, 1] > 0).astype(int)


def fitted(labels: Sequence[object] = tuple(LABELS)) -> LogisticRegression:
    return LogisticRegression().fit(ROWS, labels)


def converted(estimator: LogisticRegression, kind: type = FloatTensorType, **options: object) -> bytes:
    model = convert_sklearn(
        estimator, initial_types=[("X", kind([None, WIDTH]))], options={id(estimator): options}, target_opset=17
    )
    data: bytes = model.SerializeToString()
    return data


def network(output: Sequence[int | str | None], last: Sequence[NodeProto], **changes: int) -> ModelProto:
    """What a network's export looks like: `input` → Gemm → Sigmoid → `last` → `output`."""
    kind = changes.get("kind", TensorProto.FLOAT)
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["input", "weight", "bias"], ["logit"]),
            helper.make_node("Sigmoid", ["logit"], ["p"]),
            *last,
        ],
        "network",
        [helper.make_tensor_value_info("input", kind, ["batch", changes.get("width", WIDTH)])],
        [helper.make_tensor_value_info("output", kind, output)],
        [
            numpy_helper.from_array(np.ones((WIDTH, 1), dtype=np.float32), "weight"),
            numpy_helper.from_array(np.zeros(1, dtype=np.float32), "bias"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", changes.get("opset", 17))], ir_version=8)


def answers(model: bytes) -> np.ndarray:
    check_model(model, WIDTH)
    return score(model, ROWS)


def test_a_model_in_the_houses_form_is_left_as_it_is() -> None:
    data = logistic_model(WIDTH).SerializeToString()
    assert adapted(data, WIDTH, TARGET) == data


@pytest.mark.parametrize("zipmap", [True, False])
def test_a_converted_estimator_answers_as_it_did_with_dictionaries_or_without(zipmap: bool) -> None:
    estimator = fitted()
    data = converted(estimator, zipmap=zipmap)
    np.testing.assert_allclose(answers(adapted(data, WIDTH, TARGET)), estimator.predict_proba(ROWS)[:, 1], atol=1e-5)


def test_an_output_for_each_class_is_refused() -> None:
    with pytest.raises(ImportRefused, match=r"2 may be probabilities .* export one, or call it 'probabilities'"):
        adapted(converted(fitted(), zipmap="columns"), WIDTH, TARGET)


def test_an_input_of_doubles_is_given_ours() -> None:
    estimator = fitted()
    data = converted(estimator, DoubleTensorType, zipmap=False)
    np.testing.assert_allclose(answers(adapted(data, WIDTH, TARGET)), estimator.predict_proba(ROWS)[:, 1], atol=1e-5)


def test_the_positive_class_is_the_contracts_wherever_its_column_is() -> None:
    estimator = fitted(["default" if label else "repaid" for label in LABELS])
    data = converted(estimator, zipmap=True)
    assert list(estimator.classes_) == ["default", "repaid"]
    np.testing.assert_allclose(answers(adapted(data, WIDTH, TARGET)), estimator.predict_proba(ROWS)[:, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("output", "last"),
    [
        (["batch", 1], [helper.make_node("Identity", ["p"], ["output"])]),
        (["batch"], [helper.make_node("Squeeze", ["p", "weight_axis"], ["output"])]),
    ],
    ids=["a column", "a vector"],
)
def test_one_probability_a_row_becomes_two(output: Sequence[int | str | None], last: Sequence[NodeProto]) -> None:
    model = network(output, last)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1], dtype=np.int64), "weight_axis"))
    expected = 1 / (1 + np.exp(-ROWS.sum(axis=1)))
    np.testing.assert_allclose(answers(adapted(model.SerializeToString(), WIDTH, TARGET)), expected, atol=1e-5)


def test_names_of_the_file_that_are_ours_are_not_mixed_up() -> None:
    model = network(["batch", 1], [helper.make_node("Identity", ["p"], ["output"])])
    ours = {"logit": "features", "p": "positive", "bias": "one"}
    for node in model.graph.node:
        node.input[:] = [ours.get(name, name) for name in node.input]
        node.output[:] = [ours.get(name, name) for name in node.output]
    for tensor in model.graph.initializer:
        tensor.name = ours.get(tensor.name, tensor.name)
    expected = 1 / (1 + np.exp(-ROWS.sum(axis=1)))
    np.testing.assert_allclose(answers(adapted(model.SerializeToString(), WIDTH, TARGET)), expected, atol=1e-5)


def test_what_probabilities_do_not_need_is_left_out() -> None:
    model = onnx.load_model_from_string(adapted(converted(fitted(), zipmap=True), WIDTH, TARGET))
    assert {"ZipMap", "ArrayFeatureExtractor"}.isdisjoint(node.op_type for node in model.graph.node)


IDENTITY = [helper.make_node("Identity", ["p"], ["output"])]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (b"not a model", "no ONNX model: export it"),
        (network(["batch", 1], IDENTITY, width=7), "takes 7 columns, the contract has 3 features"),
        (network(["batch", 1], IDENTITY, kind=TensorProto.INT64), "is int64 .*: export it with one input"),
        (network(["batch", 3], IDENTITY), "0 may be probabilities"),
        (network(["batch", 1], IDENTITY, opset=7), "uses opset 7: export it with 9 or newer"),
        (network(["batch", 1], [helper.make_node("Exotic", ["p"], ["output"], domain="com.maker")]), "not allowed"),
        (network(["batch", 1], [helper.make_node("RandomUniformLike", ["p"], ["output"])]), "not among the allowed"),
    ],
    ids=["garbage", "width", "type", "output", "opset", "domain", "operator"],
)
def test_what_cannot_be_served_is_refused_with_the_remedy(model: ModelProto | bytes, message: str) -> None:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    with pytest.raises(ImportRefused, match=message):
        adapted(data, WIDTH, TARGET)


def test_two_inputs_are_refused() -> None:
    model = network(["batch", 1], IDENTITY)
    model.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, [None, 1]))
    with pytest.raises(ImportRefused, match="has 2 inputs"):
        adapted(model.SerializeToString(), WIDTH, TARGET)


def test_data_outside_the_file_is_refused() -> None:
    model = network(["batch", 1], IDENTITY)
    weight = model.graph.initializer[0]
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(ImportRefused, match="external_data"):
        adapted(model.SerializeToString(), WIDTH, TARGET)


@pytest.mark.parametrize("classes", [(0, 2), ("yes", "no")])
def test_classes_that_are_not_the_contracts_are_refused(classes: tuple[object, object]) -> None:
    data = converted(fitted([classes[label] for label in LABELS]), zipmap=True)
    with pytest.raises(ImportRefused, match="it must be 0 and 1, or the contract's 'repaid' and 'default'"):
        adapted(data, WIDTH, TARGET)
