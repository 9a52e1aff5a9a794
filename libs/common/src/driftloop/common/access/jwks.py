"""The public keys of an issuer of tokens (RFC 7517): fetched in a thread of their own, and kept while it is away."""

import logging
import threading
import time
import urllib.request
from collections.abc import Callable, Collection, Mapping
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import msgspec
from jwt import PyJWK

from driftloop.common.settings import SettingsError

FETCH_SECONDS = 5.0
FETCH_LIMIT = 1024 * 1024
# How often the keys are fetched; after a failure; and no sooner than this, whatever keys tokens name.
REFRESH_SECONDS = 300.0
RETRY_SECONDS = 15.0
LEAST_SECONDS = 5.0
TICK_SECONDS = 0.5

_LOOPBACK = ("localhost", "127.0.0.1", "::1")

logger = logging.getLogger(__name__)

Fetch = Callable[[], bytes]
# Key id and algorithm → key; the id None stands for an algorithm's only key.
KeySet = Mapping[tuple[str | None, str], PyJWK]


class KeysUnavailable(Exception):
    """The issuer's keys cannot be had now; the text says why."""


class IssuerKeys:
    """A worker: keeps an issuer's keys fresh. Any thread may ask for one."""

    name = "issuer-keys"

    def __init__(self, fetch: Fetch, algorithms: Collection[str], least_seconds: float = LEAST_SECONDS) -> None:
        self._fetch = fetch
        self.algorithms = frozenset(algorithms)
        self._least_seconds = least_seconds
        self._keys: KeySet | None = None
        self._wanted = threading.Event()
        self._problem: str | None = "the issuer's keys were not fetched yet"

    @property
    def known(self) -> bool:
        """Whether there are any keys yet."""
        return self._keys is not None

    def key(self, key_id: str | None, algorithm: str) -> PyJWK | None:
        """The key of this id, or the algorithm's only one for None. One that is unknown has the keys fetched soon."""
        found = None if self._keys is None else self._keys.get((key_id, algorithm))
        if found is None:
            self._wanted.set()
        return found

    def problem(self) -> str | None:
        """Why the keys are not fresh, None if they are."""
        return self._problem

    def refresh(self) -> None:
        """Fetch the keys now. Raises KeysUnavailable, and keeps those that there were."""
        try:
            self._keys = read_key_set(self._fetch(), self.algorithms)
        except KeysUnavailable as error:
            if str(error) != self._problem:
                logger.error("the issuer's keys were not fetched", extra={"reason": str(error)})
            self._problem = str(error)
            raise
        if self._problem is not None:
            logger.info("the issuer's keys were fetched", extra={"keys": len(self._keys)})
        self._problem = None

    def run(self, stop: threading.Event) -> None:
        """Fetch the keys now and then until told to stop."""
        while not stop.is_set():
            self._wanted.clear()
            due = time.monotonic() + REFRESH_SECONDS
            try:
                self.refresh()
            except KeysUnavailable:
                due = time.monotonic() + max(RETRY_SECONDS, self._least_seconds)
            if stop.wait(self._least_seconds):
                return
            while not self._wanted.wait(TICK_SECONDS) and time.monotonic() < due:
                if stop.is_set():
                    return


class _Set(msgspec.Struct, frozen=True):
    keys: list[dict[str, Any]]


def read_key_set(data: bytes, algorithms: Collection[str]) -> KeySet:
    """The keys of a JSON Web Key Set that verify by one of `algorithms`. Raises KeysUnavailable where there is none."""
    try:
        members = msgspec.json.decode(data, type=_Set).keys
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise KeysUnavailable("what the issuer publishes is no JSON Web Key Set: check DRIFTLOOP_JWT_JWKS") from error
    usable = [key for member in members if (key := _key(member, algorithms)) is not None]
    if not usable:
        raise KeysUnavailable(f"the issuer publishes no key for {', '.join(sorted(algorithms))}: check both")
    keys: dict[tuple[str | None, str], PyJWK] = {}
    for algorithm in algorithms:
        own = [key for key in usable if key.algorithm_name == algorithm]
        keys |= {(key.key_id, algorithm): key for key in own if key.key_id is not None}
        if len(own) == 1:
            keys[None, algorithm] = own[0]
    return keys


def _key(member: dict[str, Any], algorithms: Collection[str]) -> PyJWK | None:
    # A set with a private key is an issuer's accident: what anybody can sign proves nothing.
    if member.get("use", "sig") != "sig" or "d" in member or not isinstance(member.get("kid", ""), str):
        return None
    try:
        key = PyJWK(member)
    except Exception as error:  # noqa: BLE001 - what others publish; its text may quote the key
        logger.warning("a key of the issuer is not understood", extra={"error": type(error).__name__})
        return None
    return key if key.algorithm_name in algorithms else None


def fetcher(source: str) -> Fetch:
    """What fetches a key set from a URL or a file; what it raises is KeysUnavailable. Raises SettingsError."""
    if "://" not in source:
        return lambda: _read_file(Path(source).expanduser())
    try:
        parts = urlsplit(source)
        host = parts.hostname
    except ValueError as error:
        raise SettingsError(f"DRIFTLOOP_JWT_JWKS={source!r}: {error}: give an https URL or a file") from error
    if parts.username is not None or parts.password is not None:
        raise SettingsError("DRIFTLOOP_JWT_JWKS holds a password: key sets are public, give their URL without one")
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK)):
        raise SettingsError(
            f"DRIFTLOOP_JWT_JWKS={source!r}: whoever can change the keys can make tokens: give an https URL or a file"
        )
    return lambda: _fetch_url(source)


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(FETCH_LIMIT)
    except OSError as error:
        raise KeysUnavailable(f"DRIFTLOOP_JWT_JWKS={path}: cannot be read ({error.strerror}): check it") from error


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect could lead away from https; whoever publishes keys can say where they are."""

    def redirect_request(
        self, _req: object, _fp: IO[bytes], _code: int, _msg: str, _headers: HTTPMessage, _newurl: str
    ) -> None:
        return None


def _fetch_url(url: str) -> bytes:
    deadline = time.monotonic() + FETCH_SECONDS
    opener = urllib.request.build_opener(_NoRedirects)
    request = urllib.request.Request(url, headers={"accept": "application/json", "user-agent": "driftloop"})
    parts: list[bytes] = []
    size = 0
    try:
        with opener.open(request, timeout=FETCH_SECONDS) as response:
            while part := response.read1(65536):
                parts.append(part)
                size += len(part)
                if size > FETCH_LIMIT:
                    raise KeysUnavailable(f"{url} answers more than {FETCH_LIMIT} bytes: check DRIFTLOOP_JWT_JWKS")
                if time.monotonic() > deadline:
                    raise TimeoutError
    except (OSError, HTTPException, ValueError) as error:
        raise KeysUnavailable(f"{url} was not fetched ({_reason(error)})") from error
    return b"".join(parts)


def _reason(error: Exception) -> str:
    status = getattr(error, "code", None)
    return f"status {status}" if isinstance(status, int) else str(getattr(error, "reason", "") or type(error).__name__)
