"""The reference profile of a model version: the population that it was last proven on, as counts.

A profile is part of the artifact. The trainer writes it; the drift monitor compares every window with it. It keeps the
distinct values and how often each occurred, which is all that exact KS, PSI and chi-square need of the reference.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec


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


class ReferenceProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a window of one model version is compared with.

    `origin` says which population it is: the `training` baseline, or the `recent` production rows of a promotion.
    `scores` is the distribution of the model's own probability on that population.
    """

    model_name: str
    model_version: int
    origin: Literal["training", "recent"]
    rows: int
    features: tuple[FeatureReference, ...]
    scores: NumericReference


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


def column(rows: Sequence[Mapping[str, object]], name: str) -> list[object]:
    """One feature's values of many rows, None where a row has none."""
    return [row.get(name) for row in rows]
