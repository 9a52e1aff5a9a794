"""What a window shows of each feature's distribution, and that what is no bin any more is taken down."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from prometheus_client import REGISTRY

from driftloop.common.profile import ScoredRows
from driftloop.drift_monitor.domain.evaluation import FeatureResult, Watch, WindowResult
from driftloop.drift_monitor.exporting import Exporter
from driftloop.drift_monitor.store import Evaluation, Store

NOW = datetime(2026, 3, 1, tzinfo=UTC)
FEATURE = FeatureResult(
    name="Age", kind="numeric", statistic=0.1, p=0.5, psi=0.01, psi_critical=0.05, n=100, m=200, missing=10,
    severity="GOOD", raw_severity="GOOD", bins=((30.0, 50, 40), (45.5, 100, 30), ("above", 45, 20), ("missing", 5, 10)),
)  # fmt: skip
CITY = msgspec.structs.replace(FEATURE, name="City", kind="categorical", bins=(("north", 10, 5), ("other", 10, 15)))
# Of ten rows seven are answered right: three at .2 and four at .8.
HELDOUT = ScoredRows((0.2, 0.8), (3, 1), (2, 4))


def shown(metric: str, feature: str) -> dict[str, float]:
    """What the monitor shows of a feature by bin, in the order of the bins' names."""
    found = {
        sample.labels["bin"]: sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == f"driftloop_feature_{metric}_share" and sample.labels["feature"] == feature
    }
    return dict(sorted(found.items()))


def export(exporter: Exporter, number: int, *features: FeatureResult) -> None:
    """Show a version whose last window, of this number, had these features."""
    score = msgspec.structs.replace(FEATURE, name="score", bins=((0.5, 1, 3), ("above", 3, 1)))
    window = WindowResult(
        starts=NOW,
        ends=NOW,
        n=100,
        sufficient=True,
        severity="GOOD",
        raw_severity="GOOD",
        features=features,
        score=score,
    )
    store = SimpleNamespace(last_window=lambda _: window, last_performance=lambda _: None, late=lambda *_: 0)
    watch = SimpleNamespace(profile=SimpleNamespace(heldout=HELDOUT), contract=SimpleNamespace(decision_threshold=0.5))
    exporter.export(
        cast(Store, store), cast(Watch, cast(Any, watch)), ("m", 1), Evaluation(windows=number), NOW, NOW
    )  # fmt: skip


def test_the_shares_of_every_bin_stand_beside_the_references() -> None:
    exporter = Exporter()
    export(exporter, 1, FEATURE)
    assert shown("bin", "Age") == {"01 ≤ 30": 0.4, "02 ≤ 45.5": 0.3, "03 above": 0.2, "04 missing": 0.1}
    assert shown("reference", "Age") == {"01 ≤ 30": 0.25, "02 ≤ 45.5": 0.5, "03 above": 0.225, "04 missing": 0.025}
    assert shown("bin", "(score)") == {"01 ≤ 0.5": 0.75, "02 above": 0.25}
    exporter.clear()
    assert shown("bin", "Age") == shown("reference", "Age") == {}


def test_a_bin_that_the_next_window_has_not_is_taken_down() -> None:
    exporter = Exporter()
    export(exporter, 1, CITY)
    assert shown("bin", "City") == {"01 north": 0.25, "02 other": 0.75}
    export(exporter, 2, msgspec.structs.replace(CITY, bins=(("other", 20, 20),)))
    assert shown("bin", "City") == {"01 other": 1.0}
    exporter.clear()


def test_the_held_out_figures_are_there_before_the_first_window() -> None:
    exporter = Exporter()
    export(exporter, 0)
    labels = {"model_name": "m", "model_version": "1"}
    for figure, value in (("accuracy", 0.7), ("precision", 0.8), ("recall", 4 / 6)):
        found = REGISTRY.get_sample_value("driftloop_heldout_performance", labels | {"figure": figure})
        assert found == pytest.approx(value)
    exporter.clear()
