"""Tokens that an issuer has signed (RFC 7519), checked as RFC 8725 says."""

import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import jwt

from driftloop.common.access import IMPLIED, Caller, Refused, all_scopes
from driftloop.common.access.jwks import IssuerKeys
from driftloop.common.access.refusals import invalid, unavailable
from driftloop.common.clock import Clock, utc_now

# Signatures that only the issuer can make. A shared secret, or none, is never taken.
Algorithm = Literal["RS256", "ES256", "EdDSA"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)

TOKEN_LIMIT = 16 * 1024
# A signature takes a hundred times as long to check as to remember. A key that was withdrawn is honoured as long.
REMEMBER_SECONDS = 60.0
MAX_REMEMBERED = 4096

_INVALID = invalid("invalid-token", "this token is not good: get a new one from the issuer that is configured here")
_EXPIRED = invalid("expired-token", "this token has expired: get a new one from its issuer")
_UNKNOWN_KEY = invalid(
    "unknown-signer", "this token's key is not among its issuer's: try again in a few seconds, or get a new token"
)
_NO_KEYS = unavailable("the issuer's keys could not be fetched yet: try again later")


class Rules(NamedTuple):
    """Whose tokens are good, and for whom they must be; `leeway_seconds` is what clocks may differ by."""

    issuer: str
    audience: str
    leeway_seconds: float = 30.0


class Tokens:
    """Knows callers by their tokens. Asked by one thread."""

    def __init__(
        self,
        rules: Rules,
        keys: IssuerKeys,
        clock: Clock = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules = rules
        self._keys = keys
        self._clock = clock
        self._monotonic = monotonic
        # Digest of a token that was found good → whose it is, and until when that needs no other check.
        self._remembered: dict[bytes, tuple[Caller, float]] = {}

    def caller(self, presented: bytes) -> Caller | Refused:
        """Whose token this is."""
        digest = hashlib.sha256(presented).digest()
        now = self._monotonic()
        remembered = self._remembered.get(digest)
        if remembered is not None and now < remembered[1]:
            return remembered[0]
        self._remembered.pop(digest, None)
        claims = self._claims(presented)
        if isinstance(claims, Refused):
            return claims
        # The issuer is one and the same: what follows it cannot be taken for another's.
        caller = Caller(f"{self._rules.issuer}|{claims['sub']}", all_scopes(scopes_of(claims)), "jwt")
        self._remember(digest, caller, now + self._good_seconds(claims))
        return caller

    def _claims(self, presented: bytes) -> Mapping[str, Any] | Refused:
        if len(presented) > TOKEN_LIMIT:
            return _INVALID
        try:
            header = jwt.get_unverified_header(presented)
            if header["alg"] not in self._keys.algorithms:
                return _INVALID
            key = self._keys.key(header.get("kid"), header["alg"])
            if key is None:
                return _UNKNOWN_KEY if self._keys.known else _NO_KEYS
            return jwt.decode(
                presented,
                key,
                algorithms=[key.algorithm_name],
                audience=self._rules.audience,
                issuer=self._rules.issuer,
                leeway=self._rules.leeway_seconds,
                options={"require": ["exp", "iss", "aud", "sub"], "enforce_minimum_key_length": True},
            )
        except jwt.ExpiredSignatureError:
            return _EXPIRED
        except (jwt.PyJWTError, ValueError, TypeError, LookupError, RecursionError):
            return _INVALID

    def _good_seconds(self, claims: Mapping[str, Any]) -> float:
        now = self._clock().timestamp()
        return min(int(claims["exp"]), now + REMEMBER_SECONDS) - now

    def _remember(self, digest: bytes, caller: Caller, until: float) -> None:
        self._remembered[digest] = (caller, until)
        if len(self._remembered) > MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]


def scopes_of(claims: Mapping[str, Any]) -> set[Any]:
    """The scopes that we know among a token's: `scope` is one text, `scp` a text or a list."""
    said = claims.get("scope", claims.get("scp", ""))
    texts = said.split(" ") if isinstance(said, str) else said if isinstance(said, list) else []
    return {text for text in texts if isinstance(text, str) and text in IMPLIED}
