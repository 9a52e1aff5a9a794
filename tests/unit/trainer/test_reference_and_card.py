"""What travels with a version: the profile of its reference population, its figures, its card."""

from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest

from driftloop.common.contract import Feature, digest
from driftloop.common.profile import CategoricalReference, NumericReference, ReferenceProfile
from driftloop.trainer.domain.card import ModelCard, model_card, training_data
from driftloop.trainer.domain.dataset import training_set
from driftloop.trainer.domain.metrics import evaluate
from driftloop.trainer.domain.reference import reference_profile, require_features
from driftloop.trainer.domain.split import split_baseline
from tests.support.models import shipped

LOAN = shipped("loan")
LABELS = np.array([0, 0, 0, 1], dtype=np.int8)


def test_the_profile_counts_every_value_category_and_gap() -> None:
    profile = reference_profile(LOAN.contract, 1, "training", LOAN.values, np.linspace(0, 1, 400))
    income, employment, _ = profile.features
    assert isinstance(income, NumericReference)
    assert isinstance(employment, CategoricalReference)
    assert (profile.rows, sum(income.counts), sum(employment.counts) + employment.missing) == (400, 400, 400)
    assert employment.missing > 0
    assert msgspec.json.decode(msgspec.json.encode(profile), type=ReferenceProfile) == profile


def test_the_profile_keeps_the_decimal_grid() -> None:
    diabetes = shipped("diabetes")
    profile = reference_profile(diabetes.contract, 1, "training", diabetes.values, np.zeros(768))
    bmi = profile.features[3]
    assert isinstance(bmi, NumericReference)
    assert 33.6 in bmi.values
    assert (bmi.missing, len(bmi.values)) == (11, 247)


def test_a_reference_without_a_score_for_each_row_is_refused() -> None:
    with pytest.raises(ValueError, match="400 rows and 3 scores"):
        reference_profile(LOAN.contract, 1, "recent", LOAN.values, np.zeros(3))


@pytest.mark.parametrize(
    "changed",
    [
        LOAN.contract.features[:-1],
        LOAN.contract.features[::-1],
        tuple(msgspec.structs.replace(one, categories=one.categories[::-1]) for one in LOAN.contract.features),
    ],
)
def test_a_version_that_learnt_from_other_features_is_named(changed: tuple[Feature, ...]) -> None:
    """A model takes columns by their place, and says something of whatever stands there."""
    profile = reference_profile(LOAN.contract, 7, "training", LOAN.values, np.zeros(400))
    require_features(LOAN.contract, profile)
    with pytest.raises(ValueError, match="version 7 learnt from other features than the contract has"):
        require_features(msgspec.structs.replace(LOAN.contract, features=changed), profile)


def test_figures_stand_beside_what_the_commoner_class_alone_scores() -> None:
    metrics = evaluate(LABELS, np.array([0.1, 0.5, 0.2, 0.9]), threshold=0.5)
    assert (metrics.accuracy, metrics.majority, metrics.precision, metrics.recall) == (0.75, 0.75, 0.5, 1.0)
    assert metrics.roc_auc == 1.0


def test_one_class_has_no_roc_auc_and_no_rows_have_no_figures() -> None:
    assert evaluate(LABELS[:3], np.array([0.1, 0.2, 0.3]), 0.5).roc_auc is None
    with pytest.raises(ValueError, match="no labelled rows"):
        evaluate(LABELS[:0], np.empty(0), 0.5)


def test_the_card_says_what_a_version_was_made_of_and_reads_back() -> None:
    data = training_set(LOAN.values, LOAN.labels, split_baseline(LOAN.contract, LOAN.labels))
    figures = {"baseline": evaluate(LABELS, np.array([0.1, 0.2, 0.3, 0.9]), 0.5)}
    created = datetime(2024, 1, 1, tzinfo=UTC)
    card = model_card(LOAN.contract, 1, created, "first version", training_data(data), figures)
    assert card.contract_digest == digest(LOAN.contract)
    assert (card.training.rows, card.training.digest) == (320, data.digest)
    assert card.libraries.keys() >= {"python", "scikit-learn", "onnxruntime"}
    assert msgspec.json.decode(msgspec.json.encode(card), type=ModelCard) == card
