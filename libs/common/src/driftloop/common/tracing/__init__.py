"""Traces: a request's W3C context travels with every event that it causes; spans tell OpenTelemetry what was done.

Off, which is the default, a context is a random number, and OpenTelemetry's SDK is not even imported. `start_tracing`
turns it on by the standard variables; what uses spans is the same either way.
"""

import os
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Literal, NamedTuple, Protocol
from urllib.parse import urlsplit

from driftloop.common.settings import SettingsError

# How long a process that ends waits for a collector.
FLUSH_SECONDS = 2.0
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

Kind = Literal["internal", "server", "producer", "consumer"]
Attributes = Mapping[str, str | int]

_TRACEPARENT = re.compile(r"\A00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})\Z")


class Context(NamedTuple):
    """What a traceparent says, in hexadecimal digits."""

    trace: str
    span: str
    flags: str


class Span(Protocol):
    """What is being done; `traceparent` goes to whoever is caused by it."""

    traceparent: str

    def name(self, name: str) -> None:
        """Say better what it is, once that is known."""
        ...

    def set(self, attributes: Attributes) -> None:
        """Say more of it. Never what a patient's record holds."""
        ...

    def fail(self, error: str) -> None:
        """It fails; `error` is a class of errors."""
        ...

    def end(self) -> None:
        """It is done."""
        ...


class Tracer(Protocol):
    """Makes spans, and sends them somewhere."""

    def start(
        self, name: str, kind: Kind, parent: str | None, attributes: Attributes, links: Iterable[str | None] = ()
    ) -> Span:
        """A span in the trace of `parent`, or in a new trace if `parent` is absent or malformed."""
        ...

    def stop(self, seconds: float) -> None:
        """Send what has gathered; give up after so many seconds."""
        ...


_tracer: Tracer | None = None
_current: ContextVar[str | None] = ContextVar("traceparent", default=None)


# --- contexts


def parse_traceparent(text: str | None) -> Context | None:
    """What a traceparent says; None if it is not in the W3C's form."""
    match = _TRACEPARENT.match(text or "")
    return None if match is None else Context(*match.groups())


def is_traceparent(text: str | None) -> bool:
    """Whether this is a trace context in the W3C's form."""
    return _TRACEPARENT.match(text or "") is not None


def child_traceparent(parent: str | None = None) -> str:
    """A new span in the trace of `parent`, or in a new trace if `parent` is absent or malformed; nobody is told."""
    match = _TRACEPARENT.match(parent or "")
    trace, _span, flags = match.groups() if match else (_name(128), "", "00")
    return f"00-{trace}-{_name(64)}-{flags}"


def current_traceparent() -> str | None:
    """The context of the innermost span around; None outside of one, and where tracing is off."""
    return _current.get()


def _name(bits: int) -> str:
    """A random name in hexadecimal digits, which is unique and no secret. All zeros stand for none."""
    return f"{random.getrandbits(bits) or 1:0{bits // 4}x}"


# --- spans


def active_tracer() -> Tracer | None:
    """Who makes spans; None while tracing is off."""
    return _tracer


@contextmanager
def within(one: Span) -> Iterator[None]:
    """What is done in the block is this span, which is current meanwhile and ended after it."""
    token = _current.set(one.traceparent)
    try:
        yield
    except BaseException as error:
        one.fail(type(error).__name__)
        raise
    finally:
        _current.reset(token)
        one.end()


def span(name: str, kind: Kind, parent: str | None, attributes: Attributes) -> AbstractContextManager[None]:
    """What is done in the block, as a span that is current meanwhile."""
    return nullcontext() if _tracer is None else within(_tracer.start(name, kind, parent, attributes))


def consuming(
    topics: Iterable[str], group: str, count: int, contexts: Iterable[str | None]
) -> AbstractContextManager[None]:
    """The handling of a batch of `count` records, linked to their contexts; a child of theirs if all have the same."""
    if _tracer is None:
        return nullcontext()
    names, causes = sorted(set(topics)), list(dict.fromkeys(contexts))
    attributes: dict[str, str | int] = messaging("process", names[0] if len(names) == 1 else None)
    attributes |= {"messaging.consumer.group.name": group, "messaging.batch.message_count": count}
    parent = causes[0] if len(causes) == 1 else None
    return within(_tracer.start(" ".join(["process", *names]), "consumer", parent, attributes, causes))


def producing(topic: str, ids: Sequence[str], parents: Sequence[str | None]) -> AbstractContextManager[Sequence[str]]:
    """The sending of records in the block: gives each its context. One parent of many records is the parent of all.

    Records of one parent are one span.
    """
    if _tracer is None:
        own = [child_traceparent(parent) for parent in parents]
        return nullcontext(own if len(own) == len(ids) else own * len(ids))
    said = messaging("send", topic)
    if len(parents) < len(ids):
        (parent,) = parents
        many = said | {"messaging.batch.message_count": len(ids)}
        return _sending([_tracer.start(f"send {topic}", "producer", parent, many)], len(ids))
    return _sending(
        [
            _tracer.start(f"send {topic}", "producer", parent, said | {"messaging.message.id": id_})
            for id_, parent in zip(ids, parents, strict=True)
        ]
    )


def created(topic: str, id_: str, parent: str | None) -> str:
    """The context of an event that is written down now and sent later."""
    if _tracer is None:
        return child_traceparent(parent)
    attributes = messaging("create", topic) | {"messaging.message.id": id_}
    made = _tracer.start(f"create {topic}", "producer", parent, attributes)
    made.end()
    return made.traceparent


def messaging(operation: str, topic: str | None) -> dict[str, str | int]:
    """What every span of messages says; `topic` by its logical name, None where there are several."""
    said: dict[str, str | int] = {
        "messaging.system": "kafka", "messaging.operation.name": operation, "messaging.operation.type": operation,
    }  # fmt: skip
    return said if topic is None else said | {"messaging.destination.name": topic}


@contextmanager
def _sending(spans: Sequence[Span], records: int = 1) -> Iterator[Sequence[str]]:
    try:
        yield [one.traceparent for one in spans] * records
    except BaseException as error:
        for one in spans:
            one.fail(type(error).__name__)
        raise
    finally:
        for one in spans:
            one.end()


# --- on and off


def start_tracing(service: str, environ: Mapping[str, str] | None = None) -> None:
    """Send spans to the collector that the standard variables name; without one tracing stays off.

    Raises SettingsError where they ask for what this installation cannot do.
    """
    global _tracer
    environ = os.environ if environ is None else environ
    variable = next((name for name in ENDPOINTS if environ.get(name)), None)
    disabled = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none"
    if variable is None or disabled:
        return
    _check(variable, environ)
    try:
        # Only here: who does not want traces need not have what sends them.
        from driftloop.common.tracing.exporting import open_tracer  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"{variable} is set, but {error.name} is not installed: install driftloop-common[tracing], or unset it"
        ) from error
    _tracer = open_tracer(service)


def stop_tracing() -> None:
    """Send what has gathered, within limits: the last thing that a process does."""
    global _tracer
    tracer, _tracer = _tracer, None
    if tracer is not None:
        tracer.stop(FLUSH_SECONDS)


def _check(variable: str, environ: Mapping[str, str]) -> None:
    endpoint = environ[variable]
    if urlsplit(endpoint).scheme not in ("http", "https"):
        raise SettingsError(f"{variable}={endpoint!r}: use a URL such as http://collector:4318")
    protocol = next((name for name in PROTOCOLS if environ.get(name)), None)
    if protocol is not None and environ[protocol] != "http/protobuf":
        raise SettingsError(
            f"{protocol}={environ[protocol]!r}: traces are sent as http/protobuf only: use that, or unset it"
        )
