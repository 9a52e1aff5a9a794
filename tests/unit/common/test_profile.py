"""Labelled rows as an artifact keeps them: counted by score and label."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.common.profile import ReferenceProfile, ScoredRows, scored_rows
from tests.support.artifacts import profile_for
from tests.support.models import shipped

ROWS = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.999999, 1.0]), st.integers(0, 1)), min_size=1)


@given(ROWS)
def test_every_row_is_counted_by_its_score_and_label(rows: list[tuple[float, int]]) -> None:
    scores, labels = zip(*rows, strict=True)
    found = scored_rows(scores, labels)
    assert found is not None
    assert found.rows == len(rows)
    for score, *counts in zip(found.scores, found.negatives, found.positives, strict=True):
        assert counts == [rows.count((score, label)) for label in (0, 1)]


@given(ROWS)
def test_scored_rows_come_back_from_json(rows: list[tuple[float, int]]) -> None:
    found = scored_rows(*zip(*rows, strict=True))
    assert msgspec.json.decode(msgspec.json.encode(found), type=ScoredRows) == found


def test_no_rows_are_none() -> None:
    assert scored_rows([], []) is None


def test_a_row_without_an_outcome_is_refused() -> None:
    with pytest.raises(ValueError, match=r"labels \[-1\]"):
        scored_rows([0.5, 0.5], [1, -1])


@pytest.mark.parametrize(
    "columns",
    [
        ((), (), ()),
        ((0.1, 0.2), (1,), (0, 1)),
        ((0.2, 0.1), (1, 1), (0, 0)),
        ((0.1, 0.1), (1, 1), (0, 0)),
        ((0.1, 1.1), (1, 1), (0, 0)),
        ((-0.1, 0.1), (1, 1), (0, 0)),
        ((0.1, 0.2), (1, 0), (0, 0)),
        ((0.1, 0.2), (1, 2), (0, -1)),
    ],
)
def test_columns_that_are_no_counts_of_rows_are_refused(
    columns: tuple[tuple[float, ...], tuple[int, ...], tuple[int, ...]],
) -> None:
    with pytest.raises(ValueError, match="scored rows"):
        ScoredRows(*columns)


def test_a_profile_from_before_there_were_scored_rows_still_loads_and_is_written_as_it_was() -> None:
    profile = profile_for(shipped("diabetes").contract)
    written = msgspec.json.decode(msgspec.json.encode(profile))
    assert set(written) == {"model_name", "model_version", "origin", "rows", "features", "scores"}
    read = msgspec.convert(written, ReferenceProfile)
    assert (read.calibration, read.heldout) == (None, None)
