"""Cells: where a value is counted."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.common.profile import ReferenceProfile, categorical_reference, numeric_reference
from driftloop.common.statistics.cells import CategoricalCells, cells_of, layout_of, quantiles
from tests.unit.drift_monitor.builders import numeric


def test_each_value_and_each_gap_is_a_cell_and_the_missing_are_the_last() -> None:
    cells = numeric([20.0, 10.0, 20.0])
    values = np.array([5.0, 10.0, 15.0, 20.0, 25.0, math.nan])
    assert cells.index(values).tolist() == [0, 1, 2, 3, 4, 5]
    assert cells.reference.tolist() == [0, 1, 0, 2, 0, 0]


def test_distinct_values_r0_to_rk_make_2k_plus_3_cells_and_the_missing() -> None:
    k = 7
    assert numeric(np.arange(k + 1.0)).size == 2 * k + 3 + 1


def test_a_category_is_a_cell_then_the_unseen_then_the_missing() -> None:
    cells = cells_of(categorical_reference("colour", ("red", "blue"), ["red", "red", None]))
    assert isinstance(cells, CategoricalCells)
    assert cells.index(["red", "blue", "green", None]).tolist() == [0, 1, 2, 3]
    assert cells.reference.tolist() == [2, 0, 0, 1]


def test_a_reference_without_a_value_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="feature 'x' has no value in its reference"):
        numeric([math.nan])


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=60), st.sampled_from([2, 3, 7, 10, 100]))
def test_quantiles_are_numpys_inverted_cdf(values: list[int], bins: int) -> None:
    distinct, counts = np.unique(np.array(values, dtype=np.float64), return_counts=True)
    # A level times n that is whole may miss it by a float: NumPy then takes the next value, which no table would.
    levels = np.array([level for level in range(1, bins) if level * len(values) % bins]) / bins
    expected = np.unique(np.quantile(np.array(values, dtype=np.float64), levels, method="inverted_cdf"))
    assert quantiles(distinct, counts, levels).tolist() == expected.tolist()


def test_a_layout_counts_every_feature_and_the_score_side_by_side() -> None:
    profile = ReferenceProfile(
        "loan", 1, "training", 2,
        (numeric_reference("income", [10.0, 20.0]), categorical_reference("home", ("own", "rent"), ["own", "rent"])),
        numeric_reference("score", [0.5]),
    )  # fmt: skip
    layout = layout_of(profile)
    counts = layout.count([[10, 15.0, None], ["rent", "castle", None], [0.5, 0.5, 0.9]])
    assert layout.part(counts, 0).tolist() == [0, 1, 1, 0, 0, 1]
    assert layout.part(counts, 1).tolist() == [0, 1, 1, 1]
    assert layout.part(counts, 2).tolist() == [0, 2, 1, 0]
    assert len(counts) == layout.size == 14
