"""Predictions for patients and orders, and what a laboratory measures: short names for the tests of the join."""

from datetime import datetime, timedelta
from typing import Any

from driftloop.common.events import OutcomeReported, PredictionMade
from driftloop.common.pseudonyms import order_pseudonym, pseudonym
from tests.support.label_ingest import DIABETES, PSEUDONYM_KEY, made
from tests.support.predictions import START


def day(number: float) -> datetime:
    """An instant so many days after the start."""
    return START + timedelta(days=number)


def seen(
    prediction_id: str,
    on: float = 0,
    *,
    patient: str | None = None,
    order: str | None = None,
    model: str = DIABETES.name,
    **changes: Any,
) -> PredictionMade:
    """A prediction, so many days after the start, of a patient or for an order, which go by their pseudonyms."""
    return made(
        prediction_id,
        24 * 60 * on,
        model_name=model,
        features={"Age": 50},
        subject=None if patient is None else pseudonym(PSEUDONYM_KEY, patient),
        order=None if order is None else order_pseudonym(PSEUDONYM_KEY, order),
        **changes,
    )


def hba1c(value: float = 7.0, on: float = 1, *, unit: str = "%", **more: Any) -> OutcomeReported:
    """A measured HbA1c of a specimen taken so many days after the start; 6.5 % and 48 mmol/mol are abnormal."""
    return OutcomeReported(analyte="4548-4", value=value, unit=unit, observed_at=day(on), **more)


def glucose(value: float, unit: str, on: float = 1, **more: Any) -> OutcomeReported:
    """A measured fasting glucose; 126 mg/dL and 7.0 mmol/L are abnormal."""
    return OutcomeReported(analyte="1558-6", value=value, unit=unit, observed_at=day(on), **more)
