"""Rows as the fold takes them: by column, in arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from driftloop.common.contract import Contract
from driftloop.common.events import FeatureValue, LabelRetracted, PredictionLabeled, PredictionMade

_NUMBERS = {int, float}


@dataclass(frozen=True, eq=False)
class Column:
    """One feature of n rows: float64 [n] with NaN, or object [n] of texts with None, where a row has no valid value.

    `invalid` [n] marks the rows that had a value of another kind: a text for a number, something infinite.
    """

    values: NDArray[np.float64] | NDArray[np.object_]
    invalid: NDArray[np.bool_] | None = None

    def take(self, rows: NDArray[np.int64]) -> "Column":
        """The rows with these numbers."""
        return Column(self.values[rows], None if self.invalid is None else self.invalid[rows])

    def outside(self, low: float, high: float) -> NDArray[np.float64]:
        """The numbers below `low` or above `high`, ascending; asked for the same limits again, it has them still."""
        found = self._outside.get((low, high))
        if found is None:
            values = np.asarray(self.values, dtype=np.float64)
            found = self._outside[low, high] = np.sort(values[(values < low) | (values > high)])
        return found

    @cached_property
    def _outside(self) -> dict[tuple[float, float], NDArray[np.float64]]:
        return {}


@dataclass(frozen=True, eq=False)
class PredictionRows:
    """Predictions by column: `scores` float64 [n], `predictions` bool [n], and each feature's column."""

    columns: Mapping[str, Column]
    scores: NDArray[np.float64]
    predictions: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: NDArray[np.int64]) -> "PredictionRows":
        """The rows with these numbers."""
        columns = {name: column.take(rows) for name, column in self.columns.items()}
        return PredictionRows(columns, self.scores[rows], self.predictions[rows])


@dataclass(frozen=True, eq=False)
class LabelRows:
    """Changes of labels: +1 where one came to hold, −1 where it ceased to; an amendment is one of each.

    `scores` float64 [n], `predictions` bool [n], `labels` and `signs` int64 [n]; `delays` float64 [n] are seconds from
    the prediction to its first label, NaN in every other change; `identities` [n] are the predictions' ids.
    """

    scores: NDArray[np.float64]
    predictions: NDArray[np.bool_]
    labels: NDArray[np.int64]
    signs: NDArray[np.int64]
    delays: NDArray[np.float64]
    identities: Sequence[str]

    def __len__(self) -> int:
        return len(self.scores)


def prediction_rows(contract: Contract, events: Sequence[PredictionMade]) -> PredictionRows:
    """Predictions by column; a feature that an event lacks is missing, one that the contract lacks is left out."""
    features = [event.features for event in events]
    columns = {}
    for feature in contract.features:
        name = feature.name
        values = [row.get(name) for row in features]
        columns[name] = _texts(values) if feature.type == "category" else _floats(values)
    return PredictionRows(
        columns,
        np.array([event.score for event in events], dtype=np.float64),
        np.array([event.prediction for event in events], dtype=np.bool_),
    )


def label_rows(events: Sequence[PredictionLabeled | LabelRetracted]) -> LabelRows:
    """The changes that label events make, in their order."""
    changes: list[tuple[float, bool, int, int, float, str]] = []
    for event in events:
        made = (event.score, event.prediction)
        if event.previous_label is not None:
            changes.append((*made, event.previous_label, -1, np.nan, event.prediction_id))
        if isinstance(event, PredictionLabeled):
            first = event.label_revision == 1
            delay = (event.labeled_at - event.predicted_at).total_seconds() if first else np.nan
            changes.append((*made, event.label, 1, delay, event.prediction_id))
    scores, predictions, labels, signs, delays, identities = zip(*changes, strict=True) if changes else ((),) * 6
    return LabelRows(
        np.array(scores, dtype=np.float64),
        np.array(predictions, dtype=np.bool_),
        np.array(labels, dtype=np.int64),
        np.array(signs, dtype=np.int64),
        np.array(delays, dtype=np.float64),
        identities,
    )


def _floats(values: Sequence[FeatureValue]) -> Column:
    if set(map(type, values)) <= _NUMBERS:
        numbers = np.array(values, dtype=np.float64)
        return Column(numbers) if np.isfinite(numbers).all() else _without_infinite(numbers)
    invalid = np.array([value is not None and type(value) not in _NUMBERS for value in values], dtype=np.bool_)
    numbers = np.array(
        [value if type(value) in _NUMBERS else np.nan for value in values],
        dtype=np.float64,
    )
    found = _without_infinite(numbers)
    if found.invalid is not None:
        invalid |= found.invalid
    return Column(found.values, invalid if invalid.any() else None)


def _without_infinite(numbers: NDArray[np.float64]) -> Column:
    infinite = np.isinf(numbers)
    if not infinite.any():
        return Column(numbers)
    return Column(np.where(infinite, np.nan, numbers), infinite)


def _texts(values: Sequence[FeatureValue]) -> Column:
    """Texts; a number where a category belongs is the text of its digits: unseen, unless a category is called so."""
    found = np.empty(len(values), dtype=np.object_)
    found[:] = [value if value is None or isinstance(value, str) else str(value) for value in values]
    return Column(found)
