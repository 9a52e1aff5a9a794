"""Artifacts in a folder: `file:///<root>/<model>/<version>/`.

A version appears whole or not at all: it is written under another name, forced to disk and then renamed. Below the root
no symbolic link is followed, so that nothing planted there can lead out of it.
"""

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from driftloop.common.registry.bundle import highest_number
from driftloop.common.registry.errors import (
    DELETED,
    ArtifactError,
    ArtifactMalformed,
    ArtifactMissing,
    StoreUnavailable,
    conflict,
)

_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_UNFINISHED = ".unfinished-"
_LOCK = ".lock"
# How an open that follows no link fails at one: at a file, and at a folder.
_NOT_PLAIN = (errno.ELOOP, errno.ENOTDIR)


def check_folder(uri: str) -> None:
    """Raises ArtifactMalformed where a `file` URI is no absolute path on this machine."""
    _path(uri)


def write_folder(root_uri: str, model: str, version: int, files: Mapping[str, bytes]) -> str:
    """Keep `files` as one version for ever; returns its URI. Writing the same again changes nothing.

    Raises ArtifactConflict where the version exists with other content, ArtifactMalformed, StoreUnavailable.
    """
    root = _path(root_uri)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            top = stack.enter_context(_opened(root, _FOLDER))
            _make_folder(model, top)
            folder = stack.enter_context(_opened(model, _FOLDER | os.O_NOFOLLOW, top))
            stack.enter_context(_locked(folder))
            _discard_unfinished(folder)
            if str(version) in os.listdir(folder):
                _require_same(folder, model, version, files)
            else:
                _write_new(folder, version, files)
            # Also where it was there already: whoever wrote it may have died before this.
            os.fsync(folder)
            os.fsync(top)
    except OSError as error:
        raise _refusal(error, f"version {version} of model {model!r} in {root_uri!r}") from error
    return (root / model / str(version)).as_uri()


def read_file(uri: str, model: str, version: int, name: str, _digest: str, limit: int) -> bytes:
    """The first `limit` bytes of one file of the version at `uri`.

    Raises ArtifactMissing, ArtifactMalformed where the URI or the file is not what it must be, StoreUnavailable.
    """
    path = _version_path(uri, model, version)
    try:
        with ExitStack() as stack:
            folder = stack.enter_context(_opened(path.parent.parent, _FOLDER))
            for part in (model, str(version)):
                folder = stack.enter_context(_opened(part, _FOLDER | os.O_NOFOLLOW, folder))
            return _read(folder, name, limit)
    except OSError as error:
        raise _refusal(error, f"{name} of {uri!r}") from error


def highest_folder(root_uri: str, model: str) -> int:
    """The highest number in whose place something is, 0 for none. Raises ArtifactMalformed, StoreUnavailable."""
    try:
        with ExitStack() as stack:
            return highest_number(os.listdir(_existing(root_uri, model, stack)))
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise _refusal(error, f"{model} in {root_uri!r}") from error


def drop_folder(uri: str, model: str, version: int) -> None:
    """Delete the version at `uri`, whole: it is renamed first, so that none reads half of it. Again is no error.

    Raises ArtifactMalformed, StoreUnavailable, and ArtifactMissing where the root itself is not there: it may be a
    volume that is not mounted.
    """
    path = _version_path(uri, model, version)
    try:
        with ExitStack() as stack:
            top = stack.enter_context(_opened(path.parent.parent, _FOLDER))
            if model not in os.listdir(top):
                return
            folder = stack.enter_context(_opened(model, _FOLDER | os.O_NOFOLLOW, top))
            stack.enter_context(_locked(folder))
            # Also what a deletion that died has left.
            _discard_unfinished(folder)
            with suppress(FileNotFoundError):
                os.rename(str(version), f"{_UNFINISHED}{version}", src_dir_fd=folder, dst_dir_fd=folder)
            _discard_unfinished(folder)
            os.fsync(folder)
    except OSError as error:
        raise _refusal(error, f"{uri!r}") from error


def keep_file(root_uri: str, folder: str, name: str, data: bytes) -> None:
    """Write `<root>/<folder>/<name>` whole or not at all, for its owner's eyes only; one that is there is replaced.

    Raises ArtifactMalformed, StoreUnavailable.
    """
    root = _path(root_uri)
    try:
        # What it holds may not be for those who read the root.
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with ExitStack() as stack:
            top = stack.enter_context(_opened(root, _FOLDER))
            _make_folder(folder, top, 0o700)
            place = stack.enter_context(_opened(folder, _FOLDER | os.O_NOFOLLOW, top))
            stack.enter_context(_locked(place))
            unfinished = f"{_UNFINISHED}{name}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with (
                _opened(unfinished, flags, place, 0o600) as descriptor,
                os.fdopen(descriptor, "wb", closefd=False) as file,
            ):
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            os.rename(unfinished, name, src_dir_fd=place, dst_dir_fd=place)
            os.fsync(place)
            os.fsync(top)
    except OSError as error:
        raise _refusal(error, f"{folder}/{name} in {root_uri!r}") from error


def kept_file(root_uri: str, folder: str, name: str, limit: int) -> bytes:
    """The first `limit` bytes of `<root>/<folder>/<name>`.

    Raises ArtifactMissing, ArtifactMalformed, StoreUnavailable.
    """
    try:
        with ExitStack() as stack:
            return _read(_existing(root_uri, folder, stack), name, limit)
    except OSError as error:
        raise _refusal(error, f"{folder}/{name} in {root_uri!r}") from error


def list_files(root_uri: str, folder: str) -> dict[str, datetime]:
    """The files in `<root>/<folder>` and when each was written; one that is half written by the name that it would get.

    Raises ArtifactMalformed, StoreUnavailable.
    """
    try:
        with ExitStack() as stack:
            place = _existing(root_uri, folder, stack)
            entries = stack.enter_context(os.scandir(place))
            return {
                one.name.removeprefix(_UNFINISHED): datetime.fromtimestamp(
                    one.stat(follow_symlinks=False).st_mtime, UTC
                )
                for one in entries
                if one.name != _LOCK and one.is_file(follow_symlinks=False)
            }
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _refusal(error, f"{folder} in {root_uri!r}") from error


def delete_file(root_uri: str, folder: str, name: str) -> None:
    """Delete `<root>/<folder>/<name>` and what a writer that died left of it; one that is not there is no error.

    Raises StoreUnavailable, and ArtifactMissing where the root itself is not there: it may be a volume that is not
    mounted.
    """
    try:
        with ExitStack() as stack:
            top = stack.enter_context(_opened(_path(root_uri), _FOLDER))
            if folder not in os.listdir(top):
                return
            place = stack.enter_context(_opened(folder, _FOLDER | os.O_NOFOLLOW, top))
            stack.enter_context(_locked(place))
            for one in (name, f"{_UNFINISHED}{name}"):
                with suppress(FileNotFoundError):
                    os.unlink(one, dir_fd=place)
            os.fsync(place)
    except OSError as error:
        raise _refusal(error, f"{folder}/{name} in {root_uri!r}") from error


def _path(uri: str) -> Path:
    """The absolute path that a `file` URI names. Raises ArtifactMalformed."""
    remedy = "give a URI such as file:///var/lib/driftloop/artifacts"
    try:
        parts = urlsplit(uri)
        path = unquote(parts.path, errors="strict")
    except ValueError as error:
        raise ArtifactMalformed(f"{uri!r} cannot be understood: {remedy}") from error
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment or not path.startswith("/"):
        raise ArtifactMalformed(f"{uri!r} is not an absolute path on this machine: {remedy}")
    if "\0" in path or not {".", ".."}.isdisjoint(path.split("/")):
        raise ArtifactMalformed(f"{uri!r} leaves its folder: {remedy}, without '.' and '..'")
    return Path("/", path.lstrip("/"))


def _existing(root_uri: str, folder: str, stack: ExitStack) -> int:
    """The descriptor of a folder in the root, as long as the stack is. Raises OSError."""
    top = stack.enter_context(_opened(_path(root_uri), _FOLDER))
    return stack.enter_context(_opened(folder, _FOLDER | os.O_NOFOLLOW, top))


def _version_path(uri: str, model: str, version: int) -> Path:
    path = _path(uri)
    if path.parts[-2:] != (model, str(version)):
        raise ArtifactMalformed(f"{uri!r} is not version {version} of model {model!r}: it must end so")
    return path


def _refusal(error: OSError, what: str) -> ArtifactError:
    if error.errno == errno.ENOENT:
        return ArtifactMissing(
            f"{what} is not there: check that the trainer's volume is mounted here too, and {DELETED}"
        )
    if error.errno in _NOT_PLAIN:
        return ArtifactMalformed(f"{what} is behind a symbolic link, or a folder is none: use plain files and folders")
    return StoreUnavailable(f"{what}: {error.strerror}: check the volume's owner, its mode and the space that is left")


@contextmanager
def _opened(path: str | Path, flags: int, folder: int | None = None, mode: int = 0o666) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC, mode, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _locked(folder: int) -> Iterator[None]:
    """One writer a model. A file of its own, because network file systems do not lock a folder."""
    with _opened(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, folder) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # closing unlocks
        yield


def _make_folder(name: str, folder: int, mode: int = 0o777) -> None:
    try:
        os.mkdir(name, mode, dir_fd=folder)
    except FileExistsError:
        return  # what it is shows when it is opened


def _discard_unfinished(folder: int) -> None:
    """Remove what writers that died have left; the lock says that none is at work."""
    for name in os.listdir(folder):
        if name.startswith(_UNFINISHED):
            shutil.rmtree(name, dir_fd=folder)


def _write_new(folder: int, version: int, files: Mapping[str, bytes]) -> None:
    unfinished = f"{_UNFINISHED}{version}"
    os.mkdir(unfinished, dir_fd=folder)
    with _opened(unfinished, _FOLDER | os.O_NOFOLLOW, folder) as target:
        for name, data in files.items():
            with (
                _opened(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, target) as descriptor,
                os.fdopen(descriptor, "wb", closefd=False) as file,
            ):
                file.write(data)
                file.flush()
                os.fsync(descriptor)
        os.fsync(target)
    os.rename(unfinished, str(version), src_dir_fd=folder, dst_dir_fd=folder)


def _require_same(folder: int, model: str, version: int, files: Mapping[str, bytes]) -> None:
    try:
        with _opened(str(version), _FOLDER | os.O_NOFOLLOW, folder) as existing:
            same = all(_read(existing, name, len(data) + 1) == data for name, data in files.items())
    except ArtifactMalformed:
        same = False
    except OSError as error:
        if error.errno not in (errno.ENOENT, *_NOT_PLAIN):
            raise
        same = False
    if not same:
        raise conflict(model, version)


def _read(folder: int, name: str, limit: int) -> bytes:
    # Without O_NONBLOCK a named pipe in a file's place would hold the reader for ever.
    with _opened(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, folder) as descriptor:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ArtifactMalformed(f"{name} is not a plain file: restore it, or roll back to another version")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(limit)
