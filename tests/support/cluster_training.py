"""Trains here and on a cluster, in an environment with the cluster's client, and says whether the models are the same.

Its arguments: the kind of cluster and its address. It prints one line of JSON: what was trained, and on how many
processes other than this one.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import msgspec
import numpy as np
from joblib import Parallel, delayed

from driftloop.common.contract import (
    GradientBoosting,
    GradientBoostingParameters,
    LogisticRegression,
    RandomForest,
    RandomForestParameters,
    baseline_path,
    load_contract,
)
from driftloop.common.rows import read_baseline, validator
from driftloop.trainer.backends import Backend, Kind, parallel
from driftloop.trainer.domain.candidates import ranked
from driftloop.trainer.domain.export import export_onnx
from driftloop.trainer.domain.training import out_of_fold_scores, train

CONTRACT = Path(__file__).resolve().parents[2] / "models" / "diabetes" / "contract.yaml"
FOREST = RandomForest(parameters=RandomForestParameters(n_estimators=20))
BOOSTED = GradientBoosting(parameters=GradientBoostingParameters(max_iter=5))


def main() -> None:
    """Train with two backends."""
    kind, address = sys.argv[1:]
    cluster = Backend(msgspec.convert(kind, Kind), address=address)
    with parallel(cluster):
        workers = set(Parallel()(delayed(os.getpid)() for _ in range(20))) - {os.getpid()}
    sys.stdout.write(json.dumps({"workers": len(workers), "local": digests(Backend()), "cluster": digests(cluster)}))


def digests(backend: Backend) -> dict[str, str]:
    """SHA-256 of the exported model, of scores out of fold, and of the candidates' scores."""
    contract = msgspec.structs.replace(load_contract(CONTRACT), estimator=FOREST)
    rows, labels = read_baseline(contract, baseline_path(CONTRACT, contract))
    features = validator(contract).values(rows).astype(np.float32)
    competing = msgspec.structs.replace(contract, candidates=(BOOSTED, LogisticRegression()))
    with parallel(backend):
        found = {
            "model": export_onnx(train(contract, features, labels), features.shape[1]),
            "scores": out_of_fold_scores(contract, features, labels).tobytes(),
            "candidates": msgspec.json.encode([one.score for one in ranked(competing, features, labels)]),
        }
    return {name: hashlib.sha256(data).hexdigest() for name, data in found.items()}


if __name__ == "__main__":
    main()
