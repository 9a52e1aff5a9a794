"""A rolling update behind a real proxy loses no request: predictors are replaced one after the other under load."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from driftloop.common.events import PredictionMade
from driftloop.common.topics import PREDICTIONS
from driftloop.devstack.ports import free_ports
from driftloop.devstack.processes import ServiceProcess
from tests.support.artifacts import small_bundle
from tests.support.house import House
from tests.support.predictors import DIABETES, asking, predictor
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed: apt-get install haproxy"),
    pytest.mark.slow("replaces each of two predictors twice, with the time of a drain each"),
]

# The proxy learns within a second that a replica is not ready; the rest is room for a busy machine.
DRAIN_SECONDS = 4
# Nothing is tried again by the proxy, which would hide what is lost. `routed` is an ingress, which chooses for each
# request and keeps its own connections to the replicas; `pinned` a Service, which does so for each connection.
PROXY = """
defaults
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout check 10s
    retries 0
    option httpchk GET /readyz
    default-server check inter 300ms fall 3 rise 1
listen routed
    mode http
    http-reuse always
    bind 127.0.0.1:{routed}
{servers}
listen pinned
    mode tcp
    bind 127.0.0.1:{pinned}
{servers}
"""


@pytest.fixture
def replicas(house: House) -> list[tuple[ServiceProcess, str]]:
    """Two ready predictors, one of them with two workers."""
    house.serve(1, house.register(small_bundle(DIABETES)), DIABETES.name, 1)
    drain = str(DRAIN_SECONDS)
    found = [predictor(house, f"predictor-{number}", WORKERS=str(number + 1), DRAIN_SECONDS=drain) for number in (0, 1)]
    for process, _url in found:
        process.wait_ready()
    return found


@pytest.fixture
def proxies(replicas: list[tuple[ServiceProcess, str]], tmp_path: Path) -> Iterator[list[str]]:
    """The URLs of a real proxy in front of them that asks for their readiness: one by request, one by connection."""
    routed, pinned = free_ports(2)
    servers = "\n".join(
        f"    server {process.name} {url.removeprefix('http://')} check port {process.management_port}"
        for process, url in replicas
    )
    configuration = tmp_path / "haproxy.cfg"
    configuration.write_text(PROXY.format(routed=routed, pinned=pinned, servers=servers))
    with (tmp_path / "haproxy.log").open("wb") as log:
        proxy = subprocess.Popen(["haproxy", "-db", "-f", str(configuration)], stdout=log, stderr=log)
    urls = [f"http://127.0.0.1:{routed}", f"http://127.0.0.1:{pinned}"]
    wait_until(lambda: all(len(answering(url)) == 2 for url in urls), "the proxy")
    yield urls
    proxy.kill()
    proxy.wait()


def answering(url: str) -> set[str]:
    """The replicas that answer a few new connections."""
    with suppress(httpx.TransportError), httpx.Client(limits=httpx.Limits(max_keepalive_connections=0)) as client:
        return {client.get(f"{url}/v1/model", timeout=30).json()["replica"].split("/")[0] for _ in range(6)}
    return set()


def test_a_rolling_update_loses_no_request(
    house: House, replicas: list[tuple[ServiceProcess, str]], proxies: list[str]
) -> None:
    with asking(proxies, clients=4) as asked:
        for process, _url in replicas * 2:
            # As a StatefulSet does it: a signal, the end, a new process that is ready; and the next one not before
            # the proxy knows that, for which the chart waits `minReadySeconds`.
            assert process.terminate() == 0, process.tail()
            process.start()
            process.wait_ready()
            wait_until(lambda: all(len(answering(url)) == 2 for url in proxies), "the proxy's trust in it")
    assert [(error.request.url, error) for error in asked.broken] == []
    assert [answer.text for answer in asked.all if answer.status_code != 200] == []
    events = [event for _envelope, event in house.events(PREDICTIONS)]
    logged = [event.prediction_id for event in events if isinstance(event, PredictionMade)]
    assert asked.ids() <= set(logged)
    assert len(set(logged)) == len(logged)
