"""A Sentry of the tests' own: takes envelopes as the real one does, or takes them and never answers."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx


@dataclass
class Sentry:
    """What has come, as it came: `dsn` is where to."""

    dsn: str
    envelopes: list[bytes] = field(default_factory=list)

    def events(self) -> list[dict[str, Any]]:
        """The events so far."""
        found = []
        for one in list(self.envelopes):
            _header, *lines = one.splitlines()
            items = zip(lines[::2], lines[1::2], strict=False)
            found += [json.loads(body) for header, body in items if json.loads(header)["type"] == "event"]
        return found


@contextmanager
def receiving(answers: bool = True) -> Iterator[Sentry]:
    """A Sentry for the time of a block."""
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            # Packed in whatever way the SDK finds here.
            packed = {"content-encoding": self.headers.get("content-encoding", "identity")}
            sentry.envelopes.append(httpx.Response(200, headers=packed, content=body).content)
            if not answers:
                ended.wait()
                return
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sentry = Sentry(f"http://publickey@127.0.0.1:{server.server_address[1]}/7")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield sentry
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
