"""The shipped models, small enough to train in a test."""

from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftloop.common.contract import Contract, baseline_path, load_contract
from driftloop.common.rows import Row, read_baseline, validator
from tests.support.paths import MODELS


class Shipped(NamedTuple):
    """A shipped contract with its baseline: canonical `rows`, `values` float64 [n, d] and `labels` int8 [n]."""

    contract: Contract
    rows: list[Row]
    values: NDArray[np.float64]
    labels: NDArray[np.int8]

    @property
    def features(self) -> NDArray[np.float32]:
        """The values as the model takes them."""
        return self.values.astype(np.float32)


def shipped(model: str, trees: int = 10, folder: Path = MODELS) -> Shipped:
    """Load a shipped model, with a forest of a few trees only."""
    path = folder / model / "contract.yaml"
    contract = load_contract(path)
    parameters = msgspec.structs.replace(contract.estimator.parameters, n_estimators=trees)
    estimator = msgspec.structs.replace(contract.estimator, parameters=parameters)
    contract = msgspec.structs.replace(contract, estimator=estimator)
    rows, labels = read_baseline(contract, baseline_path(path, contract))
    return Shipped(contract, rows, validator(contract).values(rows), labels)
