"""Layouts, windows and times that the monitor's tests share."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import ArrayLike, NDArray

from driftloop.common.profile import ReferenceProfile, numeric_reference
from driftloop.common.statistics.cells import Counts, Layout, NumericCells, cells_of, layout_of

START = datetime(2026, 3, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def numeric(reference: ArrayLike, max_distinct: int = 1024) -> NumericCells:
    cells = cells_of(numeric_reference("x", np.asarray(reference, dtype=np.float64).tolist()), max_distinct)
    assert isinstance(cells, NumericCells)
    return cells


def counted(cells: NumericCells, values: ArrayLike) -> Counts:
    return np.bincount(cells.index(np.asarray(values, dtype=np.float64)), minlength=cells.size).astype(np.int64)


def numeric_layout(rows: NDArray[np.float64], scores: Sequence[float] = (0.25, 0.75)) -> Layout:
    """The layout of a reference [m, d]; its features are called x0, x1, …"""
    features = tuple(numeric_reference(f"x{place}", column.tolist()) for place, column in enumerate(rows.T))
    return layout_of(
        ReferenceProfile("model", 1, "training", len(rows), features, numeric_reference("score", list(scores)))
    )


def counted_rows(layout: Layout, rows: NDArray[np.float64]) -> Counts:
    """Count rows [n, d], every score ¼ or ¾ in turn."""
    scores = np.where(np.arange(len(rows)) % 2, 0.75, 0.25)
    return layout.count([*rows.T.tolist(), scores.tolist()])
