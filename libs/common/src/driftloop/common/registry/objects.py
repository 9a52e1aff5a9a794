"""Artifacts in an object store, through fsspec: `s3://<bucket>/<prefix>/<model>/<version>/`.

The key of a content file holds the digest of its bytes, so that two writers never write different bytes to one key. The
manifest has one key and is written last, only if there is none where the server can promise that (S3 can). Whoever
reads begins with the manifest: a version without one is not there, so it appears whole or not at all.

Credentials and endpoint come from where the driver looks for them, for S3 the standard `AWS_…` variables, files and
roles; a URI that carries any is refused.
"""

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from typing import Any

import fsspec
from fsspec import AbstractFileSystem

from driftloop.common.registry.bundle import MANIFEST, MANIFEST_LIMIT, highest_number, plain, sha256, version_uri
from driftloop.common.registry.errors import (
    DELETED,
    ArtifactError,
    ArtifactMalformed,
    ArtifactMissing,
    StoreForbidden,
    StoreUnavailable,
    conflict,
)

# fsspec knows others, among them any web server: an event must not make a replica fetch from there.
SCHEMES = ("abfs", "gs", "s3")
# One call to the store, its retries included, lasts no longer than this and what its bytes may take.
CALL_SECONDS = 30.0
SLOWEST_BYTES_A_SECOND = 1e6
ATTEMPTS = 3
CONNECT_SECONDS, READ_SECONDS = 3.0, 10.0

_TIMES = ("LastModified", "last_modified", "mtime", "created")
_CREDENTIALS = re.compile("Credential|Authentication|Token")
# A single request, as far as S3 takes one: parts of an upload that broke off would stay, unseen and paid for.
_SINGLE_PUT = 5 * 2**30
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "s3": {
        "config_kwargs": {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": READ_SECONDS,
            "retries": {"mode": "standard", "total_max_attempts": ATTEMPTS},
        }
    }
}


def check_place(uri: str) -> None:
    """Raises ArtifactMalformed where a URI names no place in an object store, or its driver is not installed."""
    _opened(uri)


def write_objects(root_uri: str, model: str, version: int, files: Mapping[str, bytes]) -> str:
    """Keep `files` as one version for ever; returns its URI. Writing the same again changes nothing.

    Raises ArtifactConflict where the version exists with other content, ArtifactMalformed, ArtifactMissing (no such
    bucket), StoreForbidden, StoreUnavailable.
    """
    fs, root = _opened(root_uri)
    place = f"{root}/{model}/{version}"
    manifest = f"{place}/{MANIFEST}"
    with _explained(f"version {version} of model {model!r} in {root_uri!r}"):
        found = _found(fs, manifest)
        if found is None:
            for name, data in files.items():
                if name != MANIFEST:
                    _put(fs, _key(place, name, sha256(data)), data)
            _put_first(fs, manifest, files[MANIFEST])
            # Whoever was first is asked, not the answer to us: it may have been lost, and not every server has firsts.
            same = _found(fs, manifest) == files[MANIFEST]
        else:
            same = found == files[MANIFEST] and all(
                _found(fs, _key(place, name, sha256(data)), len(data) + 1) == data for name, data in files.items()
            )
    if not same:
        raise conflict(model, version)
    return version_uri(root_uri, model, version)


def read_version_object(uri: str, model: str, version: int, name: str, digest: str, limit: int) -> bytes:
    """The first `limit` bytes of one file of the version at `uri`; `digest` is that of its bytes.

    Raises ArtifactMissing, ArtifactMalformed where the URI is not the version's, StoreForbidden, StoreUnavailable.
    """
    fs, place = _version_place(uri, model, version)
    with _explained(f"{name} of {uri!r}"):
        return _read(fs, _key(place, name, digest), limit)


def highest_objects(root_uri: str, model: str) -> int:
    """The highest number in whose place something is, 0 for none.

    Raises ArtifactMalformed, StoreForbidden, StoreUnavailable.
    """
    fs, root = _opened(root_uri)
    with _explained(f"{model} in {root_uri!r}"), suppress(FileNotFoundError):
        keys: list[str] = fs.ls(f"{root}/{model}", detail=False, **_bounds(fs))
        return highest_number(key.rstrip("/").rpartition("/")[2] for key in keys)
    return 0


def drop_objects(uri: str, model: str, version: int) -> None:
    """Delete the version at `uri`, its manifest first; one that is not there, or half deleted, is no error.

    Raises ArtifactMissing where the bucket is not there, ArtifactMalformed, StoreForbidden, StoreUnavailable.
    """
    fs, place = _version_place(uri, model, version)
    with _explained(f"{uri!r}"):
        _remove(fs, f"{place}/{MANIFEST}")
        for key in fs.find(place, **_bounds(fs)):
            _remove(fs, key)


def keep_object(root_uri: str, folder: str, name: str, data: bytes) -> None:
    """Write `<root>/<folder>/<name>` whole or not at all; one that is there is replaced.

    Raises ArtifactMalformed, ArtifactMissing (no such bucket), StoreForbidden, StoreUnavailable.
    """
    fs, root = _opened(root_uri)
    with _explained(f"{folder}/{name} in {root_uri!r}"):
        _put(fs, f"{root}/{folder}/{name}", data)


def kept_object(root_uri: str, folder: str, name: str, limit: int) -> bytes:
    """The first `limit` bytes of `<root>/<folder>/<name>`.

    Raises ArtifactMissing, ArtifactMalformed, StoreForbidden, StoreUnavailable.
    """
    fs, root = _opened(root_uri)
    with _explained(f"{folder}/{name} in {root_uri!r}"):
        return _read(fs, f"{root}/{folder}/{name}", limit)


def list_kept_objects(root_uri: str, folder: str) -> dict[str, datetime]:
    """The files in `<root>/<folder>` and when each was written; one of which the driver does not know it is left out.

    Raises ArtifactMalformed, StoreForbidden, StoreUnavailable.
    """
    fs, root = _opened(root_uri)
    with _explained(f"{folder} in {root_uri!r}"):
        found: dict[str, dict[str, Any]] = fs.find(f"{root}/{folder}", detail=True, **_bounds(fs))
    times = {key.rpartition("/")[2]: _written(info) for key, info in found.items()}
    return {name: time for name, time in times.items() if time is not None}


def delete_kept_object(root_uri: str, folder: str, name: str) -> None:
    """Delete `<root>/<folder>/<name>`; one that is not there is no error.

    Raises ArtifactMissing where the bucket is not there, ArtifactMalformed, StoreForbidden, StoreUnavailable.
    """
    fs, root = _opened(root_uri)
    with _explained(f"{folder}/{name} in {root_uri!r}"):
        _remove(fs, f"{root}/{folder}/{name}")


# --- places


def _opened(uri: str) -> tuple[AbstractFileSystem, str]:
    """The driver of a URI, and the path that the URI means to it. Raises ArtifactMalformed."""
    scheme, _, path = uri.partition("://")
    segments = path.rstrip("/").split("/")
    if not all(map(plain, segments)):
        # What is not understood may hold a password.
        raise ArtifactMalformed(
            f"a {scheme}:// URI must be such as {scheme}://bucket/prefix, of letters, digits and . _ = + , ~ - and"
            " without '.' and '..': credentials come from the environment, never from here"
        )
    return _filesystem(scheme.lower(), os.getpid()), "/".join(segments)


def _version_place(uri: str, model: str, version: int) -> tuple[AbstractFileSystem, str]:
    fs, place = _opened(uri)
    if place.split("/")[1:][-2:] != [model, str(version)]:
        raise ArtifactMalformed(f"{uri!r} is not version {version} of model {model!r}: it must end so")
    return fs, place


def _key(place: str, name: str, digest: str) -> str:
    return f"{place}/{name}" if name == MANIFEST else f"{place}/{digest}/{name}"


@cache
def _filesystem(protocol: str, process: int) -> AbstractFileSystem:
    """One driver for all threads of a process: those of fsspec's own cache are one a thread, and stay."""
    try:
        found = fsspec.filesystem(
            protocol, skip_instance_cache=True, use_listings_cache=False, **_OPTIONS.get(protocol, {})
        )
    except ImportError as error:
        extra = "install driftloop-common[s3]" if protocol == "s3" else "install what fsspec needs for it"
        raise ArtifactMalformed(f"{protocol}:// has no driver here: {extra}") from error
    # s3fs would try again what botocore has tried already.
    found.retries = 1
    return found


# --- files


def _put(fs: AbstractFileSystem, key: str, data: bytes, **how: Any) -> None:
    whole = {"chunksize": _SINGLE_PUT} if "s3" in fs.protocol else {}
    fs.pipe_file(key, data, **whole, **how, **_bounds(fs, len(data)))


def _put_first(fs: AbstractFileSystem, key: str, data: bytes) -> None:
    """Write an object unless there is one. That there is one already is no error."""
    try:
        _put(fs, key, data, mode="create")
    except OSError as error:
        if error.errno == errno.ENOSYS:
            _put(fs, key, data)
        # Drivers say "there is one" in several ways, and so may a retry of our own write.
        elif _found(fs, key) is None:
            raise


def _read(fs: AbstractFileSystem, key: str, limit: int) -> bytes:
    try:
        return bytes(fs.cat_file(key, start=0, end=limit, **_bounds(fs, limit)))
    except OSError as error:
        # S3 knows no range of an empty object.
        if error.errno != errno.EINVAL or fs.info(key, **_bounds(fs))["size"] != 0:
            raise
        return b""


def _written(info: Mapping[str, Any]) -> datetime | None:
    """When an object was written, which each driver tells in a word of its own, as an instant or in seconds."""
    time = next((info[name] for name in _TIMES if name in info), None)
    if isinstance(time, float):
        return datetime.fromtimestamp(time, UTC)
    return time if isinstance(time, datetime) else None


def _found(fs: AbstractFileSystem, key: str, limit: int = MANIFEST_LIMIT + 1) -> bytes | None:
    try:
        return _read(fs, key, limit)
    except FileNotFoundError:
        return None


def _remove(fs: AbstractFileSystem, key: str) -> None:
    with suppress(FileNotFoundError):
        fs.rm_file(key, **_bounds(fs))
        return
    bucket = key.lstrip("/").split("/")[0]
    if not fs.exists(bucket, **_bounds(fs)):
        raise FileNotFoundError(bucket)


def _bounds(fs: AbstractFileSystem, size: int = 0) -> dict[str, float]:
    """How long a call for so many bytes may take; a driver that is not asynchronous knows no such limit.

    The driver's own limits do not see a server that never asks for the body that was announced to it.
    """
    return {"timeout": CALL_SECONDS + size / SLOWEST_BYTES_A_SECOND} if fs.async_impl else {}


# --- errors


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # The boundary to drivers: each has errors of its own.
        raise _refusal(error, what) from error


def _refusal(error: Exception, what: str) -> ArtifactError:
    kind = type(error).__name__
    if isinstance(error, FileNotFoundError):
        return ArtifactMissing(f"{what} is not there: check that the bucket is, and {DELETED}")
    if isinstance(error, PermissionError) or _CREDENTIALS.search(kind):
        return StoreForbidden(
            f"{what}: the store refuses ({_said(error)}): check the credentials in the environment, and that they may"
            " list the bucket, read there and, for the trainer, write and delete"
        )
    return StoreUnavailable(
        f"{what}: the store did not do it ({_said(error)}): check its address and region, and the space that is left"
    )


def _said(error: Exception) -> str:
    """What went wrong: a server's own words, of an error of the driver's the kind alone: it may hold an address."""
    kind = type(error).__name__
    words = str(getattr(error, "strerror", None) or (error.args[0] if isinstance(error, PermissionError) else ""))
    return " ".join(f"{kind} {words}".split())[:300]
