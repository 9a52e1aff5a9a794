"""How much each row counts: by its age, by its class, by both."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_sample_weight

from driftloop.common.contract import Recipe
from driftloop.trainer.domain.weights import MOST_HALVINGS, row_weights

labels_of = st.lists(st.integers(0, 1), min_size=2, max_size=50)


def days(*numbers: float) -> NDArray[np.timedelta64]:
    return (np.array(numbers) * 86_400e6).astype("m8[us]")


def zeros(n: int) -> NDArray[np.int8]:
    return np.zeros(n, dtype=np.int8)


def test_without_a_recipe_no_row_has_a_weight() -> None:
    assert row_weights(Recipe(), zeros(3), days(1, 2, 3)) is None


def test_a_row_counts_half_for_each_half_life_of_its_age() -> None:
    weights = row_weights(Recipe(half_life_days=30), zeros(3), days(0, 30, 90))
    assert weights is not None
    np.testing.assert_allclose(weights / weights[0], [1, 1 / 2, 1 / 8])


def test_rows_of_one_age_all_count_the_same_and_have_no_weight() -> None:
    assert row_weights(Recipe(half_life_days=7), zeros(3), days(400, 400, 400)) is None


def test_a_row_of_any_age_counts_for_something() -> None:
    weights = row_weights(Recipe(half_life_days=0.001), zeros(2), days(0, 100_000))
    assert weights is not None
    assert weights[1] / weights[0] == pytest.approx(2**-MOST_HALVINGS)


@given(labels_of)
def test_balanced_is_what_scikit_learn_calls_so(labels: list[int]) -> None:
    given_labels = np.array(labels, dtype=np.int8)
    weights = row_weights(Recipe(balance="balanced"), given_labels, days(*[0] * len(labels)))
    found = np.ones(len(labels)) if weights is None else weights
    expected = compute_sample_weight("balanced", given_labels)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@given(labels_of, st.data())
def test_balanced_by_age_each_class_has_half_of_all_weight_and_keeps_its_own_proportions(
    labels: list[int], data: st.DataObject
) -> None:
    given_labels = np.array(labels, dtype=np.int8)
    ages = days(*data.draw(st.lists(st.floats(0, 500), min_size=len(labels), max_size=len(labels))))
    aged = row_weights(Recipe(half_life_days=50), given_labels, ages)
    weights = row_weights(Recipe(half_life_days=50, balance="balanced"), given_labels, ages)
    if weights is None or aged is None:
        return
    assert weights.mean() == pytest.approx(1, rel=1e-6)
    classes = [given_labels == one for one in (0, 1) if (given_labels == one).any()]
    for rows in classes:
        assert weights[rows].sum() == pytest.approx(len(labels) / len(classes), rel=1e-5)
        np.testing.assert_allclose(weights[rows] / weights[rows].sum(), aged[rows] / aged[rows].sum(), rtol=1e-5)
