"""Starts, watches and stops Driftloop's own service processes, for the demo, the end-to-end tests and `make up`."""

import atexit
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import psutil

from driftloop.devstack.guard import GRACE_SECONDS
from driftloop.devstack.identity import ProcessId, stop_process
from driftloop.devstack.ports import free_port, free_ports

__all__ = ["ProcessFailed", "ProcessGroup", "ProcessId", "ServiceProcess", "free_port", "free_ports", "stop_process"]

READY_SECONDS = 60.0
STOP_SECONDS = 25.0
_POLL_SECONDS = 0.1


class ProcessFailed(RuntimeError):
    """A service did not start, or ended by itself; the text holds the end of its log."""


class ServiceProcess:
    """One service process with its log; `/readyz` on the management port says when it can work.

    An attached process is stopped when this one dies, by whatever signal; another stays (see `identity`).
    """

    def __init__(
        self, name: str, argv: Sequence[str], env: Mapping[str, str], log_path: Path, management_port: int
    ) -> None:
        self.name = name
        self.argv = list(argv)
        self.env = dict(env)
        self.log_path = log_path
        self.management_port = management_port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, None when it was never started."""
        return self._process.pid if self._process else None

    @property
    def returncode(self) -> int | None:
        """How it ended (minus the signal's number, if by a signal); None while it runs or before it was started."""
        return self._process.poll() if self._process else None

    @property
    def identity(self) -> ProcessId:
        """What to write down to find the process again later. Raises psutil.NoSuchProcess if it does not run."""
        if self._process is None:
            raise psutil.NoSuchProcess(0, self.name, f"{self.name} was never started")
        return ProcessId.of(self._process.pid)

    def start(self, *, attached: bool = True) -> None:
        """Start it, unless it runs. Raises ProcessFailed if the program cannot be executed."""
        if self._process is not None and self.returncode is None:
            return
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            try:
                self._process = subprocess.Popen(
                    self.argv,
                    env=self.env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # Ctrl-C in the terminal is for the owner, which then stops its services in order.
                    start_new_session=True,
                )
            except OSError as error:
                raise ProcessFailed(f"{self.name}: {self.argv[0]} cannot be run: {error}") from error
        if attached:
            _guard.watch(self._process.pid)

    def problem(self) -> str | None:
        """Why it is not ready, or None."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.management_port}/readyz", timeout=3) as response:
                return None if response.status == 200 else f"status {response.status}"
        except urllib.error.HTTPError as error:
            with error:
                return f"status {error.code}: {error.read(500).decode(errors='replace')}"
        except OSError as error:
            return f"no answer ({error})"

    def wait_ready(self, timeout: float = READY_SECONDS) -> None:
        """Wait until it says that it is ready. Raises ProcessFailed as soon as it has ended, or after `timeout` s."""
        if self._process is None:
            raise ProcessFailed(f"{self.name} was never started")
        deadline = time.monotonic() + timeout
        # Asked in this order: an answer on the port after the process has ended is somebody else's.
        while (problem := self.problem()) is not None or self.returncode is not None:
            try:
                code = self._process.wait(_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                if time.monotonic() < deadline:
                    continue
                raise ProcessFailed(
                    f"{self.name} is not ready after {timeout:g} s ({problem}):\n{self.tail()}"
                ) from None
            raise ProcessFailed(f"{self.name} ended with status {code} before it was ready:\n{self.tail()}")

    def signal_stop(self) -> None:
        """Ask it to stop, and do not wait."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def terminate(self, timeout: float = STOP_SECONDS) -> int | None:
        """Ask it to stop, wait, and kill it after `timeout` s. Returns its exit status, None if never started."""
        self.signal_stop()
        return self.wait_or_kill(timeout)

    def kill(self) -> None:
        """Kill it at once, as a crash would, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self, *, timeout: float = READY_SECONDS) -> None:
        """Stop it if it runs, start it again, and wait until it is ready. Raises ProcessFailed."""
        self.terminate()
        self.start()
        self.wait_ready(timeout)

    def tail(self, lines: int = 25) -> str:
        """The end of its log."""
        if not self.log_path.exists():
            return "(no log)"
        return "\n".join([*self.log_path.read_text(errors="replace").splitlines()[-lines:], f"({self.log_path})"])

    def wait_or_kill(self, timeout: float = STOP_SECONDS) -> int | None:
        """Wait for its end, and kill it after `timeout` s. Returns its exit status, None if never started."""
        if self._process is None:
            return None
        try:
            return self._process.wait(max(timeout, 0))
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


class ProcessGroup:
    """Runs processes for the time of a `with` block.

    All are started at once and are ready when the block begins; after it all are asked to stop at once, the last
    first, and are gone. Raises ProcessFailed, and leaves none behind, if one does not become ready.
    """

    def __init__(self, processes: Sequence[ServiceProcess] = (), *, timeout: float = READY_SECONDS) -> None:
        self.processes = list(processes)
        self._timeout = timeout

    def __enter__(self) -> "ProcessGroup":
        try:
            for process in self.processes:
                process.start()
            for process in self.processes:
                process.wait_ready(self._timeout)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def add(self, process: ServiceProcess) -> None:
        """Start one more, wait until it is ready, and stop it with the others."""
        self.processes.append(process)
        process.start()
        process.wait_ready(self._timeout)

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """Stop all, within `timeout` s for all together."""
        deadline = time.monotonic() + timeout
        for process in reversed(self.processes):
            process.signal_stop()
        for process in reversed(self.processes):
            process.wait_or_kill(deadline - time.monotonic())


class _Guard:
    """The process that outlives this one to stop what it leaves behind; started when first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def watch(self, pid: int) -> None:
        """Have this process stopped when our own ends."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = self._spawn()
            pipe = self._process.stdin
            try:
                identity = ProcessId.of(pid)
            except psutil.NoSuchProcess:
                # It has ended already: the caller learns that from its status.
                return
            if pipe is not None:
                pipe.write(f"{identity.pid} {identity.created!r}\n")
                pipe.flush()

    def close(self) -> None:
        """Stop what is left, and wait for it."""
        with self._lock:
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.close()
                self._process.wait(GRACE_SECONDS + 5)

    def _spawn(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "driftloop.devstack.guard"],
            stdin=subprocess.PIPE,
            # Ours may be pipes, whose reader waits until the last writer is gone.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd="/",
            start_new_session=True,
        )
        # On an orderly end, too, nothing attached may stay.
        atexit.register(self.close)
        return process


_guard = _Guard()
