"""What a folder holds is durable only once the folder itself is."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: call it after a file was made, renamed or linked there. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes, mode: int, prepare: Callable[[int], None] = lambda _file: None) -> None:
    """Write a file that appears whole and durable in the place of what was there. For one writer at a time.

    `prepare` gets the descriptor of the new file before it has its name. Raises OSError, and leaves the old one.
    """
    draft = path.parent / f".{path.name}.draft"
    # Whoever wrote before may have died at it.
    draft.unlink(missing_ok=True)
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            prepare(file.fileno())
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
        sync_folder(path.parent)
    except OSError:
        with suppress(OSError):
            draft.unlink()
        raise
