"""Why a spool cannot be used, or takes nothing."""

import errno
from pathlib import Path

_REMEDIES = {
    errno.ENOSPC: "make room on the volume",
    errno.EDQUOT: "raise the quota, or make room",
    errno.EFBIG: "raise the process's limit on the size of a file",
    errno.EROFS: "mount the volume writable",
    errno.EACCES: "let the process's user own the folder",
    errno.EPERM: "let the process's user own the folder",
    errno.ENOTDIR: "give a folder",
    errno.EEXIST: "give a folder",
    errno.EMFILE: "raise the process's limit on open files",
}


class SpoolInUse(RuntimeError):
    """Another live process holds the folder; the text names it and the remedy."""


class SpoolFailed(RuntimeError):
    """The disk refuses, or holds what this version does not read; the text names the path and the remedy.

    Nothing of a record is in it.
    """


def failure(error: OSError, path: Path) -> SpoolFailed:
    """What the disk's refusal is called."""
    number = error.errno or 0
    name = errno.errorcode.get(number, type(error).__name__)
    return SpoolFailed(f"{path}: {name}: {_REMEDIES.get(number, 'see to the volume, or give another folder')}")
