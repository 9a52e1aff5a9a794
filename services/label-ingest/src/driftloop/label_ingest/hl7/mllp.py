"""MLLP: messages in frames (0x0B … 0x1C 0x0D) over TCP or TLS, each answered in its turn on its connection.

What is cut off was never taken: a message counts as received when its frame has ended, and as processed when its
acknowledgement says AA. The bounds hold whatever a client does: a message's size and time, a connection's silence, the
number of connections, and of messages at work.
"""

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from driftloop.common import metrics

logger = logging.getLogger(__name__)

START = b"\x0b"
END = b"\x1c\x0d"
# Messages at work at once; the others wait for their turn, and so do their senders.
HANDS = 4
# How long a message that has begun may go on when the service stops.
GRACE_SECONDS = 5.0
HANDSHAKE_SECONDS = 10.0
# How long a connection that ends may take to do so.
LINGER_SECONDS = 2.0
# What some senders put between frames.
_BETWEEN = (b"\r", b"\n")


class Answering(Protocol):
    """Turns messages into acknowledgements; may block; never raises."""

    def answer(self, data: bytes) -> bytes:
        """The acknowledgement of a message."""
        ...

    def too_long(self, beginning: bytes, limit: int) -> bytes:
        """The acknowledgement of a message of which only the beginning was read."""
        ...


@dataclass(frozen=True)
class Bounds:
    """What a client may ask for: bytes a message, connections at once, seconds of silence and seconds a message."""

    max_bytes: int = 1_048_576
    connections: int = 64
    idle_seconds: float = 3600.0
    message_seconds: float = 30.0


class _Broken(Exception):
    """A connection that cannot go on; `reason` is the metric's."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _TooLong(_Broken):
    def __init__(self, beginning: bytes) -> None:
        super().__init__("too_long")
        self.beginning = beginning


class _Connection:
    """One client. It is `idle` while no message of it has begun."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.idle = True

    async def secure(self, context: ssl.SSLContext) -> bool:
        """Speak TLS from here on. False: the client does not, and is cut off."""
        try:
            await self.writer.start_tls(context, ssl_handshake_timeout=HANDSHAKE_SECONDS)
        except OSError as error:
            # Nothing was said yet that an end in good order would save.
            self.writer.transport.abort()
            logger.info("a TLS handshake failed", extra={"error": type(error).__name__})
            return False
        return True

    async def message(self, bounds: Bounds) -> bytes | None:
        """The next message without its frame; None: the client is gone, or has been silent for too long."""
        self.idle = True
        if (first := await self._first(bounds.idle_seconds)) is None:
            return None
        self.idle = False
        if first != START:
            raise _Broken("no_start")
        try:
            async with asyncio.timeout(bounds.message_seconds):
                frame = await self.reader.readuntil(END)
        except TimeoutError:
            raise _Broken("unfinished") from None
        except (asyncio.IncompleteReadError, OSError):
            raise _Broken("cut_off") from None
        except asyncio.LimitOverrunError:
            raise _TooLong(await self.reader.read(bounds.max_bytes)) from None
        # A sender that was interrupted begins anew; no message has a start byte in it.
        return frame[: -len(END)].rpartition(START)[2]

    async def _first(self, seconds: float) -> bytes | None:
        while True:
            try:
                async with asyncio.timeout(seconds):
                    first = await self.reader.read(1)
            except (TimeoutError, OSError):
                return None
            if first not in _BETWEEN:
                return first or None
            # What is in the buffer already is read without a pause, and others want to live.
            await asyncio.sleep(0)

    async def send(self, acknowledgement: bytes, seconds: float) -> None:
        """Send an acknowledgement to whoever reads it."""
        try:
            self.writer.write(START + acknowledgement + END)
            async with asyncio.timeout(seconds):
                await self.writer.drain()
        except (TimeoutError, OSError):
            raise _Broken("unread") from None

    async def linger(self) -> None:
        """Take what still comes and drop it: a connection closed on it would take the last answer with it."""
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(LINGER_SECONDS):
                while await self.reader.read(65_536):
                    pass

    async def close(self) -> None:
        """Send what is to be sent, and end."""
        self.writer.close()
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                await self.writer.wait_closed()
        except (TimeoutError, OSError):
            self.writer.transport.abort()


class MllpServer:
    """A worker that answers messages on sockets which listen already, on an event loop of its own."""

    name = "mllp"

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        answering: Answering,
        bounds: Bounds,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._sockets = list(sockets)
        # Found out here, for a socket that is closed has no address.
        self._local = all(ipaddress.ip_address(one.getsockname()[0]).is_loopback for one in sockets)
        self._answering = answering
        self._bounds = bounds
        self._tls = tls
        self._problem: str | None = "not listening yet"
        self._stopping = False
        self._open: dict[asyncio.Task[None], _Connection] = {}
        self._hands = ThreadPoolExecutor(HANDS, thread_name_prefix=self.name)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        port: int = self._sockets[0].getsockname()[1]
        return port

    def problem(self) -> str | None:
        """Why no message is answered, None if they are."""
        return self._problem

    def note(self) -> str | None:
        """What whoever runs it should know: that anybody may send, None if clients show certificates or are local."""
        if self._local or (self._tls is not None and self._tls.verify_mode is ssl.CERT_REQUIRED):
            return None
        return "no client certificate is asked for: whoever reaches the MLLP port may write labels"

    def run(self, stop: threading.Event) -> None:
        """Answer until `stop` is set; then answer the messages that have begun, and close."""
        with asyncio.Runner() as runner:
            runner.run(self._run(stop))

    async def _run(self, stop: threading.Event) -> None:
        stopped = asyncio.Event()
        _pass_on(stop, asyncio.get_running_loop(), stopped)
        # Without TLS, which each connection begins when it has been counted: one that never ends its handshake counts.
        servers = [
            await asyncio.start_server(self._connected, sock=one, limit=self._bounds.max_bytes) for one in self._sockets
        ]
        self._problem = None
        logger.info("listening for HL7 v2", extra={"port": self.port, "tls": self._tls is not None})
        await stopped.wait()
        self._problem = "shutting down"
        for server in servers:
            server.close()
        await self._end()
        self._hands.shutdown(wait=False, cancel_futures=True)

    async def _end(self) -> None:
        self._stopping = True
        for task, connection in list(self._open.items()):
            if connection.idle:
                task.cancel()
        if self._open:
            await asyncio.wait(list(self._open), timeout=GRACE_SECONDS)
        for task in list(self._open):
            task.cancel()
        if self._open:
            await asyncio.wait(list(self._open))

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._stopping or len(self._open) >= self._bounds.connections:
            metrics.MLLP_REFUSED.inc()
            logger.warning("a connection too many is refused", extra={"limit": self._bounds.connections})
            writer.transport.abort()
            return
        _keep_alive(writer)
        if self._tls is not None:
            # What comes is for the handshake to read.
            assert isinstance(writer.transport, asyncio.Transport)
            writer.transport.pause_reading()
        connection = _Connection(reader, writer)
        task = asyncio.get_running_loop().create_task(self._serve(connection))
        self._open[task] = connection
        metrics.MLLP_CONNECTIONS.inc()
        task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[None]) -> None:
        del self._open[task]
        metrics.MLLP_CONNECTIONS.dec()
        if not task.cancelled() and (error := task.exception()) is not None:
            # A bug costs its connection only; its text is not logged, for it may quote a message.
            logger.error("a connection failed", extra={"error": type(error).__name__})

    async def _serve(self, connection: _Connection) -> None:
        if self._tls is not None and not await connection.secure(self._tls):
            return
        try:
            await self._converse(connection)
        except _Broken as broken:
            metrics.MLLP_BROKEN_FRAMES.labels(broken.reason).inc()
            logger.warning("a connection is closed on a broken frame", extra={"reason": broken.reason})
            if isinstance(broken, _TooLong):
                await self._refuse(connection, broken.beginning)
        finally:
            await connection.close()

    async def _converse(self, connection: _Connection) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopping and (message := await connection.message(self._bounds)) is not None:
            answer = await loop.run_in_executor(self._hands, self._answering.answer, message)
            await connection.send(answer, self._bounds.message_seconds)

    async def _refuse(self, connection: _Connection, beginning: bytes) -> None:
        answer = self._answering.too_long(beginning, self._bounds.max_bytes)
        with contextlib.suppress(_Broken):
            await connection.send(answer, self._bounds.message_seconds)
            await connection.linger()


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    """Have the system notice in two minutes when a client's host is gone: it must not keep its place for an hour."""
    accepted = writer.get_extra_info("socket")
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        # Not every system has all of them.
        if (option := getattr(socket, name, None)) is not None:
            accepted.setsockopt(socket.IPPROTO_TCP, option, value)


def _pass_on(stop: threading.Event, loop: asyncio.AbstractEventLoop, stopped: asyncio.Event) -> None:
    """Set the loop's event when the thread's is set."""

    def wait() -> None:
        stop.wait()
        # The loop may have ended by a failure.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(stopped.set)

    threading.Thread(target=wait, name="mllp-stop", daemon=True).start()
