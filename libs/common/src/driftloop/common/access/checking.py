"""The one thing that a service asks: who calls, and may they?"""

from collections.abc import Iterable

from driftloop.common import metrics
from driftloop.common.access import IMPLIED, Caller, Header, Refused, Scope, all_scopes
from driftloop.common.access.jwks import IssuerKeys
from driftloop.common.access.jwt import Tokens
from driftloop.common.access.keyfile import PREFIX
from driftloop.common.access.keyring import KeyRing
from driftloop.common.access.refusals import AMBIGUOUS, MISSING, forbidden, invalid

_KEY_PREFIX = PREFIX.encode()
_FORBIDDEN: dict[Scope, Refused] = {scope: forbidden(scope) for scope in IMPLIED}
_UNREADABLE = invalid(
    "unreadable", "this credential is neither an API key nor a token that is taken here: see `driftloop api-keys`"
)
_ANYBODY = Caller("anonymous", all_scopes(["admin"]), "anonymous")
_NOBODY = Caller("anonymous", frozenset(), "anonymous")


class Access:
    """Decides about requests, by API keys, by tokens or by both. Asked by one thread.

    `workers` are to run beside the service.
    """

    def __init__(
        self, ring: KeyRing | None = None, tokens: Tokens | None = None, workers: tuple[IssuerKeys, ...] = ()
    ) -> None:
        self._ring = ring
        self._tokens = tokens
        self._anybody = False
        self.workers = workers
        metrics.begin(metrics.ACCESS_REFUSED, [one.reason for one in (MISSING, _UNREADABLE, *_FORBIDDEN.values())])

    @classmethod
    def off(cls) -> "Access":
        """Whoever calls may do everything."""
        access = cls()
        access._anybody = True
        return access

    def check(self, headers: Iterable[Header], scope: Scope, anybody: bool = False) -> Caller | Refused:
        """Who sends these headers, if they may do what needs `scope`. Names are in lower case, as ASGI gives them.

        Where `anybody` may, a credential is not needed; one that is not good is refused all the same.
        """
        if self._anybody:
            return _ANYBODY
        found = self._caller(headers)
        if anybody and found is MISSING:
            return _NOBODY
        if isinstance(found, Caller):
            return found if scope in found.scopes else self.refuse(_FORBIDDEN[scope])
        return self.refuse(found)

    def refuse(self, refused: Refused) -> Refused:
        """Count a refusal, and return it."""
        metrics.ACCESS_REFUSED.labels(refused.reason).inc()
        return refused

    def note(self) -> str | None:
        """What an operator should know: keys that could not be read or fetched anew. None if all is well."""
        notes = [self._ring.problem()] if self._ring is not None else []
        notes += [keys.problem() for keys in self.workers]
        return "; ".join(note for note in notes if note is not None) or None

    def _caller(self, headers: Iterable[Header]) -> Caller | Refused:
        credential = _credential(headers)
        if isinstance(credential, Refused):
            return credential
        if self._ring is not None and credential.startswith(_KEY_PREFIX):
            return self._ring.caller(credential)
        if self._tokens is not None and credential.count(b".") == 2:
            return self._tokens.caller(credential)
        return _UNREADABLE


def _credential(headers: Iterable[Header]) -> bytes | Refused:
    """The only credential among the headers. One of another scheme is somebody else's, a proxy's perhaps."""
    credential: bytes | None = None
    for name, value in headers:
        if name == b"authorization":
            if value[:7].lower() != b"bearer ":
                continue
            value = value[7:]
        elif name != b"x-api-key":
            continue
        value = value.strip()
        if not value:
            continue
        if credential is not None and credential != value:
            return AMBIGUOUS
        credential = value
    return credential or MISSING
