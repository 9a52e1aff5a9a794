"""Names for what must be found again: predictions."""

import hmac
import os
from datetime import datetime

# Of an id 18 digits are drawn, and one that says which of two bits follow the variant's.
_DRAWN_DIGITS = 20
_VARIANTS = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))


def new_prediction_ids(now: datetime, count: int) -> list[str]:
    """UUIDs of version 7 as 32 hexadecimal digits: ordered by the millisecond, then 74 bits that nobody can guess."""
    stamped = f"{int(now.timestamp() * 1000):012x}7"
    # One system call for all: each would let other threads in between.
    drawn = os.urandom(count * _DRAWN_DIGITS // 2).hex()
    return [
        f"{stamped}{drawn[at : at + 3]}{_VARIANTS[drawn[at + 3]]}{drawn[at + 4 : at + 19]}"
        for at in range(0, len(drawn), _DRAWN_DIGITS)
    ]


def repeated_prediction_id(key: bytes, caller: str, idempotency_key: str, row: int) -> str:
    """A UUID of version 8 as 32 hexadecimal digits: the same for a retry of the same caller, at any replica.

    Keyed, so that nobody who does not hold the key can tell from an id what was given for it; `row` tells the rows of
    one request apart.
    """
    named = b"%d:%s%d:%s%d" % (*_measured(caller), *_measured(idempotency_key), row)
    value = int.from_bytes(hmac.digest(key, named, "sha256")[:16])
    value = value & ~(0xF << 76) | 0x8 << 76
    value = value & ~(0b11 << 62) | 0b10 << 62
    return f"{value:032x}"


def _measured(text: str) -> tuple[int, bytes]:
    data = text.encode()
    return len(data), data
