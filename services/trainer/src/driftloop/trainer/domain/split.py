"""Which baseline rows no version is ever trained on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from driftloop.common.contract import Contract


@dataclass(frozen=True)
class BaselineSplit:
    """Row numbers of the baseline, ascending: those to train on, and those held out for ever."""

    train: NDArray[np.int64]
    holdout: NDArray[np.int64]


def split_baseline(contract: Contract, labels: NDArray[np.int8]) -> BaselineSplit:
    """Draw the contract's held-out baseline rows, stratified by label: the same rows for every version.

    Raises ValueError where the baseline is too small or has one class only.
    """
    rows, held = len(labels), contract.baseline.holdout_rows
    counts = np.bincount(labels, minlength=2)
    if counts.min() < 2 or not 2 <= held <= rows - 2:
        raise ValueError(
            f"model {contract.name!r}: a baseline of {counts[0]} negative and {counts[1]} positive rows cannot hold out"
            f" {held}: give at least 2 rows of each class and set baseline.holdout_rows between 2 and {rows - 2}"
        )
    train, holdout = train_test_split(
        np.arange(rows, dtype=np.int64), test_size=held, stratify=labels, random_state=contract.baseline.seed
    )
    return BaselineSplit(np.sort(train), np.sort(holdout))
