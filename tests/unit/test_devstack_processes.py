"""Service processes are watched while they start, stopped in order, and never outlive their owner."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from driftloop.devstack.identity import ProcessId
from driftloop.devstack.ports import is_free
from driftloop.devstack.processes import ProcessFailed, ProcessGroup, ServiceProcess, free_port, free_ports
from tests.support.waiting import wait_until

# A service that is ready at once, and ends at SIGTERM unless it is told to be stubborn.
SERVICE = """
import signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Ready(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(sys.argv[2]))
        self.end_headers()
        self.wfile.write(b"waiting for the broker")
    def log_message(self, *_):
        pass

if sys.argv[3] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
HTTPServer(("127.0.0.1", int(sys.argv[1])), Ready).serve_forever()
"""
# An owner that starts one service, in a thread that then ends, names it, and stays.
OWNER = """
import sys, threading
from pathlib import Path
from driftloop.devstack.processes import ServiceProcess
service = ServiceProcess("service", sys.argv[2:], {}, Path(sys.argv[1]), 1)
thread = threading.Thread(target=service.start)
thread.start()
thread.join()
print(service.pid, flush=True)
sys.stdin.read()
"""

Make = Callable[..., ServiceProcess]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[ServiceProcess] = []

    def service(status: int = 200, temper: str = "docile", name: str = "service") -> ServiceProcess:
        port = free_port()
        argv = [sys.executable, "-c", SERVICE, str(port), str(status), temper]
        made.append(ServiceProcess(name, argv, {}, tmp_path / f"{name}.log", port))
        return made[-1]

    yield service
    for one in made:
        one.kill()


def test_a_process_that_answers_is_ready(make: Make) -> None:
    service = make()
    service.start()
    service.wait_ready()
    assert service.problem() is None


def test_terminate_ends_it_in_an_orderly_way(make: Make) -> None:
    service = make()
    service.start()
    service.wait_ready()
    assert service.terminate() == 0


def test_terminate_kills_what_does_not_stop_in_time(make: Make) -> None:
    service = make(temper="stubborn")
    service.start()
    service.wait_ready()
    assert service.terminate(0.2) == -signal.SIGKILL


def test_restart_gives_a_new_process_at_the_same_port(make: Make) -> None:
    service = make()
    service.start()
    service.wait_ready()
    before = service.pid
    service.restart()
    assert service.pid != before
    assert service.problem() is None


def test_starting_what_runs_changes_nothing(make: Make) -> None:
    service = make()
    service.start()
    before = service.pid
    service.start()
    assert service.pid == before


def test_a_process_that_ends_while_starting_fails_at_once_with_the_end_of_its_log(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "raise SystemExit('DRIFTLOOP_CONTRACT is not set')"]
    service = ServiceProcess("trainer", argv, {}, tmp_path / "trainer.log", free_port())
    service.start()
    begun = time.monotonic()
    with pytest.raises(ProcessFailed, match=r"(?s)trainer ended with status 1.*DRIFTLOOP_CONTRACT is not set"):
        service.wait_ready(120)
    assert time.monotonic() - begun < 60


def test_a_process_that_is_not_ready_in_time_fails_with_its_reason(make: Make) -> None:
    service = make(status=503)
    service.start()
    wait_until(lambda: "status 503" in (service.problem() or ""), "it answers")
    with pytest.raises(ProcessFailed, match=r"not ready after 0.1 s \(status 503: waiting for the broker\)"):
        service.wait_ready(0.1)


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    service = ServiceProcess("monitor", ["/no/such/program"], {}, tmp_path / "log", free_port())
    with pytest.raises(ProcessFailed, match="monitor: /no/such/program cannot be run"):
        service.start()


def test_a_group_is_ready_in_its_block_and_gone_after_it(make: Make) -> None:
    services = [make(name="a"), make(name="b")]
    with ProcessGroup(services) as group:
        group.add(make(name="c"))
        assert [one.problem() for one in group.processes] == [None, None, None]
    assert [one.returncode for one in group.processes] == [0, 0, 0]


def test_a_group_leaves_none_running_when_one_fails_to_start(make: Make, tmp_path: Path) -> None:
    service = make()
    broken = ServiceProcess("broken", [sys.executable, "-c", "raise SystemExit(3)"], {}, tmp_path / "b", free_port())
    with pytest.raises(ProcessFailed, match="broken ended with status 3"), ProcessGroup([service, broken]):
        pass
    assert service.returncode is not None


def test_a_group_shares_its_time_to_stop(make: Make) -> None:
    services = [make(temper="stubborn", name=name) for name in "abc"]
    group = ProcessGroup(services)
    with group:
        begun = time.monotonic()
        group.stop(timeout=3)
        # One after the other they would take nine seconds.
        assert time.monotonic() - begun < 8
    assert [one.returncode for one in services] == [-signal.SIGKILL] * 3


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_service_outlives_an_owner_that_dies(tmp_path: Path, number: signal.Signals) -> None:
    argv = [sys.executable, "-c", OWNER, str(tmp_path / "log"), sys.executable, "-c", "import signal; signal.pause()"]
    owner = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    service = psutil.Process(int(owner.stdout.readline()))
    owner.send_signal(number)
    owner.communicate()
    assert psutil.wait_procs([service], timeout=60)[1] == []


def test_a_service_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", OWNER, str(tmp_path / "log"), sys.executable, "-c", "import signal; signal.pause()"]
    owner = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    service = psutil.Process(int(owner.stdout.readline()))
    with pytest.raises(psutil.TimeoutExpired):
        service.wait(0.5)
    owner.communicate()
    assert psutil.wait_procs([service], timeout=60)[1] == []


def test_a_number_used_again_is_not_taken_for_the_process() -> None:
    mine = ProcessId.of(psutil.Process().pid)
    assert mine.find() is not None
    assert ProcessId(mine.pid, mine.created - 10).find() is None


# Another process that has this one port to choose from.
CHOOSER = """
import sys
from driftloop.devstack import ports
ports._RANGE = range(int(sys.argv[1]), int(sys.argv[1]) + 1)
ports.free_port()
"""


def test_a_port_that_was_given_out_is_nobody_elses_though_nothing_listens_there_yet() -> None:
    port = free_port()
    other = subprocess.run([sys.executable, "-c", CHOOSER, str(port)], capture_output=True, text=True, check=False)
    assert is_free(port)
    assert f"no 1 free ports between {port}" in other.stderr


def test_free_ports_are_distinct_and_none_that_an_outgoing_connection_is_given() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert max(ports) < 32_768
