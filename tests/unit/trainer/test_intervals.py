"""An interval holds the true figure about as often as it says, and is never sillier than a person would be."""

import numpy as np
import pytest
from numpy.typing import NDArray

from driftloop.trainer.domain.intervals import roc_auc_interval, share_interval
from driftloop.trainer.domain.metrics import Metrics, evaluate

ROWS, DRAWS = 200, 100


def draw(rng: np.random.Generator, rows: int) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Labels and perfectly calibrated scores."""
    scores = rng.random(rows).round(6)
    return (rng.random(rows) < scores).astype(np.int8), scores


@pytest.fixture(scope="module")
def samples() -> list[Metrics]:
    return [evaluate(*draw(np.random.default_rng(seed), ROWS), 0.5, seed) for seed in range(DRAWS)]


# Of such scores, by integration: E[max(s, 1 − s)], E[s(1 − s)], −E[s ln s + (1 − s) ln(1 − s)], and the areas.
@pytest.mark.parametrize(
    ("figure", "truth"),
    [
        ("accuracy", 3 / 4),
        ("precision", 3 / 4),
        ("recall", 3 / 4),
        ("f1", 3 / 4),
        ("brier", 1 / 6),
        ("log_loss", 1 / 2),
        ("roc_auc", 5 / 6),
    ],
)
def test_an_interval_holds_the_true_figure_in_about_95_of_100_samples(
    samples: list[Metrics], figure: str, truth: float
) -> None:
    bounds = [one.intervals[figure] for one in samples]
    assert 0.89 <= np.mean([low <= truth <= high for low, high in bounds]) <= 0.995


def test_no_errors_in_a_few_rows_leave_room_for_errors() -> None:
    low, high = share_interval(20, 20) or (1, 1)
    assert low == pytest.approx(0.839, abs=0.001)
    assert high == 1


def test_classes_that_are_wholly_apart_do_not_make_the_area_sure() -> None:
    labels = np.array([0] * 10 + [1] * 10, dtype=np.int8)
    low, high = roc_auc_interval(labels, np.linspace(0, 1, 20)) or (1, 1)
    assert 0.7 < low < 0.8
    assert high == 1


def test_what_cannot_be_computed_has_no_interval() -> None:
    figures = evaluate(np.zeros(5, dtype=np.int8), np.full(5, 0.2), 0.5)
    assert not {"precision", "recall", "roc_auc"} & set(figures.intervals)
    assert "accuracy" in figures.intervals


def test_the_same_rows_give_the_same_intervals() -> None:
    rows = draw(np.random.default_rng(1), ROWS)
    assert evaluate(*rows, 0.5, seed=3) == evaluate(*rows, 0.5, seed=3)


def test_the_calibration_error_is_by_ten_bins_of_the_middles_of_thousandths() -> None:
    labels = np.array([0, 1, 1, 1], dtype=np.int8)
    scores = np.array([0.05, 0.05, 0.75, 1.0])
    # |1 − .101| in the first bin, |1 − .7505| in the eighth, |1 − .9995| in the last.
    assert evaluate(labels, scores, 0.5).calibration_error == pytest.approx((0.899 + 0.2495 + 0.0005) / 4)


def test_the_calibration_error_of_calibrated_scores_may_be_nothing() -> None:
    low, _ = evaluate(*draw(np.random.default_rng(0), ROWS), 0.5).intervals["calibration_error"]
    assert low == 0
