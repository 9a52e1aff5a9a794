"""TCP ports that nothing listens on now."""

import random
import socket

# Below the ports that Linux (32768 and up) and macOS (49152 and up) give to outgoing connections: from these, a client
# that keeps asking for a server that is down may be given the server's own port, and the server cannot come back.
_RANGE = range(18000, 32000)
_TRIES = 1000


def free_ports(count: int) -> list[int]:
    """Distinct ports of 127.0.0.1 that are free now. Raises OSError when there are not so many."""
    chosen: list[int] = []
    for port in random.sample(_RANGE, _TRIES):
        if len(chosen) == count:
            return chosen
        if is_free(port):
            chosen.append(port)
    raise OSError(f"no {count} free ports between {_RANGE.start} and {_RANGE.stop}: end some of the local servers")


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
