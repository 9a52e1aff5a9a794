"""What each accumulator counts, against the rows one by one."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.common.conformal import conformal_of, prediction_set
from driftloop.common.statistics.cells import Counts
from driftloop.common.statistics.scores import BINS, score_bins
from driftloop.drift_monitor.domain.calibration import calibrator_of
from driftloop.drift_monitor.domain.fold.base import Accumulator, Fold
from driftloop.drift_monitor.domain.fold.labels import (
    BOTH_SETS,
    COVERED,
    DELAY_EDGES,
    EMPTY_SETS,
    SINGLE_SETS,
    LabelDelays,
    SetCoverage,
    delay_quantile,
)
from driftloop.drift_monitor.domain.fold.rows import LabelRows
from driftloop.drift_monitor.domain.fold.scores import CalibratedSums, LabelledCalibratedSums, ScoreHistogram
from tests.unit.drift_monitor.builders import labels_of, rows_of, scored

SCORES = st.lists(st.integers(0, 10**6).map(lambda units: units / 10**6), max_size=30)
ROWS = st.lists(st.tuples(st.integers(0, 20).map(lambda unit: unit / 20), st.integers(0, 1)), max_size=40)
CALIBRATOR = calibrator_of(scored([0.1, 0.3, 0.6, 0.9] * 20, [0, 1, 1, 1, 0, 0, 0, 1] * 10))
HELDOUT = conformal_of(scored([0.1, 0.3, 0.3, 0.6, 0.9] * 8, [0, 0, 1, 1, 1] * 8))


def counted(accumulator: Accumulator[LabelRows], rows: LabelRows) -> Counts:
    return Fold((accumulator,)).add(rows).counts


# --- scores


@pytest.mark.parametrize(
    ("score", "place"), [(0.0, 0), (0.000999, 0), (0.001, 1), (0.29, 290), (0.57, 570), (0.999999, 999), (1.0, 999)]
)
def test_a_score_lies_in_the_bin_that_its_decimals_say(score: float, place: int) -> None:
    assert score_bins(np.array([score])).tolist() == [place]


@given(SCORES)
def test_the_histogram_has_each_answer_and_score(scores: list[float]) -> None:
    found = np.array(scores)
    counts = Fold((ScoreHistogram(),)).add(rows_of(np.zeros((len(found), 0)), found)).counts.reshape(2, BINS)
    expected = Counter((score >= 0.5, min(round(score * 10**6) // 1000, BINS - 1)) for score in scores)
    assert {(bool(answer), int(place)): int(counts[answer, place]) for answer, place in np.argwhere(counts)} == expected


@given(SCORES)
def test_calibrated_sums_are_those_of_the_rows_to_half_a_millionth_each(scores: list[float]) -> None:
    found = np.array(scores)
    counts = Fold((CalibratedSums(CALIBRATOR),)).add(rows_of(np.zeros((len(found), 0)), found)).counts.reshape(2, 3)
    for answer in (0, 1):
        calibrated = CALIBRATOR(found[(found >= 0.5) == bool(answer)])
        expected = [len(calibrated), 1e6 * calibrated.sum(), 1e6 * (calibrated * (1 - calibrated)).sum()]
        np.testing.assert_allclose(counts[answer], expected, atol=0.5 * len(calibrated) + 1e-6)


@given(SCORES)
def test_labelled_rows_have_the_calibrated_sums_of_all_rows_where_all_are_labelled(scores: list[float]) -> None:
    labelled = counted(LabelledCalibratedSums(CALIBRATOR), labels_of(scores, np.zeros(len(scores))))
    everyone = Fold((CalibratedSums(CALIBRATOR),)).add(rows_of(np.zeros((len(scores), 0)), np.array(scores))).counts
    assert labelled.tolist() == everyone.tolist()


# --- prediction sets


@given(ROWS)
def test_coverage_is_that_of_the_sets_that_the_predictor_answers_with(rows: list[tuple[float, int]]) -> None:
    changes = labels_of([score for score, _ in rows], [label for _, label in rows])
    counts = counted(SetCoverage(HELDOUT), changes)
    sets = [prediction_set(HELDOUT, score, f"p{place}") for place, (score, _) in enumerate(rows)]
    sizes = Counter(map(len, sets))
    assert counts[COVERED] == sum(label in found for found, (_, label) in zip(sets, rows, strict=True))
    assert [counts[place] for place in (EMPTY_SETS, SINGLE_SETS, BOTH_SETS)] == [sizes[0], sizes[1], sizes[2]]


def test_sets_of_fresh_rows_hold_their_label_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    scores = rng.beta(1, 2, (2, 4000)).round(6)
    labels = (rng.random(scores.shape) < scores).astype(np.int64)
    known = conformal_of(scored(scores[0], labels[0]), 0.9)
    counts = counted(SetCoverage(known), labels_of(scores[1], labels[1]))
    assert counts[COVERED] / 4000 == pytest.approx(0.9, abs=0.02)


# --- delays


@pytest.mark.parametrize(
    ("delay", "edge"), [(0.0, 1.0), (1.0, 1.0), (1.5, 10.0), (3600.0, 3600.0), (86_400.0 * 180, 86_400.0 * 180)]
)
def test_a_delay_lies_below_the_next_edge(delay: float, edge: float) -> None:
    assert delay_quantile(counted(LabelDelays(), labels_of([0.5], [1], delay=delay)), 0.5) == edge


def test_a_label_from_before_its_prediction_took_no_time() -> None:
    assert delay_quantile(counted(LabelDelays(), labels_of([0.5], [1], delay=-5.0)), 0.5) == 1.0


def test_delays_beyond_the_last_edge_have_no_upper_bound() -> None:
    counts = counted(LabelDelays(), labels_of([0.5], [1], delay=2 * DELAY_EDGES[-1]))
    assert (delay_quantile(counts, 0.5), counts[-1]) == (None, 1)


def test_no_label_has_no_delay() -> None:
    assert delay_quantile(counted(LabelDelays(), labels_of([], [])), 0.5) is None


def test_a_median_is_reached_by_half_of_the_labels() -> None:
    counts = sum(
        (counted(LabelDelays(), labels_of([0.5] * n, [1] * n, delay=delay)) for n, delay in ((5, 1.0), (4, 3600.0))),
        np.zeros(LabelDelays.size, dtype=np.int64),
    )
    assert (delay_quantile(counts, 0.5), delay_quantile(counts, 0.6)) == (1.0, 3600.0)


def test_taking_a_label_away_is_no_arrival() -> None:
    assert counted(LabelDelays(), labels_of([0.5], [1], sign=-1)).sum() == 0
