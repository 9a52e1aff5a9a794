"""The demo's populations: documented simulators of patients who never were, and a split of those who were.

Seeded by the caller's generator. A case has its features as a client would send them, in the contract's names, with the
contract's first missing code where a value is missing, and its label. Nothing here is clinical guidance.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from driftloop.common.contract import Contract, Feature
from driftloop.common.rows import Row, validator

YOUNG = 30
LATER = 42
GLUCOSE_LIMIT = 160
LABEL_NOISE = 0.01
# What older patients are drawn with.
OLDER_FEATURES = frozenset({"Pregnancies", "Glucose", "BloodPressure", "BMI", "Age"})


class Case(NamedTuple):
    """One patient: what a client sends, and what the laboratory finds weeks later."""

    features: Row
    label: int


class BaselineLike:
    """Draws patients like those of a baseline (numeric features only).

    A Gaussian copula: z ~ N(0, R), R the normal-score correlation of the median-filled baseline; feature j is the
    baseline's sorted non-missing value number ⌊Φ(zⱼ)·mⱼ⌋ of mⱼ, so that every value is one that occurs; values go
    missing independently at the baseline's rates; the label is Bernoulli of a logistic regression with all terms up to
    degree 2 (standardised, C = .1) fitted to the baseline.
    """

    def __init__(self, contract: Contract, rows: Sequence[Row], labels: NDArray[np.int8]) -> None:
        """Fit the simulator to canonical baseline rows and their labels [n]. Raises ValueError on a category."""
        categories = [feature.name for feature in contract.features if feature.type == "category"]
        if categories:
            raise ValueError(f"the baseline-like simulator draws numbers only; {categories} are categories")
        self.contract = contract
        values = validator(contract).values(rows)
        missing = np.isnan(values)
        filled = np.where(missing, np.nanmedian(values, axis=0), values)
        self.missing_rates = np.mean(missing, axis=0, dtype=np.float64)
        self.values = [np.sort(column[~np.isnan(column)]) for column in values.T]
        self.correlation = normal_score_correlation(filled)
        self.law = fit_law(filled, labels)

    def draw(self, rng: np.random.Generator, count: int) -> list[Case]:
        """Draw `count` patients."""
        z = rng.multivariate_normal(np.zeros(len(self.values)), self.correlation, size=count, method="cholesky")
        x = np.column_stack([known[_positions(z[:, index], len(known))] for index, known in enumerate(self.values)])
        labels = rng.random(count) < self.law.predict_proba(x)[:, 1]
        # The outcome follows from the patient's true values, measured or not.
        lost = rng.random(x.shape) < self.missing_rates
        return _cases(self.contract.features, x, lost, labels)


def _positions(z: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    # Φ(z) rounds to 1 beyond z = 8.3, one past the last value.
    return np.minimum((ndtr(z) * count).astype(np.int64), count - 1)


def normal_score_correlation(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlation [d, d] of the normal scores Φ⁻¹((rank − ½)/n) of `values` [n, d], ties sharing their mean rank."""
    scores = ndtri((rankdata(values, axis=0) - 0.5) / len(values))
    return np.asarray(np.corrcoef(scores, rowvar=False), dtype=np.float64)


def fit_law(values: NDArray[np.float64], labels: NDArray[np.int8]) -> Pipeline:
    """P(label = 1) by a logistic regression on all terms up to degree 2 of `values` [n, d], standardised, C = .1."""
    law = make_pipeline(
        StandardScaler(),
        PolynomialFeatures(2, include_bias=False),
        LogisticRegression(C=0.1, max_iter=1000),
    )
    return law.fit(values, labels)


def older(contract: Contract, rng: np.random.Generator, count: int) -> list[Case]:
    """Draw `count` patients of an older clinic: mean age 56, glucose 140, BMI 34, nothing missing.

    Independent features; diabetic exactly where glucose is 160 or more, but for one wrong label in a hundred: an
    illustrative rule that a tree can learn, not a clinical one. Always saying "negative" is right for about 74 %.
    """
    columns = {
        "Pregnancies": np.minimum(rng.poisson(5.5, count), 17),
        "Glucose": np.clip(np.round(rng.normal(140, 30, count)), 60, 199),
        "BloodPressure": np.clip(2 * np.round(rng.normal(78, 12, count) / 2), 44, 120),
        "BMI": np.clip(np.round(rng.normal(34, 6, count), 1), 18, 60),
        "Age": np.clip(np.round(rng.normal(56, 8, count)), 40, 85),
    }
    labels = (columns["Glucose"] >= GLUCOSE_LIMIT) ^ (rng.random(count) < LABEL_NOISE)
    x = np.column_stack([columns[name] for name in contract.feature_names]).astype(np.float64)
    return _cases(contract.features, x, np.zeros(x.shape, dtype=np.bool_), labels)


class AgeSplit(NamedTuple):
    """Real rows by age: the `baseline` of 30 years or less, and those of 42 or more, who come `later`."""

    baseline: list[Case]
    later: list[Case]


def pima_age_split(contract: Contract, rows: Sequence[Row], labels: NDArray[np.int8]) -> AgeSplit:
    """Split the shipped baseline by age, each part in the file's order; ages between are left out."""
    values = validator(contract).values(rows)
    age = values[:, contract.feature_names.index("Age")]
    cases = _cases(contract.features, values, np.isnan(values), labels)
    return AgeSplit(
        [cases[index] for index in np.flatnonzero(age <= YOUNG)],
        [cases[index] for index in np.flatnonzero(age >= LATER)],
    )


def _cases(
    features: Sequence[Feature],
    x: NDArray[np.float64],
    missing: NDArray[np.bool_],
    labels: NDArray[np.bool_] | NDArray[np.int8],
) -> list[Case]:
    codes = [feature.missing[0] if feature.missing else None for feature in features]
    cases = []
    for values, lost, label in zip(x.tolist(), missing.tolist(), labels.tolist(), strict=True):
        row: Row = {}
        for feature, code, value, absent in zip(features, codes, values, lost, strict=True):
            row[feature.name] = code if absent else int(value) if feature.type == "integer" else value
        cases.append(Case(row, int(label)))
    return cases
