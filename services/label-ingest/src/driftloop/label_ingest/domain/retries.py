"""When two predictions with one id are one: its client asked again, and another predictor answered."""

from datetime import datetime

import msgspec

from driftloop.common.events import PredictionMade


class Taken(msgspec.Struct, frozen=True, gc=False):
    """Which prediction took an id, and until when its client may ask again under it, if at all."""

    model_name: str
    model_version: int
    predicted_at: datetime
    repeatable_until: datetime | None


def clashes(taken: Taken, made: PredictionMade) -> bool:
    """Whether a prediction bears an id that another one took, and is neither that one nor a retry of it.

    A retry may be by another version, and it may arrive before what it repeats.
    """
    if made.model_name != taken.model_name:
        return True
    if made.model_version == taken.model_version and made.predicted_at == taken.predicted_at:
        return False
    if made.repeatable_until is None or taken.repeatable_until is None:
        return True
    return made.predicted_at > taken.repeatable_until or taken.predicted_at > made.repeatable_until
