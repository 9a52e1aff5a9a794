"""Predictions and labels as events, built for tests."""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftloop.common.contract import Contract
from driftloop.common.events import PredictionLabeled, PredictionMade
from driftloop.common.profile import (
    FeatureReference,
    ReferenceProfile,
    categorical_reference,
    numeric_reference,
    scored_rows,
)
from driftloop.common.rows import Row

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def prediction(
    contract: Contract,
    row: Row,
    time: datetime = START,
    *,
    version: int = 1,
    score: float = 0.25,
    subject: str | None = None,
    prediction_id: str | None = None,
) -> PredictionMade:
    """One answered prediction of a canonical row."""
    return PredictionMade(
        prediction_id=prediction_id or uuid.uuid4().hex,
        model_name=contract.name,
        model_version=version,
        revision=version,
        predicted_at=time,
        features=dict(row),
        score=score,
        prediction=score >= contract.decision_threshold,
        subject=subject,
    )


def repeatable(made: PredictionMade, for_hours: float = 24, **changes: Any) -> PredictionMade:
    """A try of a request whose client may ask again: with the changes, which another predictor may make."""
    one = msgspec.structs.replace(made, **changes)
    return msgspec.structs.replace(one, repeatable_until=one.predicted_at + timedelta(hours=for_hours))


def labeled(made: PredictionMade, label: int, *, previous: int | None = None, revision: int = 1) -> PredictionLabeled:
    """The outcome of a prediction, as label-ingest tells it."""
    return PredictionLabeled(
        prediction_id=made.prediction_id,
        model_name=made.model_name,
        model_version=made.model_version,
        predicted_at=made.predicted_at,
        features=made.features,
        score=made.score,
        prediction=made.prediction,
        variant=made.variant,
        label=label,
        previous_label=previous,
        label_revision=revision,
        labeled_at=made.predicted_at,
        subject=made.subject,
    )


def rows_like(contract: Contract, rng: np.random.Generator, count: int, shift: float = 0.0) -> list[Row]:
    """Canonical rows: each number whole and about normal around the middle of its range, `shift` in σ, σ = 10."""
    columns = {}
    for feature in contract.features:
        if feature.type == "category":
            columns[feature.name] = [feature.categories[i] for i in rng.integers(0, len(feature.categories), count)]
        else:
            low, high = feature.minimum or 0.0, feature.maximum or 100.0
            step = feature.step or 1.0
            numbers = np.clip(np.round(rng.normal((low + high) / 2 / step + 10 * shift, 10, count)) * step, low, high)
            columns[feature.name] = [int(x) if feature.type == "integer" else float(x) for x in numbers]
    return [{name: columns[name][index] for name in columns} for index in range(count)]


def profile_of(
    contract: Contract, rows: Sequence[Row], scores: NDArray[np.float64], version: int = 1
) -> ReferenceProfile:
    """The profile that a version trained on these rows would carry, if its scores were what they should be."""
    features: list[FeatureReference] = []
    for feature in contract.features:
        column = [row[feature.name] for row in rows]
        if feature.type == "category":
            features.append(categorical_reference(feature.name, feature.categories, column))  # type: ignore[arg-type]
        else:
            features.append(numeric_reference(feature.name, column))  # type: ignore[arg-type]
    truth = np.random.default_rng(1).random((2, len(scores))) < scores
    return ReferenceProfile(
        contract.name,
        version,
        "training",
        len(rows),
        tuple(features),
        numeric_reference("score", scores.tolist()),
        calibration=scored_rows(scores, truth[0].astype(np.int8)),
        heldout=scored_rows(scores, truth[1].astype(np.int8)),
    )


def prediction_of_nothing() -> PredictionMade:
    """A valid event for tests that do not look into it."""
    return PredictionMade(
        prediction_id="p",
        model_name="m",
        model_version=1,
        revision=1,
        predicted_at=START,
        features={},
        score=0.5,
        prediction=True,
    )
