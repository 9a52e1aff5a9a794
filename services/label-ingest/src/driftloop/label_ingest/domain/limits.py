"""What the event types allow of a prediction and a database cannot keep: it can never be applied."""

from collections.abc import Iterator
from datetime import UTC, datetime

from driftloop.common.events import PredictionMade

# Beyond these an instant does not survive the passage through every time zone and every client.
EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)
LATEST = datetime(9999, 1, 1, tzinfo=UTC)


def prediction_problem(event: PredictionMade) -> str | None:
    """Which field of a prediction cannot be kept and why, or None. The text holds no value."""
    if not EARLIEST <= event.predicted_at < LATEST:
        return f"predicted_at: must be between {EARLIEST.year} and {LATEST.year}"
    if event.repeatable_until is not None and not EARLIEST <= event.repeatable_until < LATEST:
        return f"repeatable_until: must be between {EARLIEST.year} and {LATEST.year}"
    if any("\0" in text for text in _texts(event)):
        return "features, subject or order: must not contain the character U+0000"
    return None


def _texts(event: PredictionMade) -> Iterator[str]:
    if event.subject is not None:
        yield event.subject
    if event.order is not None:
        yield event.order
    for name, value in event.features.items():
        yield name
        if isinstance(value, str):
            yield value
