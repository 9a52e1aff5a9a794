"""FHIR's times. Only those that are exact say when a specimen was taken."""

import re
from datetime import UTC, datetime

from driftloop.label_ingest.fhir.issues import invalid

_PARTIAL = re.compile(r"\A[0-9]{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12][0-9]|3[01]))?)?\Z")
_EXACT = re.compile(
    r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(?P<zone>Z|[+-][0-9]{2}:[0-9]{2})?\Z"
)


def instant(text: str, place: str) -> datetime | None:
    """An exact time in UTC, or None for a year, a month or a day. Raises Unusable (400) for what is no FHIR time.

    A day is no time: whether a prediction of that day was made before the specimen, it cannot say.
    """
    if _PARTIAL.match(text):
        return None
    matched = _EXACT.match(text)
    if matched is None:
        raise invalid("value", "is no FHIR dateTime: send for example 2026-03-01T08:30:00+01:00", place)
    if matched["zone"] is None:
        raise invalid("value", "has no time zone: send for example 2026-03-01T08:30:00+01:00", place)
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise invalid("value", "is on no calendar: send a day and an hour that there are", place) from error
