"""Runs a training in a process of its own, and looks after it: time, memory, orders to stop.

Loading its libraries takes such a process as long as a small training: one waits ready for the next.
"""

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
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

TrainingProcess = subprocess.Popen[bytes]
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


def start_process() -> TrainingProcess:
    """A training process, which waits for its task, and ends when this one does. Raises OSError."""
    return subprocess.Popen([sys.executable, "-m", MODULE], stdin=subprocess.PIPE, start_new_session=True)


class Standby:
    """Keeps one training process ready, for several threads. It has seen no row, and does one training only."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: TrainingProcess | None = None
        self._training: list[TrainingProcess] = []

    def prepare(self) -> None:
        """Have a process load its libraries, unless one has been taken by nobody yet, or one trains."""
        with self._lock:
            self._training = [one for one in self._training if one.poll() is None]
            # One that died is not followed by another: where memory is short, that would die, too, again and again.
            if self._process is None and not self._training:
                try:
                    self._process = start_process()
                except OSError as error:
                    logger.warning("no training process can be kept ready", extra={"error": str(error)})

    def take(self) -> TrainingProcess:
        """The process that is ready, or a new one. Raises OSError."""
        with self._lock:
            process, self._process = self._process, None
            if process is not None and process.poll() is not None:
                _kill(process)
                process = None
            self._training.append(process or start_process())
            return self._training[-1]

    def close(self) -> None:
        """End the process that is ready."""
        with self._lock:
            if self._process is not None:
                _kill(self._process)


def run_training(
    limits: TrainingLimits,
    task: TrainingTask,
    stopped: Callable[[], bool],
    say: Callable[[str], None],
    take: Callable[[], TrainingProcess] = start_process,
) -> Trained:
    """Train and judge in another process, which `take` gives.

    `stopped` is asked now and then whether to go on; `say` hears what the training is at. Raises TrainingStopped,
    TrainingFailed, and OSError where the task cannot be handed over.
    """
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-") as name:
        folder = Path(name)
        write_task(folder, task)
        process = take()
        try:
            _hand_over(process, folder)
            failure = _watch(process, folder, limits, stopped, say)
        finally:
            _kill(process)
        if failure is not None:
            raise TrainingFailed(failure)
        try:
            return read_trained(folder, task.contract.name, task.version)
        except (ArtifactError, OSError) as error:
            raise TrainingFailed(Failure("internal", f"what it made cannot be read: {error}")) from error


def _hand_over(process: TrainingProcess, folder: Path) -> None:
    """Name its folder to a process. The pipe stays open: its end tells the process that this one is gone."""
    assert process.stdin is not None
    process.stdin.write(os.fsencode(folder) + b"\n")
    process.stdin.flush()


def sweep() -> None:
    """Delete the folders of trainers that are not there any more; called before this one begins its first training."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        owner = folder.name.removeprefix(PREFIX).partition("-")[0]
        # In a container a trainer has the number of the one before.
        if owner.isdigit() and (int(owner) == os.getpid() or not psutil.pid_exists(int(owner))):
            shutil.rmtree(folder, ignore_errors=True)


def _watch(
    process: TrainingProcess,
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


def _wait(process: TrainingProcess) -> int | None:
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


def _kill(process: TrainingProcess) -> None:
    """End the process, and whatever it started, if it is still there."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    assert process.stdin is not None
    process.stdin.close()
    process.wait()
