"""How much each training row counts."""

import numpy as np
from numpy.typing import NDArray

from driftloop.common.contract import Recipe

# However old: a class whose rows are all very old still has weights that can be divided by.
MOST_HALVINGS = 20.0
_DAY = np.timedelta64(1, "D")


def row_weights(recipe: Recipe, labels: NDArray[np.int8], ages: NDArray[np.timedelta64]) -> NDArray[np.float64] | None:
    """The weights [n], of mean 1, of rows with these `labels` and `ages`; None where all count the same.

    A row's weight halves with each half-life of its age. Balanced, each class has half of all weight: a row of class c
    gets w · W / (2 W_c), with W and W_c the sums of these weights; without half-lives that is scikit-learn's
    `class_weight="balanced"`, n / (2 n_c). Mean 1, so that a penalty that is set against the number of rows
    (`C` of a logistic regression) means the same with weights and without.
    """
    weights: NDArray[np.float64] = np.ones(len(labels))
    if recipe.half_life_days is not None:
        weights = np.exp2(-np.minimum(ages / _DAY / recipe.half_life_days, MOST_HALVINGS))
    if recipe.balance == "balanced":
        total = weights.sum()
        for label in (0, 1):
            rows = labels == label
            if rows.any():
                weights[rows] *= total / (2 * weights[rows].sum())
    if len(weights) == 0 or np.all(weights == weights[0]):
        return None
    # In float32, so that the last digit of a platform's exp2 changes no digest.
    narrow: NDArray[np.float32] = (weights / weights.mean()).astype(np.float32)
    return narrow.astype(np.float64)
