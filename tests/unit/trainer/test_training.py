"""How the rows are divided into folds, and how a forest is bounded."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from driftloop.common.contract import (
    Contract,
    Estimator,
    GradientBoosting,
    GradientBoostingParameters,
    LogisticRegression,
    RandomForest,
    RandomForestParameters,
)
from driftloop.common.rows import canonical_scores
from driftloop.trainer.domain.training import build_pipeline, fold_numbers, out_of_fold_scores, train
from tests.support.models import shipped

SHIPPED = shipped("diabetes", trees=5)
CONTRACT = SHIPPED.contract
LABELS = SHIPPED.labels


def with_forest(**parameters: object) -> Contract:
    forest = RandomForest(parameters=msgspec.convert({"n_estimators": 5} | parameters, RandomForestParameters))
    return msgspec.structs.replace(CONTRACT, estimator=forest)


def sizes(contract: Contract) -> list[int]:
    """How many rows each tree was grown on, repeated ones counted as often."""
    model = train(contract, SHIPPED.features, LABELS)
    return [int(tree.tree_.weighted_n_node_samples[0]) for tree in model[-1].estimators_]


def subjects_of(visits: list[int]) -> NDArray[np.str_]:
    return np.array([f"s{number}" for number, count in enumerate(visits) for _ in range(count)])


@pytest.mark.parametrize("subjects", [None, np.full(768, ""), np.array([f"s{row}" for row in range(768)])])
def test_where_no_subject_has_two_rows_the_folds_are_scikit_learns(subjects: NDArray[np.str_] | None) -> None:
    plan = StratifiedKFold(10, shuffle=True, random_state=0)
    expected = cross_val_predict(
        build_pipeline(CONTRACT, 768), SHIPPED.features, LABELS, cv=plan, method="predict_proba"
    )
    found = out_of_fold_scores(CONTRACT, SHIPPED.features, LABELS, subjects=subjects)
    np.testing.assert_array_equal(found, canonical_scores(expected[:, 1]))


@given(st.lists(st.integers(1, 6), min_size=40, max_size=200), st.integers(2, 10), st.integers(0, 2**32 - 1))
def test_a_subject_is_in_one_fold_and_every_fold_has_its_share(visits: list[int], folds: int, seed: int) -> None:
    subjects = subjects_of(visits)
    labels = (np.random.default_rng(seed).random(len(subjects)) < 0.4).astype(np.int8)
    numbers = fold_numbers(CONTRACT, labels, subjects, folds)
    of_subject: dict[str, set[int]] = {}
    for subject, number in zip(subjects.tolist(), numbers.tolist(), strict=True):
        of_subject.setdefault(subject, set()).add(number)
    assert all(len(found) == 1 for found in of_subject.values())
    dealt = np.bincount([found.pop() for found in of_subject.values()], minlength=numbers.max() + 1)
    assert dealt.max() - dealt.min() <= 1 or len(subjects) == len(visits)
    assert numbers.max() + 1 <= folds


def test_rows_of_unknown_subjects_stand_for_themselves() -> None:
    subjects = np.where(np.arange(768) < 10, "known", "")
    numbers = fold_numbers(CONTRACT, LABELS, subjects, 5)
    assert len(set(numbers[:10].tolist())) == 1
    assert np.bincount(numbers[10:]).min() > 100


def test_a_class_that_one_subject_alone_has_cannot_be_held_out() -> None:
    subjects = np.where(LABELS == 1, "the only one", "")
    with pytest.raises(ValueError, match="of 1 a positive label: to hold some out at least 2 of each are needed"):
        out_of_fold_scores(CONTRACT, SHIPPED.features, LABELS, subjects=subjects)


@pytest.mark.parametrize(("rows", "folds"), [(20_000, 10), (40_000, 5), (100_000, 2), (1_000_000, 2)])
def test_the_more_rows_the_fewer_folds(rows: int, folds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "driftloop.trainer.domain.training.score_fold", lambda _c, _f, _l, fold, _w: np.full(fold.sum(), fold.mean())
    )
    labels = np.tile(np.array([0, 1], dtype=np.int8), rows // 2)
    scores = out_of_fold_scores(CONTRACT, np.zeros((rows, 5), dtype=np.float32), labels)
    np.testing.assert_allclose(scores, 1 / folds)


@pytest.mark.parametrize(
    ("parameters", "rows"),
    [
        ({}, 768),
        ({"max_samples_rows": 100}, 100),
        ({"max_samples_rows": 768}, 768),
        ({"max_samples": 0.5}, 384),
        ({"max_samples": 0.5, "max_samples_rows": 100}, 100),
        ({"max_samples": 0.5, "max_samples_rows": 500}, 384),
    ],
)
def test_a_tree_is_grown_on_no_more_rows_than_its_bound(parameters: dict[str, object], rows: int) -> None:
    assert sizes(with_forest(**parameters)) == [rows] * 5


def test_a_bound_that_is_not_reached_changes_nothing() -> None:
    free, bounded = (
        train(contract, SHIPPED.features, LABELS).predict_proba(SHIPPED.features)
        for contract in (CONTRACT, with_forest(max_samples_rows=20_000))
    )
    np.testing.assert_array_equal(free, bounded)


@pytest.mark.parametrize(
    "estimator",
    [RandomForest(), GradientBoosting(parameters=GradientBoostingParameters(max_iter=20)), LogisticRegression()],
)
def test_a_row_without_weight_teaches_nothing(estimator: Estimator) -> None:
    """Half of the rows have every label turned round, and no weight."""
    contract = msgspec.structs.replace(CONTRACT, estimator=estimator)
    features, labels = np.repeat(SHIPPED.features, 2, axis=0), np.repeat(LABELS, 2)
    wrong = np.arange(len(labels)) % 2 == 1
    turned = np.where(wrong, 1 - labels, labels).astype(np.int8)
    model = train(contract, features, turned, np.where(wrong, 0.0, 1.0))
    assert np.mean(model.predict(SHIPPED.features) == LABELS) > 0.75
