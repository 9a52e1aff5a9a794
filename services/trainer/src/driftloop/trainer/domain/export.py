"""From a fitted estimator to ONNX bytes that were shown to say the same."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx.helper import make_opsetid
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.pipeline import Pipeline

from driftloop.common.contract import Contract
from driftloop.common.onnx import open_session
from driftloop.common.onnx_policy import INPUT, OUTPUT, check_model
from driftloop.common.rows import canonical_scores

OPSETS = {"": 17, "ai.onnx.ml": 3}
TOLERANCE = 1e-5
KNOWN_ANSWERS = 16

Scorer = Callable[[NDArray[np.float32]], NDArray[np.float64]]


class ExportMismatch(ValueError):
    """The exported model does not say what the estimator says: it must not be published."""


def export_onnx(pipeline: Pipeline, width: int) -> bytes:
    """The pipeline as an ONNX model: input `features` float32 [n, width], output `probabilities` float32 [n, 2].

    Raises UnusableModel where a predictor would refuse it.
    """
    model = convert_sklearn(
        pipeline,
        name="classifier",
        initial_types=[(INPUT, FloatTensorType([None, width]))],
        options={id(pipeline): {"zipmap": False}},
        target_opset=OPSETS,
    )
    # The converter may import one operator set twice; a strict reader need not put up with that.
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    del model.opset_import[:]
    model.opset_import.extend(make_opsetid(domain, version) for domain, version in sorted(opsets.items()))
    data: bytes = model.SerializeToString()
    # What every predictor would refuse must not get as far as a gate.
    check_model(data, width)
    return data


def scorer(model: bytes) -> Scorer:
    """What gives P(label = 1) of each row of features [n, d] as the served model gives it, canonical, [n]."""
    session = open_session(model)

    def ask(features: NDArray[np.float32]) -> NDArray[np.float64]:
        if len(features) == 0:
            return np.empty(0)
        return canonical_scores(session.run([OUTPUT], {INPUT: features})[0][:, 1])

    return ask


def score(model: bytes, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """`scorer`, for one call."""
    return scorer(model)(features)


def check_export(pipeline: Pipeline, model: bytes, features: NDArray[np.float32], threshold: float) -> float:
    """Compare the exported model with the estimator on `features` [n, d]; returns the largest difference.

    Raises ExportMismatch where a probability differs by more than TOLERANCE or a decision at `threshold` differs.
    """
    return check_same(canonical_scores(pipeline.predict_proba(features)[:, 1]), score(model, features), threshold)


def check_same(expected: NDArray[np.float64], got: NDArray[np.float64], threshold: float) -> float:
    """Compare an estimator's canonical scores [n] with its ONNX model's, as `check_export` does."""
    difference = float(np.max(np.abs(expected - got), initial=0.0))
    decisions = int(np.sum((expected >= threshold) != (got >= threshold)))
    if not difference <= TOLERANCE or decisions:
        raise ExportMismatch(
            f"the ONNX model differs from the estimator by up to {difference:.3g} ({TOLERANCE:g} is accepted) and in"
            f" {decisions} of {len(got)} decisions: it must not serve, check the skl2onnx version"
        )
    return difference


def known_answers(
    contract: Contract, pipeline: Pipeline, features: NDArray[np.float32], rows: int = KNOWN_ANSWERS
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Inputs [rows, d] and the estimator's own P(label = 1) [rows], by which a predictor checks what it has loaded."""
    inputs = known_inputs(contract, features, range(features.shape[1]), rows)
    return inputs, pipeline.predict_proba(inputs)[:, 1].astype(np.float64)


def known_inputs(
    contract: Contract, features: NDArray[np.float32], columns: Sequence[int], rows: int = KNOWN_ANSWERS
) -> NDArray[np.float32]:
    """Rows [rows, d] of the values in `features` [n, d]; in every other one of them one of `columns` is missing.

    Training rows are personal data and an artifact travels: each column is shuffled by itself, so that no vector is a
    row that was.
    """
    rng = np.random.default_rng(contract.estimator.seed)
    inputs = np.column_stack([rng.choice(column, rows) for column in features.T]).astype(np.float32)
    for row in range(0, rows, 2):
        if columns:
            column = columns[(row // 2) % len(columns)]
            inputs[row, column] = missing_value(contract, column)
    return inputs


def missing_value(contract: Contract, column: int) -> float:
    """What stands in a feature's column where it has no value."""
    return -1.0 if contract.features[column].type == "category" else np.nan
