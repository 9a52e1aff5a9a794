"""A closer look at a version, on rows that it never trained on: where it is good, and what it goes by."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftloop.common.contract import Contract
from driftloop.common.profile import ScoredRows
from driftloop.trainer.domain.coverage import PredictionSets, prediction_sets
from driftloop.trainer.domain.export import Scorer, scorer
from driftloop.trainer.domain.intervals import Interval, share_interval
from driftloop.trainer.domain.segments import segments

REPEATS = 5
ROWS = 2000
# A contract of a thousand features is looked at on fewer rows, so that the time is bounded.
SCORED = 250_000
SEGMENTS = 100


class SegmentFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One segment's rows, and the share that was decided right with its 95 % interval."""

    name: str
    rows: int
    accuracy: float
    interval: Interval


class Importance(msgspec.Struct, frozen=True, kw_only=True):
    """By how much the Brier score rises when a feature's values are shuffled: mean and spread of some shuffles."""

    feature: str
    rise: float
    spread: float


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen on the rows of one slice, of which there are `rows`; importances first the greatest."""

    slice: str
    rows: int
    segments: tuple[SegmentFigures, ...] = ()
    importances: tuple[Importance, ...] = ()
    importance_rows: int = 0
    prediction_sets: PredictionSets | None = None


def inspect(
    contract: Contract,
    model: bytes,
    name: str,
    labels: NDArray[np.int8],
    values: NDArray[np.float64],
    heldout: ScoredRows | None,
) -> Inspection:
    """Look at the served `model` on the slice `name`: `values` [n, d] and `labels` [n].

    `heldout` are the rows that its prediction sets are made from.
    """
    seed = contract.estimator.seed
    ask = scorer(model)
    decisions = ask(values.astype(np.float32)) >= contract.decision_threshold
    weights, used = importances(contract, ask, labels, values, seed)
    return Inspection(
        slice=name,
        rows=len(labels),
        segments=segment_figures(contract, decisions == labels, values),
        importances=weights,
        importance_rows=used,
        prediction_sets=prediction_sets(heldout, contract.performance.interval_level, seed),
    )


def segment_figures(
    contract: Contract, right: NDArray[np.bool_], values: NDArray[np.float64]
) -> tuple[SegmentFigures, ...]:
    """How often `right` [n] holds in each segment of `values` [n, d] that has a row; of very many the largest."""
    found = []
    for name, mask in segments(contract, values).items():
        rows = int(mask.sum())
        interval = share_interval(int(right[mask].sum()), rows)
        if interval is not None:
            accuracy = float(right[mask].mean())
            found.append(SegmentFigures(name=name, rows=rows, accuracy=accuracy, interval=interval))
    largest = sorted(found, key=lambda one: -one.rows)[:SEGMENTS]
    return tuple(one for one in found if one in largest)


def importances(
    contract: Contract, ask: Scorer, labels: NDArray[np.int8], values: NDArray[np.float64], seed: int
) -> tuple[tuple[Importance, ...], int]:
    """Permutation importance of each feature (Breiman 2001), greatest first, and on how many rows.

    Measured by the Brier score: it is proper and bounded, and sees changes that turn no decision.
    """
    rng = np.random.default_rng(seed)
    most = min(ROWS, max(2, SCORED // (REPEATS * values.shape[1])), len(labels))
    chosen = np.sort(rng.permutation(len(labels))[:most])
    features, truth = values[chosen].astype(np.float32), labels[chosen]

    def brier(changed: NDArray[np.float32]) -> float:
        return float(np.mean((ask(changed) - truth) ** 2))

    before, found = brier(features), []
    for index, name in enumerate(contract.feature_names):
        rises = []
        for _ in range(REPEATS):
            shuffled = features.copy()
            shuffled[:, index] = rng.permutation(shuffled[:, index])
            rises.append(brier(shuffled) - before)
        found.append(Importance(feature=name, rise=float(np.mean(rises)), spread=float(np.std(rises, ddof=1))))
    return tuple(sorted(found, key=lambda one: -one.rise)), most
