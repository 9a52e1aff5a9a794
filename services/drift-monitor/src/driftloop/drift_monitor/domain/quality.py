"""Whether a window's rows are bad: each fault's share against the reference's, tested and sized."""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from scipy import stats

from driftloop.common.contract import Quality
from driftloop.common.statistics.cells import Counts
from driftloop.drift_monitor.domain.fold.quality import INVALID, MISSING, NAMES, OUT_OF_RANGE, OUTLYING, ROWS, UNSEEN
from driftloop.drift_monitor.domain.severity import Severity

CHECKED = (MISSING, INVALID, OUT_OF_RANGE, UNSEEN)
# Of fewer values nobody can say where they lie.
LEAST_VALUES = 30
# Two samples of one shape are nearer than this: .03 to .07 in conversions of real units, .10 and more in populations
# that moved by 2.5 σ or from below 31 years to above 42.
SAME_SHAPE = 0.09


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of fault of one feature: `count` of `n` rows of the window, `reference_count` of `m` of the reference.

    `p` is that of the one-sided two-proportion test (pooled, Yates-free); None where only the share decides.
    """

    feature: str
    fault: str
    count: int
    n: int
    reference_count: int
    m: int
    p: float | None
    severity: str

    @property
    def share(self) -> float:
        """Of the window's rows."""
        return self.count / self.n if self.n else 0.0


def faults(
    quality: Quality,
    references: Mapping[str, Counts],
    window: Mapping[str, Counts | None],
    distances: Mapping[str, float],
) -> list[Fault]:
    """What is worse than in the reference, by feature, and what is in another unit; nothing of what was not counted.

    `references` and `window` hold the counts of each feature, `distances` how far its values are from the reference's
    in another unit (see `scale.distance_when_rescaled`). The level is divided by the number of features.
    """
    found = []
    for feature, reference in references.items():
        counts = window.get(feature)
        if counts is None or counts[ROWS] == 0 or reference[ROWS] == 0:
            continue
        for fault in CHECKED:
            found.append(_share_fault(quality, feature, fault, reference, counts, len(references)))
        found.append(_outlying_fault(quality, feature, counts, distances.get(feature, 1.0)))
    # Single bad values are told though they are no alarm; that two rows in a hundred are outlying says nothing.
    return [one for one in found if one.severity != Severity.GOOD.name or (one.count and one.fault != NAMES[OUTLYING])]


def worst_fault(found: Sequence[Fault]) -> Fault | None:
    """The fault of the largest share among the most severe; None where all is well."""
    bad = [one for one in found if one.severity != Severity.GOOD.name]
    return max(bad, key=lambda one: (Severity[one.severity], one.share), default=None)


def lies_elsewhere(quality: Quality, window: Counts) -> bool:
    """Whether nearly all of a feature's values are outlying."""
    n = _with_value(window)
    return n >= LEAST_VALUES and int(window[OUTLYING]) / n > quality.outlying_share


def two_proportions(count: int, n: int, reference: int, m: int) -> float:
    """p of the one-sided z test that the first share is the larger (pooled variance); 1 where neither has any."""
    pooled = (count + reference) / (n + m)
    variance = pooled * (1 - pooled) * (1 / n + 1 / m)
    if variance == 0:
        return 1.0
    return float(stats.norm.sf((count / n - reference / m) / np.sqrt(variance)))


def _share_fault(quality: Quality, feature: str, fault: int, reference: Counts, window: Counts, features: int) -> Fault:
    count, n = int(window[fault]), int(window[ROWS])
    was, m = int(reference[fault]), int(reference[ROWS])
    p = two_proportions(count, n, was, m)
    change = count / n - was / m
    severity = Severity.GOOD
    # A difference of two shares: three points may come out as 2.999….
    if p < quality.alpha / features and change >= quality.warning_change - 1e-9:
        severity = Severity.CRITICAL if change >= quality.critical_change - 1e-9 else Severity.WARNING
    return Fault(
        feature=feature, fault=NAMES[fault], count=count, n=n, reference_count=was, m=m, p=p, severity=severity.name
    )


def _outlying_fault(quality: Quality, feature: str, window: Counts, distance: float) -> Fault:
    """Nearly all values where the reference has hardly any, and shaped as it is: the unit has changed.

    A population that lies elsewhere has another shape there: patients over 42 are no multiple of those below 31.
    """
    severity = Severity.CRITICAL if lies_elsewhere(quality, window) and distance <= SAME_SHAPE else Severity.GOOD
    return Fault(
        feature=feature, fault=NAMES[OUTLYING], count=int(window[OUTLYING]), n=_with_value(window), reference_count=0,
        m=0, p=None, severity=severity.name,
    )  # fmt: skip


def _with_value(window: Counts) -> int:
    return int(window[ROWS] - window[MISSING] - window[INVALID])
