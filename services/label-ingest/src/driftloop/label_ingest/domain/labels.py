"""The label rule: what the results of one prediction make of it, and what is published when that changes.

A label is a function of the results as they are known, and of the model's policy: how it came to them plays no part.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

import msgspec

from driftloop.common.contract import Labels as Policy
from driftloop.label_ingest.domain.measuring import abnormal
from driftloop.label_ingest.domain.results import NO_TIME, Result, Version, parts_of

Reading = tuple[Version, bool]


class Decision(msgspec.Struct, frozen=True, gc=False):
    """A label, or None and `waits` saying for what. `policy_version` is None where the laboratory said the label.

    `contested`: results that count disagree, or a version of one was reported with two contents.
    """

    label: int | None
    contested: bool = False
    policy_version: int | None = None
    waits: str = ""


class Published(msgspec.Struct, frozen=True, gc=False):
    """What was last published of a prediction: a label, or None after it was retracted, and how many changes so far."""

    label: int | None = None
    revision: int = 0


class Change(msgspec.Struct, frozen=True, gc=False):
    """What is to be published: the `revision`-th change of a prediction's label, to None where it is retracted."""

    label: int | None
    previous: int | None
    revision: int


def decide(policy: Policy | None, results: Iterable[Result]) -> Decision:
    """The label that results make under a policy.

    A label that a laboratory states goes before what it measured. Of several stated ones that of the latest specimen
    holds, then of the highest version, of the latest report, of the highest source and id, and the higher label.
    """
    counting = [one for one in results if one.holds.counts]
    stated = [one for one in counting if one.holds.label is not None]
    if stated:
        winner = (stated[0] if len(stated) == 1 else max(stated, key=_standing)).holds
        disagree = any(one.holds.label != winner.label for one in stated) or any(one.contested for one in stated)
        return Decision(winner.label, disagree)
    if policy is None:
        return Decision(None, waits="the contract of its model")
    readings = [(one.holds, verdict) for one in counting if (verdict := _abnormal(policy, one.holds)) is not None]
    if not readings:
        return Decision(None, waits="a final result" if not counting else "a result that the label policy can read")
    decided = _single(readings) if policy.decide == "single" else _confirmed(readings, policy)
    contested = any(one.contested for one in counting)
    return msgspec.structs.replace(decided, contested=contested, policy_version=policy.version)


def publish(published: Published, decision: Decision) -> Change | None:
    """What to publish of a known prediction, if its label is not the one that was published last."""
    if decision.label == published.label:
        return None
    return Change(decision.label, published.label, published.revision + 1)


def _standing(one: Result) -> tuple[datetime, int, datetime, tuple[str, str], int]:
    held = one.holds
    assert held.label is not None
    return held.observed_at or NO_TIME, held.version, held.reported_at or NO_TIME, _name(held), held.label


def _name(one: Version) -> tuple[str, str]:
    source, result_id = parts_of(one.result)
    return source or "", result_id or ""


def _abnormal(policy: Policy, one: Version) -> bool | None:
    if one.analyte is None or one.value is None or one.unit is None:
        return None
    return abnormal(policy, one.analyte, one.value, one.unit, one.comparator)


def _single(readings: Sequence[Reading]) -> Decision:
    return Decision(int(any(verdict for _one, verdict in readings)))


def _confirmed(readings: Sequence[Reading], policy: Policy) -> Decision:
    """1 where two abnormal results are near enough; 0 where none is abnormal, or the latest result is not.

    Of one instant's results that of the highest source and id is the latest, then an abnormal one. What one test says
    of one specimen counts once, however often it is reported.
    """
    ordered = sorted(readings, key=lambda reading: (reading[0].observed_at or NO_TIME, _name(reading[0]), reading[1]))
    abnormal = {(one.observed_at or NO_TIME, _test(policy, one)) for one, verdict in ordered if verdict}
    times = sorted(at for at, _test in abnormal)
    within = timedelta(days=policy.confirm_within_days)
    if any(later - earlier <= within for earlier, later in pairwise(times)):
        return Decision(1)
    if not times or not ordered[-1][1]:
        return Decision(0)
    return Decision(None, waits=f"a second abnormal result within {policy.confirm_within_days:g} days")


def _test(policy: Policy, one: Version) -> str:
    test = None if one.analyte is None else policy.test(one.analyte)
    return "" if test is None else test.name
