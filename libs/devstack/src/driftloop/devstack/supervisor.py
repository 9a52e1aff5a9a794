"""Runs one server as a child and stops it cleanly when its last owner is gone.

`python -m driftloop.devstack.supervisor FOLDER` reads FOLDER/plan.json and runs until it is told to stop, the server
ends by itself, or nobody holds FOLDER any more and FOLDER/detached does not say that it should stay.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from driftloop.devstack.identity import ProcessId, Running
from driftloop.devstack.ownership import wait_for_last_owner

STOP_SECONDS = 20.0
PLAN, RUNNING, DETACHED = "plan.json", "running.json", "detached"
_STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Plan:
    """How to run a server.

    `environment` is None for the supervisor's own; `user` is the id of an unprivileged user to run it as, None for
    the supervisor's own.
    """

    argv: list[str]
    environment: dict[str, str] | None
    log: str
    stop_signal: int
    user: int | None = None


def start_child(plan: Plan) -> subprocess.Popen[bytes]:
    """Start the server in a session of its own, so that Ctrl-C in the terminal reaches the owner only."""
    options: dict[str, object] = {}
    if plan.user is not None:
        options = {"user": plan.user, "group": plan.user, "extra_groups": []}

    def prepare() -> None:
        # The supervisor waits for these signals with sigwait; the server must get them.
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        if sys.platform == "linux":
            # A supervisor that is killed takes the server with it; elsewhere the next start or stop finds it.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, plan.stop_signal)

    with Path(plan.log).open("ab") as log:
        child: subprocess.Popen[bytes] = subprocess.Popen(
            plan.argv,
            env=plan.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            preexec_fn=prepare,
            **options,  # type: ignore[call-overload]
        )
    return child


def main() -> int:
    """Run the plan to its end. The record of what runs stays when the server ended by itself: that is a crash."""
    folder = Path(sys.argv[1])
    plan = Plan(**json.loads((folder / PLAN).read_text()))
    # A handler, for a signal that is ignored may not be waited for everywhere.
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS | {signal.SIGCHLD})
    child = start_child(plan)
    Running(ProcessId.of(os.getpid()), ProcessId.of(child.pid)).write(folder / RUNNING)
    threading.Thread(target=_watch_owners, args=[folder], daemon=True).start()
    while signal.sigwait(_STOP_SIGNALS | {signal.SIGCHLD}) == signal.SIGCHLD:
        if child.poll() is not None:
            sys.stderr.write(f"the server ended by itself with status {child.returncode}\n")
            return 1
    _stop(child, plan.stop_signal)
    (folder / RUNNING).unlink(missing_ok=True)
    return 0


def _stop(child: subprocess.Popen[bytes], stop_signal: int) -> None:
    child.send_signal(stop_signal)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(STOP_SECONDS)
    if child.poll() is None:
        sys.stderr.write(f"the server did not end within {STOP_SECONDS:g} s: killed\n")
        child.kill()
        child.wait()


def _watch_owners(folder: Path) -> None:
    descriptor = wait_for_last_owner(folder)
    if (folder / DETACHED).exists():
        os.close(descriptor)
        return
    # Kept open until this process has ended: a new owner waits, and then starts a server of its own.
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
