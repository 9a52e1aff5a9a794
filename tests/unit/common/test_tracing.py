"""Traces: off nothing is made or imported; on, spans have the parents, the links and the names that they should."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from driftloop.common import tracing
from driftloop.common.logs import JsonFormatter
from driftloop.common.settings import SettingsError
from driftloop.common.tracing import (
    consuming,
    created,
    current_traceparent,
    parse_traceparent,
    producing,
    span,
    start_tracing,
)
from driftloop.common.tracing.asgi import traced
from driftloop.common.tracing.exporting import MAX_LINKS
from tests.support.asgi import ask
from tests.support.collector import recording

TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED = f"00-{TRACE}-b7ad6b7169203331-01"
UNSAMPLED = f"00-{TRACE}-b7ad6b7169203331-00"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    """What is sent while tracing is on."""
    with recording() as found:
        yield found


def only(exporter: InMemorySpanExporter) -> ReadableSpan:
    """The one span that was sent."""
    (found,) = exporter.get_finished_spans()
    return found


def attributes(one: ReadableSpan) -> dict[str, object]:
    return dict(one.attributes or {})


def ids(one: ReadableSpan) -> tuple[str, str, str | None]:
    """Trace, span and parent span."""
    own = one.get_span_context()
    assert own is not None
    parent = None if one.parent is None else f"{one.parent.span_id:016x}"
    return f"{own.trace_id:032x}", f"{own.span_id:016x}", parent


# --- off


def test_a_service_that_is_not_told_to_trace_does_not_import_what_traces() -> None:
    # Bare interfaces, which do nothing, come with FastAPI.
    code = (
        "import sys, driftloop.predictor.main, driftloop.label_ingest.main, driftloop.drift_monitor.main, "
        "driftloop.trainer.main\n"
        "from driftloop.common import tracing\n"
        "tracing.start_tracing('predictor', {'OTEL_SERVICE_NAME': 'mine'})\n"
        "with tracing.span('work', 'internal', None, {}): tracing.created('topic', 'id', None)\n"
        "tracing.stop_tracing()\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {ENDPOINT: ""},
        {ENDPOINT: "http://collector:4318", "OTEL_SDK_DISABLED": "True"},
        {ENDPOINT: "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_it_stays_off(environ: dict[str, str]) -> None:
    start_tracing("predictor", environ)
    assert tracing.active_tracer() is None
    app = FastAPI()
    assert traced(app) is app


def test_off_contexts_still_go_from_cause_to_effect() -> None:
    with producing("predictions", ["a", "b"], [SAMPLED, None]) as (first, second):
        assert first[:36] == SAMPLED[:36] != second[:36]
        assert first != SAMPLED
    with producing("predictions", ["a", "b"], [SAMPLED]) as contexts:
        assert len(contexts) == 2
        assert len(set(contexts)) == 1
    assert created("labeled-predictions", "a", UNSAMPLED)[:36] == UNSAMPLED[:36]
    with span("work", "internal", SAMPLED, {}), consuming(["predictions"], "group", 1, [SAMPLED]):
        assert current_traceparent() is None


# --- what cannot be turned on


def test_without_the_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "driftloop.common.tracing.exporting", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(SettingsError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT is set.*driftloop-common\[tracing\]"):
        start_tracing("predictor", {ENDPOINT: "http://collector:4318"})
    assert tracing.active_tracer() is None


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({ENDPOINT: "collector:4317"}, "OTEL_EXPORTER_OTLP_ENDPOINT='collector:4317': use a URL"),
        ({ENDPOINT: "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL='grpc'"),
    ],
)
def test_a_setting_that_cannot_be_followed_is_named(environ: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        start_tracing("predictor", environ)
    assert str(refused.value).startswith(said)


# --- spans


def test_a_span_goes_on_with_the_trace_of_its_parent(exported: InMemorySpanExporter) -> None:
    with span("work", "internal", SAMPLED, {"driftloop.model.name": "diabetes"}):
        inner = created("drift-events", "drift:1", current_traceparent())
    assert current_traceparent() is None
    made, outer = exported.get_finished_spans()
    trace, own, parent = ids(outer)
    assert (trace, parent) == (TRACE, "b7ad6b7169203331")
    assert ids(made)[2] == own
    assert inner == f"00-{TRACE}-{ids(made)[1]}-01"
    assert (outer.kind, made.kind, made.name) == (SpanKind.INTERNAL, SpanKind.PRODUCER, "create drift-events")
    assert attributes(made) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "create",
        "messaging.operation.type": "create",
        "messaging.destination.name": "drift-events",
        "messaging.message.id": "drift:1",
    }


def test_what_the_cause_did_not_sample_is_not_sent_but_goes_on(exported: InMemorySpanExporter) -> None:
    context = parse_traceparent(created("drift-events", "drift:1", UNSAMPLED))
    assert context is not None
    assert (context.trace, context.flags) == (TRACE, "00")
    assert context.span != UNSAMPLED.split("-")[2]
    assert not exported.get_finished_spans()


@pytest.mark.parametrize("parent", [None, "", "00-zz", SAMPLED + "-x"])
def test_without_a_parent_that_can_be_read_a_new_trace_begins(
    exported: InMemorySpanExporter, parent: str | None
) -> None:
    context = created("drift-events", "drift:1", parent)
    trace, own, none = ids(only(exported))
    assert (context.rpartition("-")[0], none) == (f"00-{trace}-{own}", None)
    # Sampled, and the trace's name is random: the W3C's two flags.
    assert int(context[-2:], 16) & 1
    assert trace != TRACE


def test_of_a_failure_only_the_class_is_told(exported: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError), span("work", "internal", None, {}):
        raise ValueError("glucose is 165")
    failed = only(exported)
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, None)
    assert attributes(failed) == {"error.type": "ValueError"}
    assert not failed.events


def test_a_batch_is_linked_to_what_caused_it(exported: InMemorySpanExporter) -> None:
    causes = [f"00-{number:032x}-{number:016x}-01" for number in range(1, 300)]
    with consuming(["predictions", "outcomes", "predictions"], "label-ingest", 301, [UNSAMPLED, *causes, None]):
        pass
    batch = only(exported)
    assert (batch.kind, batch.name, batch.parent) == (SpanKind.CONSUMER, "process outcomes predictions", None)
    assert [link.context.trace_id for link in batch.links] == list(range(1, MAX_LINKS + 1))
    assert attributes(batch) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.consumer.group.name": "label-ingest",
        "messaging.batch.message_count": 301,
    }


def test_a_batch_of_one_cause_is_its_child(exported: InMemorySpanExporter) -> None:
    with consuming(["predictions"], "label-ingest", 2, [SAMPLED, SAMPLED]):
        assert (current_traceparent() or "").split("-")[1] == TRACE
    batch = only(exported)
    assert (ids(batch)[0], ids(batch)[2], len(batch.links)) == (TRACE, "b7ad6b7169203331", 1)
    assert attributes(batch)["messaging.destination.name"] == "predictions"


def test_each_request_of_a_turn_has_a_span_and_a_batch_has_one(exported: InMemorySpanExporter) -> None:
    other = f"00-{'1' * 32}-{'2' * 16}-01"
    with producing("predictions", ["a", "b"], [SAMPLED, other]) as contexts:
        assert not exported.get_finished_spans()
    first, second = exported.get_finished_spans()
    assert [ids(one)[:2] for one in (first, second)] == [tuple(one.split("-")[1:3]) for one in contexts]
    assert (ids(first)[0], ids(second)[0]) == (TRACE, "1" * 32)
    assert [attributes(one)["messaging.message.id"] for one in (first, second)] == ["a", "b"]
    exported.clear()
    with pytest.raises(TimeoutError), producing("predictions", ["a", "b"], [SAMPLED]) as contexts:
        assert len(contexts) == 2
        raise TimeoutError
    many = only(exported)
    assert [one.split("-")[2] for one in contexts] == [ids(many)[1]] * 2
    assert attributes(many)["messaging.batch.message_count"] == 2
    assert attributes(many)["error.type"] == "TimeoutError"


def test_a_log_line_says_in_which_span_it_was_written(exported: InMemorySpanExporter) -> None:
    record = logging.makeLogRecord({"msg": "a window was closed"})
    with span("work", "internal", SAMPLED, {}):
        line = json.loads(JsonFormatter("drift-monitor").format(record))
    assert (line["trace_id"], line["span_id"]) == ids(only(exported))[:2]
    assert "trace_id" not in json.loads(JsonFormatter("drift-monitor").format(record))


# --- requests


def application() -> FastAPI:
    app = FastAPI()

    @app.get("/models/{name}")
    async def model(name: str) -> str | None:
        if name == "broken":
            raise ValueError(name)
        return current_traceparent()

    return app


def test_a_request_is_a_span_that_its_application_goes_on_from(exported: InMemorySpanExporter) -> None:
    answer = ask(traced(application()), "GET", "/models/loan?patient=MRN-1", headers={"traceparent": SAMPLED})
    request = only(exported)
    trace, own, parent = ids(request)
    assert answer.json() == f"00-{trace}-{own}-01"
    assert (trace, parent) == (TRACE, "b7ad6b7169203331")
    assert (request.kind, request.name) == (SpanKind.SERVER, "GET /models/{name}")
    assert request.status.status_code is StatusCode.UNSET
    assert attributes(request) == {
        "http.request.method": "GET",
        "url.scheme": "http",
        "http.route": "/models/{name}",
        "http.response.status_code": 200,
    }


def test_a_stranger_s_path_and_method_are_told_to_nobody(exported: InMemorySpanExporter) -> None:
    assert ask(traced(application()), "MRN-1", "/MRN-1").status_code == 404
    request = only(exported)
    assert request.name == "HTTP"
    assert "MRN-1" not in str(attributes(request))
    assert attributes(request)["http.request.method"] == "_OTHER"


def test_a_request_that_breaks_its_application_is_a_failure(exported: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError):
        ask(traced(application()), "GET", "/models/broken")
    request = only(exported)
    assert (request.status.status_code, request.status.description) == (StatusCode.ERROR, None)
    assert attributes(request)["http.response.status_code"] == 500
    assert attributes(request)["error.type"] == "ValueError"
