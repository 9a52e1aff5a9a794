"""Ends the processes of an owner that has died: `python -m driftloop.devstack.guard`, fed on standard input.

Each line names a process by its id and the time that it was created. When the input ends, the owner is gone, however
it went: whatever still runs of what it has named is asked to stop, then killed.
"""

import sys
import time

import psutil

from driftloop.devstack.identity import ProcessId

GRACE_SECONDS = 10.0
_POLL_SECONDS = 0.05


def main() -> int:
    """Collect names until the owner is gone, then stop what is left."""
    named = [ProcessId(int(pid), float(created)) for pid, created in (line.split() for line in sys.stdin)]
    for one in named:
        _send(one, kill=False)
    deadline = time.monotonic() + GRACE_SECONDS
    # Asked by name, not waited for: what an owner that still lives has not reaped counts as ended.
    while any(one.find() for one in named) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    for one in named:
        _send(one, kill=True)
    return 0


def _send(named: ProcessId, *, kill: bool) -> None:
    process = named.find()
    if process is None:
        return
    try:
        process.kill() if kill else process.terminate()
    except psutil.NoSuchProcess:
        # It ended by itself meanwhile, which is what is wanted.
        return


if __name__ == "__main__":
    sys.exit(main())
