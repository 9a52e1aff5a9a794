"""Trees are written into ONNX whole, and as they are."""

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx.helper import get_node_attr_value
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from driftloop.trainer.domain.export import OPSETS, check_export, export_onnx
from driftloop.trainer.domain.training import one_thread
from driftloop.trainer.domain.trees import OPERATOR, round_down
from tests.support.models import shipped

SHIPPED = shipped("diabetes")
FEATURES: NDArray[np.float32] = np.nan_to_num(SHIPPED.features)
WIDTH = FEATURES.shape[1]


def forest(trees: int = 5) -> RandomForestClassifier:
    return RandomForestClassifier(trees, random_state=0)


def boosted(rounds: int = 5) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(max_iter=rounds, random_state=0)


@one_thread
def fitted(model: Any, rows: NDArray[np.float32], labels: NDArray[Any]) -> Any:
    return model.fit(rows, labels)


def tree_node(model: bytes) -> onnx.NodeProto:
    """The one operator of a model that holds trees."""
    nodes: list[onnx.NodeProto] = [one for one in onnx.load_from_string(model).graph.node if one.op_type == OPERATOR]
    assert len(nodes) == 1
    return nodes[0]


def columns(model: bytes, *names: str) -> list[NDArray[Any]]:
    return [np.array(get_node_attr_value(tree_node(model), name)) for name in names]


def test_a_forest_is_what_the_librarys_own_converter_makes_of_it() -> None:
    model = fitted(forest(), FEATURES, SHIPPED.labels)
    options = {id(model): {"zipmap": False}}
    theirs = convert_sklearn(
        model, initial_types=[("features", FloatTensorType([None, WIDTH]))], options=options, target_opset=OPSETS
    )
    assert tree_node(export_onnx(model, WIDTH)) == tree_node(theirs.SerializeToString())


def test_each_node_of_a_forest_is_there() -> None:
    model = fitted(forest(), FEATURES, SHIPPED.labels)
    names = ("nodes_treeids", "nodes_featureids", "nodes_values", "nodes_truenodeids", "nodes_falsenodeids")
    tree_ids, features, thresholds, left, right = columns(export_onnx(model, WIDTH), *names)
    for number, estimator in enumerate(model.estimators_):
        tree, own = estimator.tree_, tree_ids == number
        inner = tree.children_left >= 0
        np.testing.assert_array_equal(features[own][inner], tree.feature[inner])
        np.testing.assert_allclose(thresholds[own][inner], tree.threshold[inner], rtol=1e-6)
        np.testing.assert_array_equal(left[own][inner], tree.children_left[inner])
        np.testing.assert_array_equal(right[own][inner], tree.children_right[inner])


def test_each_node_of_boosted_trees_is_there_and_says_where_a_missing_value_goes() -> None:
    model = fitted(boosted(), SHIPPED.features, SHIPPED.labels)
    names = ("nodes_treeids", "nodes_modes", "nodes_truenodeids", "nodes_missing_value_tracks_true")
    tree_ids, modes, left, missing = columns(export_onnx(model, WIDTH), *names)
    for number, (tree,) in enumerate(model._predictors):
        nodes, own = tree.nodes, tree_ids == number
        inner = nodes["is_leaf"] == 0
        np.testing.assert_array_equal(modes[own] == b"BRANCH_LEQ", inner)
        np.testing.assert_array_equal(left[own][inner], nodes["left"][inner])
        np.testing.assert_array_equal(missing[own][inner], nodes["missing_go_to_left"][inner])
    assert 0 < missing.sum() < np.sum(modes == b"BRANCH_LEQ")


def test_leaves_add_up_to_the_scores_of_boosted_trees() -> None:
    model = fitted(boosted(), SHIPPED.features, SHIPPED.labels)
    weights, start = columns(export_onnx(model, WIDTH), "class_weights", "base_values")
    leaves = [tree.nodes["value"][tree.nodes["is_leaf"] == 1] for (tree,) in model._predictors]
    np.testing.assert_array_equal(weights, np.concatenate(leaves).astype(np.float32))
    np.testing.assert_array_equal(start, model._baseline_prediction.ravel().astype(np.float32))


@pytest.mark.parametrize("model", [forest(), boosted()], ids=["forest", "boosted"])
@pytest.mark.parametrize(
    ("classes", "attribute", "named"),
    [
        ((0, 1), "classlabels_int64s", [0, 1]),
        ((False, True), "classlabels_int64s", [0, 1]),
        (("no", "yes"), "classlabels_strings", [b"no", b"yes"]),
    ],
)
def test_classes_have_the_estimators_names(
    model: Any, classes: tuple[object, object], attribute: str, named: list[object]
) -> None:
    fitted(model, FEATURES, np.array(classes)[SHIPPED.labels])
    assert get_node_attr_value(tree_node(export_onnx(model, WIDTH)), attribute) == named


@pytest.mark.parametrize("last", [forest(), boosted()], ids=["forest", "boosted"])
def test_whole_numbers_that_a_step_before_makes_are_taken(last: Any) -> None:
    rows = np.column_stack([SHIPPED.labels, np.arange(len(SHIPPED.labels)) % 7]).astype(np.float32)
    model = fitted(make_pipeline(OrdinalEncoder(dtype=np.int64), last), rows, SHIPPED.labels)
    assert check_export(model, export_onnx(model, 2), rows, 0.5) <= 1e-5


def test_an_estimator_is_left_as_it_was() -> None:
    model = fitted(boosted(), SHIPPED.features, SHIPPED.labels)
    before = [tree.nodes.copy() for (tree,) in model._predictors]
    export_onnx(model, WIDTH)
    for nodes, (tree,) in zip(before, model._predictors, strict=True):
        np.testing.assert_array_equal(tree.nodes, nodes)


@given(
    st.floats(allow_nan=False, min_value=-1e38, max_value=1e38),
    st.integers(-2, 2),
)
def test_a_threshold_that_is_rounded_down_parts_the_same_values(threshold: float, steps: int) -> None:
    value = np.float32(threshold)
    for _ in range(abs(steps)):
        value = np.nextafter(value, np.float32(np.copysign(np.inf, steps)))
    (rounded,) = round_down(np.array([threshold]))
    assert (value <= rounded) == (float(value) <= threshold)
