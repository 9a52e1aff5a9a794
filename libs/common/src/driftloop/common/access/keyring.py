"""The API keys that a process honours: those that the file has now, or had when it could last be read."""

import hmac
import logging
import os
import secrets
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from driftloop.common.access import Caller, Refused, all_scopes
from driftloop.common.access.keyfile import (
    ID_CHARACTERS,
    PREFIX,
    SECRET_CHARACTERS,
    ApiKey,
    ApiKeyFileError,
    Fingerprint,
    digest_of,
    fingerprint,
    read_keys,
)
from driftloop.common.access.refusals import invalid
from driftloop.common.clock import Clock, utc_now

LOOK_SECONDS = 2.0

_PREFIX = PREFIX.encode()
_ID_END = len(_PREFIX) + ID_CHARACTERS
_BAR = ord("_")
_LENGTH = _ID_END + 1 + SECRET_CHARACTERS
_UNKNOWN = invalid("unknown-key", "this API key is not known here: ask for one made by `driftloop api-keys create`")
_EXPIRED = invalid("expired-key", "this API key has expired: ask for a new one, made by `driftloop api-keys create`")

logger = logging.getLogger(__name__)


class _Entry(NamedTuple):
    digest: bytes
    caller: Caller
    not_after: datetime | None


# What an unknown id is compared with, so that it takes as long as a known one. No secret has this digest.
_NOBODY = _Entry(secrets.token_bytes(32), Caller("", frozenset(), "anonymous"), None)


class KeyRing:
    """Knows callers by their API keys. Asked by one thread.

    The file is looked at when somebody asks, at most once in `look_seconds`, and read where it has changed.
    """

    def __init__(
        self,
        path: Path,
        clock: Clock = utc_now,
        look_seconds: float = LOOK_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read the file for the first time. Raises ApiKeyFileError."""
        self._path = path
        self._clock = clock
        self._look_seconds = look_seconds
        self._monotonic = monotonic
        self._problem: str | None = None
        self._next_look = monotonic() + look_seconds
        self._seen: Fingerprint
        self._entries: dict[bytes, _Entry]
        self._take()

    def caller(self, presented: bytes) -> Caller | Refused:
        """Whose key this is."""
        if self._monotonic() >= self._next_look:
            self._look()
        entry = self._entries.get(presented[len(_PREFIX) : _ID_END], _NOBODY)
        same = hmac.compare_digest(digest_of(presented[_ID_END + 1 : _LENGTH]), entry.digest)
        if not same or len(presented) != _LENGTH or presented[: len(_PREFIX)] != _PREFIX or presented[_ID_END] != _BAR:
            return _UNKNOWN
        if entry.not_after is not None and self._clock() >= entry.not_after:
            return _EXPIRED
        return entry.caller

    def problem(self) -> str | None:
        """What is wrong with the file, None if nothing: callers known from before are still known."""
        if self._problem is None and not self._entries:
            return f"{self._path}: holds no key: make one with `driftloop api-keys create`"
        return self._problem

    def _look(self) -> None:
        self._next_look = self._monotonic() + self._look_seconds
        if self._problem is None and self._unchanged():
            return
        try:
            self._take()
        except ApiKeyFileError as error:
            if str(error) != self._problem:
                logger.error(
                    "the API keys cannot be read, the last good ones are honoured", extra={"reason": str(error)}
                )
            self._problem = str(error)
        else:
            self._problem = None
            logger.info("the API keys were read anew", extra={"keys": len(self._entries)})

    def _unchanged(self) -> bool:
        try:
            return fingerprint(os.stat(self._path)) == self._seen
        except OSError:
            return False  # why, whoever reads it will say

    def _take(self) -> None:
        keys, self._seen = read_keys(self._path)
        self._entries = {key.id.encode(): _entry(key) for key in keys}


def _entry(key: ApiKey) -> _Entry:
    return _Entry(bytes.fromhex(key.sha256), Caller(key.name, all_scopes(key.scopes), "api-key"), key.not_after)
