"""A prediction that its client may ask for again counts once, whichever predictors answer and in whatever order.

The monitor and the replay of its windows decide by this one rule, try by try in the order of the log.
"""

from collections.abc import Mapping
from datetime import datetime

from driftloop.common.events import PredictionMade

# Ids are a client's choice, and of each model apart.
Key = tuple[str, str]


class Retries:
    """Ids that have come, each with the time until which one more try of it may be made."""

    def __init__(self, known: Mapping[Key, datetime]) -> None:
        self._until = dict(known)

    def __len__(self) -> int:
        """How many ids are remembered."""
        return len(self._until)

    def counts(self, made: PredictionMade) -> bool:
        """Whether a prediction counts: it cannot be repeated, or is no try of one that has come before.

        It is remembered, and a later try prolongs the time.
        """
        if made.repeatable_until is None:
            return True
        key = key_of(made)
        known = self._until.get(key)
        self._until[key] = made.repeatable_until if known is None else max(known, made.repeatable_until)
        return known is None or made.predicted_at > known

    def forget(self, before: datetime) -> None:
        """Forget the ids whose time is over."""
        self._until = {key: until for key, until in self._until.items() if until >= before}


def key_of(made: PredictionMade) -> Key:
    """What a try is recognised by."""
    return made.model_name, made.prediction_id
