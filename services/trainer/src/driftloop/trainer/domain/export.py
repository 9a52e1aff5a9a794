"""From a fitted estimator to ONNX bytes that were shown to say the same."""

import numpy as np
from numpy.typing import NDArray
from onnx.helper import make_opsetid
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.pipeline import Pipeline

from driftloop.common.contract import Contract
from driftloop.common.onnx import ort
from driftloop.common.rows import canonical_scores

INPUT = "features"
OUTPUT = "probabilities"
OPSETS = {"": 17, "ai.onnx.ml": 3}
TOLERANCE = 1e-5
KNOWN_ANSWERS = 16


class ExportMismatch(ValueError):
    """The exported model does not say what the estimator says: it must not be published."""


def export_onnx(pipeline: Pipeline, width: int) -> bytes:
    """The pipeline as an ONNX model: input `features` float32 [n, width], output `probabilities` float32 [n, 2]."""
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
    return data


def open_onnx(model: bytes) -> ort.InferenceSession:
    """A session on one thread, so that scores do not depend on how many cores there are."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def score(model: bytes, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """P(label = 1) of each row of `features` [n, d] as the served model gives it, canonical, [n]."""
    if len(features) == 0:
        return np.empty(0)
    return canonical_scores(open_onnx(model).run([OUTPUT], {INPUT: features})[0][:, 1])


def check_export(pipeline: Pipeline, model: bytes, features: NDArray[np.float32], threshold: float) -> float:
    """Compare the exported model with the estimator on `features` [n, d]; returns the largest difference.

    Raises ExportMismatch where a probability differs by more than TOLERANCE or a decision at `threshold` differs.
    """
    expected = canonical_scores(pipeline.predict_proba(features)[:, 1])
    got = score(model, features)
    difference = float(np.max(np.abs(expected - got), initial=0.0))
    decisions = int(np.sum((expected >= threshold) != (got >= threshold)))
    if not difference <= TOLERANCE or decisions:
        raise ExportMismatch(
            f"the ONNX model differs from the estimator by up to {difference:.3g} ({TOLERANCE:g} is accepted) and in"
            f" {decisions} of {len(features)} decisions: keep the champion and check the skl2onnx version"
        )
    return difference


def known_answers(
    contract: Contract, pipeline: Pipeline, features: NDArray[np.float32], rows: int = KNOWN_ANSWERS
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Inputs [rows, d] and the estimator's own P(label = 1) [rows], by which a predictor checks what it has loaded.

    Training rows are personal data and an artifact travels: each column is shuffled by itself, so that no vector is a
    row that was. Every other vector has one value missing, in turn.
    """
    rng = np.random.default_rng(contract.estimator.seed)
    inputs = np.column_stack([rng.choice(column, rows) for column in features.T]).astype(np.float32)
    for row in range(0, rows, 2):
        column = (row // 2) % inputs.shape[1]
        inputs[row, column] = -1 if contract.features[column].type == "category" else np.nan
    return inputs, pipeline.predict_proba(inputs)[:, 1].astype(np.float64)
