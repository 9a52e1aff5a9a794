"""Which tries of one id count."""

from collections import defaultdict
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest

from driftloop.common.contract import load_contract
from driftloop.common.events import PredictionMade
from driftloop.drift_monitor.domain.retries import Retries
from tests.support.paths import MODELS
from tests.support.predictions import START, prediction, repeatable

LOAN = load_contract(MODELS / "loan" / "contract.yaml")
MADE = prediction(LOAN, {"income": 42_000.0}, prediction_id="p")


def at(hours: float, **changes: Any) -> PredictionMade:
    return repeatable(MADE, predicted_at=START + timedelta(hours=hours), **changes)


@pytest.mark.parametrize(
    ("tries", "counted"),
    [
        ([MADE, MADE], [True, True]),
        ([at(0), MADE], [True, True]),
        ([at(0), at(1), at(2)], [True, False, False]),
        ([at(0), at(1, model_version=2, variant="canary")], [True, False]),
        ([at(1), at(0)], [True, False]),
        ([at(0), at(24)], [True, False]),
        ([at(0), at(24.1)], [True, True]),
        ([at(0), at(20), at(40)], [True, False, False]),
        ([at(0), at(30), at(1)], [True, True, False]),
        ([at(0), at(0, prediction_id="q")], [True, True]),
        ([at(0), at(0, model_name="another")], [True, True]),
    ],
)
def test_of_the_tries_of_one_id_the_first_that_comes_counts(tries: list[PredictionMade], counted: list[bool]) -> None:
    retries = Retries({})
    assert [retries.counts(one) for one in tries] == counted


def test_any_tries_count_that_are_later_than_all_before_them_could_be_repeated() -> None:
    rng, retries = np.random.default_rng(4), Retries({})
    before = defaultdict[str, list[datetime]](list)
    for hours, number in zip(rng.integers(0, 200, 500).tolist(), rng.integers(0, 5, 500).tolist(), strict=True):
        one = at(hours, prediction_id=f"p-{number}")
        assert one.repeatable_until is not None
        counts = all(one.predicted_at > until for until in before[one.prediction_id])
        assert retries.counts(one) == counts
        before[one.prediction_id].append(one.repeatable_until)


def test_what_may_be_repeated_no_more_is_forgotten() -> None:
    retries = Retries({("loan", "p"): START, ("loan", "q"): START + timedelta(hours=1)})
    retries.forget(START + timedelta(hours=1))
    assert len(retries) == 1
    assert [retries.counts(at(0)), retries.counts(at(0, prediction_id="q"))] == [True, False]
