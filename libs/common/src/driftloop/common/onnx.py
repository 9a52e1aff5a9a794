"""The ONNX runtime, which is told before it is loaded that it reports to nobody. Import it from here only.

Its published builds otherwise keep a file in the home folder and tell their maker about each model that is opened.
"""

import os

# It is read once, when the runtime is loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

__all__ = ["RUNTIME_ERRORS", "open_session", "ort"]

# The runtime's errors have no common base.
RUNTIME_ERRORS = (
    runtime.EPFail,
    runtime.EngineError,
    runtime.Fail,
    runtime.InvalidArgument,
    runtime.InvalidGraph,
    runtime.InvalidProtobuf,
    runtime.NoModel,
    runtime.NotImplemented,
    runtime.RuntimeException,
)


def open_session(model: bytes) -> ort.InferenceSession:
    """A session on one thread that computes exactly what the bytes say. Raises one of RUNTIME_ERRORS."""
    options = ort.SessionOptions()
    # Scores must not depend on how many cores there are, one row is too little work to share, and a replica's cores
    # belong to its workers.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # What answers is what was checked, and is opened sooner: there is nothing to rewrite in trees.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Bytes can be made that are an ONNX file and one of the runtime's own format, which nobody has checked.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
