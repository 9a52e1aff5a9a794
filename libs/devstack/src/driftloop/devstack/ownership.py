"""Who needs a server: a shared lock that the kernel lets go when its holder dies, however it dies."""

import fcntl
import os
from pathlib import Path

_FILE = "owners"
# Open for as long as this process needs the server of that folder.
_holds: dict[Path, int] = {}


def hold(folder: Path) -> None:
    """Have this process own the server of `folder`, beside any other owners.

    Waits while a server without owners is being stopped, so that no one is handed a server that is about to end.
    """
    folder = folder.resolve()
    held = _holds.get(folder)
    if held is not None and os.fstat(held).st_nlink > 0:
        return
    release(folder)
    descriptor = os.open(folder / _FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except BaseException:
        os.close(descriptor)
        raise
    _holds[folder] = descriptor


def release(folder: Path) -> None:
    """Let go; a server that nobody else owns is then stopped by its supervisor."""
    descriptor = _holds.pop(folder.resolve(), None)
    if descriptor is not None:
        os.close(descriptor)


def held(folder: Path) -> bool:
    """Whether this process owns the server of `folder`."""
    return folder.resolve() in _holds


def wait_for_last_owner(folder: Path) -> int:
    """Return when nobody owns the server any more: a descriptor that keeps new owners waiting until it is closed."""
    descriptor = os.open(folder / _FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor
