"""How often the default policy alarms, by seeded simulation. The bounds are wide: they catch a broken rule."""

from functools import cache

import numpy as np

from driftloop.drift_monitor.domain.evaluation import Alarms, WindowResult, evaluate
from tests.unit.drift_monitor.builders import Rows, watch_of, window_of

FEATURES, REFERENCE_ROWS, ROWS = 5, 768, 500


def stream(seed: int, windows: int, shift: float) -> list[WindowResult]:
    """Judge windows of five normal features, the first of them moved by `shift` standard deviations."""
    rng = np.random.default_rng(seed)

    def draw(rows: int, by: float) -> Rows:
        drawn = rng.normal(size=(rows, FEATURES))
        drawn[:, 0] += by
        return drawn.round(1)

    watch = watch_of(draw(REFERENCE_ROWS, 0))
    alarms, results = Alarms(), []
    for number in range(windows):
        result, alarms = evaluate(watch, alarms, window_of(watch, draw(ROWS, shift), number))
        results.append(result)
    return results


@cache
def quiet() -> tuple[WindowResult, ...]:
    return tuple(result for seed in range(15) for result in stream(seed, 10, 0))


def test_quiet_windows_often_look_suspicious_by_themselves() -> None:
    raw = np.mean([result.raw_severity != "GOOD" for result in quiet()])
    assert 0.1 < raw < 0.35


def test_quiet_streams_are_good() -> None:
    assert sum(result.severity == "CRITICAL" for result in quiet()) == 0
    assert np.mean([result.severity == "WARNING" for result in quiet()]) <= 0.02


def test_quiet_data_are_well() -> None:
    assert {result.quality for result in quiet()} == {"GOOD"}


def test_a_shift_of_six_tenths_is_critical_at_the_second_window() -> None:
    found = [stream(seed, 2, 0.6) for seed in range(40)]
    assert all(first.severity == "GOOD" for first, _ in found)
    assert np.mean([second.severity == "CRITICAL" for _, second in found]) >= 0.95


def test_a_shift_of_three_tenths_warns_at_the_third_window() -> None:
    assert np.mean([stream(seed, 3, 0.3)[2].severity != "GOOD" for seed in range(40)]) >= 0.9
