"""Seeded streams of closed windows, judged by the monitor's own fold, evaluation and alarm policy."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from driftloop.common.contract import Baseline, Contract, Feature, Target
from driftloop.drift_monitor.domain.evaluation import Alarms, Watch, WindowResult, evaluate
from driftloop.drift_monitor.domain.fold.rows import Column, PredictionRows
from driftloop.drift_monitor.domain.panes import Window
from driftloop.trainer.domain.reference import reference_profile

START = datetime(2026, 1, 1, tzinfo=UTC)
FEATURES, REFERENCE_ROWS = 5, 768
MEAN, DEVIATION = 100.0, 15.0
Rows = NDArray[np.float64]
CONTRACT = Contract(
    name="normal",
    features=tuple(Feature(name=f"x{place}", type="number", resolution=0.1) for place in range(FEATURES)),
    target=Target(name="y"),
    baseline=Baseline(path="none.csv"),
)


def normal(rng: np.random.Generator, rows: int, shift: float = 0.0) -> Rows:
    """Independent normal features [rows, FEATURES] on a grid; the first is moved by `shift` standard deviations."""
    z = rng.normal(size=(rows, FEATURES))
    z[:, 0] += shift
    return (MEAN + DEVIATION * z).round(1)


def watch(contract: Contract, reference: Rows) -> Watch:
    """What watches windows against a reference [m, d]. The scores are no part of the question: all are .25."""
    scores = np.full(len(reference), 0.25)
    return Watch(contract, reference_profile(contract, 1, "training", reference, scores))


def judged(watch: Watch, windows: Iterable[Rows]) -> Iterator[WindowResult]:
    """The result of each closed window of rows [n, d], the alarms carried from one to the next."""
    alarms = Alarms()
    for number, rows in enumerate(windows):
        result, alarms = evaluate(watch, alarms, closed(watch, number, rows, np.full(len(rows), 0.25)))
        yield result


def closed(watch: Watch, number: int, rows: Rows, scores: NDArray[np.float64]) -> Window:
    """The closed window of rows [n, d] with these scores [n]; one a minute."""
    names, threshold = watch.contract.feature_names, watch.contract.decision_threshold
    columns = {name: Column(column) for name, column in zip(names, rows.T, strict=True)}
    state = watch.predictions.add(PredictionRows(columns, scores, scores >= threshold))
    starts = START + timedelta(minutes=number)
    return Window(starts, starts + timedelta(minutes=1), len(rows), state, {})


def peer_flags(result: WindowResult) -> bool:
    """Whether some feature has p < .05 in this window alone: what raises Evidently's column drift."""
    return any(feature.p < 0.05 for feature in result.features)
