"""From a fitted estimator to ONNX bytes that were shown to say the same."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx.helper import make_opsetid
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.pipeline import Pipeline

from driftloop.common.contract import Contract
from driftloop.common.onnx import open_session
from driftloop.common.onnx_policy import INPUT, OUTPUT, check_model
from driftloop.common.rows import canonical_scores
from driftloop.trainer.domain.training import one_thread
from driftloop.trainer.domain.trees import convert_boosted_trees, convert_forest

OPSETS = {"": 17, "ai.onnx.ml": 3}
CONVERTERS = {RandomForestClassifier: convert_forest, HistGradientBoostingClassifier: convert_boosted_trees}
TOLERANCE = 1e-5
# So near to the threshold the sixth decimal is float32's to decide, and with it the decision.
NEAR = 1e-6
# An artifact is held in memory by every predictor, which refuses a bigger one.
SIZE_LIMIT = 200_000_000
# A node of a tree takes 37 bytes or more; a forest that is far too big is refused before it fills the memory.
NODE_BYTES = 37
CHECKED_ROWS = 10_000
KNOWN_ANSWERS = 16

Scorer = Callable[[NDArray[np.float32]], NDArray[np.float64]]


class ExportMismatch(ValueError):
    """The exported model does not say what the estimator says: it must not be published."""


class ModelTooBig(ValueError):
    """No predictor would load the model."""


def export_onnx(pipeline: Pipeline, width: int, size_limit: int = SIZE_LIMIT) -> bytes:
    """The pipeline as an ONNX model: input `features` float32 [n, width], output `probabilities` float32 [n, 2].

    Raises ModelTooBig where it has more than `size_limit` bytes, and UnusableModel where a predictor would refuse it.
    """
    _check_size(NODE_BYTES * _nodes(pipeline), size_limit)
    model = convert_sklearn(
        pipeline,
        name="classifier",
        initial_types=[(INPUT, FloatTensorType([None, width]))],
        options={id(pipeline): {"zipmap": False}},
        target_opset=OPSETS,
        custom_conversion_functions=CONVERTERS,
    )
    # The converter may import one operator set twice; a strict reader need not put up with that.
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    del model.opset_import[:]
    model.opset_import.extend(make_opsetid(domain, version) for domain, version in sorted(opsets.items()))
    data: bytes = model.SerializeToString()
    _check_size(len(data), size_limit)
    # What every predictor would refuse must not get as far as a gate.
    check_model(data, width)
    return data


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise ModelTooBig(
            f"the model takes {size / 1e6:,.0f} MB or more, and predictors load at most {limit / 1e6:,.0f}: raise the"
            " estimator's min_samples_leaf, or lower its number of trees or max_samples_rows"
        )


def _nodes(pipeline: Pipeline) -> int:
    """How many nodes a forest's trees have together; 0 of another estimator, whose parameters bound it."""
    last = _last(pipeline)
    return sum(tree.tree_.node_count for tree in last.estimators_) if isinstance(last, RandomForestClassifier) else 0


def _last(estimator: BaseEstimator) -> BaseEstimator:
    """What classifies in the end: a pipeline's last step, or an estimator that is none."""
    return estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator


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


@one_thread
def check_export(pipeline: Pipeline, model: bytes, features: NDArray[np.float32], threshold: float) -> float:
    """Compare the exported model with the estimator on `features` [n, d]; returns the largest difference.

    Raises ExportMismatch where a probability differs by more than TOLERANCE, or a decision at `threshold` differs and
    the probability is not within NEAR of it.
    """
    return check_same(pipeline.predict_proba(features)[:, 1], score(model, features), threshold)


def check_same(probabilities: NDArray[np.float64], got: NDArray[np.float64], threshold: float) -> float:
    """Compare an estimator's probabilities [n] with its ONNX model's canonical scores [n], as `check_export` does."""
    expected = canonical_scores(probabilities)
    difference = float(np.max(np.abs(expected - got), initial=0.0))
    clear = np.abs(probabilities - threshold) > NEAR
    decisions = int(np.sum(clear & ((expected >= threshold) != (got >= threshold))))
    if not difference <= TOLERANCE or decisions:
        raise ExportMismatch(
            f"the ONNX model differs from the estimator by up to {difference:.3g} ({TOLERANCE:g} is accepted) and in"
            f" {decisions} of {len(got)} decisions: it must not serve, check the skl2onnx version"
        )
    return difference


def spread_rows(features: NDArray[np.float32], most: int = CHECKED_ROWS) -> NDArray[np.float32]:
    """All rows of `features` [n, d], or `most` of them evenly spread, where there are more."""
    if len(features) <= most:
        return features
    return features[np.linspace(0, len(features) - 1, most).astype(np.int64)]


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
