"""Scores patients with a version that serves no more, from its verified artifact."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from driftloop.common import keys
from driftloop.common.contract import Contract
from driftloop.common.events import ServedVersion
from driftloop.common.onnx import ort
from driftloop.common.registry import fetch_bundle
from driftloop.common.rows import canonical_scores, validator
from driftloop.demo.populations import Case


def accuracy(contract: Contract, served: ServedVersion, trusted: Path, cases: Sequence[Case]) -> float:
    """The share of `cases` that a version gets right, as it would have answered them."""
    bundle = fetch_bundle(served.artifact, contract.name, served.version, keys.load_public_keys(trusted))
    rules = validator(contract)
    features = rules.encode([rules.canonicalise(case.features) for case in cases])
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(bundle.model, options, providers=["CPUExecutionProvider"])
    scores = canonical_scores(session.run(["probabilities"], {"features": features})[0][:, 1])
    labels = np.array([case.label for case in cases])
    return float(np.mean((scores >= contract.decision_threshold) == (labels == 1)))
