"""Several worker processes behind one port: started together, each started anew when it ends, stopped as one.

The parent holds the sockets and the management port, and answers no request itself. Each worker is a whole service of
its own: its clients, its models and its threads are made in it, and nothing is shared but the listening sockets. What
the parent says of health it asks the workers for at that moment; what it says of metrics is their sum.
"""

import http.client
import json
import logging
import math
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, NoReturn

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from driftloop.common.process import HURRY, START_SECONDS, Inherited, Service, listen, run_service

logger = logging.getLogger(__name__)

# Where the metrics' library keeps what the workers count.
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
ASK_SECONDS = 1.0
# How long an answer is believed: one look at the health asks for it several times.
BELIEVED_SECONDS = 0.5
# How long a worker may take until it can say anything of itself.
LOADING_SECONDS = 120.0
KILL_SECONDS = 3.0
TICK_SECONDS = 0.2
RESTART_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
# One that ran as long before it ended is started anew at once.
LONG_SECONDS = 60.0

# Runs worker `number` in a process of its own; a function of a module, for the new process looks it up there.
Run = Callable[[int, Inherited], None]


class WorkersFailed(RuntimeError):
    """A worker ended before any was ready, or workers did not stop as they must."""


@dataclass(frozen=True)
class Workers:
    """How many processes run, what runs in each, where they are reached, and how long they have to stop."""

    name: str
    count: int
    run: Run
    host: str
    port: int
    management_port: int
    stop_seconds: float


def run_workers(workers: Workers) -> NoReturn:
    """Run the workers until a signal, or until they cannot be started. Raises OSError where the port is taken."""
    sockets = listen(workers.host, workers.port)
    folder = Path(tempfile.mkdtemp(prefix=f"driftloop-{workers.name}-"))
    # Before a worker is started: the metrics' library looks for it when it is imported.
    os.environ[METRICS_FOLDER] = str(folder)
    supervisor = Supervisor(workers, sockets, folder)
    run_service(
        Service(
            name=workers.name,
            host=workers.host,
            management_port=workers.management_port,
            workers=(supervisor,),
            live={slot.name: slot.stuck for slot in supervisor.slots},
            ready={"workers": supervisor.problem} | {slot.name: slot.problem for slot in supervisor.slots},
            notes={slot.name: slot.note for slot in supervisor.slots},
            closers=(partial(shutil.rmtree, folder, ignore_errors=True),),
            join_seconds=workers.stop_seconds + KILL_SECONDS,
            metrics=supervisor.metrics(),
            hurry=supervisor.hurry,
        )
    )


class Slot:
    """One worker's place: its process now, and how often there was another one before."""

    def __init__(self, number: int, folder: Path) -> None:
        self.number = number
        self.name = f"worker-{number}"
        self.restarts = 0
        # How often in a row it ended early, and when it is to be started next.
        self.early = 0
        self.due = 0.0
        self.started = 0.0
        self.process: SpawnProcess | None = None
        self.ended: int | None = None
        # Since its start.
        self.answered = self.was_ready = False
        self._answers: dict[str, tuple[float, dict[str, Any] | None]] = {}
        self._path = folder / f"{self.name}.sock"

    def start(self, context: multiprocessing.context.SpawnContext, run: Run, sockets: Sequence[socket.socket]) -> None:
        """Start a process in this place. Raises OSError."""
        self._path.unlink(missing_ok=True)
        self.started, self.answered, self.was_ready = time.monotonic(), False, False
        self._answers.clear()
        arguments = (run, self.number, self._path, list(sockets), self.restarts > 0)
        # Not a daemon, which Python would kill before it has stopped in order.
        process = context.Process(target=_run, args=arguments, name=self.name)
        process.start()
        self.process = process

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        process = self.process
        return process is not None and process.exitcode is None

    @property
    def age(self) -> float:
        """Seconds since the start of its process."""
        return time.monotonic() - self.started

    def ready(self) -> bool:
        """Whether it answers requests well."""
        return self._ask("/readyz") == {}

    def stuck(self) -> str | None:
        """Why it must be killed, or None: its threads have ended, or its event loop does not answer."""
        return self._failing("/healthz") if self._settled else None

    def problem(self) -> str | None:
        """Why requests that it takes are not answered well, or None: also where it takes none yet, or none any more."""
        return self._failing("/readyz") if self._takes_requests else None

    def note(self) -> str | None:
        """What else there is to say of it, or None."""
        if not self.running:
            return f"ended with status {self.ended} and is started anew"
        said = self._answer("/readyz")
        if said is None or said["status"] != "ok":
            return None if self._takes_requests else "starts, and takes no requests yet"
        return _sentence(said["notes"]) if said.get("notes") else None

    @property
    def _takes_requests(self) -> bool:
        """Whether it takes requests by now, ready or not."""
        return self._settled and (self.was_ready or not self.restarts)

    @property
    def _settled(self) -> bool:
        """Whether it must answer for itself by now: not while it is still being loaded on a busy machine."""
        return self.running and self.age > (START_SECONDS if self.answered else LOADING_SECONDS)

    def _failing(self, path: str) -> str | None:
        failing = self._ask(path)
        return None if not failing else _sentence(failing)

    def _ask(self, path: str) -> dict[str, str]:
        """What the worker's checks say, by name."""
        if not self.running:
            return {"process": "does not run"}
        said = self._answer(path)
        return {"process": f"does not answer within {ASK_SECONDS:g} s"} if said is None else said["failing"]

    def _answer(self, path: str) -> dict[str, Any] | None:
        asked, answer = self._answers.get(path, (-math.inf, None))
        if time.monotonic() - asked > BELIEVED_SECONDS:
            answer = self._fetch(path)
            self.answered = self.answered or answer is not None
            self.was_ready = self.was_ready or (path == "/readyz" and answer is not None and answer["status"] == "ok")
            self._answers[path] = (time.monotonic(), answer)
        return answer

    def _fetch(self, path: str) -> dict[str, Any] | None:
        connection = _UnixConnection(str(self._path))
        try:
            connection.request("GET", path)
            found: dict[str, Any] = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()
        return found


class Supervisor:
    """A background thread's work: starts the workers, starts anew what ends, and stops all when it is told to."""

    name = "supervisor"

    def __init__(self, workers: Workers, sockets: Sequence[socket.socket], folder: Path) -> None:
        self.slots = [Slot(number, folder) for number in range(workers.count)]
        self._workers = workers
        self._sockets = sockets
        self._folder = folder
        self._was_ready = False
        # Not forked: a copy of a process with threads, some in a client library, can hang.
        self._context = multiprocessing.get_context("spawn")

    def run(self, stop: threading.Event) -> None:
        """Work until told to stop. Raises WorkersFailed."""
        try:
            for slot in self.slots:
                slot.start(self._context, self._workers.run, self._sockets)
            while not stop.is_set():
                self._look(stop)
        finally:
            badly = self._stop()
        if badly:
            raise WorkersFailed(f"{', '.join(badly)} did not end well: see its log")

    def problem(self) -> str | None:
        """Why nobody answers, or None."""
        return None if any(slot.ready() for slot in self.slots) else "none is ready yet"

    def hurry(self) -> None:
        """Have the workers wait for no request any more."""
        for slot in self.slots:
            process = slot.process
            if process is not None and process.pid is not None and process.exitcode is None:
                os.kill(process.pid, HURRY)

    def metrics(self) -> CollectorRegistry:
        """What the workers have counted together, and how they are."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self._folder))  # type: ignore[no-untyped-call]
        registry.register(self)
        return registry

    def collect(self) -> Iterator[Metric]:
        """How the workers are, as the metrics' library asks for it."""
        up = GaugeMetricFamily("driftloop_worker_up", "Whether a worker process runs.", labels=["worker"])
        restarts = CounterMetricFamily(
            "driftloop_worker_restarts", "How often a worker process was started anew.", labels=["worker"]
        )
        for slot in self.slots:
            up.add_metric([slot.name], slot.running)
            restarts.add_metric([slot.name], slot.restarts)
        yield up
        yield restarts
        yield from self._processes()

    def describe(self) -> list[Metric]:
        """Nothing: what there is depends on who runs."""
        return []

    def _processes(self) -> Iterator[Metric]:
        """What the system says of each worker's process."""
        families: dict[str, Metric] = {}
        for slot in self.slots:
            process = slot.process
            if process is None or process.pid is None:
                continue
            for one in ProcessCollector(pid=partial(int, process.pid), registry=None).collect():
                family = families.setdefault(one.name, Metric(one.name, one.documentation, one.type))
                for sample in one.samples:
                    family.add_sample(sample.name, sample.labels | {"worker": slot.name}, sample.value)
        yield from families.values()

    def _look(self, stop: threading.Event) -> None:
        """Wait a moment for a worker to end; have those that ended start anew when it is time."""
        running = [slot.process.sentinel for slot in self.slots if slot.process is not None]
        if running:
            wait(running, TICK_SECONDS)
        else:
            stop.wait(TICK_SECONDS)
        self._was_ready = self._was_ready or any(slot.ready() for slot in self.slots)
        for slot in self.slots:
            if slot.process is not None and not slot.running:
                self._bury(slot)
            elif slot.process is None and time.monotonic() >= slot.due:
                self._restart(slot)

    def _restart(self, slot: Slot) -> None:
        slot.restarts += 1
        try:
            slot.start(self._context, self._workers.run, self._sockets)
        except OSError as error:
            # Of memory, processes or files there may be more later.
            logger.error("a worker process cannot be started", extra={"worker": slot.name, "error": str(error)})
            self._put_off(slot)

    def _bury(self, slot: Slot) -> None:
        process = slot.process
        assert process is not None
        slot.process, slot.ended = None, process.exitcode
        mark_process_dead(process.pid, str(self._folder))  # type: ignore[no-untyped-call]
        logger.error("a worker process ended", extra={"worker": slot.name, "status": slot.ended})
        if not self._was_ready:
            raise WorkersFailed(f"{slot.name} ended with status {slot.ended}, and no other is ready: see its log")
        if slot.age > LONG_SECONDS:
            slot.early, slot.due = 0, 0.0
        else:
            self._put_off(slot)

    def _put_off(self, slot: Slot) -> None:
        slot.due = time.monotonic() + RESTART_SECONDS[min(slot.early, len(RESTART_SECONDS) - 1)]
        slot.early += 1

    def _stop(self) -> list[str]:
        """Stop all at once; what does not end in time is killed. Returns the names of those that did not end well."""
        # Who comes now is refused, and does not wait for workers that take nobody any more.
        for one in self._sockets:
            one.close()
        processes = [slot.process for slot in self.slots if slot.process is not None]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + self._workers.stop_seconds
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.exitcode is None:
                logger.error("a worker process did not stop in time and is killed", extra={"worker": process.name})
                process.kill()
                process.join()
        # One that had not begun yet ends by the signal.
        return [process.name for process in processes if process.exitcode not in (0, -signal.SIGTERM)]


class _UnixConnection(http.client.HTTPConnection):
    """A connection by a socket in the file system."""

    def __init__(self, path: str) -> None:
        super().__init__("worker", timeout=ASK_SECONDS)
        self._path = path

    def connect(self) -> None:
        """Connect. Raises OSError."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _sentence(said: dict[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in said.items())


def _run(run: Run, number: int, path: Path, sockets: list[socket.socket], others: bool) -> None:
    """What a worker process does."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    management = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    management.bind(str(path))
    run(number, Inherited(sockets, management, parent.sentinel, others))
