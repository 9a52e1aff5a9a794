"""What the event types allow of a prediction and a database cannot keep."""

from datetime import UTC, datetime

import msgspec
import pytest

from driftloop.common.contract import load_contract
from driftloop.common.events import FeatureValue
from driftloop.label_ingest.domain.limits import prediction_problem
from tests.support.paths import MODELS
from tests.support.predictions import prediction

LOAN = load_contract(MODELS / "loan" / "contract.yaml")
MADE = prediction(LOAN, {"income": 42_000.0, "employment": "retired", "term": 24})
LONG_AGO = datetime(1899, 12, 31, tzinfo=UTC)


def test_what_our_own_services_send_is_kept() -> None:
    assert prediction_problem(MADE) is None


@pytest.mark.parametrize("features", [{"employment": "a\0"}, {"in\0come": 1.0}])
def test_a_feature_that_no_column_holds_is_named(features: dict[str, FeatureValue]) -> None:
    problem = prediction_problem(msgspec.structs.replace(MADE, features=features))
    assert problem is not None
    assert problem.startswith("features")


@pytest.mark.parametrize("name", ["subject", "order"])
def test_a_pseudonym_with_a_nul_is_refused(name: str) -> None:
    assert prediction_problem(msgspec.structs.replace(MADE, **{name: "\0"})) is not None


def test_an_instant_outside_of_the_calendar_is_refused() -> None:
    assert prediction_problem(msgspec.structs.replace(MADE, predicted_at=LONG_AGO)) is not None
    assert prediction_problem(msgspec.structs.replace(MADE, repeatable_until=LONG_AGO)) is not None
