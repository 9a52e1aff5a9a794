"""Where spans go in tests: kept in memory, or a collector that speaks OTLP over HTTP."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest.mock import patch

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from driftloop.common import tracing
from driftloop.common.tracing.exporting import OtelTracer


@contextmanager
def recording() -> Iterator[InMemorySpanExporter]:
    """Turns tracing on in this process for the time of a block; holds the spans that have ended."""
    provider, exporter = TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with patch.object(tracing, "_tracer", OtelTracer(provider)):
        yield exporter
    provider.shutdown()


@dataclass(frozen=True)
class Received:
    """A span as a collector sees it."""

    service: str
    span: Span

    @property
    def place(self) -> tuple[str, str, str]:
        """Trace, parent span and span, in hexadecimal digits."""
        return self.span.trace_id.hex(), self.span.parent_span_id.hex(), self.span.span_id.hex()

    @property
    def kind(self) -> str:
        """`SERVER`, `PRODUCER`, …"""
        return str(Span.SpanKind.Name(self.span.kind)).removeprefix("SPAN_KIND_")

    @property
    def attributes(self) -> dict[str, str | int]:
        """By name."""
        return {one.key: one.value.string_value or one.value.int_value for one in self.span.attributes}


@dataclass
class Collector:
    """What has come."""

    url: str
    bodies: list[bytes] = field(default_factory=list)

    def spans(self) -> list[Received]:
        """All spans so far."""
        return [
            Received(service, span)
            for body in list(self.bodies)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for service in [a.value.string_value for a in resource.resource.attributes if a.key == "service.name"]
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def find(self, service: str, name: str, trace: str) -> Received | None:
        """The first span of a name in a trace."""
        named = (one for one in self.spans() if (one.service, one.span.name, one.place[0]) == (service, name, trace))
        return next(named, None)


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/v1/traces":
                packed = self.headers.get("content-encoding") == "gzip"
                collector.bodies.append(gzip.decompress(body) if packed else body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield collector
        server.shutdown()
        thread.join()
