"""How surely does a shift alarm, and when? The peer is the raw test of one window, which alarms on quiet ones, too."""

from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import NamedTuple

import numpy as np

from benchmarks.harness import ROOT, Figure, conditions, record, say
from benchmarks.streams import CONTRACT, FEATURES, REFERENCE_ROWS, Rows, judged, normal, peer_flags, watch
from driftloop.common.contract import Contract, baseline_path, load_contract
from driftloop.common.rows import read_baseline, validator
from driftloop.demo.populations import older
from driftloop.drift_monitor.domain.evaluation import Watch, WindowResult

STREAMS, ROWS = 1000, 500
DIABETES = ROOT / "models" / "diabetes" / "contract.yaml"


class Question(NamedTuple):
    """A stream by its generator, how many windows it has, the alarm that the last must have, and in how many %."""

    name: str
    stream: Callable[[np.random.Generator], tuple[Watch, Iterator[Rows]]]
    windows: int
    alarm: frozenset[str]
    least: float


def main() -> None:
    """Ask the three questions."""
    critical, warning = frozenset({"CRITICAL"}), frozenset({"CRITICAL", "WARNING"})
    contract = load_contract(DIABETES)
    cohort = _watch_of_baseline(contract)
    questions = (
        Question("0.6 σ: CRITICAL at the second window", lambda rng: _moved(rng, 0.6), 2, critical, 98.5),
        Question(
            "older cohort: CRITICAL at the second window",
            lambda rng: (cohort, _older(contract, rng)),
            2,
            critical,
            100.0,
        ),
        Question("0.3 σ: WARNING after three windows", lambda rng: _moved(rng, 0.3), 3, warning, 95.0),
    )
    for question in questions:
        _ask(question)


def _ask(question: Question) -> None:
    say(f"{STREAMS} streams, {question.name}")
    found = early = peer = 0
    for seed in range(STREAMS):
        rng = np.random.default_rng([seed, question.windows, int(10 * question.least)])
        watched, rows = question.stream(rng)
        results = list(judged(watched, islice(rows, question.windows)))
        found += _alarms(results[-1], question.alarm)
        early += any(_alarms(result, question.alarm) for result in results[:-1])
        peer += peer_flags(results[-1])
    share = 100 / STREAMS
    record(
        Figure(
            figure=f"shift, % of {STREAMS:,} streams, {question.name}",
            ours=share * found,
            peer=share * peer,
            target=f">= {question.least:g} %",
            met=share * found >= question.least,
            conditions=conditions(
                "numpy",
                "scipy",
                features=FEATURES,
                reference_rows=REFERENCE_ROWS,
                rows=ROWS,
                policy="the contract's defaults",
                earlier_percent=share * early,
                peer="some raw p < .05 in that window",
            ),
        )
    )


def _alarms(result: WindowResult, severities: frozenset[str]) -> bool:
    return any(feature.severity in severities for feature in result.features)


def _moved(rng: np.random.Generator, shift: float) -> tuple[Watch, Iterator[Rows]]:
    """A reference of its own, and endless windows of which the first feature is moved."""
    watched = watch(CONTRACT, normal(rng, REFERENCE_ROWS))
    return watched, (normal(rng, ROWS, shift) for _ in count())


def _watch_of_baseline(contract: Contract) -> Watch:
    rows, _ = read_baseline(contract, baseline_path(DIABETES, contract))
    return watch(contract, validator(contract).values(rows))


def _older(contract: Contract, rng: np.random.Generator) -> Iterator[Rows]:
    values = validator(contract)
    while True:
        yield values.values([case.features for case in older(contract, rng, ROWS)])


if __name__ == "__main__":
    main()
