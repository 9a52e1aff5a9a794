"""How often do quiet streams alarm? The peer is the raw test of each window: what Evidently reports as column drift."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from benchmarks.harness import Figure, conditions, record, say
from benchmarks.streams import CONTRACT, FEATURES, REFERENCE_ROWS, judged, normal, peer_flags, watch
from driftloop.drift_monitor.domain.evaluation import WindowResult

REFERENCES, WINDOWS, SIZES = 100, 20, (500, 5_000)
MOST = 1.0


class Rates(NamedTuple):
    """Of all windows, in per cent; `critical` is a number of alarms."""

    critical: int
    opened: float
    open: float
    raw_warning: float
    raw_critical: float
    peer: float


def main() -> None:
    """Each reference is drawn anew and has its own stream: its own error is a part of the question."""
    for rows in SIZES:
        say(f"{REFERENCES} references x {WINDOWS} windows of {rows} rows")
        streams = [_stream(seed, rows) for seed in range(REFERENCES)]
        rates = _rates(streams)
        peer = f"some raw p < .05 in {rates.peer:.1f} % of windows"
        found = conditions(
            "numpy",
            "scipy",
            features=FEATURES,
            reference_rows=REFERENCE_ROWS,
            rows=rows,
            references=REFERENCES,
            windows=REFERENCES * WINDOWS,
            policy="the contract's defaults",
            peer=peer,
            raw_warning_percent=rates.raw_warning,
            raw_critical_percent=rates.raw_critical,
        )
        figures = (
            ("CRITICAL alarms", rates.critical, None, "0", rates.critical == 0),
            ("WARNING opened, % of windows", rates.opened, rates.peer, f"<= {MOST:g} %", rates.opened <= MOST),
            ("WARNING open, % of the time", rates.open, rates.peer, f"<= {MOST:g} %", rates.open <= MOST),
        )
        for name, ours, other, target, met in figures:
            record(
                Figure(
                    figure=f"quiet streams, n = {rows:,}: {name}",
                    ours=ours,
                    peer=other,
                    target=target,
                    met=met,
                    conditions=found,
                )
            )
        say(f"raw: {rates.raw_warning:.1f} % WARNING or worse, {rates.raw_critical:.2f} % CRITICAL; {peer}")


def _stream(seed: int, rows: int) -> list[WindowResult]:
    rng = np.random.default_rng([seed, rows])
    reference = normal(rng, REFERENCE_ROWS)
    return list(judged(watch(CONTRACT, reference), (normal(rng, rows) for _ in range(WINDOWS))))


def _rates(streams: list[list[WindowResult]]) -> Rates:
    results = [result for stream in streams for result in stream]
    share = 100 / len(results)
    before_and_after = [pair for stream in streams for pair in pairwise([None, *stream])]
    return Rates(
        critical=sum(_rises(before, after, {"CRITICAL"}) for before, after in before_and_after),
        opened=share * sum(_rises(before, after, {"WARNING", "CRITICAL"}) for before, after in before_and_after),
        open=share * sum(result.severity != "GOOD" for result in results),
        raw_warning=share * sum(result.raw_severity != "GOOD" for result in results),
        raw_critical=share * sum(result.raw_severity == "CRITICAL" for result in results),
        peer=share * sum(peer_flags(result) for result in results),
    )


def _rises(before: WindowResult | None, after: WindowResult | None, to: set[str]) -> bool:
    return after is not None and after.severity in to and (before is None or before.severity not in to)


if __name__ == "__main__":
    main()
