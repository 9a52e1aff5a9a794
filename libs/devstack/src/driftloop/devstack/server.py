"""One server in one folder: prepared once, started, found again, stopped; safe when several processes ask at once."""

import atexit
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from driftloop.devstack import ownership
from driftloop.devstack.identity import Running, kill_tree, stop_process
from driftloop.devstack.model import Progress, StackUnavailable
from driftloop.devstack.ports import free_ports, is_free
from driftloop.devstack.supervisor import DETACHED, PLAN, RUNNING, STOP_SECONDS, Plan

START_SECONDS = 90.0
# How long a server that runs may take to answer before it is taken for broken: a busy machine is no reason.
PATIENCE_SECONDS = 20.0
_POLL_SECONDS = 0.05
# Supervisors that this process has started, kept so that they are reaped.
_supervisors: dict[Path, subprocess.Popen[bytes]] = {}


@atexit.register
def _part_from_supervisors() -> None:
    """They outlive this process on purpose; without this Python warns of each that it has not seen end."""
    for supervisor in _supervisors.values():
        if supervisor.poll() is None:
            supervisor.returncode = 0


Ports = Mapping[str, int]


def _nothing(_folder: Path) -> None:
    return


@dataclass(frozen=True)
class Server:
    """How one kind of server is prepared, run and asked whether it is well.

    `prepare(folder, ports, progress)` makes the data folder if it is not there and writes the configuration;
    `unreachable(address)` is None when the server answers, else the reason; `sweep(folder)` removes what a killed
    server may have left running, `purge(folder)` the data that are not in the folder.
    """

    name: str
    port_names: tuple[str, ...]
    prepare: Callable[[Path, Ports, Progress], None]
    argv: Callable[[Path, Ports], list[str]]
    address: Callable[[Path, Ports], str]
    unreachable: Callable[[str], str | None]
    environment: Mapping[str, str] | None = None
    stop_signal: int = signal.SIGTERM
    user: int | None = None
    sweep: Callable[[Path], None] = _nothing
    purge: Callable[[Path], None] = _nothing


def ensure(server: Server, folder: Path, *, attached: bool, progress: Progress) -> tuple[str, bool]:
    """The server's address, after making sure that it runs and is well, and whether it was started for that.

    An attached server ends when the last process that asked for it has; another stays until `stop`. Raises
    StackUnavailable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        owned_before = ownership.held(folder)
        ownership.hold(folder)
        try:
            if not attached:
                (folder / DETACHED).touch()
            ports = _read_ports(folder)
            if ports and _is_well(server, folder, ports):
                return server.address(folder, ports), False
            _stop(server, folder)
            return _start(server, folder, ports, progress), True
        except BaseException:
            (folder / DETACHED).unlink(missing_ok=True)
            raise
        finally:
            if not attached and not owned_before:
                ownership.release(folder)


def stop(server: Server, folder: Path, *, purge: bool = False) -> None:
    """Stop the server, whoever started it; with `purge` its data go, too. Nothing to stop is fine."""
    if not folder.exists():
        return
    with FileLock(folder / "lock"):
        (folder / DETACHED).unlink(missing_ok=True)
        _stop(server, folder)
        ownership.release(folder)
        if purge:
            server.purge(folder)
            shutil.rmtree(folder, ignore_errors=True)


def find(server: Server, folder: Path) -> str | None:
    """The address of the server if it runs and answers, else None."""
    ports = _read_ports(folder)
    return server.address(folder, ports) if ports and problem(server, folder) is None else None


def problem(server: Server, folder: Path) -> str | None:
    """Why the server is not usable, or None."""
    ports, record = _read_ports(folder), Running.read(folder / RUNNING)
    if not ports or record is None:
        return "not running"
    if record.child.find() is None:
        return f"ended by itself (see {folder / 'server.log'})"
    return server.unreachable(server.address(folder, ports))


def is_detached(folder: Path) -> bool:
    """Whether the server of this folder is to stay until it is stopped."""
    return (folder / DETACHED).exists()


def kill(server: Server, folder: Path) -> None:
    """Kill the server at once, as a crash would, and wait until it is gone. Raises StackUnavailable if none runs."""
    record = Running.read(folder / RUNNING)
    process = record.child.find() if record else None
    if record is None or process is None:
        raise StackUnavailable(f"no local {server.name} runs in {folder}: start one there first")
    kill_tree(process)
    supervisor = record.supervisor.find()
    if supervisor is not None:
        # It has nothing left to do; the next start must not meet it.
        supervisor.wait(STOP_SECONDS)
    _reap(folder)


def _is_well(server: Server, folder: Path, ports: Ports) -> bool:
    """Whether the server runs and answers, soon or after a while."""
    record = Running.read(folder / RUNNING)
    process = record.child.find() if record else None
    if process is None:
        return False
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.is_running() and time.monotonic() < deadline:
        if server.unreachable(server.address(folder, ports)) is None:
            return True
        time.sleep(_POLL_SECONDS)
    return False


def _start(server: Server, folder: Path, known: Ports | None, progress: Progress) -> str:
    ports = _choose_ports(server, folder, known)
    server.prepare(folder, ports, progress)
    progress(f"starting {server.name}")
    supervisor = _spawn(server, folder, ports)
    _supervisors[folder.resolve()] = supervisor
    address = server.address(folder, ports)
    try:
        _wait_until_well(server, folder, address, supervisor)
    except BaseException:
        # An error or Ctrl-C while it starts must not leave it behind.
        _stop(server, folder)
        supervisor.terminate()
        _reap(folder)
        raise
    return address


def _spawn(server: Server, folder: Path, ports: Ports) -> subprocess.Popen[bytes]:
    plan = Plan(
        argv=server.argv(folder, ports),
        environment=None if server.environment is None else dict(server.environment),
        log=str((folder / "server.log").resolve()),
        stop_signal=int(server.stop_signal),
        user=server.user,
    )
    (folder / PLAN).write_text(json.dumps(asdict(plan)))
    with (folder / "supervisor.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "driftloop.devstack.supervisor", str(folder.resolve())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )


def _wait_until_well(server: Server, folder: Path, address: str, supervisor: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while (reason := server.unreachable(address)) is not None:
        try:
            supervisor.wait(_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if time.monotonic() < deadline:
                continue
            raise StackUnavailable(
                f"{server.name} does not answer after {START_SECONDS:g} s ({reason}):\n{_tail(folder)}"
            ) from None
        raise StackUnavailable(f"{server.name} ended while starting:\n{_tail(folder)}")


def _tail(folder: Path, lines: int = 15) -> str:
    logs = [path for path in (folder / "supervisor.log", folder / "server.log") if path.exists()]
    ends = ["\n".join(path.read_text(errors="replace").splitlines()[-lines:]) for path in logs]
    return "\n".join([*filter(None, ends), f"(the whole log: {folder / 'server.log'})"])


def _stop(server: Server, folder: Path) -> None:
    record = Running.read(folder / RUNNING)
    if record is not None:
        supervisor, child = record.supervisor.find(), record.child.find()
        if supervisor is not None:
            stop_process(supervisor, signal.SIGTERM, STOP_SECONDS + 10)
        # A supervisor that was killed may have left it behind.
        if child is not None and child.is_running():
            stop_process(child, server.stop_signal, STOP_SECONDS)
        (folder / RUNNING).unlink(missing_ok=True)
        _reap(folder)
    server.sweep(folder)


def _reap(folder: Path) -> None:
    supervisor = _supervisors.pop(folder.resolve(), None)
    if supervisor is not None:
        supervisor.wait(STOP_SECONDS + 10)


def _read_ports(folder: Path) -> dict[str, int] | None:
    try:
        ports: dict[str, int] = json.loads((folder / "ports.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return ports


def _choose_ports(server: Server, folder: Path, known: Ports | None) -> dict[str, int]:
    """The ports of last time if they are free, so that clients find a restarted server where it was; else new ones."""
    if known and all(is_free(port) for port in known.values()):
        return dict(known)
    ports = dict(zip(server.port_names, free_ports(len(server.port_names)), strict=True))
    (folder / "ports.json").write_text(json.dumps(ports))
    return ports
