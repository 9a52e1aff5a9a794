"""Only a plain classifier passes; whatever else an ONNX file can hold is refused before a runtime sees it."""

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from driftloop.common.onnx_policy import UnusableModel, check_model
from driftloop.trainer.domain.export import export_onnx
from driftloop.trainer.domain.training import train
from tests.support.artifacts import logistic_model
from tests.support.models import shipped

WIDTH = 5


def reason_of(data: bytes, width: int = WIDTH, **limits: int) -> str:
    with pytest.raises(UnusableModel) as refused:
        check_model(data, width, **limits)
    assert refused.value.detail
    return refused.value.reason


def changed(change: Callable[[ModelProto], object]) -> bytes:
    model = logistic_model(WIDTH)
    change(model)
    data: bytes = model.SerializeToString()
    return data


def with_node(node: NodeProto) -> bytes:
    return changed(lambda model: model.graph.node.append(node))


def test_a_plain_classifier_passes() -> None:
    check_model(logistic_model(WIDTH).SerializeToString(), WIDTH)


@pytest.mark.parametrize("name", ["diabetes", "loan"])
def test_what_the_trainer_exports_passes(name: str) -> None:
    model = shipped(name, trees=3)
    width = len(model.contract.features)
    check_model(export_onnx(train(model.contract, model.features, model.labels), width), width)


@pytest.mark.parametrize("data", [b"", b"\x00" * 64, b"not a model", bytes(range(256)), b"\x80\x04K\x01."])
def test_garbage_is_no_model(data: bytes) -> None:
    assert reason_of(data) == "not_onnx"


def test_a_truncated_model_never_passes() -> None:
    data = logistic_model(WIDTH).SerializeToString()
    # The last field is the operator sets: each cut loses some of it, or of what comes before.
    for length in range(len(data)):
        with pytest.raises(UnusableModel):
            check_model(data[:length], WIDTH)


def test_a_model_above_the_limit_is_not_even_parsed() -> None:
    data = logistic_model(WIDTH).SerializeToString()
    assert reason_of(data + b"garbage", size_limit=len(data)) == "too_large"


def test_a_graph_of_very_many_nodes_is_refused() -> None:
    def grow(model: ModelProto) -> None:
        model.graph.node.extend(helper.make_node("Identity", ["logit"], [f"copy{i}"]) for i in range(10_001))

    assert reason_of(changed(grow)) == "too_large"


@pytest.mark.parametrize("external", ["/etc/passwd", "../../secret", "weights.bin"])
def test_weights_outside_the_file_are_refused(external: str) -> None:
    def point_outside(model: ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=external)

    assert reason_of(changed(point_outside)) == "external_data"


def test_a_constant_outside_the_file_is_refused() -> None:
    tensor = numpy_helper.from_array(np.zeros(1, dtype=np.float32), "hidden")
    tensor.external_data.add(key="location", value="/etc/passwd")
    assert reason_of(with_node(helper.make_node("Constant", [], ["constant"], value=tensor))) == "external_data"


def test_an_external_location_without_the_flag_is_refused() -> None:
    def mention(model: ModelProto) -> None:
        model.graph.initializer[0].external_data.add(key="location", value="x")

    assert reason_of(changed(mention)) == "external_data"


@pytest.mark.parametrize("domain", ["com.microsoft", "ai.onnx.training", "ai.onnx.preview.training", "evil"])
def test_operators_of_other_domains_are_refused(domain: str) -> None:
    node = helper.make_node("Custom", ["logit"], ["other"], domain=domain)
    assert reason_of(with_node(node)) == "domain"


def test_an_import_of_another_domain_is_refused_even_if_nothing_uses_it() -> None:
    assert reason_of(changed(lambda model: model.opset_import.append(helper.make_opsetid("evil", 1)))) == "domain"


def test_an_operator_set_imported_twice_is_refused_under_either_name() -> None:
    assert reason_of(changed(lambda model: model.opset_import.append(helper.make_opsetid("ai.onnx", 1)))) == "domain"


@pytest.mark.parametrize("operator", ["Loop", "RandomNormal", "ConstantOfShape", "Expand", "Range", "Tile", "Unheard"])
def test_an_operator_that_is_not_listed_is_refused(operator: str) -> None:
    assert reason_of(with_node(helper.make_node(operator, ["logit"], ["other"]))) == "operator"


def test_the_model_cannot_widen_the_list_by_its_own_metadata() -> None:
    def ask(model: ModelProto) -> None:
        model.metadata_props.add(key="allowed_operators", value="Loop")
        model.graph.node.append(helper.make_node("Loop", ["logit"], ["other"]))

    assert reason_of(changed(ask)) == "operator"


def test_a_graph_inside_an_attribute_is_refused() -> None:
    node = helper.make_node("Identity", ["logit"], ["other"], body=logistic_model(WIDTH).graph)
    assert reason_of(with_node(node)) == "subgraph"


def test_functions_are_refused() -> None:
    def define(model: ModelProto) -> None:
        identity = helper.make_node("Identity", ["x"], ["y"])
        sets = [helper.make_opsetid("", 17)]
        model.functions.append(helper.make_function("", "Sigmoid", ["x"], ["y"], [identity], sets))

    assert reason_of(changed(define)) == "function"


def test_training_steps_are_refused() -> None:
    assert reason_of(changed(lambda model: model.training_info.add())) == "function"


def test_sparse_tensors_are_refused() -> None:
    assert reason_of(changed(lambda model: model.graph.sparse_initializer.add())) == "operator"


def test_fields_that_this_check_does_not_know_are_refused() -> None:
    unknown = b"\xf2\x3f\x04evil"  # field 1022, four bytes
    assert reason_of(logistic_model(WIDTH).SerializeToString() + unknown) == "not_onnx"


def test_another_width_is_refused() -> None:
    assert reason_of(logistic_model(WIDTH).SerializeToString(), width=WIDTH + 1) == "input"


@pytest.mark.parametrize(
    ("name", "kind", "shape"),
    [
        ("x", TensorProto.FLOAT, [None, WIDTH]),
        ("features", TensorProto.DOUBLE, [None, WIDTH]),
        ("features", TensorProto.FLOAT, [1, WIDTH]),
        ("features", TensorProto.FLOAT, [None, None]),
        ("features", TensorProto.FLOAT, [WIDTH]),
        ("features", TensorProto.FLOAT, None),
    ],
)
def test_any_other_input_is_refused(name: str, kind: int, shape: list[int | None] | None) -> None:
    def replace(model: ModelProto) -> None:
        model.graph.input[0].CopyFrom(helper.make_tensor_value_info(name, kind, shape))

    assert reason_of(changed(replace)) == "input"


def test_an_input_that_the_file_itself_fills_is_refused() -> None:
    values = numpy_helper.from_array(np.zeros((1, WIDTH), dtype=np.float32), "features")
    assert reason_of(changed(lambda model: model.graph.initializer.append(values))) == "input"


@pytest.mark.parametrize(
    ("name", "kind", "shape"),
    [
        ("output_probability", TensorProto.FLOAT, [None, 2]),
        ("probabilities", TensorProto.DOUBLE, [None, 2]),
        ("probabilities", TensorProto.FLOAT, [None, 3]),
        ("probabilities", TensorProto.FLOAT, [None]),
    ],
)
def test_any_other_output_is_refused(name: str, kind: int, shape: list[int | None]) -> None:
    def replace(model: ModelProto) -> None:
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info(name, kind, shape))

    assert reason_of(changed(replace)) == "output"


def test_a_name_used_before_it_is_defined_is_refused() -> None:
    assert reason_of(with_node(helper.make_node("Identity", ["nowhere"], ["other"]))) == "not_onnx"
