"""A row that is unlike all those that a version was proven on is told so."""

import pytest

from driftloop.common.profile import CategoricalReference, NumericReference, ReferenceProfile, numeric_reference
from driftloop.predictor.domain.reference import KnownRanges

PROFILE = ReferenceProfile(
    model_name="m",
    model_version=1,
    origin="training",
    rows=3,
    features=(
        numeric_reference("age", [20.0, 40.0, 60.0]),
        numeric_reference("glucose", [90.0, None, 120.0]),
        CategoricalReference("kind", ("a", "b", "c"), (2, 1, 0)),
        CategoricalReference("sort", ("x",), (2,), missing=1),
        NumericReference("empty", (), (), missing=3),
    ),
    scores=numeric_reference("score", [0.5, 0.5, 0.5]),
)
INSIDE = {"age": 40, "glucose": None, "kind": "a", "sort": None, "empty": None}


@pytest.mark.parametrize(
    ("changes", "outside"),
    [
        ({}, ()),
        ({"age": 20}, ()),
        ({"age": 60.0}, ()),
        ({"age": 19.9}, ("age",)),
        ({"age": 61}, ("age",)),
        ({"age": None}, ("age",)),
        ({"glucose": 90.0}, ()),
        ({"kind": "c"}, ("kind",)),
        ({"kind": None}, ("kind",)),
        ({"sort": "x"}, ()),
        ({"empty": 1.0}, ("empty",)),
        ({"age": 1, "kind": "c"}, ("age", "kind")),
    ],
)
def test_it_names_each_feature_that_no_row_of_the_reference_was_like(
    changes: dict[str, object], outside: tuple[str, ...]
) -> None:
    assert KnownRanges(PROFILE).outside(INSIDE | changes) == outside
