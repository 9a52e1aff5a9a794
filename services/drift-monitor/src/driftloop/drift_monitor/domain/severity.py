"""How bad one feature's window is, taken by itself (raw), and which of several is worst."""

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import cast

from scipy import stats

from driftloop.common.contract import Drift
from driftloop.common.events import Severity as SeverityName
from driftloop.common.statistics.comparison import Comparison


class Severity(IntEnum):
    """GOOD < WARNING < CRITICAL."""

    GOOD = 0
    WARNING = 1
    CRITICAL = 2

    @property
    def word(self) -> SeverityName:
        """The name, as events carry it."""
        return cast(SeverityName, self.name)


def corrected(drift: Drift, p: Sequence[float]) -> list[float]:
    """The features' p-values [k] as `alpha` is to judge them: by the contract's correction for looking k times.

    Benjamini and Hochberg (1995); with `none`, or of no feature, they are as they came.
    """
    if drift.correction == "none" or not p:
        return list(p)
    return [float(value) for value in stats.false_discovery_control(p, method="bh")]


def raw_severity(drift: Drift, comparison: Comparison, p: float | None = None) -> Severity:
    """CRITICAL needs both significance and size, WARNING one of them: at large n the smallest shift is significant.

    `p` is the corrected p-value where there is one; None: the comparison's own.
    """
    significant = (comparison.p if p is None else p) < drift.alpha
    if significant and comparison.psi >= drift.psi_critical:
        return Severity.CRITICAL
    if significant or comparison.psi >= drift.psi_warning:
        return Severity.WARNING
    return Severity.GOOD


def sizeable(drift: Drift, comparison: Comparison) -> bool:
    """Whether a shift is large enough to open a WARNING alarm, however significant it is."""
    return comparison.statistic >= drift.warning_min_d or comparison.psi >= drift.warning_min_psi


def worst(severities: Iterable[Severity]) -> Severity:
    """The worst of them; GOOD of none."""
    return max(severities, default=Severity.GOOD)
