"""The verdict's gauges: only the replica that evaluates shows them, and it takes them down when it stops."""

import math
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

import msgspec
from prometheus_client import Gauge

from driftloop.common import metrics
from driftloop.drift_monitor.domain.decline import heldout_figures
from driftloop.drift_monitor.domain.evaluation import CONCEPT, DECLINE, QUALITY, FeatureResult, Watch, WindowResult
from driftloop.drift_monitor.domain.labelled import LabelledResult
from driftloop.drift_monitor.domain.severity import Severity
from driftloop.drift_monitor.pane_store import Version
from driftloop.drift_monitor.store import Evaluation, Store

FIGURES = ("accuracy", "precision", "recall", "f1", "roc_auc", "brier", "log_loss", "calibration_error")
GAUGES: tuple[Gauge, ...] = (
    metrics.DRIFT_VERDICT,
    metrics.FEATURE_SEVERITY,
    metrics.FEATURE_D,
    metrics.FEATURE_P,
    metrics.FEATURE_PSI,
    metrics.FEATURE_PSI_CRITICAL,
    metrics.FEATURE_BIN_SHARE,
    metrics.FEATURE_REFERENCE_SHARE,
    metrics.FEATURE_ROWS,
    metrics.FEATURE_MISSING,
    metrics.SIGNAL_SEVERITY,
    metrics.WINDOW_ROWS,
    metrics.WATERMARK_LAG,
    metrics.LATE_PREDICTIONS,
    metrics.ESTIMATED_PERFORMANCE,
    metrics.HELDOUT_PERFORMANCE,
    metrics.REALISED_PERFORMANCE,
    metrics.LABEL_COVERAGE,
    metrics.INTERVAL_COVERAGE,
    metrics.CONCEPT_STATISTIC,
)


class Exporter:
    """Shows what was last judged."""

    def __init__(self) -> None:
        # How many windows of each kind were closed when a version's were last shown.
        self._shown: dict[Version, tuple[int, int]] = {}
        # The bins that are shown of each feature: the next window may have others, as rare categories come and go.
        self._bins: defaultdict[tuple[str, str, str], set[str]] = defaultdict(set)

    def keep(self, versions: Iterable[Version]) -> None:
        """Take all down where a version is shown that is not among these: it serves no more, and tells of no one."""
        if self._shown.keys() - set(versions):
            self.clear()

    def export(
        self,
        store: Store,
        watch: Watch,
        version: Version,
        evaluation: Evaluation,
        watermark: datetime | None,
        now: datetime,
    ) -> None:
        """Set every gauge of one version from what is stored."""
        labels = (version[0], str(version[1]))
        metrics.DRIFT_VERDICT.labels(*labels).set(Severity[evaluation.verdict])
        for name in (QUALITY, CONCEPT, DECLINE):
            metrics.SIGNAL_SEVERITY.labels(*labels, name).set(evaluation.alarms.signal(name).severity)
        metrics.LATE_PREDICTIONS.labels(*labels).set(store.late(version, evaluation))
        if watermark is not None:
            metrics.WATERMARK_LAG.labels(version[0]).set((now - watermark).total_seconds())
        closed = evaluation.windows, evaluation.performance_windows
        if self._shown.get(version) != closed:
            _heldout(labels, watch)
            self._windows(store, version, labels)
            self._shown[version] = closed

    def _windows(self, store: Store, version: Version, labels: tuple[str, str]) -> None:
        window = store.last_window(version)
        if window is not None:
            _window(labels, window)
            for one in _judged(window):
                self._show_bins(labels, one)
        performance = store.last_performance(version)
        if performance is not None:
            _performance(labels, performance)

    def _show_bins(self, labels: tuple[str, str], one: FeatureResult) -> None:
        shares = _bin_shares(one)
        shown = self._bins[*labels, one.name]
        for gone in shown - shares.keys():
            metrics.FEATURE_BIN_SHARE.remove(*labels, one.name, gone)
            metrics.FEATURE_REFERENCE_SHARE.remove(*labels, one.name, gone)
        for name, (reference, now) in shares.items():
            metrics.FEATURE_REFERENCE_SHARE.labels(*labels, one.name, name).set(reference)
            metrics.FEATURE_BIN_SHARE.labels(*labels, one.name, name).set(now)
        self._bins[*labels, one.name] = set(shares)

    def parked(self, records: int) -> None:
        """Show how many records wait for a profile."""
        metrics.PARKED_PREDICTIONS.set(records)

    def clear(self) -> None:
        """Take all down: another replica shows them, or nobody knows them now."""
        self._shown.clear()
        self._bins.clear()
        for gauge in GAUGES:
            gauge.clear()
        # A gauge without labels cannot be taken down.
        metrics.PARKED_PREDICTIONS.set(math.nan)


def _window(labels: tuple[str, str], window: WindowResult) -> None:
    metrics.WINDOW_ROWS.labels(*labels).set(window.n)
    for one in _judged(window):
        _feature(labels, one)
    if window.estimated is not None:
        for name in ("accuracy", "precision", "recall", "f1", "roc_auc", "brier", "accuracy_low", "accuracy_high"):
            value = getattr(window.estimated, name)
            if value is not None:
                metrics.ESTIMATED_PERFORMANCE.labels(*labels, name).set(value)


def _judged(window: WindowResult) -> tuple[FeatureResult, ...]:
    """What has a distribution: the features, and the score by a name that no feature can have."""
    return *window.features, msgspec.structs.replace(window.score, name="(score)")


def _bin_shares(one: FeatureResult) -> dict[str, tuple[float, float]]:
    """The reference's and the window's share of each bin, by names that sort as the bins do: a chart knows no other."""
    m, n = max(1, sum(was for _, was, _ in one.bins)), max(1, sum(now for _, _, now in one.bins))
    return {
        f"{place:02d} {f'≤ {bound:g}' if isinstance(bound, float) else bound}": (was / m, now / n)
        for place, (bound, was, now) in enumerate(one.bins, 1)
    }


def _heldout(labels: tuple[str, str], watch: Watch) -> None:
    if watch.profile.heldout is not None:
        for name, value in heldout_figures(watch.profile.heldout, watch.contract.decision_threshold).items():
            if value is not None:
                metrics.HELDOUT_PERFORMANCE.labels(*labels, name).set(value)


def _feature(labels: tuple[str, str], one: FeatureResult) -> None:
    metrics.FEATURE_SEVERITY.labels(*labels, one.name).set(Severity[one.severity])
    metrics.FEATURE_D.labels(*labels, one.name).set(one.statistic)
    metrics.FEATURE_P.labels(*labels, one.name).set(one.p)
    metrics.FEATURE_PSI.labels(*labels, one.name).set(one.psi)
    if one.psi_critical is not None:
        metrics.FEATURE_PSI_CRITICAL.labels(*labels, one.name).set(one.psi_critical)
    metrics.FEATURE_ROWS.labels(*labels, one.name).set(one.n)
    metrics.FEATURE_MISSING.labels(*labels, one.name).set(one.missing)


def _performance(labels: tuple[str, str], found: LabelledResult) -> None:
    metrics.LABEL_COVERAGE.labels(*labels).set(found.coverage)
    for name in FIGURES:
        value = getattr(found.realised, name)
        if value is not None:
            metrics.REALISED_PERFORMANCE.labels(*labels, name).set(value)
    if found.concept is not None:
        metrics.CONCEPT_STATISTIC.labels(*labels).set(found.concept.statistic)
    if found.sets is not None:
        metrics.INTERVAL_COVERAGE.labels(*labels).set(found.sets.coverage)
