"""Which estimators compete, how one is chosen, and what becomes of those that cannot cope."""

from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from driftloop.common.contract import (
    Contract,
    Estimator,
    GradientBoosting,
    GradientBoostingParameters,
    LogisticRegression,
    RandomForest,
    RandomForestParameters,
    Search,
    SearchedParameter,
)
from driftloop.trainer.domain import export
from driftloop.trainer.domain.candidates import Candidate, estimators, ranked
from driftloop.trainer.domain.card import ModelCard
from driftloop.trainer.domain.challenger import BaselineData, first_version
from tests.support.models import shipped

SHIPPED = shipped("diabetes", trees=5)
FOREST = SHIPPED.contract.estimator
STUMP = RandomForest(parameters=RandomForestParameters(n_estimators=1, max_depth=1))
LOGISTIC = LogisticRegression()
BOOSTED = GradientBoosting(parameters=GradientBoostingParameters(max_iter=10))
CREATED = datetime(2024, 1, 1, tzinfo=UTC)


def contract(*candidates: Estimator, estimator: Estimator = FOREST, selection: str = "log_loss") -> Contract:
    return msgspec.structs.replace(SHIPPED.contract, estimator=estimator, candidates=candidates, selection=selection)


def forest(n_estimators: int, search: Search | None = None) -> RandomForest:
    return RandomForest(parameters=RandomForestParameters(n_estimators=n_estimators), search=search)


def search(iterations: int | None = None, **values: tuple[int, ...]) -> Search:
    parameters = tuple(SearchedParameter(name=name, values=tried) for name, tried in values.items())
    return Search(parameters=parameters, iterations=iterations)


def kinds(ranking: tuple[Candidate, ...]) -> list[str]:
    return [one.score.estimator for one in ranking]


def card_of(contract: Contract) -> ModelCard:
    return first_version(contract, BaselineData.of(contract, SHIPPED.values, SHIPPED.labels), 1, CREATED).card


def test_the_contracts_estimator_competes_with_its_candidates_and_none_twice() -> None:
    assert estimators(contract(LOGISTIC, FOREST, BOOSTED)) == (FOREST, LOGISTIC, BOOSTED)


def test_a_grid_adds_every_combination_to_what_is_written() -> None:
    found = estimators(contract(estimator=forest(7, search(n_estimators=(5, 6), min_samples_leaf=(1, 3)))))
    tried = [
        (one.parameters.n_estimators, one.parameters.min_samples_leaf) for one in found if isinstance(one, RandomForest)
    ]
    assert tried == [(7, 2), (5, 1), (5, 3), (6, 1), (6, 3)]


def test_random_draws_are_combinations_of_the_grid_each_once_and_follow_from_the_seed() -> None:
    grid = set(estimators(contract(estimator=forest(7, search(n_estimators=(1, 2, 3), max_depth=(4, 5, 6))))))
    drawing = forest(7, search(4, n_estimators=(1, 2, 3), max_depth=(4, 5, 6)))
    drawn = estimators(contract(estimator=drawing))
    assert len(drawn) == 5
    assert set(drawn) <= grid
    assert drawn == estimators(contract(estimator=drawing))


def test_more_combinations_than_anyone_could_list_can_be_drawn_from() -> None:
    hundred = tuple(range(1, 101))
    names = ("n_estimators", "min_samples_leaf", "max_depth", "max_samples_rows")
    assert len(estimators(contract(estimator=forest(7, search(3, **dict.fromkeys(names, hundred)))))) == 4


def test_a_single_candidate_is_compared_with_nothing() -> None:
    (only,) = ranked(contract(), SHIPPED.features, SHIPPED.labels)
    assert (only.contract.estimator, only.score.score, only.score.folds) == (FOREST, None, ())


@pytest.mark.parametrize("selection", ["log_loss", "brier", "roc_auc", "accuracy"])
def test_the_better_model_is_first_by_every_measure(selection: str) -> None:
    ranking = ranked(contract(LOGISTIC, estimator=STUMP, selection=selection), SHIPPED.features, SHIPPED.labels)
    assert kinds(ranking) == ["logistic_regression", "random_forest"]


def test_of_equally_good_ones_the_earlier_is_first() -> None:
    # Trees of one leaf all say the same, whatever their number and seed.
    same = [RandomForest(parameters=RandomForestParameters(n_estimators=n, min_samples_leaf=9999)) for n in (3, 1, 2)]
    constant = np.zeros_like(SHIPPED.features)
    ranking = ranked(contract(*same[1:], estimator=same[0], selection="accuracy"), constant, SHIPPED.labels)
    assert [one.contract.estimator for one in ranking] == same


def test_a_score_comes_with_its_folds_and_their_spread() -> None:
    best = ranked(contract(LOGISTIC), SHIPPED.features, SHIPPED.labels)[0].score
    assert len(best.folds) == 5
    assert best.score == pytest.approx(np.mean(best.folds))
    assert best.spread == pytest.approx(np.std(best.folds))


def test_no_candidate_is_helped_by_knowing_the_patient() -> None:
    """Random labels by patient: who remembers a patient's row would know the label of the next."""
    rng = np.random.default_rng(0)
    patients = rng.normal(size=(60, 5)).astype(np.float32)
    labels = (rng.random(60) < 0.5).astype(np.int8)
    subjects = np.repeat([f"s{n}" for n in range(60)], 6)
    features, known = np.repeat(patients, 6, axis=0), np.repeat(labels, 6)

    def accuracy(subjects: NDArray[np.str_] | None) -> float:
        one = contract(STUMP, selection="accuracy")
        return max(found.score.score or 0.0 for found in ranked(one, features, known, subjects=subjects))

    assert accuracy(None) > 0.9
    assert accuracy(subjects) < 0.7


def test_of_many_rows_a_part_is_compared_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("driftloop.trainer.domain.candidates.SELECTION_ROWS", 400)
    seen: list[int] = []

    def score_fold(*given: object) -> NDArray[np.float64]:
        _, _, labels, fold, _ = given
        assert isinstance(labels, np.ndarray)
        assert isinstance(fold, np.ndarray)
        seen.append(len(labels))
        return np.full(fold.sum(), 0.5)

    monkeypatch.setattr("driftloop.trainer.domain.candidates.score_fold", score_fold)
    ranked(contract(LOGISTIC), SHIPPED.features, SHIPPED.labels)
    assert set(seen) == {384}


def test_the_card_says_which_was_chosen_and_how_the_others_fared() -> None:
    card = card_of(contract(LOGISTIC, estimator=STUMP))
    assert (card.estimator, card.parameters["C"]) == ("logistic_regression", 1.0)
    assert [(one.estimator, one.chosen) for one in card.candidates] == [
        ("logistic_regression", True),
        ("random_forest", False),
    ]
    assert card.contract_digest == card_of(contract(LOGISTIC, estimator=STUMP)).contract_digest
    assert msgspec.json.decode(msgspec.json.encode(card), type=ModelCard) == card


def test_the_chosen_ones_scores_make_the_profile() -> None:
    chosen = contract(LOGISTIC, estimator=STUMP)
    baseline = BaselineData.of(chosen, SHIPPED.values, SHIPPED.labels)
    alone = first_version(contract(estimator=LOGISTIC), baseline, 1, CREATED)
    assert first_version(chosen, baseline, 1, CREATED).profile == alone.profile


def broken(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The export of one kind says something else."""
    check = export.check_export

    def checked(pipeline: object, model: bytes, features: NDArray[np.float32], threshold: float) -> float:
        assert isinstance(pipeline, Pipeline)
        if kind in type(pipeline.steps[-1][1]).__name__:
            raise export.ExportMismatch("the ONNX model differs")
        return check(pipeline, model, features, threshold)

    monkeypatch.setattr(export, "check_export", checked)


def test_a_candidate_that_cannot_be_exported_is_dropped_and_the_card_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    broken("Logistic", monkeypatch)
    card = card_of(contract(LOGISTIC, estimator=STUMP))
    assert card.estimator == "random_forest"
    assert [(one.estimator, one.failure) for one in card.candidates] == [
        ("logistic_regression", "the ONNX model differs"),
        ("random_forest", None),
    ]


def test_a_candidate_that_cannot_be_fitted_is_dropped_and_the_card_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("Input contains NaN")

    monkeypatch.setattr("sklearn.linear_model.LogisticRegression.fit", refuse)
    failures = {one.estimator: one.failure for one in card_of(contract(LOGISTIC, estimator=STUMP)).candidates}
    assert failures == {"random_forest": None, "logistic_regression": "Input contains NaN"}


def test_where_all_fail_the_error_names_each(monkeypatch: pytest.MonkeyPatch) -> None:
    broken("", monkeypatch)
    with pytest.raises(
        ValueError, match=r"no candidate can be used: .*logistic_regression .*; random_forest .*differs"
    ):
        card_of(contract(LOGISTIC, estimator=STUMP))


def test_the_only_candidates_own_error_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    broken("", monkeypatch)
    with pytest.raises(export.ExportMismatch):
        card_of(contract())


def test_each_step_is_told() -> None:
    steps: list[str] = []
    chosen = contract(LOGISTIC, estimator=STUMP)
    first_version(chosen, BaselineData.of(chosen, SHIPPED.values, SHIPPED.labels), 1, CREATED, steps.append)
    assert steps == [
        "comparing 2 candidates",
        "fitting a logistic_regression to 614 rows",
        "exporting it",
        "checking the export",
        "scoring the training rows out of fold",
    ]
