"""The file of API keys: who may call, as hashes. Read strictly; changed by one at a time, whole or not at all.

A key reads `dl_<id>_<secret>`: an id that may be logged, and 256 random bits that are shown once and kept nowhere.
"""

import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from driftloop.common.access import Scope
from driftloop.common.folders import replace_file

PREFIX = "dl_"
ID_CHARACTERS = 12
SECRET_CHARACTERS = 43
FILE_LIMIT = 4 * 1024 * 1024
MODE = 0o600

# What is hashed is 256 random bits, which nobody can guess: a slow hash would protect nothing and cost every request.
_DOMAIN = b"driftloop api key v1\n"

KeyId = Annotated[str, Meta(pattern=rf"\A[a-z0-9]{{{ID_CHARACTERS}}}\Z")]
KeyName = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
Instant = Annotated[datetime, Meta(tz=True)]


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key as the file has it. It is good before `not_after`, for ever where that is None."""

    id: KeyId
    name: KeyName
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1)]
    sha256: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    created: Instant
    not_after: Instant | None = None

    def expired(self, now: datetime) -> bool:
        """Whether it is good no more."""
        return self.not_after is not None and now >= self.not_after


class ApiKeyFileError(ValueError):
    """A file of API keys cannot be used or changed. Names the file and the remedy, and no secret."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")


class Fingerprint(NamedTuple):
    """What differs between a file and what it was changed to."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


class _KeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: tuple[ApiKey, ...]


def digest_of(secret: bytes) -> bytes:
    """What is kept of a secret: 32 bytes."""
    return hashlib.sha256(_DOMAIN + secret).digest()


def fingerprint(found: os.stat_result) -> Fingerprint:
    """The fingerprint of a file that was looked at."""
    return Fingerprint(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def read_keys(path: Path) -> tuple[tuple[ApiKey, ...], Fingerprint]:
    """The keys in a file, and the fingerprint of what was read. Raises ApiKeyFileError."""
    try:
        data, found = _read(path)
    except FileNotFoundError as error:
        raise ApiKeyFileError(path, "does not exist: make it with `driftloop api-keys create`") from error
    except OSError as error:
        raise ApiKeyFileError(path, f"cannot be read ({error.strerror}): check its mode and its owner") from error
    return _decode(path, data), fingerprint(found)


@contextmanager
def changing(path: Path) -> Iterator[list[ApiKey]]:
    """The keys in a file, to be changed in place; written when the block ends well. One at a time, others wait.

    A file that is not there yet has none. Raises ApiKeyFileError.
    """
    # What a link points to is changed, and the link stays.
    path = Path(os.path.realpath(path))
    with _one_at_a_time(path):
        keys: list[ApiKey] = []
        if os.path.lexists(path):
            keys.extend(read_keys(path)[0])
        before = list(keys)
        yield keys
        if keys != before:
            _replace(path, keys)


def _decode(path: Path, data: bytes) -> tuple[ApiKey, ...]:
    remedy = "correct it, or restore the file"
    try:
        keys = msgspec.json.decode(data, type=_KeyFile).keys
    except msgspec.ValidationError as error:
        raise ApiKeyFileError(path, f"{error}: {remedy}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiKeyFileError(path, f"is not JSON ({error}): {remedy}") from error
    seen: set[str] = set()
    for place, key in enumerate(keys):
        if key.id in seen:
            raise ApiKeyFileError(path, f"$.keys[{place}].id: {key.id!r} is there twice: remove one of them")
        seen.add(key.id)
    return keys


def _read(path: Path) -> tuple[bytes, os.stat_result]:
    # Without O_NONBLOCK a named pipe in the file's place would hold the reader for ever.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ApiKeyFileError(path, "is not a plain file: name the file of API keys")
        if found.st_size > FILE_LIMIT:
            raise ApiKeyFileError(path, f"has {found.st_size} bytes, at most {FILE_LIMIT} are read: revoke old keys")
        return file.read(FILE_LIMIT), found


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """A file of its own is locked, because the other one is replaced."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.parent / f".{path.name}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)  # which unlocks


def _replace(path: Path, keys: Sequence[ApiKey]) -> None:
    data = msgspec.json.format(msgspec.json.encode(_KeyFile(tuple(keys))), indent=2) + b"\n"
    try:
        replace_file(path, data, MODE, partial(_keep_owner, path))
    except OSError as error:
        raise _unwritable(path, error) from error


def _keep_owner(path: Path, draft: int) -> None:
    """Whoever could read the file must be able to read what replaces it: a service that runs as another user."""
    try:
        before = path.stat()
    except FileNotFoundError:
        return
    now = os.fstat(draft)
    if (before.st_uid, before.st_gid) != (now.st_uid, now.st_gid):
        os.fchown(draft, before.st_uid, before.st_gid)
    os.fchmod(draft, stat.S_IMODE(before.st_mode))


def _unwritable(path: Path, error: OSError) -> ApiKeyFileError:
    return ApiKeyFileError(
        path, f"cannot be written ({error.strerror}): check who owns it and its folder, and the space that is left"
    )
