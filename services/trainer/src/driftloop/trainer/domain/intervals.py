"""How sure a figure is: 95 % intervals of shares, of ROC AUC, and of what only resampling can bound.

Shares by Wilson (1927); ROC AUC by DeLong et al. (1988) on the logit scale, so that it stays between 0 and 1; the rest
by the percentile bootstrap of rows (Efron and Tibshirani 1993, ch. 13).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import binomtest, norm, rankdata

LEVEL = 0.95
RESAMPLES = 1000
# So many row weights are drawn in all, and held at a time, whatever the number of rows.
_DRAWN, _HELD = 200_000_000, 4_000_000

Interval = tuple[float, float]


def share_interval(hits: int, rows: int) -> Interval | None:
    """Wilson's interval of `hits` of `rows`; None of no row."""
    if rows == 0:
        return None
    found = binomtest(hits, rows).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def roc_auc_interval(labels: NDArray[np.int8], scores: NDArray[np.float64]) -> Interval | None:
    """DeLong's interval of the ROC AUC of `scores` [n] for `labels` [n]; None where a class is absent.

    Where both classes are wholly apart his variance is 0 and says nothing: Wilson's of the smaller class stands in.
    """
    positive, negative = scores[labels == 1], scores[labels == 0]
    fewer = min(len(positive), len(negative))
    if fewer == 0:
        return None
    ranks = rankdata(np.concatenate((positive, negative)))
    above = (ranks[: len(positive)] - rankdata(positive)) / len(negative)
    below = 1 - (ranks[len(positive) :] - rankdata(negative)) / len(positive)
    auc = float(above.mean())
    variance = 0.0 if fewer == 1 else float(above.var(ddof=1) / len(positive) + below.var(ddof=1) / len(negative))
    if variance == 0 or not 0 < auc < 1:
        return share_interval(round(auc * fewer), fewer)
    reach = norm.ppf((1 + LEVEL) / 2) * np.sqrt(variance) / (auc * (1 - auc))
    return float(expit(logit(auc) - reach)), float(expit(logit(auc) + reach))


def bootstrap_interval(
    parts: NDArray[np.float64], figure: Callable[[NDArray[np.float64]], NDArray[np.float64]], seed: int
) -> NDArray[np.float64]:
    """Bounds [2, k] of k figures, each a function of the sums of some columns of `parts` [n, p] over the rows.

    `figure` takes the sums of many resamples [r, p] and gives their figures [r, k].
    """
    rows = len(parts)
    resamples = max(200, min(RESAMPLES, _DRAWN // rows))
    held = max(1, min(resamples, _HELD // rows))
    rng = np.random.default_rng(seed)
    found = []
    for first in range(0, resamples, held):
        drawn = (rng.integers(rows, size=rows) for _ in range(min(held, resamples - first)))
        weights = np.stack([np.bincount(one, minlength=rows) for one in drawn])
        found.append(figure(weights.astype(np.float64) @ parts))
    bounds: NDArray[np.float64] = np.quantile(np.concatenate(found), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return bounds
