"""A small artifact, whole and honest: a logistic model in ONNX with its profile, card and known answers."""

from datetime import UTC, datetime

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from driftloop.common.contract import Contract, digest
from driftloop.common.profile import (
    FeatureReference,
    ReferenceProfile,
    categorical_reference,
    numeric_reference,
)
from driftloop.common.registry import Bundle, KnownAnswers


def logistic_model(width: int, weight: float = 0.1) -> ModelProto:
    """`features` float32 [n, width] → `probabilities` float32 [n, 2]; P(label = 1) = σ(weight · Σ features)."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["features", "weights"], ["logit"]),
            helper.make_node("Sigmoid", ["logit"], ["positive"]),
            helper.make_node("Sub", ["one", "positive"], ["negative"]),
            helper.make_node("Concat", ["negative", "positive"], ["probabilities"], axis=1),
        ],
        "logistic",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2])],
        [
            numpy_helper.from_array(np.full((width, 1), weight, dtype=np.float32), "weights"),
            numpy_helper.from_array(np.array([[1.0]], dtype=np.float32), "one"),
        ],
    )
    model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def logistic_answer(row: tuple[float, ...], weight: float = 0.1) -> float:
    """What `logistic_model` answers to one row."""
    return float(1 / (1 + np.exp(-weight * sum(row))))


def profile_for(contract: Contract, version: int = 1) -> ReferenceProfile:
    """A profile of two rows with the contract's features."""
    features: list[FeatureReference] = []
    for feature in contract.features:
        if feature.type == "category":
            features.append(categorical_reference(feature.name, feature.categories, feature.categories[:2]))
        else:
            features.append(numeric_reference(feature.name, [1.0, 2.5]))
    scores = numeric_reference("score", [0.25, 0.75])
    return ReferenceProfile(contract.name, version, "training", 2, tuple(features), scores)


def small_bundle(contract: Contract, version: int = 1, weight: float = 0.1) -> Bundle:
    """A version that may serve the contract; another weight is another model."""
    width = len(contract.features)
    rows = tuple(tuple(float(row + column) for column in range(width)) for row in range(3))
    return Bundle(
        model_name=contract.name,
        model_version=version,
        model=logistic_model(width, weight).SerializeToString(),
        card=b'{"reason": "a test"}',
        profile=profile_for(contract, version),
        known_answers=KnownAnswers(inputs=rows, probabilities=tuple(logistic_answer(row, weight) for row in rows)),
        contract_digest=digest(contract),
        created=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    )
