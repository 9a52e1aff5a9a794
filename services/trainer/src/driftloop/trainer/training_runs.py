"""Runs a training in a process of its own, and looks after it: time, memory, orders to stop."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from driftloop.common.registry import ArtifactError
from driftloop.trainer.training_files import (
    PROGRESS,
    Failure,
    Trained,
    TrainingTask,
    read_failure,
    read_trained,
    write_task,
)

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
# Behind it stands the trainer's process id: the folders hold patients' rows, and a trainer that was killed leaves one.
PREFIX = "driftloop-training-"
MODULE = "driftloop.trainer.training_process"


_IN_USE: set[str] = set()

# Trains and judges; is asked now and then whether to stop, and told what the training is at.
RunTraining = Callable[[TrainingTask, Callable[[], bool], Callable[[str], None]], Trained]


class TrainingStopped(RuntimeError):
    """The training was ended by whoever asked for it, and has made nothing."""


class TrainingFailed(RuntimeError):
    """The training made nothing: see `failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True)
class TrainingLimits:
    """What a training may take: seconds, and bytes of memory with all processes that it starts (None: no limit)."""

    seconds: float = 3600.0
    memory_bytes: int | None = None


def run_training(
    limits: TrainingLimits, task: TrainingTask, stopped: Callable[[], bool], say: Callable[[str], None]
) -> Trained:
    """Train and judge in another process, which ends when this one does.

    `stopped` is asked now and then whether to go on; `say` hears what the training is at. Raises TrainingStopped,
    TrainingFailed, and OSError where the task cannot be handed over.
    """
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-") as name:
        folder = Path(name)
        _IN_USE.add(name)
        write_task(folder, task)
        process = subprocess.Popen([sys.executable, "-m", MODULE, name], stdin=subprocess.PIPE, start_new_session=True)
        try:
            failure = _watch(process, folder, limits, stopped, say)
        finally:
            _kill(process)
        if failure is not None:
            raise TrainingFailed(failure)
        try:
            return read_trained(folder, task.contract.name, task.version)
        except (ArtifactError, OSError) as error:
            raise TrainingFailed(Failure("internal", f"what it made cannot be read: {error}")) from error


def sweep() -> None:
    """Delete the folders of trainers that are not there any more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        owner = folder.name.removeprefix(PREFIX).partition("-")[0]
        # In a container a trainer has the number of the one before.
        dead = owner.isdigit() and (int(owner) == os.getpid() or not psutil.pid_exists(int(owner)))
        if dead and str(folder) not in _IN_USE:
            shutil.rmtree(folder, ignore_errors=True)


def _watch(
    process: subprocess.Popen[bytes],
    folder: Path,
    limits: TrainingLimits,
    stopped: Callable[[], bool],
    say: Callable[[str], None],
) -> Failure | None:
    """Wait for the process to end. Returns why it made nothing, None where it says that it did."""
    deadline, said = time.monotonic() + limits.seconds, ""
    while (code := _wait(process)) is None:
        if stopped():
            raise TrainingStopped
        if time.monotonic() > deadline:
            return Failure("time", f"it took more than {limits.seconds:g} s: see DRIFTLOOP_TRAINING_SECONDS")
        used = _memory(process.pid)
        if limits.memory_bytes is not None and used > limits.memory_bytes:
            return Failure(
                "memory",
                f"it took more than {limits.memory_bytes / 2**20:.0f} MiB of memory: train on fewer rows, bound the "
                "forest, or raise DRIFTLOOP_TRAINING_MEMORY_MB",
            )
        said = _tell(folder, said, say)
    if code == 0:
        return None
    if code < 0:
        return Failure("killed", f"it was killed by {signal.Signals(-code).name}: was it too large for this machine?")
    return read_failure(folder) or Failure("internal", f"it ended with status {code}: see the log")


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(LOOK_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def _memory(pid: int) -> int:
    """The resident bytes of a process and all that it started."""
    total = 0
    with suppress(psutil.Error):
        parent = psutil.Process(pid)
        for one in (parent, *parent.children(recursive=True)):
            with suppress(psutil.Error):
                total += one.memory_info().rss
    return total


def _tell(folder: Path, said: str, say: Callable[[str], None]) -> str:
    with suppress(OSError):
        text = (folder / PROGRESS).read_text(encoding="utf-8")
        if text != said:
            say(text)
        return text
    return said


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process, and whatever it started, if it is still there."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    assert process.stdin is not None
    process.stdin.close()
    process.wait()
