"""Who meets a canary: drawn once and kept, nobody at weight 0, everybody at 1."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from driftloop.predictor.domain.assignment import serves_canary, share

KEY = b"a key of sixteen or more bytes"
UNITS = [f"patient {number}" for number in range(20_000)]


def shares(version: int = 2, key: bytes = KEY) -> list[float]:
    return [share(key, "diabetes", version, unit) for unit in UNITS]


@given(st.text(), st.integers(1, 1000))
def test_a_share_is_at_least_zero_and_below_one_and_always_the_same(unit: str, version: int) -> None:
    drawn = share(KEY, "diabetes", version, unit)
    assert 0 <= drawn < 1
    assert drawn == share(KEY, "diabetes", version, unit)
    assert serves_canary(drawn, 1.0)
    assert not serves_canary(drawn, 0.0)


@given(st.floats(0, 1), st.floats(0, 1), st.text())
def test_a_ramp_moves_only_those_between_the_two_weights(one: float, other: float, unit: str) -> None:
    low, high = sorted((one, other))
    drawn = share(KEY, "diabetes", 2, unit)
    moved = serves_canary(drawn, low) != serves_canary(drawn, high)
    assert moved == (low <= drawn < high)


def test_shares_are_uniform() -> None:
    counts, _edges = np.histogram(shares(), bins=50, range=(0, 1))
    assert stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize("other", [{"version": 3}, {"key": b"another key of sixteen bytes"}])
def test_another_version_or_key_draws_other_patients(other: dict[str, object]) -> None:
    correlation = np.corrcoef(shares(), shares(**other))[0, 1]  # type: ignore[arg-type]
    assert abs(correlation) < 0.03
