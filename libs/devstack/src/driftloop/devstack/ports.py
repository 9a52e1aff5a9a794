"""TCP ports that nothing listens on now."""

import fcntl
import os
import random
import socket
import tempfile
from functools import cache
from pathlib import Path

# Below the ports that Linux (32768 and up) and macOS (49152 and up) give to outgoing connections: from these, a client
# that keeps asking for a server that is down may be given the server's own port, and the server cannot come back.
_RANGE = range(18000, 32000)
_TRIES = 1000
# Given out by this process, which its own locks do not keep out.
_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Distinct ports of 127.0.0.1 that are free now. Raises OSError when there are not so many.

    Until this process ends no port is given a second time by it, or by another of the same user.
    """
    chosen: list[int] = []
    for port in random.sample(_RANGE, min(_TRIES, len(_RANGE))):
        if is_free(port) and _reserve(port):
            chosen.append(port)
        if len(chosen) == count:
            return chosen
    raise OSError(f"no {count} free ports between {_RANGE.start} and {_RANGE.stop}: end some of the local servers")


def _reserve(port: int) -> bool:
    """Whether the port is nobody's yet; it is ours then.

    From the choice of a port until a server listens on it seconds pass, in which others choose theirs.
    """
    if port in _given:
        return False
    try:
        # Byte n stands for port n: nothing is written, and the system lets go of it when the process ends.
        fcntl.lockf(_reservations(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except BlockingIOError:
        return False
    _given.add(port)
    return True


@cache
def _reservations() -> int:
    """The file whose bytes are locked, open for as long as this process lives."""
    path = Path(tempfile.gettempdir()) / f"driftloop-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def free_port() -> int:
    """One port of 127.0.0.1 that is free now. Raises OSError when there is none."""
    return free_ports(1)[0]


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1."""
    with socket.socket() as one:
        # As servers do: connections of yesterday's server that still linger are no hindrance.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
