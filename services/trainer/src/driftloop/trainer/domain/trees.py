"""Forests and boosted trees as ONNX's operator for them: whole columns, where its converter goes node by node.

A forest of the shipped contract has more than half a million nodes: one at a time they cost as much as growing the
trees does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skl2onnx.common._apply_operation import apply_cast
from skl2onnx.common.data_types import FloatTensorType
from skl2onnx.proto import onnx_proto
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

OPERATOR = "TreeEnsembleClassifier"
DOMAIN, VERSION = "ai.onnx.ml", 1
# By whether a node is a leaf. A row with x ≤ the node's value goes the left way.
_MODES = np.array([b"BRANCH_LEQ", b"LEAF"], dtype=object)

Attributes = dict[str, list[Any]]


@dataclass(frozen=True)
class Nodes:
    """The nodes of one tree [k], its root first.

    `leaf` says which have no children; of the others `feature` is the column that they look at, `threshold` float32
    what is at most to go to node `left` and not to `right`, and `missing_left` says whether a missing value goes there,
    too. `weight` float32 is what a leaf adds to the score of class 1; of inner nodes it means nothing.
    """

    leaf: NDArray[np.bool_]
    feature: NDArray[np.int64]
    threshold: NDArray[np.float32]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    missing_left: NDArray[np.bool_]
    weight: NDArray[np.float32]


def convert_forest(scope: Any, operator: Any, container: Any) -> None:
    """Add a fitted RandomForestClassifier of two classes to a graph, as the library's converters do."""
    _add(scope, operator, container, attributes(forest_nodes(operator.raw_operator)) | {"post_transform": "NONE"})


def convert_boosted_trees(scope: Any, operator: Any, container: Any) -> None:
    """Add a fitted HistGradientBoostingClassifier of two classes to a graph, as the library's converters do."""
    model = operator.raw_operator
    start = np.asarray(model._baseline_prediction, dtype=np.float32).ravel()
    found = attributes(boosted_nodes(model))
    _add(scope, operator, container, found | {"post_transform": "LOGISTIC", "base_values": start.tolist()})


def _add(scope: Any, operator: Any, container: Any, found: dict[str, Any]) -> None:
    features = operator.inputs[0].full_name
    if not isinstance(operator.inputs[0].type, FloatTensorType):
        # The estimator, too, compares float32.
        features = scope.get_unique_variable_name("cast_input")
        apply_cast(scope, operator.inputs[0].full_name, features, container, to=onnx_proto.TensorProto.FLOAT)
    container.add_node(
        OPERATOR,
        [features],
        [output.full_name for output in operator.outputs],
        op_domain=DOMAIN,
        op_version=VERSION,
        name=scope.get_unique_operator_name(OPERATOR),
        **found,
        **_labels(operator.raw_operator.classes_),
    )


def _labels(classes: NDArray[Any]) -> Attributes:
    """What the operator calls its classes: ONNX knows whole numbers and texts."""
    named = classes.tolist()
    if all(isinstance(one, str) for one in named):
        return {"classlabels_strings": named}
    return {"classlabels_int64s": [int(one) for one in named]}


def forest_nodes(model: RandomForestClassifier) -> list[Nodes]:
    """A forest's trees; each leaf's share of positives is divided by their number, so that their sum is the mean."""
    found = []
    for estimator in model.estimators_:
        tree = estimator.tree_
        leaf, shares = tree.children_left < 0, tree.value[:, 0, :]
        total = shares.sum(axis=1)
        total[total == 0] = 1
        found.append(
            Nodes(
                leaf=leaf,
                feature=tree.feature,
                threshold=round_down(tree.threshold),
                left=tree.children_left,
                right=tree.children_right,
                missing_left=np.zeros(len(leaf), dtype=np.bool_),
                weight=(shares[:, 1] * (1 / len(model.estimators_) / total)).astype(np.float32),
            )
        )
    return found


def boosted_nodes(model: HistGradientBoostingClassifier) -> list[Nodes]:
    """The trees of a boosted model of two classes, one of each round."""
    found = []
    for (tree,) in model._predictors:
        nodes = tree.nodes
        found.append(
            Nodes(
                leaf=nodes["is_leaf"].astype(np.bool_),
                feature=nodes["feature_idx"],
                threshold=round_down(nodes["num_threshold"]),
                left=nodes["left"],
                right=nodes["right"],
                missing_left=nodes["missing_go_to_left"].astype(np.bool_),
                weight=nodes["value"].astype(np.float32),
            )
        )
    return found


def round_down(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    """The next float32 that is no larger: for a float32 value x ≤ t holds then as it did before.

    Rounded to the nearest, a value between the two would go another way.
    """
    nearest = thresholds.astype(np.float32)
    return np.where(nearest <= thresholds, nearest, np.nextafter(nearest, np.float32(-np.inf)))


def attributes(trees: Sequence[Nodes]) -> Attributes:
    """The trees' nodes as attributes of the operator, one list an attribute."""
    sizes = [len(tree.leaf) for tree in trees]
    tree_ids = np.repeat(np.arange(len(trees)), sizes)
    node_ids = np.concatenate([np.arange(size) for size in sizes])
    leaf = np.concatenate([tree.leaf for tree in trees])
    # Of a leaf nobody reads what an inner node goes by.
    inner = {
        "nodes_featureids": np.concatenate([tree.feature for tree in trees]),
        "nodes_values": np.concatenate([tree.threshold for tree in trees]),
        "nodes_truenodeids": np.concatenate([tree.left for tree in trees]),
        "nodes_falsenodeids": np.concatenate([tree.right for tree in trees]),
        "nodes_missing_value_tracks_true": np.concatenate([tree.missing_left for tree in trees]).astype(np.int64),
    }
    columns = {name: np.where(leaf, column.dtype.type(0), column) for name, column in inner.items()} | {
        "nodes_treeids": tree_ids,
        "nodes_nodeids": node_ids,
        "nodes_modes": _MODES[leaf.astype(np.int64)],
        "nodes_hitrates": np.ones(len(leaf)),
        "class_treeids": tree_ids[leaf],
        "class_nodeids": node_ids[leaf],
        "class_ids": np.zeros(leaf.sum(), dtype=np.int64),
        "class_weights": np.concatenate([tree.weight for tree in trees])[leaf],
    }
    return {name: column.tolist() for name, column in columns.items()}
