"""The reference profile of a model version: the population that it was last proven on, as counts.

A profile is part of the artifact. The trainer writes it; the drift monitor compares every window with it. It keeps the
distinct values and how often each occurred, which is all that exact KS, PSI and chi-square need of the reference.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from operator import add
from typing import Literal

import msgspec
import numpy as np

from driftloop.common.contract import Feature


class NumericReference(msgspec.Struct, frozen=True, tag="numeric", forbid_unknown_fields=True):
    """Sorted distinct `values` [k], how often each occurred (`counts` [k]), and how many rows had none (`missing`)."""

    name: str
    values: tuple[float, ...]
    counts: tuple[int, ...]
    missing: int = 0


class CategoricalReference(msgspec.Struct, frozen=True, tag="categorical", forbid_unknown_fields=True):
    """`categories` [k] in the contract's order, their `counts` [k], and how many rows had none (`missing`)."""

    name: str
    categories: tuple[str, ...]
    counts: tuple[int, ...]
    missing: int = 0


FeatureReference = NumericReference | CategoricalReference


class ScoredRows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Labelled rows that a model did not learn from, at least one.

    Its distinct `scores` [k] ascending, and how many rows of each label had them: `negatives` [k] and `positives` [k].
    """

    scores: tuple[float, ...]
    negatives: tuple[int, ...]
    positives: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse columns of different length, scores that do not ascend from 0 to 1, and counts of no row."""
        if not len(self.scores) == len(self.negatives) == len(self.positives) > 0:
            lengths = (len(self.scores), len(self.negatives), len(self.positives))
            raise ValueError(f"scored rows have columns of lengths {lengths}: give each score its two counts")
        ascending = all(low < high for low, high in pairwise(self.scores))
        if not (ascending and self.scores[0] >= 0 and self.scores[-1] <= 1):
            raise ValueError("scored rows: scores must be distinct, ascending, and between 0 and 1")
        if min(*self.negatives, *self.positives) < 0 or 0 in map(add, self.negatives, self.positives):
            raise ValueError("scored rows: a score that no row has, or a negative count: give only those that occurred")

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(self.negatives) + sum(self.positives)


class ReferenceProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a window of one model version is compared with.

    `origin` says which population it is: the `training` baseline, or the `recent` production rows of a promotion.
    `scores` is the distribution of the model's own probability on that population. `calibration` are the labelled rows
    that say what its scores mean, each scored by a model that has not seen it; `heldout` those that this version's
    training never touched, which say how good it was. None: an artifact from before there were any, or no such rows.
    """

    model_name: str
    model_version: int
    origin: Literal["training", "recent"]
    rows: int
    features: tuple[FeatureReference, ...]
    scores: NumericReference
    calibration: ScoredRows | None = None
    heldout: ScoredRows | None = None


def other_columns(profile: ReferenceProfile, features: Sequence[Feature]) -> tuple[str, str] | None:
    """What a version learnt from and what a contract's `features` are, in words; None where they are the same columns.

    A model takes numbers by their place, and codes for categories: of other columns it would answer nonsense.
    """
    learnt = [(one.name, one.categories if isinstance(one, CategoricalReference) else ()) for one in profile.features]
    wanted = [(one.name, one.categories) for one in features]
    return None if learnt == wanted else (_told(learnt), _told(wanted))


def _told(columns: Sequence[tuple[str, tuple[str, ...]]]) -> str:
    return ", ".join(name + (f"({'|'.join(categories)})" if categories else "") for name, categories in columns[:20])


def numeric_reference(name: str, values: Iterable[float | None]) -> NumericReference:
    """Count the distinct values of one numeric column; None and NaN are missing."""
    present: Counter[float] = Counter()
    missing = 0
    for value in values:
        if value is None or math.isnan(value):
            missing += 1
        else:
            present[float(value)] += 1
    distinct = sorted(present)
    return NumericReference(name, tuple(distinct), tuple(present[value] for value in distinct), missing)


def categorical_reference(name: str, categories: Sequence[str], values: Iterable[str | None]) -> CategoricalReference:
    """Count one categorical column in the contract's order; None is missing, an unknown category raises ValueError."""
    counts: Counter[str | None] = Counter(values)
    missing = counts.pop(None, 0)
    unknown = set(counts) - set(categories)
    if unknown:
        raise ValueError(f"feature {name!r}: {sorted(map(str, unknown))} not among its categories {list(categories)}")
    return CategoricalReference(name, tuple(categories), tuple(counts[category] for category in categories), missing)


def scored_rows(scores: Iterable[float], labels: Iterable[int]) -> ScoredRows | None:
    """Count rows by canonical score and label (0 or 1); None of no row. Raises ValueError for another label."""
    known = np.fromiter(labels, dtype=np.int64)
    distinct, place = np.unique(np.fromiter(scores, dtype=np.float64), return_inverse=True)
    if len(place) != len(known):
        raise ValueError(f"scored rows: {len(place)} scores and {len(known)} labels: give one of each a row")
    unknown = set(known.tolist()) - {0, 1}
    if unknown:
        raise ValueError(f"scored rows: labels {sorted(unknown)}: give 0 or 1, and only rows that have an outcome")
    if not len(distinct):
        return None
    negatives, positives = (np.bincount(place[known == label], minlength=len(distinct)) for label in (0, 1))
    return ScoredRows(tuple(distinct.tolist()), tuple(negatives.tolist()), tuple(positives.tolist()))


def column(rows: Sequence[Mapping[str, object]], name: str) -> list[object]:
    """One feature's values of many rows, None where a row has none."""
    return [row.get(name) for row in rows]
