"""One process of a service: its HTTP face, its management port and its background threads, started and stopped as one.

A thread that ends by an exception is a bug: the process logs it and exits non-zero, and whoever supervises it starts it
anew. SIGTERM and SIGINT stop it gracefully: no new requests, the running ones answered, threads joined, closers called.
A second signal has it wait for no request any more.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

import uvicorn
from starlette.types import ASGIApp
from uvicorn.loops.auto import auto_loop_factory

from driftloop.common.http import Checks, management_app

logger = logging.getLogger(__name__)

JOIN_SECONDS = 10.0
LEAVE_SECONDS = 1.0
# New objects between two looks for garbage. A batch of records makes tens of thousands, none of which is garbage yet.
COLLECT_AFTER = 50_000
BACKLOG = 2048


class Worker(Protocol):
    """A background thread's work: returns soon after `stop` is set; raising is a bug."""

    name: str

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set."""
        ...


@dataclass(frozen=True)
class Service:
    """What `main` has built. `closers` are called last, in order.

    `ready` checks answer `/readyz`; `notes` are said there, too, and never make it fail.
    """

    name: str
    host: str
    management_port: int
    port: int | None = None
    api: ASGIApp | None = None
    workers: Sequence[Worker] = ()
    ready: Checks = field(default_factory=dict)
    notes: Checks = field(default_factory=dict)
    closers: Sequence[Callable[[], object]] = ()
    shutdown_seconds: int = 10


def incarnation(service: str) -> str:
    """A name for this process that no other, earlier or later, ever has: `service/host/random`."""
    return f"{service}/{socket.gethostname()}/{uuid.uuid4().hex[:12]}"


def run_service(service: Service) -> NoReturn:
    """Run until a signal or a failure, then end the process: with status 0 after a signal, 1 after a failure.

    It ends at once, because all that must be kept was closed. Python's own end would first wait for every thread: for a
    request's that is stuck, or for a client library's that asks a name server which is gone.
    """
    # What was imported and built stays as long as the process: the collector need not look at it again.
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
    before = set(threading.enumerate())
    # The server's own choice: the fastest loop that is installed.
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        status = runner.run(_run(service))
    deadline = time.monotonic() + LEAVE_SECONDS
    for thread in set(threading.enumerate()) - before:
        if not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                logger.error("a request is left behind", extra={"worker": thread.name})
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)


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
                logger.error("a thread did not stop in time", extra={"worker": thread.name})

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
    try:
        sockets = _listen_all(service)
    except OSError as error:
        logger.critical("cannot listen", extra={"error": str(error)})
        await _close(service)
        return 1
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    draining = threading.Event()

    def fail() -> None:
        # A thread that did not stop in time may fail when nobody listens any more.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(stopping.set)

    threads = _Threads(service.workers, fail)
    ready = dict(service.ready) | {
        "process": lambda: threads.failure or ("shutting down" if draining.is_set() else threads.problem())
    }
    management = management_app({"threads": threads.problem}, ready, notes=service.notes)
    servers = [_server(management, 1)]
    if service.api is not None and service.port is not None:
        servers.append(_server(service.api, service.shutdown_seconds))

    def stop() -> None:
        for server in servers:
            server.force_exit = stopping.is_set()
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    tasks = [asyncio.create_task(_serve(server, own)) for server, own in zip(servers, sockets, strict=True)]
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
        for result in await asyncio.gather(task, return_exceptions=True):
            if isinstance(result, BaseException):
                logger.critical("a server failed", exc_info=result)
                failed = True
    await asyncio.to_thread(threads.join, JOIN_SECONDS)
    failed = not await _close(service) or failed
    logger.info("stopped")
    return 1 if failed or threads.failure is not None else 0


async def _close(service: Service) -> bool:
    """Call every closer, whatever one of them raises. Returns whether none did."""
    well = True
    for close in service.closers:
        try:
            await asyncio.to_thread(close)
        except Exception:
            logger.exception("a closer failed")
            well = False
    return well


def _listen_all(service: Service) -> list[list[socket.socket]]:
    """The sockets of the management port, then of the API's. Raises OSError, which names the address."""
    sockets = [_listen(service.host, service.management_port)]
    if service.api is not None and service.port is not None:
        try:
            sockets.append(_listen(service.host, service.port))
        except OSError:
            for one in sockets[0]:
                one.close()
            raise
    return sockets


def _listen(host: str, port: int) -> list[socket.socket]:
    """A socket for each address that the host's name stands for. Raises OSError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        addresses = {(family, address[:2]) for family, _kind, _protocol, _name, address in found}
        sockets = [socket.create_server(address, family=family, backlog=BACKLOG) for family, address in addresses]
        for one in sockets:
            # Connections inherit it. The event loop sets it only where a socket names its protocol, which these do
            # not; without it each answer waits 40 ms for the client's delayed acknowledgement.
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sockets
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"{host}:{port}: {reason}: set another host or port, or end what listens there") from error


async def _serve(server: _Server, sockets: list[socket.socket]) -> None:
    try:
        await server.serve(sockets)
    except SystemExit as error:
        # The server's way to say that the application's lifespan failed, which it has logged.
        raise RuntimeError("the application did not start") from error


def _server(app: ASGIApp, shutdown_seconds: int) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            # Nobody asks for a client's address.
            proxy_headers=False,
            timeout_graceful_shutdown=shutdown_seconds,
            lifespan="on",
            backlog=BACKLOG,
        )
    )
