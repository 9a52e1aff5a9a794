"""The baseline rows that no version is ever trained on."""

import numpy as np
import pytest

from driftloop.trainer.domain.split import split_baseline
from tests.support.models import shipped

DIABETES = shipped("diabetes")
HELD_OUT = [8, 27, 43, 50, 54, 56, 58, 59]


def test_154_of_the_768_rows_are_held_out_and_614_trained_on() -> None:
    split = split_baseline(DIABETES.contract, DIABETES.labels)
    assert (len(split.train), len(split.holdout)) == (614, 154)
    assert sorted([*split.train, *split.holdout]) == list(range(768))


def test_both_parts_have_the_same_share_of_positives() -> None:
    split = split_baseline(DIABETES.contract, DIABETES.labels)
    shares = [DIABETES.labels[part].mean() for part in (split.train, split.holdout)]
    assert shares == pytest.approx([268 / 768] * 2, abs=0.005)


def test_the_held_out_rows_never_change() -> None:
    """A version trained today must not meet a row that was held out for one trained last year."""
    split = split_baseline(DIABETES.contract, DIABETES.labels)
    assert split.holdout[:8].tolist() == HELD_OUT
    np.testing.assert_array_equal(split.holdout, split_baseline(DIABETES.contract, DIABETES.labels).holdout)


@pytest.mark.parametrize(("negative", "positive"), [(0, 400), (400, 1), (60, 60)])
def test_a_baseline_that_cannot_be_split_is_refused(negative: int, positive: int) -> None:
    labels = np.array([0] * negative + [1] * positive, dtype=np.int8)
    with pytest.raises(ValueError, match=rf"{negative} negative and {positive} positive rows cannot hold out 154"):
        split_baseline(DIABETES.contract, labels)
