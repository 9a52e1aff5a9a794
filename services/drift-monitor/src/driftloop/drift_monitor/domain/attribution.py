"""Which drift is it? Bad data first, then a changed law, then a changed population: each would look like the next."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from driftloop.drift_monitor.domain.concept import ConceptTest
from driftloop.drift_monitor.domain.decline import Decline
from driftloop.drift_monitor.domain.evaluation import CONCEPT, DECLINE, QUALITY, Alarms, FeatureResult
from driftloop.drift_monitor.domain.quality import Fault, worst_fault
from driftloop.drift_monitor.domain.severity import Severity

Kind = Literal["none", "quality", "concept", "covariate", "performance"]
# So much of a feature outside all that the reference has, and the estimate rests on scores that nobody has tested.
EXTRAPOLATING = 0.05


class Attribution(msgspec.Struct, frozen=True, kw_only=True):
    """What kind of drift the open alarms tell of, in a word, in a sentence, and in numbers.

    `estimate_trusted` is false where features lie outside the reference's support.
    """

    kind: Kind = "none"
    sentence: str = "nothing has changed beyond chance"
    features: tuple[str, ...] = ()
    estimate_trusted: bool = True
    numbers: dict[str, float | int | str | None] = {}


def attribute(
    alarms: Alarms,
    features: Sequence[FeatureResult],
    faults: Sequence[Fault],
    concept: ConceptTest | None,
    declined: Decline | None,
) -> Attribution:
    """The attribution of the open alarms, by the last window's `features` and `faults` and the last labelled tests."""
    foreign = tuple(one.name for one in features if one.n and one.foreign > EXTRAPOLATING * one.n)
    if alarms.signal(QUALITY).severity:
        return _quality(worst_fault(faults))
    if alarms.signal(CONCEPT).severity and concept is not None:
        return _concept(concept)
    drifted = [one for one in features if one.name in alarms.features and alarms.features[one.name].severity]
    if drifted:
        return _covariate(drifted, foreign)
    if alarms.signal(DECLINE).severity and declined is not None:
        return _performance(declined, bool(foreign))
    return Attribution(estimate_trusted=not foreign)


def _quality(fault: Fault | None) -> Attribution:
    if fault is None:
        return Attribution(
            kind="quality", estimate_trusted=False,
            sentence="data quality: no fault in the last window; two such windows of enough rows clear the alarm",
        )  # fmt: skip
    what = fault.fault.replace("_", " ")
    if fault.fault == "outlying":
        sentence = (
            f"data quality: {fault.share:.0%} of {fault.feature} lie outside the middle 98% of the reference "
            "and are shaped as it is: suspect that the unit was changed"
        )
    else:
        was = fault.reference_count / fault.m if fault.m else 0.0
        sentence = f"data quality: {fault.share:.1%} of {fault.feature} are {what}, {was:.1%} in the reference"
    return Attribution(
        kind="quality",
        sentence=sentence,
        features=(fault.feature,),
        estimate_trusted=False,
        numbers={
            "fault": fault.fault, "count": fault.count, "n": fault.n, "reference_count": fault.reference_count,
            "m": fault.m, "p": fault.p,
        },
    )  # fmt: skip


def _concept(test: ConceptTest) -> Attribution:
    wrong, expected = sum(test.realised), sum(test.estimated)
    return Attribution(
        kind="concept",
        sentence=(
            f"concept drift: of {test.n} labelled rows {wrong:.1%} are wrong where {expected:.1%} were estimated "
            f"(χ² = {test.statistic:.1f}, limit {test.limit:.1f}): the same patients have other outcomes now"
        ),
        estimate_trusted=False,
        numbers={
            "n": test.n,
            "false_positives": test.realised[0],
            "false_negatives": test.realised[1],
            "estimated_false_positives": test.estimated[0],
            "estimated_false_negatives": test.estimated[1],
            "statistic": test.statistic,
            "limit": test.limit,
            "p": test.p,
        },
    )


def _covariate(drifted: Sequence[FeatureResult], foreign: tuple[str, ...]) -> Attribution:
    worst = max(drifted, key=lambda one: (Severity[one.severity], one.psi))
    outside = f", extrapolating in {', '.join(foreign)}: the estimate is not trusted" if foreign else ""
    return Attribution(
        kind="covariate",
        sentence=(
            f"covariate drift: {worst.name} moved most (D = {worst.statistic:.3f}, PSI = {worst.psi:.3f}), "
            f"{len(drifted)} feature{'s' if len(drifted) > 1 else ''} in alarm{outside}"
        ),
        features=tuple(one.name for one in drifted),
        estimate_trusted=not foreign,
        numbers={"feature": worst.name, "d": worst.statistic, "p": worst.p, "psi": worst.psi, "n": worst.n},
    )


def _performance(found: Decline, foreign: bool) -> Attribution:
    accuracy = found.accuracy
    return Attribution(
        kind="performance",
        sentence=(
            f"performance fell: accuracy {accuracy.realised or 0:.3f} on {accuracy.rows} labelled rows, "
            f"{accuracy.heldout or 0:.3f} on the {accuracy.heldout_rows} held-out ones (p = {accuracy.p:.2g}); "
            "neither the inputs nor the law were shown to have changed"
        ),
        estimate_trusted=not foreign,
        numbers={
            "realised": accuracy.realised, "n": accuracy.rows, "heldout": accuracy.heldout,
            "heldout_n": accuracy.heldout_rows, "p": accuracy.p,
        },
    )  # fmt: skip
