"""Chi-square and PSI of a category."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from driftloop.common.profile import categorical_reference
from driftloop.common.statistics.cells import CategoricalCells, cells_of
from driftloop.common.statistics.comparison import Comparison, compare, stability_index

NAMES = ("a", "b", "c", "d")


def categories(*counts: int, missing: int = 0, names: tuple[str, ...] = NAMES) -> CategoricalCells:
    values = [name for name, count in zip(names, counts, strict=True) for _ in range(count)]
    cells = cells_of(categorical_reference("colour", names, [*values, *[None] * missing]))
    assert isinstance(cells, CategoricalCells)
    return cells


def against(cells: CategoricalCells, values: Sequence[str | None]) -> Comparison:
    return compare(cells, np.bincount(cells.index(values), minlength=cells.size).astype(np.int64))


def test_p_is_that_of_the_homogeneity_test_without_correction() -> None:
    compared = against(categories(40, 30, 20, 10), ["a"] * 30 + ["b"] * 30 + ["c"] * 25 + ["d"] * 15)
    expected = stats.chi2_contingency([[40, 30, 20, 10], [30, 30, 25, 15]], correction=False)
    assert compared.p == pytest.approx(expected.pvalue, rel=1e-12)
    assert compared.statistic == pytest.approx(0.10)


def test_a_two_by_two_table_is_not_corrected_either() -> None:
    compared = against(categories(60, 40, names=("a", "b")), ["a"] * 45 + ["b"] * 55)
    assert compared.p == pytest.approx(stats.chi2_contingency([[60, 40], [45, 55]], correction=False).pvalue, rel=1e-12)


def test_missing_rows_are_in_psi_and_not_in_p() -> None:
    compared = against(categories(50, 50, missing=100, names=("a", "b")), ["a"] * 50 + ["b"] * 50 + [None] * 20)
    assert (compared.p, compared.n, compared.missing) == (1.0, 100, 20)
    assert compared.psi == pytest.approx(stability_index(np.array([50, 50, 100]), np.array([50, 50, 20])))


def test_a_category_nobody_has_is_dropped() -> None:
    compared = against(categories(50, 50, 0, 0), ["a"] * 40 + ["b"] * 60)
    assert compared.p == pytest.approx(stats.chi2_contingency([[50, 50], [40, 60]], correction=False).pvalue, rel=1e-12)


def test_rare_and_unseen_categories_are_counted_together() -> None:
    compared = against(categories(90, 104, 3, 3), ["a"] * 44 + ["b"] * 46 + ["c"] * 4 + ["d"] * 4 + ["new"] * 2)
    table = [[90, 104, 6], [44, 46, 10]]
    assert compared.p == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue, rel=1e-12)
    assert compared.psi == pytest.approx(stability_index(*np.array(table)))


def test_the_bins_are_named_by_category_and_say_both_counts() -> None:
    compared = against(categories(90, 104, 3, 3, missing=5), ["a"] * 50 + ["b"] * 46 + ["c", "new", None])
    assert compared.bins == (("a", 90, 50), ("b", 104, 46), ("other", 6, 2), ("missing", 5, 1))


def test_no_category_in_the_reference_is_no_error() -> None:
    compared = against(categories(0, 0, 0, 0, missing=9), ["a", None])
    assert (compared.statistic, compared.p, compared.m) == (0.0, 1.0, 0)
    assert compared.bins == (("other", 0, 1), ("missing", 9, 1))


def test_many_categories_make_ten_bins() -> None:
    names = tuple(f"c{place}" for place in range(14))
    cells = categories(*range(114, 100, -1), names=names)
    compared = against(cells, [name for name in names for _ in range(50)])
    other = [sum(range(105, 100, -1)), 250]
    table = np.array([[*range(114, 105, -1), other[0]], [*[50] * 9, other[1]]])
    assert table.shape == (2, 10)
    assert compared.p == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue, rel=1e-12)


@pytest.mark.parametrize("values", [[], [None, None]], ids=["empty", "all missing"])
def test_a_window_without_a_category_says_nothing_of_them(values: list[str | None]) -> None:
    compared = against(categories(40, 30, 20, 10), values)
    assert (compared.statistic, compared.p, compared.n) == (0.0, 1.0, 0)


def test_one_category_in_both_is_no_drift() -> None:
    compared = against(categories(50, 0, 0, 0), ["a"] * 500)
    assert (compared.statistic, compared.p, compared.psi) == (0.0, 1.0, 0.0)
