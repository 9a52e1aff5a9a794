"""Watches, states, windows and times that the monitor's tests share."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from driftloop.common.contract import Baseline, Contract, Feature, Target
from driftloop.common.events import LabelRetracted, PredictionMade
from driftloop.common.profile import (
    FeatureReference,
    ReferenceProfile,
    ScoredRows,
    categorical_reference,
    numeric_reference,
    scored_rows,
)
from driftloop.common.statistics.cells import Counts, NumericCells, cells_of
from driftloop.drift_monitor.domain.evaluation import Watch
from driftloop.drift_monitor.domain.fold.base import Frame, State
from driftloop.drift_monitor.domain.fold.rows import Column, LabelRows, PredictionRows
from driftloop.drift_monitor.domain.panes import Window

START = datetime(2026, 3, 1, tzinfo=UTC)
Rows = NDArray[np.float64]


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def numeric(reference: ArrayLike, max_distinct: int = 1024) -> NumericCells:
    cells = cells_of(numeric_reference("x", np.asarray(reference, dtype=np.float64).tolist()), max_distinct)
    assert isinstance(cells, NumericCells)
    return cells


def counted(cells: NumericCells, values: ArrayLike) -> Counts:
    return np.bincount(cells.index(np.asarray(values, dtype=np.float64)), minlength=cells.size).astype(np.int64)


# --- what is watched


def contract_of(*features: Feature, **parts: Any) -> Contract:
    """A contract of these features; `parts` are the contract's own: `drift`, `quality` and the like."""
    return Contract(name="model", features=features, target=Target(name="y"), baseline=Baseline(path="b.csv"), **parts)


def watch_of(
    reference: Rows, *, calibration: ScoredRows | None = None, heldout: ScoredRows | None = None, **parts: Any
) -> Watch:
    """The watch of a reference [m, d]: its features are numbers, x0, x1, …, its scores ¼ and ¾ in turn."""
    features = [Feature(name=f"x{place}", type="number") for place in range(reference.shape[1])]
    profile = ReferenceProfile(
        "model",
        1,
        "training",
        len(reference),
        tuple(numeric_reference(f"x{place}", column.tolist()) for place, column in enumerate(reference.T)),
        numeric_reference("score", in_turn(len(reference)).tolist()),
        calibration,
        heldout,
    )
    return Watch(contract_of(*features, **parts), profile)


def watch_of_column(reference: FeatureReference, feature: Feature) -> Watch:
    """The watch of one feature, scores one half."""
    profile = ReferenceProfile("model", 1, "training", 50, (reference,), numeric_reference("score", [0.5]))
    return Watch(contract_of(feature), profile)


def mixed_watch(
    values: Sequence[float | None] = (1, 2, 4), categories: tuple[str, ...] = ("a", "b"), **limits: Any
) -> Watch:
    """The watch of a number x with `limits`, from 0 to 10, and a category c; 60 calibration and 30 held-out rows."""
    number = Feature(name="x", type="number", **{"minimum": 0, "maximum": 10} | limits)
    contract = contract_of(number, Feature(name="c", type="category", categories=categories))
    occurred = [categories[place % len(categories)] for place in range(len(values))]
    profile = ReferenceProfile(
        "model",
        1,
        "training",
        len(values),
        (numeric_reference("x", values), categorical_reference("c", categories, occurred)),
        numeric_reference("score", [0.25, 0.75]),
        scored([0.2, 0.4, 0.7] * 20, [0, 1, 1, 0, 0, 1] * 10),
        scored([0.3, 0.6, 0.9] * 10, [0, 0, 1] * 10),
    )
    return Watch(contract, profile)


def with_profile(watch: Watch, **parts: Any) -> Watch:
    """The same watch, parts of its profile replaced."""
    return Watch(watch.contract, msgspec.structs.replace(watch.profile, **parts))


def with_contract(watch: Watch, **parts: Any) -> Watch:
    """The same watch, parts of its contract replaced."""
    return Watch(msgspec.structs.replace(watch.contract, **parts), watch.profile)


def in_turn(rows: int) -> Rows:
    """Scores ¼ and ¾ in turn."""
    return np.where(np.arange(rows) % 2, 0.75, 0.25)


def lawful_rows(seed: int, rows: int) -> tuple[Rows, NDArray[np.int64]]:
    """Scores [rows], and labels that are 1 as often as the scores say."""
    rng = np.random.default_rng(seed)
    scores = rng.random(rows).round(6)
    return scores, (rng.random(rows) < scores).astype(np.int64)


def scored(scores: ArrayLike, labels: ArrayLike) -> ScoredRows:
    found = scored_rows(np.asarray(scores).tolist(), np.asarray(labels).tolist())
    assert found is not None
    return found


# --- what is counted


def rows_of(values: Rows, scores: Rows | None = None) -> PredictionRows:
    """Rows [n, d] of x0, x1, … answered by their scores [n]: ¼ and ¾ in turn."""
    found = in_turn(len(values)) if scores is None else scores
    return PredictionRows({f"x{place}": Column(column) for place, column in enumerate(values.T)}, found, found >= 0.5)


def state_of(watch: Watch, values: Rows, scores: Rows | None = None) -> State:
    return watch.predictions.add(rows_of(values, scores))


def window_of(watch: Watch, values: Rows, number: int = 0, scores: Rows | None = None) -> Window:
    """The window of one minute that holds these rows."""
    return Window(at(60 * number), at(60 * number + 60), len(values), state_of(watch, values, scores), {0: 0})


def window_of_column(watch: Watch, name: str, values: np.ndarray) -> Window:
    rows = PredictionRows({name: Column(values)}, np.full(len(values), 0.5), np.ones(len(values), dtype=np.bool_))
    return Window(at(0), at(60), len(values), watch.predictions.add(rows), {})


def labels_of(scores: ArrayLike, labels: ArrayLike, sign: int = 1, delay: float = 60.0) -> LabelRows:
    """Labels of rows that were answered by their scores; −1 takes them away."""
    found = np.asarray(scores, dtype=np.float64)
    n = len(found)
    return LabelRows(
        found,
        found >= 0.5,
        np.asarray(labels, dtype=np.int64),
        np.full(n, sign, dtype=np.int64),
        np.full(n, delay if sign > 0 else np.nan),
        [f"p{place}" for place in range(n)],
    )


def parts_of(state: State) -> dict[Frame, list[int]]:
    """A state's counts by accumulator, in whatever order they lie."""
    parts = {frame: state.part(frame) for frame in state.frames}
    return {frame: part.tolist() for frame, part in parts.items() if part is not None}


def retracted(event: PredictionMade, previous: int, revision: int = 2) -> LabelRetracted:
    """A laboratory takes the label of a prediction back."""
    return LabelRetracted(
        prediction_id=event.prediction_id,
        model_name=event.model_name,
        model_version=event.model_version,
        predicted_at=event.predicted_at,
        score=event.score,
        prediction=event.prediction,
        variant=event.variant,
        previous_label=previous,
        label_revision=revision,
        retracted_at=event.predicted_at,
    )
