"""Which accumulators there are. To add one: write its class in a file of this package, and a line here."""

from collections.abc import Callable, Sequence

from driftloop.common.conformal import conformal_of
from driftloop.common.contract import Contract
from driftloop.common.profile import ReferenceProfile
from driftloop.common.statistics.cells import NumericCells, cells_of
from driftloop.drift_monitor.domain.calibration import calibrator_of
from driftloop.drift_monitor.domain.fold.base import Accumulator, Fold
from driftloop.drift_monitor.domain.fold.cells import CellCounts
from driftloop.drift_monitor.domain.fold.labels import LabelDelays, LabelledScores, SetCoverage
from driftloop.drift_monitor.domain.fold.quality import QualityCounts, middle
from driftloop.drift_monitor.domain.fold.rows import LabelRows, PredictionRows
from driftloop.drift_monitor.domain.fold.scale import ScaleCounts
from driftloop.drift_monitor.domain.fold.scores import CalibratedSums, LabelledCalibratedSums, ScoreHistogram

PredictionAccumulators = Callable[[Contract, ReferenceProfile], Sequence[Accumulator[PredictionRows]]]
LabelAccumulators = Callable[[Contract, ReferenceProfile], Sequence[Accumulator[LabelRows]]]


def _cells(contract: Contract, profile: ReferenceProfile) -> Sequence[Accumulator[PredictionRows]]:
    limit = contract.drift.max_distinct
    features = [CellCounts(cells_of(reference, limit)) for reference in profile.features]
    return [*features, CellCounts(cells_of(profile.scores, limit), score=True)]


def _quality(contract: Contract, profile: ReferenceProfile) -> Sequence[Accumulator[PredictionRows]]:
    return [QualityCounts(contract.feature(reference.name), reference) for reference in profile.features]


def _scale(contract: Contract, profile: ReferenceProfile) -> Sequence[Accumulator[PredictionRows]]:
    found = []
    for reference in profile.features:
        cells, (low, high) = cells_of(reference, contract.drift.max_distinct), middle(reference)
        if isinstance(cells, NumericCells) and low is not None and high is not None:
            found.append(ScaleCounts(cells, low, high))
    return found


def _calibrated(contract: Contract, profile: ReferenceProfile) -> Sequence[Accumulator[PredictionRows]]:
    return [CalibratedSums(calibrator_of(profile.calibration))] if profile.calibration else []


def _labelled_calibrated(contract: Contract, profile: ReferenceProfile) -> Sequence[Accumulator[LabelRows]]:
    return [LabelledCalibratedSums(calibrator_of(profile.calibration))] if profile.calibration else []


def _coverage(contract: Contract, profile: ReferenceProfile) -> Sequence[Accumulator[LabelRows]]:
    level = contract.performance.interval_level
    return [SetCoverage(conformal_of(profile.heldout, level))] if profile.heldout else []


OF_PREDICTIONS: tuple[PredictionAccumulators, ...] = (
    _cells,
    _quality,
    _scale,
    lambda contract, profile: [ScoreHistogram()],
    _calibrated,
)
OF_LABELS: tuple[LabelAccumulators, ...] = (
    lambda contract, profile: [LabelledScores()],
    _labelled_calibrated,
    _coverage,
    lambda contract, profile: [LabelDelays()],
)


def prediction_fold(contract: Contract, profile: ReferenceProfile) -> Fold[PredictionRows]:
    """What counts the predictions of one model version."""
    return Fold(tuple(one for make in OF_PREDICTIONS for one in make(contract, profile)))


def label_fold(contract: Contract, profile: ReferenceProfile) -> Fold[LabelRows]:
    """What counts the labels of one model version."""
    return Fold(tuple(one for make in OF_LABELS for one in make(contract, profile)))
