"""A closer look at a version: by segment, by feature, and what its prediction sets promise."""

import msgspec
import numpy as np
import pytest

from driftloop.common.conformal import Conformal, covered
from driftloop.common.profile import scored_rows
from driftloop.trainer.domain.challenger import HOLDOUT
from driftloop.trainer.domain.coverage import coverage_band, prediction_sets
from driftloop.trainer.domain.inspection import Inspection, importances, inspect, segment_figures
from tests.support.artifacts import logistic_model
from tests.support.models import shipped

LOAN, DIABETES = shipped("loan"), shipped("diabetes")
WIDTH = len(DIABETES.contract.features)
ROWS = np.random.default_rng(0).normal(size=(400, WIDTH))
ROWS[:, 3] = 0
LABELS = (ROWS[:, 1] > 0).astype(np.int8)


def by_the_second_feature(features: np.ndarray) -> np.ndarray:
    return np.where(features[:, 1] > 0, 0.9, 0.1)


def test_the_feature_that_a_model_goes_by_is_the_most_important_and_one_that_it_ignores_is_not() -> None:
    found, rows = importances(DIABETES.contract, by_the_second_feature, LABELS, ROWS, seed=0)
    names = DIABETES.contract.feature_names
    assert (found[0].feature, rows) == (names[1], 400)
    assert found[0].rise > 0.3
    assert {one.rise for one in found[1:]} == {0.0}
    assert sorted(one.feature for one in found) == sorted(names)


def test_importances_are_measured_on_a_bounded_number_of_rows() -> None:
    asked = []

    def ask(features: np.ndarray) -> np.ndarray:
        asked.append(len(features))
        return by_the_second_feature(features)

    many = np.tile(ROWS, (20, 1))
    importances(DIABETES.contract, ask, np.tile(LABELS, 20), many, seed=0)
    assert max(asked) == 2000
    assert sum(asked) <= 2000 * (1 + 5 * WIDTH)


def test_every_segment_with_rows_has_its_share_and_interval() -> None:
    right = np.ones(len(LOAN.labels), dtype=np.bool_)
    right[LOAN.values[:, 1] == 0] = False
    found = {one.name: one for one in segment_figures(LOAN.contract, right, LOAN.values)}
    assert found["employment = employed"].accuracy == 0
    assert found["employment = retired"].accuracy == 1
    assert found["employment = retired"].interval[0] < 1
    assert min(one.rows for one in found.values()) > 0


def test_the_band_of_a_small_sample_is_wide_and_that_of_a_large_one_narrow() -> None:
    assert coverage_band(154, 0.9) == pytest.approx((0.849, 0.942), abs=0.002)
    assert coverage_band(300, 0.9) == pytest.approx((0.863, 0.931), abs=0.002)
    assert coverage_band(100_000, 0.9) == pytest.approx((0.898, 0.902), abs=0.001)


def test_the_band_is_where_the_coverage_of_such_samples_is() -> None:
    rng, rows, kept = np.random.default_rng(0), 154, []
    low, high = coverage_band(rows, 0.9)
    for _ in range(400):
        sets = Conformal(0.9, np.sort(rng.integers(0, 1_000_001, rows)))
        fresh = rng.integers(0, 1_000_001, 20_000) / 1e6
        kept.append(covered(sets, fresh, np.zeros(20_000, dtype=np.int64), rng.random(20_000)).mean())
    assert np.mean([low <= one <= high for one in kept]) == pytest.approx(0.95, abs=0.035)


def test_the_coverage_that_is_seen_is_of_rows_that_the_sets_were_not_made_from() -> None:
    """On their own rows sets are right by construction, always to the same share; on others that scatters."""
    rng, seen, low, high = np.random.default_rng(3), [], 0.0, 1.0
    for seed in range(60):
        found = prediction_sets(scored_rows(rng.random(400).round(6), rng.integers(0, 2, 400)), 0.9, seed)
        assert found is not None
        assert (found.rows, found.checked_rows) == (400, 200)
        seen.append(found.coverage)
        low, high = found.coverage_band
    assert np.std(seen) == pytest.approx((high - low) / 4, rel=0.3)
    assert np.mean([low <= one <= high for one in seen]) >= 0.85


def test_too_few_rows_promise_nothing() -> None:
    assert prediction_sets(None, 0.9, 0) is None
    assert prediction_sets(scored_rows([0.5], [1]), 0.9, 0) is None


def test_an_inspection_is_of_the_served_model_and_reads_back() -> None:
    model = logistic_model(WIDTH, 0.01).SerializeToString()
    found = inspect(DIABETES.contract, model, HOLDOUT, DIABETES.labels, np.nan_to_num(DIABETES.values), None)
    assert (found.slice, found.rows, found.prediction_sets) == ("baseline_holdout", 768, None)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Inspection) == found
