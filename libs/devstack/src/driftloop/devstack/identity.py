"""A process that is known by more than its number."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

# The kernel's clock ticks are 10 ms; the same process is always told the same.
_TICK_SECONDS = 0.02


@dataclass(frozen=True)
class ProcessId:
    """A process by its id and the time that it was created, so that a number used again is not taken for it."""

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> "ProcessId":
        """The process that has this id now. Raises psutil.NoSuchProcess."""
        return cls(pid, psutil.Process(pid).create_time())

    def find(self) -> psutil.Process | None:
        """The process, if it still runs; one that has ended and waits to be reaped does not."""
        try:
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.created) > _TICK_SECONDS:
                return None
            return None if process.status() == psutil.STATUS_ZOMBIE else process
        except psutil.NoSuchProcess:
            return None


@dataclass(frozen=True)
class Running:
    """A supervisor and its child, as the supervisor has written them down."""

    supervisor: ProcessId
    child: ProcessId

    def write(self, path: Path) -> None:
        """Write atomically, for whoever looks meanwhile."""
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(asdict(self)))
        draft.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Running | None":
        """What was written last, or None."""
        try:
            data = json.loads(path.read_text())
            return cls(ProcessId(**data["supervisor"]), ProcessId(**data["child"]))
        except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError):
            return None


def stop_process(process: psutil.Process, first: int, seconds: float) -> None:
    """Ask a process to stop by the signal `first`, and kill it if it does not within `seconds`."""
    try:
        process.send_signal(first)
        process.wait(seconds)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait(5)
    except psutil.NoSuchProcess:
        # It ended between being found and being asked.
        return


def kill_tree(process: psutil.Process) -> None:
    """Kill a process and all that it has started, and wait until none is left."""
    try:
        # Looked up first: the children of a dead process are nobody's.
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=10)
