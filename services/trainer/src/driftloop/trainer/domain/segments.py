"""Parts of the population that a challenger must not be proven worse on."""

import numpy as np
from numpy.typing import NDArray

from driftloop.common.contract import Contract


def segments(contract: Contract, values: NDArray[np.float64]) -> dict[str, NDArray[np.bool_]]:
    """Masks [n] over `values` [n, d] (as `RowValidator.values` gives them), by name.

    Each category is a segment, each number gives a half at or below its median and one above, and rows without a value
    are one.
    """
    found: dict[str, NDArray[np.bool_]] = {}
    for index, feature in enumerate(contract.features):
        column = values[:, index]
        if feature.type == "category":
            for code, category in enumerate(feature.categories):
                found[f"{feature.name} = {category}"] = column == code
            found[f"{feature.name} missing"] = column < 0
            continue
        missing = np.isnan(column)
        if not missing.all():
            middle = float(np.median(column[~missing]))
            found[f"{feature.name} <= {middle:.15g}"] = column <= middle
            found[f"{feature.name} > {middle:.15g}"] = column > middle
        found[f"{feature.name} missing"] = missing
    return found
