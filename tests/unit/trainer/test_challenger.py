"""What a version's profile says of it: the labelled rows behind its scores, none of which it had seen."""

import dataclasses
from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from driftloop.common.contract import Recipe
from driftloop.common.profile import ReferenceProfile, ScoredRows, scored_rows
from driftloop.common.rows import validator
from driftloop.demo.populations import BaselineLike, older
from driftloop.drift_monitor.domain.calibration import calibrators_of
from driftloop.drift_monitor.domain.concept import ConceptTest, concept_test
from driftloop.trainer.domain.challenger import BaselineData, Challenger, ReferenceRows, challenge, first_version
from driftloop.trainer.domain.dataset import Division, LabeledRows, divide, division_of, training_set
from driftloop.trainer.domain.evidence import decide
from driftloop.trainer.domain.export import score
from driftloop.trainer.domain.training import out_of_fold_scores
from tests.support.models import shipped

SHIPPED = shipped("diabetes", trees=10)
CONTRACT = msgspec.structs.replace(
    SHIPPED.contract, gates=msgspec.structs.replace(SHIPPED.contract.gates, gate_labels=150)
)
BASELINE = BaselineData.of(CONTRACT, SHIPPED.values, SHIPPED.labels)
CREATED = datetime(2024, 1, 1, tzinfo=UTC)
OLD, NEW, FRESH = 300, 600, 1000
START = np.datetime64("2024-01-01", "s")
SINCE = START + np.timedelta64(OLD, "s")


def production() -> LabeledRows:
    """A second apart: rows as the baseline's, from SINCE on the older population's with a law of its own, and fresh."""
    rng = np.random.default_rng(0)
    like = BaselineLike(CONTRACT, SHIPPED.rows, SHIPPED.labels)
    cases = like.draw(rng, OLD) + older(CONTRACT, rng, NEW + FRESH)
    compiled, n = validator(CONTRACT), len(cases)
    return LabeledRows(
        ids=np.array([f"p{row:05d}" for row in range(n)]),
        times=START + np.arange(n).astype("m8[s]"),
        values=compiled.values([compiled.canonicalise(case.features) for case in cases]),
        labels=np.array([case.label for case in cases], dtype=np.int8),
        subjects=np.full(n, ""),
    )


ROWS = production()
DIVISION: Division = divide(ROWS.take(np.arange(OLD + NEW)), CONTRACT.gates.gate_labels)


@pytest.fixture(scope="module")
def first() -> Challenger:
    return first_version(CONTRACT, BASELINE, 1, CREATED)


@pytest.fixture(scope="module", params=["recent", "training"])
def second(request: pytest.FixtureRequest, first: Challenger) -> Challenger:
    contract = msgspec.structs.replace(CONTRACT, reference=request.param)
    recent = ROWS.take(np.arange(OLD, OLD + NEW))
    reference = ReferenceRows(recent.ids, recent.values)
    return challenge(
        contract, BASELINE, DIVISION, reference, first.model, since=SINCE, version=2, created=CREATED, reason="a test"
    )


def scores_of(challenger: Challenger, values: NDArray[np.float64]) -> NDArray[np.float64]:
    return score(challenger.model, values.astype(np.float32))


def concept_of(profile: ReferenceProfile, scores: NDArray[np.float64], labels: NDArray[np.int8]) -> ConceptTest:
    """The monitor's concept test of labelled rows."""
    assert profile.calibration is not None
    place = ((scores >= 0.5) * 2 + labels.astype(int)) * 1000 + np.minimum((scores * 1000).astype(int), 999)
    counts = np.bincount(place, minlength=4000).reshape(2, 2, 1000).astype(np.int64)
    found = concept_test(counts, calibrators_of(profile.calibration, 1000))
    assert found is not None
    return found


def correct(rows: ScoredRows | None) -> int:
    assert rows is not None
    answers = np.array(rows.scores) >= 0.5
    return int(np.where(answers, rows.positives, rows.negatives).sum())


def test_the_first_version_is_calibrated_by_its_training_rows_out_of_fold(first: Challenger) -> None:
    train = BASELINE.split.train
    unseen = out_of_fold_scores(CONTRACT, BASELINE.values[train].astype(np.float32), BASELINE.labels[train])
    assert first.profile.calibration == scored_rows(unseen, BASELINE.labels[train])


def test_the_first_versions_heldout_rows_are_those_that_no_version_ever_trains_on(first: Challenger) -> None:
    held = BASELINE.split.holdout
    scores = scores_of(first, BASELINE.values[held])
    assert first.profile.heldout == scored_rows(scores, BASELINE.labels[held])


def test_the_heldout_rows_give_the_figures_of_the_card(first: Challenger, second: Challenger) -> None:
    for challenger, name in ((first, "baseline_holdout"), (second, "newest.challenger")):
        assert challenger.profile.heldout is not None
        figures = challenger.card.metrics[name]
        assert challenger.profile.heldout.rows == figures.rows
        assert correct(challenger.profile.heldout) / figures.rows == pytest.approx(figures.accuracy)


def test_a_challenger_is_calibrated_by_the_new_populations_rows_whatever_it_is_compared_with(
    second: Challenger,
) -> None:
    calibration = second.profile.calibration
    assert calibration is not None
    assert calibration.rows == NEW
    assert sum(calibration.positives) == ROWS.labels[OLD : OLD + NEW].sum()


def test_a_calibration_row_is_scored_by_a_model_that_has_not_seen_it(second: Challenger) -> None:
    """A forest is surer of rows that it was trained on: they would look better than any row to come."""
    seen = DIVISION.train.take(np.flatnonzero(DIVISION.train.times >= SINCE))
    surest = scored_rows(scores_of(second, seen.values), seen.labels)
    assert correct(second.profile.calibration) / NEW < correct(surest) / len(seen)


def test_a_calibration_row_is_scored_by_a_model_that_has_not_met_its_patient(first: Challenger) -> None:
    rows = ROWS.take(np.arange(OLD + NEW))
    visits = dataclasses.replace(rows, subjects=np.char.add("s", (np.arange(len(rows)) // 3).astype(np.str_)))
    division = divide(visits, CONTRACT.gates.gate_labels)
    reference = ReferenceRows(visits.ids, visits.values)
    made = challenge(
        CONTRACT, BASELINE, division, reference, first.model, since=SINCE, version=2, created=CREATED, reason="a test"
    )
    data = training_set(BASELINE.values, BASELINE.labels, BASELINE.split, division.train)
    unseen = out_of_fold_scores(CONTRACT, data.features, data.labels, subjects=data.subjects)[data.baseline_rows :]
    new = division.train.times >= SINCE
    expected = scored_rows(
        np.concatenate((unseen[new], scores_of(made, division.gate.values))),
        np.concatenate((division.train.labels[new], division.gate.labels)),
    )
    assert made.profile.calibration == expected


def test_after_a_promotion_the_scores_of_the_new_population_mean_what_the_profile_says(
    first: Challenger, second: Challenger
) -> None:
    fresh = ROWS.take(np.arange(OLD + NEW, OLD + NEW + FRESH))
    assert concept_of(first.profile, scores_of(first, fresh.values), fresh.labels).concept
    assert not concept_of(second.profile, scores_of(second, fresh.values), fresh.labels).concept


def test_the_decision_is_made_from_the_evidence_alone(first: Challenger, second: Challenger) -> None:
    assert second.evidence is not None
    assert first.evidence is None
    assert second.card.decision == decide(second.evidence)
    assert second.evidence.ids.tolist() == DIVISION.gate.ids.tolist()
    assert second.evidence.newest.champion.tolist() == scores_of(first, DIVISION.gate.values).tolist()
    assert second.evidence.newest.challenger.tolist() == scores_of(second, DIVISION.gate.values).tolist()


@pytest.mark.parametrize(("declared", "accepted"), [(False, 0.05), (True, 0.10)])
def test_more_may_be_lost_on_the_baseline_where_concept_drift_was_declared(
    first: Challenger, declared: bool, accepted: float
) -> None:
    recent = ROWS.take(np.arange(OLD, OLD + NEW))
    challenger = challenge(
        CONTRACT,
        BASELINE,
        DIVISION,
        ReferenceRows(recent.ids, recent.values),
        first.model,
        since=SINCE,
        version=2,
        created=CREATED,
        reason="a test",
        concept_drift=declared,
    )
    assert challenger.card.decision is not None
    assert challenger.card.decision.accepted_loss == accepted


def test_a_recipe_reaches_the_model_and_its_card(first: Challenger, second: Challenger) -> None:
    """A row a second: of 5 minutes' half-life the old population's labels count little."""
    contract = msgspec.structs.replace(CONTRACT, training=Recipe(half_life_days=300 / 86_400, balance="balanced"))
    division = division_of(contract, ROWS.take(np.arange(OLD + NEW)), SINCE)
    reference = ReferenceRows(division.train.ids, division.train.values)
    weighted = challenge(
        contract, BASELINE, division, reference, first.model, since=SINCE, version=2, created=CREATED, reason="a test"
    )
    data = weighted.card.training
    assert data.effective_rows is not None
    assert data.effective_rows < 0.9 * data.rows == 0.9 * second.card.training.rows
    assert data.digest != second.card.training.digest
    assert weighted.model != second.model
    assert second.card.training.effective_rows is None
    fitted = training_set(BASELINE.values, BASELINE.labels, BASELINE.split, division.train, contract.training)
    unseen = out_of_fold_scores(contract, fitted.features, fitted.labels, weights=fitted.weights)
    scores = np.concatenate((unseen[-NEW + 150 :], scores_of(weighted, division.gate.values)))
    assert weighted.profile.calibration == scored_rows(scores, ROWS.labels[OLD : OLD + NEW])
