"""A process that waits for what is not there yet can be stopped."""

import signal
import subprocess
import sys

from driftloop.devstack.ports import free_port
from tests.support.waiting import wait_until

# The signal is ignored at first, as the kernel does for a container's first process that does not handle it.
WAITING = """
import signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.stdout.write("deaf\\n")
sys.stdout.flush()
from driftloop.common.startup import wait_for_topics
from driftloop.common.topics import TOPICS, Namespace
wait_for_topics(sys.argv[1], Namespace(), TOPICS)
"""


def test_sigterm_ends_a_process_that_waits_for_its_broker() -> None:
    argv = [sys.executable, "-c", WAITING, f"127.0.0.1:{free_port()}"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:

        def ended() -> bool:
            process.send_signal(signal.SIGTERM)
            return process.poll() is not None

        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "deaf\n"
            wait_until(ended, "the end of the process")
            assert process.returncode == 128 + signal.SIGTERM
        finally:
            process.kill()
