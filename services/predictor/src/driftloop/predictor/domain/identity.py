"""Names for what must be found again: a prediction, and a patient who must not be recognised."""

import hmac
import secrets
from datetime import datetime

SUBJECT_CHARACTERS = 32
_RANDOM_BITS = 74


def new_prediction_id(now: datetime) -> str:
    """A UUID of version 7 as 32 hexadecimal digits: ordered by the millisecond, then 74 bits that nobody can guess."""
    random = secrets.randbits(_RANDOM_BITS)
    milliseconds = int(now.timestamp() * 1000)
    value = milliseconds << 80 | 0x7 << 76 | random >> 62 << 64 | 0b10 << 62 | random & (1 << 62) - 1
    return f"{value:032x}"


def pseudonym(key: bytes, patient_id: str) -> str:
    """The name under which a patient is logged: HMAC-SHA256, 32 hexadecimal digits, the same for every replica."""
    return hmac.digest(key, patient_id.encode(), "sha256").hex()[:SUBJECT_CHARACTERS]
