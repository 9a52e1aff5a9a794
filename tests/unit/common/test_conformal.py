"""Prediction sets hold the true label as often as they say."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from driftloop.common.conformal import UNITS, Conformal, conformal_of, covered, prediction_set, set_sizes, uniform
from driftloop.common.profile import scored_rows

HELDOUT, FRESH, DRAWS = 154, 2000, 100


def draw(rng: np.random.Generator, rows: int, decimals: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Scores of a fair model that is not calibrated, and labels; few decimals tie many of them."""
    scores = rng.beta(1, 2, rows)
    return scores.round(decimals), (rng.random(rows) < scores**1.5).astype(np.int64)


def conformal(scores: NDArray[np.float64], labels: NDArray[np.int64], level: float = 0.9) -> Conformal:
    heldout = scored_rows(scores, labels)
    assert heldout is not None
    return conformal_of(heldout, level)


@pytest.mark.parametrize("decimals", [6, 1, 0])
@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_the_mean_coverage_is_the_level_however_many_scores_are_tied(level: float, decimals: int) -> None:
    found = []
    for seed in range(DRAWS):
        rng = np.random.default_rng(seed)
        sets = conformal(*draw(rng, HELDOUT, decimals), level)
        scores, labels = draw(rng, FRESH, decimals)
        found.append(covered(sets, scores, labels, rng.random(FRESH)).mean())
    assert np.mean(found) == pytest.approx(level, abs=0.01)


@pytest.mark.parametrize("held", [1, 2, 5])
def test_a_handful_of_rows_covers_as_well_on_average(held: int) -> None:
    rng = np.random.default_rng(0)
    hit = []
    for _ in range(4000):
        sets = conformal(*draw(rng, held, 2))
        hit.append(covered(sets, *draw(rng, 1, 2), rng.random(1))[0])
    assert np.mean(hit) == pytest.approx(0.9, abs=0.015)


def test_the_numbers_of_prediction_ids_cover_as_well_as_random_ones() -> None:
    rng = np.random.default_rng(3)
    found = []
    for seed in range(DRAWS):
        sets = conformal(*draw(rng, HELDOUT, 1))
        scores, labels = draw(rng, 200, 1)
        uniforms = np.array([uniform(f"p-{seed}-{row}") for row in range(200)])
        found.append(covered(sets, scores, labels, uniforms).mean())
    assert np.mean(found) == pytest.approx(0.9, abs=0.01)


def test_a_prediction_has_the_same_number_in_every_process() -> None:
    assert uniform("01J9ZC3V8K") == 0.36698105299678196


def test_the_numbers_are_uniform() -> None:
    numbers = np.sort([uniform(str(row)) for row in range(5000)])
    assert 0 <= numbers[0] <= numbers[-1] < 1
    assert np.abs(numbers - np.arange(5000) / 5000).max() < 0.03


@given(
    st.lists(st.integers(0, 10), max_size=30),
    st.floats(0.01, 0.99),
    st.integers(0, 10),
    st.text(max_size=20),
)
def test_a_set_holds_the_labels_that_are_covered(known: list[int], level: float, tenths: int, identity: str) -> None:
    sets, units = Conformal(level, np.sort(np.array(known, dtype=np.int64)) * UNITS // 10), tenths * UNITS // 10
    scores, uniforms = np.array([units / 10**6]), np.array([uniform(identity)])
    found = prediction_set(sets, units / 10**6, identity)
    assert found == tuple(label for label in (0, 1) if covered(sets, scores, np.array([label]), uniforms)[0])
    assert len(found) == set_sizes(sets, scores, uniforms)[0]


def test_a_higher_level_never_takes_a_label_away() -> None:
    rows = draw(np.random.default_rng(1), HELDOUT, 1)
    strict, loose = conformal(*rows, 0.8), conformal(*rows, 0.95)
    for score, identity in product(np.linspace(0, 1, 21), ("a", "b", "c")):
        assert set(prediction_set(strict, score, identity)) <= set(prediction_set(loose, score, identity))


def test_a_sure_score_has_one_label_and_an_even_one_both() -> None:
    scores = np.repeat([0.02, 0.6, 0.98], [60, 60, 60])
    labels = np.concatenate((np.zeros(60), np.tile([0, 1], 30), np.ones(60))).astype(np.int64)
    sets = conformal(scores, labels)
    assert [prediction_set(sets, score, "a") for score in (0.01, 0.5, 0.99)] == [(0,), (0, 1), (1,)]


def test_a_model_that_hardly_errs_has_empty_sets_for_what_it_is_least_sure_of() -> None:
    sets = conformal(np.linspace(0, 0.4, 100).round(6), np.zeros(100, dtype=np.int64))
    assert [prediction_set(sets, score, "a") for score in (0.1, 0.39)] == [(0,), ()]


def test_complementary_scores_of_either_label_are_ties_though_binary_fractions_differ() -> None:
    sets = conformal(np.array([0.9, 0.1]), np.array([1, 0]))
    assert sets.nonconformities.tolist() == [100_000, 100_000]


def test_what_sets_depend_on_is_named() -> None:
    rows = draw(np.random.default_rng(1), HELDOUT, 1)
    other = draw(np.random.default_rng(2), HELDOUT, 1)
    assert conformal(*rows).meaning == conformal(*rows).meaning
    assert len({conformal(*rows).meaning, conformal(*other).meaning, conformal(*rows, 0.8).meaning}) == 3


@pytest.mark.parametrize("level", [0.0, 1.0, float("nan")])
def test_a_level_that_is_no_share_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="level"):
        conformal(np.array([0.5]), np.array([1]), level)


@given(
    st.lists(st.integers(0, UNITS), min_size=1, max_size=30),
    st.floats(0.01, 0.99),
    st.integers(0, UNITS),
    st.text(min_size=1, max_size=20),
)
def test_one_rows_set_is_what_many_rows_are_told(known: list[int], level: float, unit: int, name: str) -> None:
    found, score = Conformal(level, np.sort(np.array(known, dtype=np.int64))), unit / UNITS
    each = [
        label for label in (0, 1) if covered(found, np.array([score]), np.array([label]), np.array([uniform(name)]))[0]
    ]
    assert prediction_set(found, score, name) == tuple(each)
