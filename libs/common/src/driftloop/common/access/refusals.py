"""What a caller is told who is refused: the status of RFC 9110 and the challenge of RFC 6750."""

import math

from driftloop.common.access import Refused, Scope

_CHALLENGE = b"www-authenticate"

MISSING = Refused(
    401,
    "missing",
    "a credential is needed: send `Authorization: Bearer <key>` or `X-API-Key: <key>`",
    ((_CHALLENGE, b"Bearer"),),
)
AMBIGUOUS = Refused(
    400,
    "ambiguous",
    "the request has several credentials that differ: send one",
    ((_CHALLENGE, b'Bearer error="invalid_request"'),),
)


def invalid(reason: str, detail: str) -> Refused:
    """The credential is not good."""
    return Refused(401, reason, detail, ((_CHALLENGE, b'Bearer error="invalid_token"'),))


def forbidden(scope: Scope) -> Refused:
    """The credential is good, and not for this."""
    challenge = f'Bearer error="insufficient_scope", scope="{scope}"'.encode()
    detail = f"this needs the scope {scope!r}, which the credential lacks: ask for one that has it"
    return Refused(403, "scope", detail, ((_CHALLENGE, challenge),))


def unavailable(detail: str) -> Refused:
    """Whether the credential is good cannot be told now."""
    return Refused(503, "unavailable", detail, ((b"retry-after", b"1"),))


def too_many(seconds: float) -> Refused:
    """The caller asks too often, and may come again after `seconds`."""
    wait = max(1, math.ceil(seconds))
    return Refused(
        429, "rate", f"too many requests: come again after {wait} s", ((b"retry-after", str(wait).encode()),)
    )
