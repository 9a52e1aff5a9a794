"""Prediction sets that hold the true label as often as they say: split conformal prediction (Vovk et al. 2005).

A label's nonconformity is 1 − p(label). From rows that the model never trained on, a label's p-value is the share of
rows, itself counted among them, that are less conforming; ties count by a uniform number, which makes the p-value of
the true label exactly uniform, and the coverage exactly the level on average, however few scores there are. An empty
set says that neither label is usual at this score: where a model errs less often than 1 − level, some must be empty.
"""

import hashlib
import math
import struct
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from driftloop.common.profile import ScoredRows
from driftloop.common.rows import SCORE_DECIMALS

# Whole units: 1 − .9 is not .1 in binary, and a tie must be one.
UNITS = 10**SCORE_DECIMALS
_LABELS = (0, 1)


@dataclass(frozen=True, eq=False)
class Conformal:
    """The nominal `level`, and the held-out rows' nonconformities in units of 10⁻⁶, int64 [n] ascending."""

    level: float
    nonconformities: NDArray[np.int64]

    @cached_property
    def listed(self) -> list[int]:
        """The same as Python's numbers, in which one row is looked up sooner."""
        found: list[int] = self.nonconformities.tolist()
        return found

    @cached_property
    def least(self) -> float:
        """How many held-out rows a label must be more usual than, ties by a draw, to be in a set."""
        return (1 - self.level) * (len(self.nonconformities) + 1)

    @cached_property
    def cuts(self) -> tuple[int, int]:
        """A label of a nonconformity below the first is in every set, of one above the second in none."""
        known, kept = self.listed, math.floor(self.least)
        low = known[-kept - 1] if kept < len(known) else -1
        high = UNITS if kept == 0 else known[-kept] if kept <= len(known) else -1
        return low, high

    @cached_property
    def meaning(self) -> bytes:
        """All that sets depend on, as bytes."""
        return struct.pack("<d", self.level) + self.nonconformities.astype("<i8").tobytes()


def conformal_of(heldout: ScoredRows, level: float = 0.9) -> Conformal:
    """What the held-out rows say. Raises ValueError where `level` is not between 0 and 1."""
    if not 0 < level < 1:
        raise ValueError(f"a prediction set's level {level:g}: give a share between 0 and 1")
    units = _units(heldout.scores)
    found = np.concatenate((np.repeat(units, heldout.negatives), np.repeat(UNITS - units, heldout.positives)))
    return Conformal(level, np.sort(found))


def uniform(prediction_id: str) -> float:
    """A number in [0, 1) that is a prediction's own: the same in every process, unrelated to any other's."""
    digest = hashlib.blake2b(prediction_id.encode(), digest_size=8, person=b"conformal").digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


def prediction_set(conformal: Conformal, score: float, prediction_id: str) -> tuple[int, ...]:
    """The labels that the level cannot exclude: (), (0,), (1,) or (0, 1). What `covered` says, for one row."""
    unit = round(score * UNITS)
    low, high = conformal.cuts
    labels = []
    for label, own in ((0, unit), (1, UNITS - unit)):
        if own < low or (own <= high and _drawn(conformal, own, prediction_id)):
            labels.append(label)
    return tuple(labels)


def _drawn(conformal: Conformal, own: int, prediction_id: str) -> bool:
    """Whether a label of this nonconformity, which has others of about its size beside it, is in the set."""
    known = conformal.listed
    first, after = bisect_left(known, own), bisect_right(known, own)
    return len(known) - after + uniform(prediction_id) * (after - first + 1) > conformal.least


def covered(
    conformal: Conformal, scores: NDArray[np.float64], labels: NDArray[np.int64], uniforms: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether each row's label [n] is in its set, by its canonical score [n] and its `uniform` [n]; bool [n]."""
    units = _units(scores)
    own = np.where(labels == 1, UNITS - units, units)
    known = conformal.nonconformities
    first, after = np.searchsorted(known, own, side="left"), np.searchsorted(known, own, side="right")
    # How many are less conforming, and of those that are equal, itself counted, a random share.
    rank = (len(known) - after) + uniforms * (after - first + 1)
    inside: NDArray[np.bool_] = rank > conformal.least
    return inside


def set_sizes(conformal: Conformal, scores: NDArray[np.float64], uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many labels each row's set [n] holds: 0, 1 or 2."""
    each = [covered(conformal, scores, np.full(len(scores), label), uniforms) for label in _LABELS]
    sizes: NDArray[np.int64] = np.stack(each).sum(axis=0, dtype=np.int64)
    return sizes


def _units(scores: ArrayLike) -> NDArray[np.int64]:
    units: NDArray[np.float64] = np.rint(np.asarray(scores, dtype=np.float64) * UNITS)
    return units.astype(np.int64)
