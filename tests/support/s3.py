"""A real server that speaks S3, in an environment of its own, and a proxy before it that breaks what it is told to."""

import http.client
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from benchmarks.harness import peer_python
from driftloop.devstack.processes import ServiceProcess, free_port
from tests.support.waiting import wait_until

BUCKET = "models"
# What clients need in their environment; the server believes any key.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "not-a-secret-but-must-not-be-seen",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}

# What happens to a request, by method and path: a status and a body are answered in the server's place; None: nothing.
# The status LOST lets the server do it and loses the answer; an OSError that is raised loses the request.
LOST = 0
Fault = Callable[[str, str], tuple[int, bytes] | None]


def error(status: int, code: str) -> tuple[int, bytes]:
    """An answer as S3 gives it to what it does not do."""
    text = f"<Error><Code>{code}</Code><Message>the words of {code}</Message><RequestId>1</RequestId></Error>"
    return status, f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode()


@dataclass
class S3:
    """Moto's server on a port of its own, with one bucket, and the proxy that clients reach it by."""

    process: ServiceProcess
    server_url: str
    proxy: "Proxy"

    @property
    def url(self) -> str:
        """What clients take for the server."""
        return self.proxy.url

    @property
    def environment(self) -> dict[str, str]:
        """What clients need in their environment."""
        return ENVIRONMENT | {"AWS_ENDPOINT_URL": self.url}

    def start(self) -> None:
        """Start the server, empty, and make the bucket."""
        self.process.start()
        wait_until(self._answers, "an answer of the S3 server")
        assert httpx.put(f"{self.server_url}/{BUCKET}").status_code == 200

    def kill(self) -> None:
        """End the server as a power cut does."""
        self.process.kill()

    def _answers(self) -> bool:
        assert self.process.returncode is None, self.process.tail()
        try:
            return httpx.get(f"{self.server_url}/moto-api/", timeout=2).status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def s3_server(folder: Path) -> Iterator[S3]:
    """A running server with an empty bucket, ended with the block."""
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    process = ServiceProcess(
        name="s3",
        argv=[str(peer_python("moto")), "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env=kept,
        log_path=folder / "s3.log",
        management_port=port,
    )
    with Proxy.before(f"http://127.0.0.1:{port}") as proxy:
        found = S3(process, f"http://127.0.0.1:{port}", proxy)
        try:
            found.start()
            yield found
        finally:
            process.kill()


@dataclass
class Proxy:
    """Passes requests on to a server; `fault` may answer in its place. `seen` are the requests, method and path."""

    target: str
    port: int = 0
    fault: Fault = lambda _method, _path: None
    seen: list[tuple[str, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where the proxy listens."""
        return f"http://127.0.0.1:{self.port}"

    def heal(self) -> None:
        """Break nothing any more, and forget what was seen."""
        self.fault = lambda _method, _path: None
        self.seen.clear()

    @staticmethod
    @contextmanager
    def before(target: str) -> Iterator["Proxy"]:
        """A proxy before a server, for the time of the block."""
        proxy = Proxy(target)
        handler = type("Handler", (_Handler,), {"proxy": proxy})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        proxy.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=[0.05], daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            server.server_close()
            thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"
    # One packet an answer.
    wbufsize = -1
    disable_nagle_algorithm = True

    def handle_expect_100(self) -> bool:
        """The client waits for this word before it sends."""
        done = super().handle_expect_100()
        self.wfile.flush()
        return done

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.proxy.seen.append((self.command, self.path))
        try:
            answer = self.proxy.fault(self.command, self.path)
            lost = answer is not None and answer[0] == LOST
            status, headers, data = self._asked(body) if answer is None or lost else (answer[0], {}, answer[1])
        except OSError:
            lost = True
        if lost:
            self.close_connection = True
            return
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(data))
        self.send_header("content-length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

    def _asked(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.proxy.target).netloc, timeout=30)
        try:
            connection.request(self.command, self.path, body or None, dict(self.headers))
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def log_message(self, *_arguments: object) -> None:
        """Nothing is written."""
