"""Traces as an operator sees them: real processes, and a collector that is there, away, or dumb."""

import socket
from collections.abc import Iterator

import httpx
import pytest

from driftloop.common.events import PredictionLabeled
from driftloop.common.topics import LABELED_PREDICTIONS, PREDICTIONS
from driftloop.devstack.processes import ServiceProcess, free_port
from tests.support.artifacts import small_bundle
from tests.support.bad_bodies import ROW
from tests.support.collector import Collector, Received, collecting
from tests.support.house import House
from tests.support.paths import MODELS
from tests.support.predictors import DIABETES, predictor
from tests.support.waiting import wait_until

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
OTHER = "1" * 32
# The exporter's own patience: much longer than the limit of the flush, and than `terminate` waits before it kills.
PATIENCE_SECONDS = 600


def traceparent(trace: str, flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{trace}-{SPAN}-{flags}"}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that every process of this test knows."""
    with collecting() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        yield found


def labeling(house: House) -> tuple[ServiceProcess, str]:
    """A ready label-ingest, and its URL."""
    contract = str(MODELS / DIABETES.name / "contract.yaml")
    settings = {"DATABASE_URL": house.database_url("label_ingest"), "DRIFTLOOP_CONTRACTS": contract}
    process, url = house.process("label-ingest", "driftloop.label_ingest.main", settings)
    process.start()
    process.wait_ready()
    return process, url


def predicting(house: House) -> tuple[ServiceProcess, str]:
    """A ready predictor, and its URL."""
    house.serve(1, house.register(small_bundle(DIABETES)), DIABETES.name, 1)
    process, url = predictor(house)
    process.wait_ready()
    return process, url


def found(collector: Collector, service: str, name: str, trace: str = TRACE) -> Received:
    return wait_until(lambda: collector.find(service, name, trace), f"{name!r} of {service} in {trace}")


def test_a_trace_runs_from_the_client_to_the_label(house: House, collector: Collector) -> None:
    labeler, outcomes = labeling(house)
    process, url = predicting(house)
    body = ROW | {"patient_id": "MRN-1"}
    prediction_id = httpx.post(f"{url}/v1/predict", json=body, headers=traceparent(TRACE)).json()["prediction_id"]

    request = found(collector, "predictor", "POST /v1/predict")
    sent = found(collector, "predictor", "send predictions")
    taken = found(collector, "label-ingest", "process predictions")
    assert [one.kind for one in (request, sent, taken)] == ["SERVER", "PRODUCER", "CONSUMER"]
    assert [one.place[1] for one in (request, sent, taken)] == [SPAN, request.place[2], sent.place[2]]
    assert [link.span_id.hex() for link in taken.span.links] == [sent.place[2]]
    [(envelope, _event)] = house.events(PREDICTIONS)
    assert envelope.traceparent == f"00-{TRACE}-{sent.place[2]}-01"
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["http.route"] == "/v1/predict"
    assert sent.attributes["messaging.message.id"] == prediction_id

    outcome = {"prediction_id": prediction_id, "label": 1}
    assert httpx.post(f"{outcomes}/v1/outcomes", json=outcome, headers=traceparent(OTHER)).status_code == 200
    request = found(collector, "label-ingest", "POST /v1/outcomes", OTHER)
    created = found(collector, "label-ingest", "create labeled-predictions", OTHER)
    assert created.place[1] == request.place[2]
    [(envelope, event)] = house.wait_for_events(LABELED_PREDICTIONS, 1)
    assert isinstance(event, PredictionLabeled)
    assert envelope.traceparent == f"00-{OTHER}-{created.place[2]}-01"

    assert (process.terminate(), labeler.terminate()) == (0, 0)
    everything = b"".join(collector.bodies)
    # Shorter ones may come about in a random id.
    secret = [name for name in ROW if len(name) > 5] + ["MRN-1", "127.0.0.1"]
    assert not [word for word in secret if word.encode() in everything]


def test_what_the_client_does_not_sample_is_not_sent(house: House, collector: Collector) -> None:
    process, url = predicting(house)
    answers = [
        httpx.post(f"{url}/v1/predict", json=ROW, headers=traceparent(trace, flags)).status_code
        for trace, flags in ((TRACE, "00"), (OTHER, "01"))
    ]
    assert answers == [200, 200]
    assert process.terminate() == 0
    assert collector.find("predictor", "send predictions", OTHER) is not None
    assert collector.find("predictor", "POST /v1/predict", TRACE) is None
    logged = sorted(envelope.traceparent or "" for envelope, _event in house.events(PREDICTIONS))
    assert [(one.split("-")[1], one[-2:]) for one in logged] == [(TRACE, "00"), (OTHER, "01")]


def test_the_standard_variables_name_the_service_and_the_share(
    house: House, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "ward-7")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    process, url = predicting(house)
    assert httpx.post(f"{url}/v1/predict", json=ROW).status_code == 200
    assert httpx.post(f"{url}/predict", json=ROW, headers=traceparent(TRACE)).status_code == 200
    assert process.terminate() == 0
    assert {(one.service, one.place[0]) for one in collector.spans()} == {("ward-7", TRACE)}


@pytest.mark.parametrize("collector_is", ["away", "dumb"])
def test_a_collector_that_does_not_answer_disturbs_nobody(
    house: House, monkeypatch: pytest.MonkeyPatch, collector_is: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as dumb:
        port = dumb.getsockname()[1] if collector_is == "dumb" else free_port()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", str(PATIENCE_SECONDS))
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
        monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
        process, url = predicting(house)
        with httpx.Client(base_url=url) as client:
            # More than are kept.
            answers = [client.post("/v1/predict", json=ROW) for _ in range(100)]
        assert {answer.status_code for answer in answers} == {200}
        assert process.terminate() == 0


def test_a_collector_s_address_that_is_none_stops_the_start(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")
    process, _url = predictor(house)
    assert process.wait_or_kill(60) == 1
    assert "OTEL_EXPORTER_OTLP_ENDPOINT='collector:4317': use a URL" in process.tail()
