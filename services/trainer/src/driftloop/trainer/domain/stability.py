"""Whether the rows that will be a reference are one population."""

import numpy as np
from numpy.typing import NDArray

from driftloop.common.contract import Contract
from driftloop.common.profile import CategoricalReference
from driftloop.common.statistics.cells import cells_of
from driftloop.common.statistics.comparison import compare
from driftloop.trainer.domain.reference import reference_profile


def unstable(contract: Contract, values: NDArray[np.float64]) -> str | None:
    """Why `values` [n, d], newest first, cannot be a reference: the feature whose halves are CRITICAL to each other.

    A population that still moves would make a reference that the next window contradicts. None: they may be one.
    """
    middle = len(values) // 2
    newer, older = values[:middle], values[middle:]
    profile = reference_profile(contract, 1, "recent", older, np.zeros(len(older)))
    for index, (feature, reference) in enumerate(zip(contract.features, profile.features, strict=True)):
        if not any(reference.counts):
            continue
        column = newer[:, index]
        cells = cells_of(reference, contract.drift.max_distinct)
        if isinstance(reference, CategoricalReference):
            names = [None if code < 0 else feature.categories[int(code)] for code in column]
            window = np.bincount(cells.index(names), minlength=cells.size)  # type: ignore[arg-type]
        else:
            window = np.bincount(cells.index(column), minlength=cells.size)  # type: ignore[arg-type]
        found = compare(cells, window, contract.drift.psi_bins, contract.drift.psi_floor)
        if found.p < contract.drift.alpha and found.psi >= contract.drift.psi_critical:
            return f"{feature.name} still moves (D = {found.statistic:.3f}, PSI = {found.psi:.3f} between its halves)"
    return None
