"""The profile that a version carries: the population that it was last proven on."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from driftloop.common.contract import Contract, Feature
from driftloop.common.profile import (
    CategoricalReference,
    FeatureReference,
    NumericReference,
    ReferenceProfile,
    ScoredRows,
    categorical_reference,
    numeric_reference,
    other_columns,
)


def reference_profile(
    contract: Contract,
    version: int,
    origin: Literal["training", "recent"],
    values: NDArray[np.float64],
    scores: NDArray[np.float64],
    *,
    calibration: ScoredRows | None = None,
    heldout: ScoredRows | None = None,
) -> ReferenceProfile:
    """Count `values` [n, d] (exact, as `RowValidator.values` gives them) and the model's canonical `scores` [n].

    The scores, those of `calibration` too, must come from a model that has not seen the row
    (`training.out_of_fold_scores`); `heldout` are rows that this version's training never touched. Raises ValueError
    where there are no rows or the two differ in length.
    """
    if len(values) == 0 or len(values) != len(scores):
        raise ValueError(
            f"model {contract.name!r}: a reference of {len(values)} rows and {len(scores)} scores: give one score for"
            " each of at least one row"
        )
    return ReferenceProfile(
        model_name=contract.name,
        model_version=version,
        origin=origin,
        rows=len(values),
        features=tuple(_feature(feature, column) for feature, column in zip(contract.features, values.T, strict=True)),
        scores=_numbers("score", scores),
        calibration=calibration,
        heldout=heldout,
    )


def require_features(contract: Contract, profile: ReferenceProfile) -> None:
    """Raise ValueError where a version learnt from other features, in another order or with other categories."""
    differing = other_columns(profile, contract.features)
    if differing is not None:
        learnt, wanted = differing
        raise ValueError(
            f"version {profile.model_version} learnt from other features than the contract has: it has "
            f"{learnt}, the contract {wanted}; give the contract those back, or the model a new name"
        )


def _feature(feature: Feature, column: NDArray[np.float64]) -> FeatureReference:
    if feature.type != "category":
        return _numbers(feature.name, column)
    return _categories(feature, column)


def _numbers(name: str, column: NDArray[np.float64]) -> NumericReference:
    return numeric_reference(name, column.tolist())


def _categories(feature: Feature, column: NDArray[np.float64]) -> CategoricalReference:
    names = [None if code < 0 else feature.categories[int(code)] for code in column]
    return categorical_reference(feature.name, feature.categories, names)
