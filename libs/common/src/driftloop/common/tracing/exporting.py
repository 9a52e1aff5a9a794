"""Spans by OpenTelemetry's SDK, sent as OTLP over HTTP. The SDK reads the standard variables itself."""

import logging
from collections.abc import Iterable
from itertools import islice
from threading import Thread

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from driftloop.common.logs import Sparing
from driftloop.common.tracing import Attributes, Kind, parse_traceparent

# Of a batch of thousands so many records can be found from its span.
MAX_LINKS = 128
NEWS_SECONDS = 60


def open_tracer(service: str) -> "OtelTracer":
    """A tracer that sends to the collector in the background: what it does not take in time is dropped, not kept."""
    # The environment's name of the service goes before ours.
    resource = Resource.create({"service.name": service}).merge(OTELResourceDetector().detect())
    # A process that cannot start must end at once, whether a collector listens or not.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    exporter = logging.getLogger(OTLPSpanExporter.__module__)
    # It warns before each try, with the exception as an argument, which no filter could tell from the one before.
    exporter.setLevel(logging.ERROR)
    exporter.addFilter(Sparing(NEWS_SECONDS))
    return OtelTracer(provider)


class OtelSpan:
    """A span of the SDK."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        own = span.get_span_context()
        self.traceparent = f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"

    def name(self, name: str) -> None:
        """Say better what it is, once that is known."""
        self._span.update_name(name)

    def set(self, attributes: Attributes) -> None:
        """Say more of it."""
        self._span.set_attributes(attributes)

    def fail(self, error: str) -> None:
        """It fails. Of an error only the class is told: its text may quote what was read."""
        self._span.set_attribute("error.type", error)
        self._span.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        """It is done."""
        self._span.end()


class OtelTracer:
    """Makes the SDK's spans; parents are always named, never found in the SDK's own context."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("driftloop")

    def start(
        self, name: str, kind: Kind, parent: str | None, attributes: Attributes, links: Iterable[str | None] = ()
    ) -> OtelSpan:
        """A span in the trace of `parent`, sampled as that is; or in a new trace if it is absent or malformed."""
        cause = _context(parent)
        around = Context() if cause is None else trace.set_span_in_context(NonRecordingSpan(cause), Context())
        return OtelSpan(self._tracer.start_span(name, around, SpanKind[kind.upper()], attributes, _links(links)))

    def stop(self, seconds: float) -> None:
        """Send what has gathered; give up after so many seconds."""
        # The SDK's own shutdown has no limit that a collector which never answers would keep to.
        closing = Thread(target=self._provider.shutdown, name="tracing-shutdown", daemon=True)
        closing.start()
        closing.join(seconds)


def _context(traceparent: str | None) -> SpanContext | None:
    found = parse_traceparent(traceparent)
    if found is None:
        return None
    flags = TraceFlags(int(found.flags, 16))
    return SpanContext(int(found.trace, 16), int(found.span, 16), is_remote=True, trace_flags=flags)


def _links(contexts: Iterable[str | None]) -> list[Link]:
    """Links to what can be found there: of what was not sampled nobody has anything."""
    found = (cause for text in contexts if (cause := _context(text)) is not None and cause.trace_flags.sampled)
    return [Link(cause) for cause in islice(found, MAX_LINKS)]
