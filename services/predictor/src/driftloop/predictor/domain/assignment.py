"""Which version a patient meets while a canary is out: drawn once, by a keyed hash, and kept."""

import hashlib


def share(key: bytes, model: str, version: int, unit: str) -> float:
    """A number in [0, 1) that is a unit's own for this canary: the same at every replica, another for another version.

    `key` has at most 64 bytes. 53 bits of the hash, because a float64 holds that many exactly: none rounds to 1.
    """
    named = f"{model}\n{version}\n{unit}".encode()
    digest = hashlib.blake2b(named, digest_size=8, key=key, person=b"driftloop canary").digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


def serves_canary(drawn: float, weight: float) -> bool:
    """Whether the canary answers whom `drawn` belongs to: nobody at weight 0, everybody at 1.

    A ramp from one weight to a higher one moves only those who are drawn between the two.
    """
    return drawn < weight
