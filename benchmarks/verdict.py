"""How long does one verdict over five features take, beside Evidently's DataDriftPreset on the same rows?"""

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Ask, Figure, conditions, cpu_seconds, one_core, peer, record, say
from driftloop.common.contract import Drift
from driftloop.common.profile import numeric_reference
from driftloop.common.statistics.cells import Cells, Counts, cells_of
from driftloop.common.statistics.comparison import Comparison, compare_all
from driftloop.drift_monitor.domain.severity import Severity, raw_severity, worst

FEATURES, REFERENCE_ROWS, ROWS, ROUNDS = 5, 768, 500, 15
AT_ONCE = 20
RATIO, TOLERANCE = 500.0, 1e-9
NAMES = tuple(f"x{place}" for place in range(FEATURES))
DRIFT = Drift()
Rows = NDArray[np.float64]


def verdict(cells: Sequence[Cells], counts: Sequence[Counts]) -> tuple[list[Comparison], Severity]:
    """D, p, PSI, its critical value and the severity of each feature; and the worst."""
    comparisons = compare_all(cells, counts, DRIFT.psi_bins, DRIFT.psi_floor)
    return comparisons, worst(raw_severity(DRIFT, comparison) for comparison in comparisons)


def main() -> None:
    """Quiet windows, and windows of which one feature, or every one, has moved: no window is judged twice."""
    rng = np.random.default_rng(4)
    reference = rng.normal(size=(REFERENCE_ROWS, FEATURES)).round(1)
    cells = [cells_of(numeric_reference(*pair)) for pair in zip(NAMES, reference.T.tolist(), strict=True)]
    with one_core(), peer("evidently") as ask:
        say("Evidently reads its modules")
        ask({"reference": _columns(reference), "window": _columns(reference)})
        _measure(rng, "quiet", np.zeros(FEATURES), cells, ask)
        # A p of 1e-15 to all its digits takes longer: these show what it costs.
        _measure(rng, "one feature moved by .6 σ", np.eye(FEATURES)[0] * 0.6, cells, ask)
        _measure(rng, "every feature moved by .6 σ", np.full(FEATURES, 0.6), cells, ask)


def _measure(rng: np.random.Generator, what: str, shift: Rows, cells: Sequence[Cells], ask: Ask) -> None:
    say(f"{ROUNDS} rounds: {what}")
    ours, theirs, apart = [], [], 0.0
    answer: dict[str, Any] = {}
    for _ in range(ROUNDS):
        rows = [(rng.normal(size=(ROWS, FEATURES)) + shift).round(1) for _ in range(AT_ONCE)]
        windows = [_counted(cells, one) for one in rows]
        comparisons, _ = verdict(cells, windows[0])
        answer = ask({"window": _columns(rows[0])})
        apart = max(apart, *(abs(one.p - answer["p"][one.name]) for one in comparisons))
        theirs.append(answer["seconds"])
        ours.append(cpu_seconds(partial(_judge, cells, windows)) / AT_ONCE)
    mine, other = statistics.median(ours), statistics.median(theirs)
    record(
        Figure(
            figure=f"verdict over {FEATURES} features, ms, {what}; p-values differ by at most {apart:.0e}",
            ours=1000 * mine,
            peer=1000 * other,
            ratio=other / mine,
            target=f">= {RATIO:g} x Evidently's DataDriftPreset, and the same p-values",
            met=other / mine >= RATIO and apart <= TOLERANCE,
            conditions=conditions(
                "numpy",
                "scipy",
                evidently=answer["version"],
                pandas=answer["pandas"],
                methods=", ".join(answer["methods"]),
                reference_rows=REFERENCE_ROWS,
                rows=ROWS,
                rounds=ROUNDS,
                windows_a_round=f"{AT_ONCE} by ours, one by Evidently",
                time="CPU, median of the rounds, one core",
            ),
        )
    )


def _judge(cells: Sequence[Cells], windows: Sequence[Sequence[Counts]]) -> None:
    for counts in windows:
        verdict(cells, counts)


def _counted(cells: Sequence[Cells], rows: Rows) -> list[Counts]:
    """What the fold has when a window closes."""
    columns = zip(cells, rows.T, strict=True)
    return [np.bincount(one.index(column), minlength=one.size) for one, column in columns]


def _columns(rows: Rows) -> dict[str, list[float]]:
    return dict(zip(NAMES, rows.T.tolist(), strict=True))


if __name__ == "__main__":
    main()
