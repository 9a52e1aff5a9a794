"""Expected figures against every way the labels can fall, and the concept test against streams whose law is known."""

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from driftloop.common.profile import scored_rows
from driftloop.common.statistics.cells import Counts
from driftloop.drift_monitor.domain.calibration import Calibrators, bin_middles, calibrator_of, calibrators_of
from driftloop.drift_monitor.domain.concept import concept_test, estimate
from driftloop.drift_monitor.domain.fold.scores import add_calibrated

BINS = 1000
TRUE = Calibrators(bin_middles(BINS), np.tile(bin_middles(BINS), (2, 1)), 10**9)


def counted(scores: NDArray[np.float64], labels: NDArray[np.int64], threshold: float = 0.5) -> Counts:
    """Rows by answer, label and bin [2, 2, BINS]."""
    place = ((scores >= threshold) * 2 + labels) * BINS + np.minimum((scores * BINS).astype(int), BINS - 1)
    return np.bincount(place, minlength=4 * BINS).reshape(2, 2, BINS).astype(np.int64)


def stream(
    seed: int, rows: int, shift: float = 0.0, skew: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Scores that mean what they say, unless `shift` is added to their log-odds; `skew` moves the scores themselves."""
    rng = np.random.default_rng(seed)
    scores = rng.beta(1 + skew, 2, rows)
    odds = scores / (1 - scores) * np.exp(shift)
    return scores, (rng.random(rows) < odds / (1 + odds)).astype(np.int64)


def calibrated(seed: int, rows: int = 614) -> Calibrators:
    found = scored_rows(*stream(seed, rows))
    assert found is not None
    return calibrators_of(found, BINS)


# --- the estimate


def test_the_expected_figures_are_the_mean_over_every_way_the_labels_can_fall() -> None:
    scores = np.array([0.1005, 0.3005, 0.3005, 0.5005, 0.7005, 0.9005])
    right, pairs, brier, matrix = 0.0, 0.0, 0.0, np.zeros((2, 2))
    for fallen in product((0, 1), repeat=6):
        labels = np.array(fallen)
        weight = np.where(labels == 1, scores, 1 - scores).prod()
        gaps = scores[labels == 1][:, None] - scores[labels == 0]
        right += weight * ((gaps > 0).sum() + (gaps == 0).sum() / 2)
        pairs += weight * gaps.size
        brier += weight * np.mean((scores - labels) ** 2)
        matrix += weight * counted(scores, labels).sum(axis=2) / 6
    found = estimate(counted(scores, labels).sum(axis=1), TRUE)
    assert found is not None
    (tn, fn), (fp, tp) = matrix
    assert (found.true_negatives, found.false_negatives) == pytest.approx((tn, fn))
    assert (found.false_positives, found.true_positives) == pytest.approx((fp, tp))
    assert (found.accuracy, found.precision, found.recall) == pytest.approx((tn + tp, tp / (tp + fp), tp / (tp + fn)))
    assert found.f1 == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert (found.roc_auc, found.brier) == pytest.approx((right / pairs, brier))


def test_the_band_holds_the_realised_accuracy_as_often_as_it_says() -> None:
    inside = []
    for seed in range(200):
        scores, labels = stream(10_000 + seed, 500)
        counts = counted(scores, labels)
        found = estimate(counts.sum(axis=1), calibrated(seed))
        assert found is not None
        inside.append(found.accuracy_low <= np.trace(counts.sum(axis=2)) / 500 <= found.accuracy_high)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.04)


def test_the_error_has_the_part_of_the_rows_and_the_part_of_the_calibration() -> None:
    scores, labels = stream(0, 500)
    rows = counted(scores, labels).sum(axis=1)
    sure, unsure = estimate(rows, TRUE), estimate(rows, calibrated(1))
    assert sure is not None
    assert unsure is not None
    middles = np.floor(scores * BINS) / BINS + 0.5 / BINS
    assert sure.accuracy_error == pytest.approx(np.sqrt((middles * (1 - middles)).sum()) / 500)
    assert sure.calibration_error == pytest.approx(0, abs=1e-12)
    assert unsure.accuracy_error == pytest.approx(np.hypot(unsure.sampling_error, unsure.calibration_error))
    assert unsure.calibration_error > 0.005


def test_the_exact_sums_of_the_same_rows_are_believed_and_those_of_others_are_not() -> None:
    scores, labels = stream(3, 500)
    scores, law = scores.round(6), calibrated(1)
    found = scored_rows(*stream(1, 614))
    assert found is not None
    curve, said_yes = calibrator_of(found), scores >= 0.5
    exact = np.zeros(6, dtype=np.int64)
    add_calibrated(exact, curve, scores, said_yes, None)
    joint = counted(scores, labels)
    mine = estimate(joint.sum(axis=1), law, exact)
    assert mine is not None
    assert mine.true_positives == pytest.approx(curve(scores)[said_yes].sum() / 500, abs=1e-6)
    assert mine.accuracy == pytest.approx(np.where(said_yes, curve(scores), 1 - curve(scores)).mean(), abs=1e-6)
    assert mine.sampling_error == pytest.approx(np.sqrt((curve(scores) * (1 - curve(scores))).sum()) / 500, abs=1e-6)
    test = concept_test(joint, law, exact)
    assert test is not None
    assert test.estimated == pytest.approx((mine.false_positives, mine.false_negatives))
    assert test.sampling_variance == pytest.approx(
        [(curve(scores) * (1 - curve(scores)))[rows].sum() / 500**2 for rows in (said_yes, ~said_yes)], abs=1e-9
    )
    others = exact + np.array([1, 0, 0, 0, 0, 0])
    assert estimate(joint.sum(axis=1), law, others) == estimate(joint.sum(axis=1), law)


def test_no_row_has_no_estimate_and_one_row_has_no_order() -> None:
    assert estimate(np.zeros((2, BINS), dtype=np.int64), TRUE) is None
    found = estimate(counted(np.array([0.9]), np.array([1])).sum(axis=1), TRUE)
    assert found is not None
    assert (found.n, found.roc_auc) == (1, None)
    assert found.accuracy == pytest.approx(0.9005)


def test_where_no_row_was_answered_yes_there_is_no_precision() -> None:
    found = estimate(counted(np.array([0.1, 0.2]), np.array([0, 0])).sum(axis=1), TRUE)
    assert found is not None
    assert (found.precision, found.recall, found.f1) == (None, 0.0, 0.0)


# --- the test


def test_the_statistic_is_the_gap_over_its_variance_with_every_part_told() -> None:
    found = concept_test(counted(*stream(0, 1000)), calibrated(1))
    assert found is not None
    covariance = found.calibration_covariance
    variance = np.array(
        [
            [found.sampling_variance[0] + found.calibration_variance[0] + 0.015**2, covariance],
            [covariance, found.sampling_variance[1] + found.calibration_variance[1] + 0.015**2],
        ]
    )
    gap = np.subtract(found.realised, found.estimated)
    assert found.gap == pytest.approx(gap)
    assert found.statistic == pytest.approx(gap @ np.linalg.solve(variance, gap))
    assert (found.limit, found.p) == pytest.approx((9.21034, stats.chi2.sf(found.statistic, 2)))


def test_the_realised_shares_are_those_of_the_answers_given_whatever_the_score_says() -> None:
    found = concept_test(counted(np.array([0.2, 0.2, 0.2, 0.8]), np.array([0, 1, 1, 1]), threshold=0.1), TRUE)
    assert found is not None
    assert (found.realised, found.n) == ((0.25, 0.0), 4)


def test_without_a_margin_and_with_a_known_law_p_is_uniform() -> None:
    found = [concept_test(counted(*stream(seed, 500)), TRUE, margin=0.0) for seed in range(500)]
    p_values = [one.p for one in found if one is not None]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_streams_whose_law_holds_are_quiet_also_where_their_inputs_moved() -> None:
    for skew in (0.0, 0.5):
        found = [concept_test(counted(*stream(5000 + seed, 1000, skew=skew)), calibrated(seed)) for seed in range(100)]
        assert sum(one is not None and one.concept for one in found) <= 2


@pytest.mark.parametrize("shift", [-1.2, 1.2])
def test_a_law_whose_log_odds_moved_is_found(shift: float) -> None:
    found = [concept_test(counted(*stream(5000 + seed, 1000, shift)), calibrated(seed)) for seed in range(40)]
    assert all(one is not None and one.concept for one in found)


def test_a_change_that_leaves_the_accuracy_as_it_was_is_found_where_an_accuracy_band_is_blind() -> None:
    """Positives become rare: fewer are missed, as many more are alarmed for nothing."""
    scores = np.repeat([0.3, 0.7], 500)
    labels = np.concatenate((np.arange(500) < 30, np.arange(500) < 230)).astype(np.int64)
    counts = counted(scores, labels)
    law = Calibrators(bin_middles(BINS), TRUE.resampled, 614)
    expected = estimate(counts.sum(axis=1), law)
    found = concept_test(counts, law)
    assert found is not None
    assert expected is not None
    assert expected.accuracy_low <= np.trace(counts.sum(axis=2)) / 1000 <= expected.accuracy_high
    assert found.concept


def test_a_margin_is_what_large_windows_may_be_wrong_by() -> None:
    counts = counted(*stream(0, 200_000, shift=0.1))
    strict, default = concept_test(counts, TRUE, margin=0.0), concept_test(counts, TRUE)
    assert strict is not None
    assert default is not None
    assert (strict.concept, default.concept) == (True, False)


def test_rows_that_were_all_answered_alike_can_be_tested_without_a_margin() -> None:
    scores, labels = stream(0, 400, shift=2.0)
    low = scores < 0.5
    found = concept_test(counted(scores[low], labels[low]), TRUE, margin=0.0)
    assert found is not None
    assert (found.gap[0], found.concept) == (0.0, True)
    assert np.isfinite(found.statistic)


def test_no_row_is_no_test_and_one_row_proves_nothing() -> None:
    assert concept_test(np.zeros((2, 2, BINS), dtype=np.int64), TRUE) is None
    found = concept_test(counted(np.array([0.3]), np.array([1])), calibrated(0))
    assert found is not None
    assert not found.concept
