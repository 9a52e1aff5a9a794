"""The ONNX runtime, which is told before it is loaded that it reports to nobody. Import it from here only.

Its published builds otherwise keep a file in the home folder and tell their maker about each model that is opened.
"""

import os

# It is read once, when the runtime is loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

__all__ = ["ort", "runtime"]
