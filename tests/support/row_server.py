"""label-ingest's rows at a real address, for trainers that are processes of their own."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx


@contextmanager
def serving_rows(answer: Callable[[httpx.Request], httpx.Response]) -> Iterator[str]:
    """The address at which a label-ingest of a test's making answers for the time of a block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                found = answer(httpx.Request("GET", f"http://rows{self.path}"))
            except httpx.ConnectError:
                found = httpx.Response(503)
            self.send_response(found.status_code)
            self.send_header("content-length", str(len(found.content)))
            self.end_headers()
            self.wfile.write(found.content)

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            # A trainer that is killed does not wait for its answer.
            try:
                super().handle()
            except ConnectionError:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
