"""Cells: each feature's rows, and the score's, counted where the reference cuts the line: enough for KS, χ² and PSI."""

import hashlib
from functools import cached_property

import numpy as np

from driftloop.common.statistics.cells import CategoricalCells, Cells, Counts, NumericCells
from driftloop.drift_monitor.domain.fold.base import Accumulator, framed
from driftloop.drift_monitor.domain.fold.rows import PredictionRows

SCORE = "score"


class CellCounts(Accumulator[PredictionRows]):
    """One feature's (or the score's) cells."""

    def __init__(self, cells: Cells, *, score: bool = False) -> None:
        self.cells = cells
        self.name = SCORE if score else f"cells:{cells.name}"
        self.size = cells.size
        self._score = score

    @property
    def meaning(self) -> bytes:
        """The cuts, or the categories in order."""
        return cuts_of(self.cells)

    @cached_property
    def cuts_digest(self) -> str:
        """Sixteen hex digits that name the cuts in a report."""
        return hashlib.sha256(self.meaning).hexdigest()[:16]

    def add(self, counts: Counts, rows: PredictionRows) -> None:
        """Count each row's cell."""
        values = rows.scores if self._score else rows.columns[self.cells.name].values
        counts += np.bincount(self.cells.index(values), minlength=self.size)  # type: ignore[arg-type]


def cuts_of(cells: Cells) -> bytes:
    """What the cells mean, as bytes: the cuts as little-endian float64, or the framed names of the categories."""
    if isinstance(cells, NumericCells):
        return np.ascontiguousarray(cells.cuts, dtype="<f8").tobytes()
    assert isinstance(cells, CategoricalCells)
    return b"".join(framed(category.encode()) for category in cells.categories)
