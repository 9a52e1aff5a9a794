"""One process of a service: its HTTP face, its management port and its background threads, started and stopped as one.

A thread that ends by an exception is a bug: the process logs it and exits non-zero, and whoever supervises it starts it
anew. SIGTERM and SIGINT stop it gracefully: unready at once, requests taken for the time of the drain, then no new
ones, the running ones answered, threads joined, closers called. A second signal has it wait for no request any more.
"""

import asyncio
import gc
import logging
import math
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
from importlib.metadata import version
from typing import NoReturn, Protocol

import uvicorn
from prometheus_client import REGISTRY, CollectorRegistry
from starlette.types import ASGIApp
from uvicorn.loops.auto import auto_loop_factory

from driftloop.common import metrics
from driftloop.common.http import Checks, management_app
from driftloop.common.sentry import stop_sentry
from driftloop.common.tracing import stop_tracing
from driftloop.common.tracing.asgi import traced

logger = logging.getLogger(__name__)

JOIN_SECONDS = 10.0
LEAVE_SECONDS = 1.0
# How long worker processes that are started together, and cannot answer yet, let requests wait.
START_SECONDS = 10.0
START_TICK_SECONDS = 0.05
# By which a parent passes a second signal on to its workers.
HURRY = signal.SIGUSR2
# New objects between two looks for garbage. A batch of records makes tens of thousands, none of which is garbage yet.
COLLECT_AFTER = 50_000
BACKLOG = 2048
# Longer than proxies keep a connection that nobody uses, 60 s: whoever closes it first must be the one that sends.
KEEP_ALIVE_SECONDS = 75


class Worker(Protocol):
    """A background thread's work: returns soon after `stop` is set; raising is a bug."""

    name: str

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set."""
        ...


@dataclass(frozen=True)
class Service:
    """What `main` has built. `closers` are called last, in order.

    `ready` checks answer `/readyz`; `notes` are said there, too, and never make it fail; `live` checks answer
    `/healthz`. What `metrics` holds is answered on `/metrics`. Told to stop, it takes requests for `drain_seconds`
    more; the workers have `join_seconds` to end; a second signal calls `hurry`.
    """

    name: str
    host: str
    management_port: int
    port: int | None = None
    api: ASGIApp | None = None
    workers: Sequence[Worker] = ()
    ready: Checks = field(default_factory=dict)
    notes: Checks = field(default_factory=dict)
    live: Checks = field(default_factory=dict)
    closers: Sequence[Callable[[], object]] = ()
    drain_seconds: float = 0.0
    shutdown_seconds: int = 10
    join_seconds: float = JOIN_SECONDS
    metrics: CollectorRegistry = REGISTRY
    hurry: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Inherited:
    """What a worker process is given: sockets for its API, which others have, too, and one for its own management.

    `orphaned` is a file that can be read once its parent is gone. `others` says that others answer meanwhile: then it
    leaves the requests to them until it is ready, however long that takes.
    """

    api: Sequence[socket.socket]
    management: socket.socket
    orphaned: int
    others: bool = False


def incarnation(service: str) -> str:
    """A name for this process that no other, earlier or later, ever has: `service/host/random`."""
    return f"{service}/{socket.gethostname()}/{uuid.uuid4().hex[:12]}"


def run_service(service: Service, inherited: Inherited | None = None) -> NoReturn:
    """Run until a signal or a failure, then end the process: with status 0 after a signal, 1 after a failure.

    One that has inherited its sockets ends by its parent's word or death only, and takes requests once it is ready.

    It ends at once, because all that must be kept was closed. Python's own end would first wait for every thread: for a
    request's that is stuck, or for a client library's that asks a name server which is gone.
    """
    # An image is built from a revision; who runs the source need not say.
    revision = os.environ.get("DRIFTLOOP_REVISION") or "unknown"
    metrics.BUILD_INFO.labels(version("driftloop-common"), revision).set(1)
    # What was imported and built stays as long as the process: the collector need not look at it again.
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
    before = set(threading.enumerate())
    # The server's own choice: the fastest loop that is installed.
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        status = runner.run(_run(service, inherited))
    deadline = time.monotonic() + LEAVE_SECONDS
    for thread in set(threading.enumerate()) - before:
        if not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                logger.error("a request is left behind", extra={"worker": thread.name})
    stop_tracing()
    stop_sentry()
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)


class _Server(uvicorn.Server):
    """A server that leaves the signals to the process, which has two of them and threads besides."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def see_off(self) -> None:
        """Close each connection with its next answer, so that none is closed while a request is on its way."""
        close = (b"connection", b"close")
        # The first is copied into the second once a second.
        self.config.encoded_headers.append(close)
        self.server_state.default_headers.append(close)


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


async def _run(service: Service, inherited: Inherited | None) -> int:
    try:
        sockets = _listen_all(service) if inherited is None else [[inherited.management], list(inherited.api)]
    except OSError as error:
        logger.critical("cannot listen", extra={"error": str(error)})
        await _close(service)
        return 1
    loop = asyncio.get_running_loop()
    stopping, at_once = asyncio.Event(), asyncio.Event()
    draining = threading.Event()

    def stop_at_once() -> None:
        at_once.set()
        stopping.set()

    def fail() -> None:
        # A thread that did not stop in time may fail when nobody listens any more.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(stop_at_once)

    threads = _Threads(service.workers, fail)
    ready = dict(service.ready) | {
        "process": lambda: threads.failure or ("shutting down" if draining.is_set() else threads.problem())
    }
    live = dict(service.live) | {"threads": threads.problem}
    servers = [_server(management_app(live, ready, service.metrics, service.notes), 1)]
    if service.api is not None and service.port is not None:
        servers.append(_server(traced(service.api), service.shutdown_seconds))

    def hurry() -> None:
        for server in servers:
            server.force_exit = True
        service.hurry()
        stop_at_once()

    _hear(loop, stopping, stop_at_once, hurry, inherited)
    threads.start()
    tasks = [asyncio.create_task(_serve(servers[0], sockets[0]))]
    if inherited is not None:
        await _first_ready(service.ready, stopping, math.inf if inherited.others else START_SECONDS)
        if stopping.is_set():
            # Nobody was ever told to come here.
            at_once.set()
    tasks += [asyncio.create_task(_serve(server, own)) for server, own in zip(servers[1:], sockets[1:], strict=True)]
    for task in tasks:
        task.add_done_callback(lambda _task: stop_at_once())
    logger.info("started", extra={"pid": os.getpid(), "port": service.port, "management_port": service.management_port})

    await stopping.wait()
    draining.set()
    failed = threads.failure is not None or any(task.done() for task in tasks)
    logger.info("stopping", extra={"failed": failed, "drain_seconds": service.drain_seconds})
    await _drain(servers[1:], at_once, service.drain_seconds)
    # The API first: answered requests may still need the threads that confirm them. The health last.
    failed = not await _end(servers[1:], tasks[1:]) or failed
    await asyncio.to_thread(threads.join, service.join_seconds)
    failed = not await _end(servers[:1], tasks[:1]) or failed
    failed = not await _close(service) or failed
    logger.info("stopped")
    return 1 if failed or threads.failure is not None else 0


async def _drain(servers: Sequence[_Server], at_once: asyncio.Event, seconds: float) -> None:
    """Answer until whoever sends requests has learned that no more should come, or until it must end at once."""
    if seconds and not at_once.is_set():
        for server in servers:
            server.see_off()
        with suppress(TimeoutError):
            await asyncio.wait_for(at_once.wait(), seconds)


async def _end(servers: Sequence[_Server], tasks: Sequence[asyncio.Task[None]]) -> bool:
    """End servers. Returns whether none failed."""
    well = True
    for server, task in zip(servers, tasks, strict=True):
        server.should_exit = True
        for result in await asyncio.gather(task, return_exceptions=True):
            if isinstance(result, BaseException):
                logger.critical("a server failed", exc_info=result)
                well = False
    return well


def _hear(
    loop: asyncio.AbstractEventLoop,
    stopping: asyncio.Event,
    stop_at_once: Callable[[], None],
    hurry: Callable[[], None],
    inherited: Inherited | None,
) -> None:
    """Have the process stop when it is told to, or when nobody is left who could."""
    if inherited is None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: hurry() if stopping.is_set() else stopping.set())
        return
    # A signal for the whole group comes twice, for the parent tells its workers, too; a terminal's is for the parent.
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    loop.add_signal_handler(HURRY, hurry)

    def orphaned() -> None:
        loop.remove_reader(inherited.orphaned)
        logger.warning("the parent process is gone: stopping")
        # Its successor waits for the port and the spool.
        stop_at_once()

    loop.add_reader(inherited.orphaned, orphaned)


async def _first_ready(ready: Checks, stopping: asyncio.Event, seconds: float) -> None:
    """Wait until all checks are well, but no longer than so: whoever waits for an answer is to get one."""
    deadline = time.monotonic() + seconds
    while not stopping.is_set() and time.monotonic() < deadline:
        if all(check() is None for check in ready.values()):
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), START_TICK_SECONDS)


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
    sockets = [listen(service.host, service.management_port)]
    if service.api is not None and service.port is not None:
        try:
            sockets.append(listen(service.host, service.port))
        except OSError:
            for one in sockets[0]:
                one.close()
            raise
    return sockets


def listen(host: str, port: int) -> list[socket.socket]:
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
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=shutdown_seconds,
            lifespan="on",
            backlog=BACKLOG,
        )
    )
