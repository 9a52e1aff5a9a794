"""One process of a service: its HTTP face, its management port and its background threads, started and stopped as one.

A thread that ends by an exception is a bug: the process logs it and exits non-zero, and whoever supervises it starts it
anew. SIGTERM and SIGINT stop it gracefully: no new requests, the running ones answered, threads joined, closers called.
"""

import asyncio
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import uvicorn
from fastapi import FastAPI

from driftloop.common.http import Checks, management_app

logger = logging.getLogger(__name__)

JOIN_SECONDS = 10.0


class Worker(Protocol):
    """A background thread's work: returns soon after `stop` is set; raising is a bug."""

    name: str

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set."""
        ...


@dataclass(frozen=True)
class Service:
    """What `main` has built. `closers` are called last, in order; `ready` checks answer `/readyz`."""

    name: str
    host: str
    management_port: int
    port: int | None = None
    api: FastAPI | None = None
    workers: Sequence[Worker] = ()
    ready: Checks = field(default_factory=dict)
    closers: Sequence[Callable[[], object]] = ()
    shutdown_seconds: int = 10


def incarnation(service: str) -> str:
    """A name for this process that no other, earlier or later, ever has: `service/host/random`."""
    return f"{service}/{socket.gethostname()}/{uuid.uuid4().hex[:12]}"


def run_service(service: Service) -> int:
    """Run until a signal or a failure. Returns the exit status: 0 after a signal, 1 after a failure."""
    return asyncio.run(_run(service))


class _Server(uvicorn.Server):
    """A server that leaves the signals to the process, which has two of them and threads besides."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Threads:
    """Runs the workers and remembers the first failure."""

    def __init__(self, workers: Sequence[Worker], failed: Callable[[], None]) -> None:
        self.stop = threading.Event()
        self.failure: str | None = None
        self._failed = failed
        self._threads = [
            threading.Thread(target=self._guard, args=[one], name=one.name, daemon=True) for one in workers
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def problem(self) -> str | None:
        if self.failure is not None:
            return self.failure
        dead = [thread.name for thread in self._threads if not thread.is_alive() and thread.ident is not None]
        return f"threads {dead} have ended" if dead and not self.stop.is_set() else None

    def join(self, seconds: float) -> None:
        self.stop.set()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                logger.error("a thread did not stop in time", extra={"thread": thread.name})

    def _guard(self, worker: Worker) -> None:
        try:
            worker.run(self.stop)
            if not self.stop.is_set():
                raise RuntimeError(f"worker {worker.name!r} returned before it was told to")
        except BaseException as error:
            # The boundary of a thread: nothing above would ever hear of it.
            self.failure = f"{worker.name}: {type(error).__name__}"
            logger.critical("a worker failed", exc_info=error, extra={"worker": worker.name})
            self._failed()


async def _run(service: Service) -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    draining = threading.Event()

    def fail() -> None:
        loop.call_soon_threadsafe(stopping.set)

    threads = _Threads(service.workers, fail)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

    ready = dict(service.ready) | {"process": lambda: "shutting down" if draining.is_set() else threads.problem()}
    servers = [_server(management_app({"threads": threads.problem}, ready), service.host, service.management_port, 1)]
    if service.api is not None and service.port is not None:
        servers.append(_server(service.api, service.host, service.port, service.shutdown_seconds))
    tasks = [asyncio.create_task(server.serve()) for server in servers]
    for task in tasks:
        task.add_done_callback(lambda _task: stopping.set())
    threads.start()
    logger.info("started", extra={"pid": os.getpid(), "port": service.port, "management_port": service.management_port})

    await stopping.wait()
    draining.set()
    failed = threads.failure is not None or any(task.done() for task in tasks)
    logger.info("stopping", extra={"failed": failed})
    # The API first: answered requests may still need the threads that confirm them.
    for server, task in reversed(list(zip(servers, tasks, strict=True))):
        server.should_exit = True
        results = await asyncio.gather(task, return_exceptions=True)
        failed = failed or any(isinstance(result, BaseException) for result in results)
    await asyncio.to_thread(threads.join, JOIN_SECONDS)
    for close in service.closers:
        await asyncio.to_thread(close)
    logger.info("stopped")
    return 1 if failed or threads.failure is not None else 0


def _server(app: FastAPI, host: str, port: int, shutdown_seconds: int) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=shutdown_seconds,
            lifespan="on",
            backlog=2048,
        )
    )
