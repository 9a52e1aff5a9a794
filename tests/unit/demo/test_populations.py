"""The demo's simulators keep what their descriptions promise."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from driftloop.common.rows import canonicalise, validator
from driftloop.demo.populations import BaselineLike, Case, older, pima_age_split
from tests.support.models import shipped

SHIPPED = shipped("diabetes")
CONTRACT = SHIPPED.contract
NAMES = CONTRACT.feature_names
LIKE = BaselineLike(CONTRACT, SHIPPED.rows, SHIPPED.labels)


def values(cases: list[Case]) -> NDArray[np.float64]:
    return validator(CONTRACT).values([canonicalise(CONTRACT, case.features) for case in cases])


def column(matrix: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    found = matrix[:, NAMES.index(name)]
    return found[~np.isnan(found)]


def test_a_seed_gives_the_same_patients_and_another_seed_others() -> None:
    def both(seed: int) -> list[Case]:
        rng = np.random.default_rng(seed)
        return LIKE.draw(rng, 20) + older(CONTRACT, rng, 20)

    assert both(1) == both(1) != both(2)


def test_baseline_like_patients_have_the_baselines_marginals() -> None:
    drawn = values(LIKE.draw(np.random.default_rng(0), 1000))
    distances = {name: ks_2samp(column(SHIPPED.values, name), column(drawn, name)).statistic for name in NAMES}
    assert max(distances.values()) < 0.08, distances


def test_baseline_like_patients_only_have_values_that_occur_in_the_baseline() -> None:
    drawn = values(LIKE.draw(np.random.default_rng(0), 500))
    for name in NAMES:
        assert set(column(drawn, name)) <= set(column(SHIPPED.values, name))


def test_baseline_like_patients_lack_values_at_the_baselines_rates() -> None:
    drawn = values(LIKE.draw(np.random.default_rng(0), 20_000))
    expected = np.isnan(SHIPPED.values).mean(axis=0)
    np.testing.assert_allclose(np.isnan(drawn).mean(axis=0), expected, atol=0.005)


def test_baseline_like_features_are_correlated_as_in_the_baseline() -> None:
    drawn = values(LIKE.draw(np.random.default_rng(0), 5000))
    drawn = drawn[~np.isnan(drawn).any(axis=1)]
    complete = SHIPPED.values[~np.isnan(SHIPPED.values).any(axis=1)]
    np.testing.assert_allclose(np.corrcoef(drawn, rowvar=False), np.corrcoef(complete, rowvar=False), atol=0.1)


def test_baseline_like_patients_are_diabetic_as_often_as_the_baselines() -> None:
    labels = [case.label for case in LIKE.draw(np.random.default_rng(0), 5000)]
    assert np.mean(labels) == pytest.approx(268 / 768, abs=0.03)


@pytest.mark.parametrize(
    ("name", "mean", "deviation", "low", "high"),
    [
        ("Age", 56, 7.8, 40, 85),
        ("Glucose", 140, 29, 60, 199),
        ("BMI", 34, 6, 18, 60),
        ("BloodPressure", 78, 12, 44, 120),
        ("Pregnancies", 5.5, 2.35, 0, 17),
    ],
)
def test_older_patients_have_the_moments_that_clipping_leaves_and_the_bounds(
    name: str, mean: float, deviation: float, low: float, high: float
) -> None:
    found = column(values(older(CONTRACT, np.random.default_rng(0), 20_000)), name)
    assert (found.mean(), found.std()) == pytest.approx((mean, deviation), rel=0.02)
    assert low <= found.min() <= found.max() <= high


def test_older_patients_follow_the_rule_but_for_one_in_a_hundred() -> None:
    cases = older(CONTRACT, np.random.default_rng(0), 20_000)
    rule = values(cases)[:, NAMES.index("Glucose")] >= 160
    labels = np.array([case.label for case in cases], dtype=np.bool_)
    assert np.mean(rule != labels) == pytest.approx(0.01, abs=0.002)
    assert np.mean(~labels) == pytest.approx(0.74, abs=0.01)


def test_cases_come_as_a_client_sends_them() -> None:
    drawn = LIKE.draw(np.random.default_rng(0), 500)
    assert {type(case.features["Age"]) for case in drawn} == {int}
    assert any(case.features["BloodPressure"] == 0 for case in drawn)
    assert all(None not in case.features.values() for case in drawn)


def test_the_age_split_has_real_rows_only_and_no_patient_twice() -> None:
    split = pima_age_split(CONTRACT, SHIPPED.rows, SHIPPED.labels)
    ages = [column(values(part), "Age") for part in split]
    assert [len(part) for part in split] == [417, 172]
    assert ages[0].max() == 30
    assert ages[1].min() == 42


def test_categories_are_refused_by_the_baseline_like_simulator() -> None:
    loan = shipped("loan")
    with pytest.raises(ValueError, match=r"\['employment'\] are categories"):
        BaselineLike(loan.contract, loan.rows, loan.labels)
