"""What a measurement says to a label policy: abnormal, not abnormal, or nothing, and then why."""

import math
from collections.abc import Sequence

from driftloop.common.contract import Labels, LabelTest, Limit
from driftloop.common.events import Comparator
from driftloop.label_ingest.domain.units import convert


def abnormal(
    policy: Labels, analyte: str, value: float, unit: str | None, comparator: Comparator | None
) -> bool | None:
    """Whether the policy calls the measurement abnormal; None where it cannot use it (see `reading_problem`).

    `comparator` stands before a value that is only a bound: ">" with 14 says that more than 14 was there.
    """
    test = policy.test(analyte)
    verdict = None if test is None else _judge(test, value, unit, comparator)
    return verdict if isinstance(verdict, bool) else None


def reading_problem(
    tests: Sequence[Labels], analyte: str, value: float, unit: str | None, comparator: Comparator | None
) -> str | None:
    """Why none of the policies can use a measurement, for a laboratory's engineer; None if one of them can.

    The text names what would be accepted, and holds nothing of what was sent.
    """
    known = [test for policy in tests if (test := policy.test(analyte)) is not None]
    if not known:
        return _unknown_analyte(tests)
    verdicts = [_judge(test, value, unit, comparator) for test in known]
    if any(isinstance(verdict, bool) for verdict in verdicts):
        return None
    # Two models often have the same test: what is wrong is said once.
    return "; ".join(dict.fromkeys(str(verdict) for verdict in verdicts))


def _judge(test: LabelTest, value: float, unit: str | None, comparator: Comparator | None) -> bool | str:
    """Whether the value is abnormal, or why that cannot be said."""
    if not math.isfinite(value):
        return "value: must be a finite number"
    read = None if unit is None else _in_a_limits_unit(test, value, unit)
    if read is None:
        units = ", ".join(repr(limit.unit) for limit in test.limits)
        return f"unit: cannot be converted to any that {test.name} is judged in: send one of {units}"
    limit, number = read
    if not _possible(limit, number):
        return f"value: {test.name} is impossible outside of {_bounds(limit)}: check the value and its unit"
    verdict = _holds(test, number, comparator, limit.threshold)
    if verdict is None:
        rule = f"{test.comparator} {limit.threshold:.15g} {limit.unit}"
        return f"comparator: leaves open whether {test.name} is {rule}: send the value itself, or a closer bound"
    return verdict


def _in_a_limits_unit(test: LabelTest, value: float, unit: str) -> tuple[Limit, float] | None:
    """The limit that judges a unit, and the value in the limit's unit.

    A limit in exactly this unit comes first: each unit system has cut-off points of its own, none the other's image.
    """
    exact = test.limit(unit)
    if exact is not None:
        return exact, value
    for limit in test.limits:
        converted = convert(value, unit, limit.unit)
        if converted is not None:
            return limit, converted
    return None


def _possible(limit: Limit, value: float) -> bool:
    low = -math.inf if limit.minimum is None else limit.minimum
    high = math.inf if limit.maximum is None else limit.maximum
    return math.isfinite(value) and low <= value <= high


def _bounds(limit: Limit) -> str:
    low = "any" if limit.minimum is None else f"{limit.minimum:.15g}"
    high = "any" if limit.maximum is None else f"{limit.maximum:.15g}"
    return f"{low} to {high} {limit.unit}"


def _holds(test: LabelTest, value: float, comparator: Comparator | None, threshold: float) -> bool | None:
    """Whether `x test.comparator threshold` holds for every x that the measurement allows, for none, or (None) some."""
    # x < t is the contrary of x >= t, and x <= t that of x > t.
    contrary = test.comparator in ("<", "<=")
    above = _is_above(value, comparator, threshold, strictly=test.comparator in (">", "<="))
    return above if above is None else above != contrary


def _is_above(value: float, comparator: Comparator | None, threshold: float, *, strictly: bool) -> bool | None:
    """Whether x >= threshold (`strictly`: x > threshold); x is `value` itself or whatever `comparator value` allows."""
    at_threshold = value == threshold
    if comparator is None:
        return value > threshold or (at_threshold and not strictly)
    if comparator in (">", ">="):
        certain = value > threshold or (at_threshold and (comparator == ">" or not strictly))
        return True if certain else None
    certain = value < threshold or (at_threshold and (comparator == "<" or strictly))
    return False if certain else None


def _unknown_analyte(tests: Sequence[Labels]) -> str:
    known = sorted({f"{code} ({test.name})" for policy in tests for test in policy.tests for code in test.loinc})
    if not known:
        return "analyte: no model here makes labels of measurements: send the label itself"
    return f"analyte: no model here has a test for this code: send one of {', '.join(known)}"
