"""What scores mean: isotonic regression against scikit-learn's, its bounds, and its bootstrap against new samples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from driftloop.common.profile import ScoredRows, scored_rows
from driftloop.drift_monitor.domain.calibration import bin_middles, calibrator_of, calibrators_of

BINS = 1000
ROWS = st.lists(st.tuples(st.integers(0, 50).map(lambda unit: unit / 50), st.integers(0, 1)), min_size=1, max_size=80)
Rows = list[tuple[float, int]]


def scored(rows: Rows) -> ScoredRows:
    found = scored_rows(*zip(*rows, strict=True))
    assert found is not None
    return found


def sample(seed: int, rows: int = 614) -> ScoredRows:
    """Scores that say too little: P(label = 1) is their square root."""
    rng = np.random.default_rng(seed)
    scores = rng.beta(1, 2, rows).round(6)
    found = scored_rows(scores, (rng.random(rows) < np.sqrt(scores)).astype(int))
    assert found is not None
    return found


def false_negatives(curves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each curve's [B, BINS] mean probability below one half."""
    means: NDArray[np.float64] = curves[:, : BINS // 2].mean(axis=1)
    return means


@given(ROWS)
def test_the_curve_is_scikit_learns_within_the_bounds_of_succession(rows: Rows) -> None:
    scores, labels = np.array(rows).T
    bound = 1 / (len(rows) + 2)
    theirs = IsotonicRegression(y_min=bound, y_max=1 - bound, out_of_bounds="clip").fit(scores, labels)
    asked = np.linspace(0, 1, 301)
    np.testing.assert_allclose(calibrator_of(scored(rows))(asked), theirs.predict(asked), atol=1e-9)


@given(ROWS)
def test_every_canonical_score_is_found_on_the_curve_knots_and_ends_too(rows: Rows) -> None:
    curve = calibrator_of(scored(rows))
    asked = np.concatenate((np.linspace(0, 1, 4097).round(6), curve.scores, [0.0, 1.0]))
    np.testing.assert_allclose(curve(asked), np.interp(asked, curve.scores, curve.probabilities), rtol=0, atol=1e-12)


def test_one_class_alone_proves_no_certainty() -> None:
    assert calibrator_of(scored([(0.1, 0), (0.9, 0)]))(np.array([0.0, 0.5, 1.0])) == pytest.approx([1 / 4] * 3)


def test_one_row_says_little_of_any_score() -> None:
    found = calibrators_of(scored([(0.3, 1)]), BINS)
    assert np.all(found.curve == pytest.approx(2 / 3))
    assert np.all(found.resampled == pytest.approx(2 / 3))


@given(ROWS)
def test_no_curve_ever_falls_or_is_certain(rows: Rows) -> None:
    found = calibrators_of(scored(rows), BINS, resamples=20)
    curves = np.vstack((found.curve, found.resampled))
    assert np.all(np.diff(curves, axis=1) >= -1e-12)
    assert curves.min() >= 1 / (len(rows) + 2) - 1e-12
    assert curves.max() <= 1 - 1 / (len(rows) + 2) + 1e-12


def test_the_main_curve_is_the_calibrators_at_the_middles_of_the_bins() -> None:
    found = calibrators_of(sample(0), BINS)
    np.testing.assert_array_equal(found.curve, calibrator_of(sample(0))(bin_middles(BINS)))
    assert (found.resampled.shape, found.rows) == ((200, BINS), 614)


def test_the_same_rows_and_seed_give_the_same_curves_and_another_seed_others() -> None:
    one, again, other = (calibrators_of(sample(0), BINS, seed=seed).resampled for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_the_curve_finds_what_the_scores_mean() -> None:
    found = calibrators_of(sample(0, rows=20_000), BINS, resamples=2).curve
    inner = slice(50, 800)
    assert np.abs(found[inner] - np.sqrt(bin_middles(BINS)[inner])).mean() < 0.02


def test_the_bootstrap_varies_as_new_samples_do() -> None:
    new = np.stack([calibrators_of(sample(seed), BINS, resamples=1).curve for seed in range(200)])
    bootstraps = [calibrators_of(sample(seed), BINS).resampled for seed in range(20)]
    spread = np.mean([false_negatives(curves).std(ddof=1) for curves in bootstraps])
    assert spread == pytest.approx(false_negatives(new).std(ddof=1), rel=0.25)


def test_two_curves_are_told_apart() -> None:
    assert calibrator_of(sample(0)).meaning == calibrator_of(sample(0)).meaning != calibrator_of(sample(1)).meaning
