"""HL7 v2 messages for tests, something that takes their outcomes, and a client that speaks MLLP byte by byte."""

import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from driftloop.common.events import OutcomeReported
from driftloop.label_ingest.hl7.mllp import MllpServer
from driftloop.label_ingest.hl7.settings import MllpSettings, build_mllp
from driftloop.label_ingest.reports import Answer, Rejected, Reports
from tests.support.waiting import wait_until

EXAMPLES = Path(__file__).parents[1] / "examples" / "hl7"
PATIENCE_SECONDS = 60.0


def example(name: str) -> bytes:
    """A message of `tests/examples/hl7`."""
    return (EXAMPLES / f"{name}.hl7").read_bytes()


def message(*segments: str, control_id: str = "M-1", header: str | None = None) -> bytes:
    """A message of the segments, after a header that is right."""
    usual = rf"MSH|^~\&|LAB|NORTH|DRIFTLOOP|CLINIC|20260203120000+0100||ORU^R01^ORU_R01|{control_id}|P|2.5.1"
    return "".join(f"{segment}\r" for segment in (header or usual, *segments)).encode()


def result(
    *observations: str, order: str = "ORD-1", filler: str = "FIL-1", observed: str = "20260203081500+0100"
) -> tuple[str, ...]:
    """The segments of one patient's order with these OBX segments."""
    return ("PID|1||MRN-1^^^NORTH^MR", f"OBR|1|{order}|{filler}|4548-4^HbA1c^LN|||{observed}", *observations)


class Kept:
    """Reports that keep what they are given, and answer `joined`; rejects what is rejected, or named in `refused`."""

    def __init__(self, refused: Sequence[str] = (), error: Exception | None = None) -> None:
        self.items: list[OutcomeReported | Rejected] = []
        self.refused = refused
        self.error = error
        # Cleared, it has whoever brings outcomes wait.
        self.may_commit = threading.Event()
        self.may_commit.set()
        self.waiting = threading.Event()

    def take(self, items: Sequence[OutcomeReported | Rejected], traceparent: str | None = None) -> list[Answer]:
        """Keep them all, or raise what it was told to."""
        self.waiting.set()
        assert self.may_commit.wait(PATIENCE_SECONDS)
        if self.error is not None:
            raise self.error
        self.items.extend(items)
        return [self._answer(item) for item in items]

    def _answer(self, item: OutcomeReported | Rejected) -> Answer:
        if isinstance(item, Rejected):
            return Answer("rejected", item.detail)
        if item.analyte in self.refused:
            return Answer("rejected", "analyte: no label policy knows it")
        return Answer("joined")

    @property
    def outcomes(self) -> list[OutcomeReported]:
        """The good ones."""
        return [one for one in self.items if isinstance(one, OutcomeReported)]


@contextmanager
def serving(reports: Reports, settings: MllpSettings | None = None) -> Iterator[MllpServer]:
    """A server that listens on a free port, and has stopped afterwards."""
    server = build_mllp(settings or MllpSettings(mllp_port=0), reports)
    assert server is not None
    stop = threading.Event()
    thread = threading.Thread(target=server.run, args=[stop], daemon=True)
    thread.start()
    wait_until(lambda: server.problem() is None, "the server listens")
    try:
        yield server
    finally:
        stop.set()
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


class Client:
    """A laboratory's end of a connection."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        plain = socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)
        self.socket = plain if tls is None else tls.wrap_socket(plain, server_hostname="127.0.0.1")
        self._received = b""

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def ask(self, data: bytes) -> list[list[str]]:
        """Send a message, and read its acknowledgement."""
        self.send(framed(data))
        return self.read()

    def read(self) -> list[list[str]]:
        """The next acknowledgement, as the fields of its segments."""
        while b"\x1c\r" not in self._received:
            more = self.socket.recv(65_536)
            assert more, "the connection ended before an acknowledgement came"
            self._received += more
        frame, _, self._received = self._received.partition(b"\x1c\r")
        assert frame.startswith(b"\x0b")
        return fields(frame[1:])

    def is_closed(self) -> bool:
        """Whether the server ends the connection, and sends nothing more."""
        try:
            return self._received + self.socket.recv(65_536) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def framed(data: bytes) -> bytes:
    """A message as MLLP sends it."""
    return b"\x0b" + data + b"\x1c\r"


def fields(acknowledgement: bytes) -> list[list[str]]:
    """The fields of each segment; those of MSH are one less than the standard counts."""
    return [line.split("|") for line in acknowledgement.decode().split("\r") if line]
