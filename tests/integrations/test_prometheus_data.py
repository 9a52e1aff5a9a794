"""A real Prometheus scrapes the services while the demo runs: every expression of every dashboard and rule has data.

Rules wait for nothing here (`for: 0s`), so that a real Alertmanager tells a webhook of the demo's drift.
"""

import io
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from rich.console import Console

from driftloop.demo import installation
from driftloop.demo import run as demo
from driftloop.demo.installation import Installation
from driftloop.demo.loop import Loop
from driftloop.devstack import Stack
from driftloop.devstack.processes import free_ports
from tests.support.alert_rules import RULE_FILES, alerts, named_in, rules
from tests.support.clusters import environment, running
from tests.support.dashboards import expressions
from tests.support.paths import ROOT
from tests.support.waiting import wait_until

EXAMPLE = ROOT / "deploy" / "alertmanager" / "examples" / "webhook.yml"
MODEL = "diabetes"
STEP, SERVICES = 2, 5
# Of a quiet population nothing may fire, but for what takes a moment to settle and for which the real rules wait.
SETTLING = {"DriftloopConsumerBehind", "DriftloopVersionsDisagree", "DriftloopMonitorBlind"}
# What the older population does to version 1.
DRIFT = {
    *("DriftloopDriftWarning", "DriftloopDriftCritical", "DriftloopConceptDrift", "DriftloopPerformanceDecline"),
    *("DriftloopRealisedPerformanceDown", "DriftloopEstimatedPerformanceDown", "DriftloopDataQuality"),
}
# A busy machine answers slowly, also Prometheus within two seconds, and `for` is none here.
SLOW = {
    *("DriftloopPredictLatencyBudgetBurn", "DriftloopInstanceDown", "DriftloopServiceDown"),
    "DriftloopConsumerRetrying",
}
# The first is `A unless B`, of which the services have both; the other's series come with a replica's first refusal.
EMPTY_BY_DESIGN = {("DriftloopModelNotServed", "page"), ("DriftloopModelUpdateRefused", "ticket")}

pytestmark = [
    pytest.mark.slow("the demo's population must drift, be learnt and be met again"),
    pytest.mark.timeout(900),
    pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus (Debian: prometheus) is not installed"),
    pytest.mark.skipif(
        not shutil.which("prometheus-alertmanager"), reason="Debian's prometheus-alertmanager is not installed"
    ),
]


@dataclass
class Watched:
    """A Prometheus and an Alertmanager beside a running installation, and what they said."""

    url: str
    started: float
    changed: float = 0.0
    ended: float = 0.0
    told: list[dict[str, Any]] = field(default_factory=list)
    client: httpx.Client = field(default_factory=partial(httpx.Client, timeout=60))

    def ask(self, expression: str, since: float, until: float) -> list[dict[str, Any]]:
        """The series that an expression has between two instants. Fails where Prometheus finds it wrong."""
        asked: dict[str, str | float] = {"query": expression, "start": since, "end": until, "step": STEP}
        answer = self.client.post(f"{self.url}/api/v1/query_range", data=asked).json()
        assert answer["status"] == "success", (expression, answer)
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def settled(self) -> bool:
        """Whether every service has been scraped, and no rule that was evaluated before that is remembered."""
        scraped = f'count(up == 1) == {SERVICES} unless on () ALERTS{{alertname="DriftloopServiceDown"}}'
        try:
            ready = self.client.get(f"{self.url}/-/ready").is_success
            return ready and bool(self.ask(scraped, time.time(), time.time()))
        except httpx.TransportError:
            return False

    def fired(self, since: float, until: float) -> set[str]:
        """The names of the alerts that fired between two instants."""
        return {one["metric"]["alertname"] for one in self.ask('ALERTS{alertstate="firing"}', since, until)}


def filled_in(expression: str) -> str:
    """A dashboard's expression with its variables' values."""
    expression = expression.replace('=~"$feature"', '=~".*"').replace("$feature", "Age")
    for name, value in (("model_name", MODEL), ("model_version", "1"), ("__rate_interval", "30s"), ("__range", "5m")):
        expression = expression.replace(f"${name}", value)
    # Steps in proportion: the demo ends a few seconds after the promotion.
    return expression.replace(":15s]", f":{STEP}s]")


def without_limits(expression: str) -> str:
    """An alert's expression, with a 0 or 1 wherever it would compare."""
    return re.sub(r"(?<=\s)(==|!=|>=|<=|>|<)(?=\s)", r"\1 bool", expression)


@contextmanager
def webhook(told: list[dict[str, Any]]) -> Iterator[str]:
    """The URL of a receiver that keeps what it is told."""

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            told.append(body | {"authorization": self.headers["authorization"]})
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def configure(folder: Path, installation: Installation, alertmanager: int, receiver: str) -> None:
    """Write the configurations: those that are shipped, with this machine's addresses, and without any waiting."""
    for path in RULE_FILES:
        (folder / path.name).write_text(re.sub(r"\bfor: \w+", "for: 0s", path.read_text()))
    prometheus = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    prometheus["global"] = {"scrape_interval": f"{STEP}s", "scrape_timeout": "2s", "evaluation_interval": f"{STEP}s"}
    prometheus["rule_files"] = [str(folder / "*.yaml")]
    prometheus["alerting"]["alertmanagers"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{alertmanager}"]}]
    for job in prometheus["scrape_configs"]:
        ports = [port.management for name, port in installation.ports.items() if name.startswith(job["job_name"])]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in ports]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(prometheus))
    (folder / "token").write_text("a-token")
    example = EXAMPLE.read_text().replace("/etc/alertmanager/secrets/webhook-token", str(folder / "token"))
    example = re.sub(r"https://\w+\.example\.org/alertmanager", receiver, example)
    example = re.sub(r"(group_wait|group_interval): \w+", r"\1: 1s", example)
    (folder / "alertmanager.yml").write_text(example)


@contextmanager
def watching(folder: Path, installation: Installation) -> Iterator[Watched]:
    """Prometheus and Alertmanager, until the block ends."""
    folder.mkdir()
    told: list[dict[str, Any]] = []
    listen, alertmanager = free_ports(2)
    watched = Watched(f"http://127.0.0.1:{listen}", time.time(), told=told)
    with ExitStack() as stack:
        configure(folder, installation, alertmanager, stack.enter_context(webhook(told)))
        for command in (
            ["prometheus-alertmanager", f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/told",
             f"--web.listen-address=127.0.0.1:{alertmanager}", "--cluster.listen-address="],
            ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{listen}"],
        ):  # fmt: skip
            stack.enter_context(running(command, environment(), folder / f"{command[0]}.log"))
        wait_until(watched.settled, "every service to be scraped", timeout=60)
        watched.started = time.time()
        yield watched


@pytest.fixture(scope="module")
def watched(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """The demo was run from its beginning to its end, and watched; its services are gone, what they told is there."""
    folder = tmp_path_factory.mktemp("demo")
    found: list[Watched] = []
    with ExitStack() as resources, pytest.MonkeyPatch.context() as patch:
        patch.setenv("KAFKA_BOOTSTRAP_SERVERS", stack.bootstrap_servers)
        patch.setenv("DATABASE_URL", stack.database_url)

        installed: list[Installation] = []

        def prepare(*arguments: Any, **named: Any) -> Installation:
            installed.append(installation.prepare(*arguments, **named))
            return installed[0]

        class WatchedLoop(Loop):
            def __init__(self, *arguments: Any, **named: Any) -> None:
                super().__init__(*arguments, **named)
                found.append(resources.enter_context(watching(folder / "watching", installed[0])))

            def say(self, text: str) -> None:
                if text.startswith("an older population"):
                    found[0].changed = time.time()
                super().say(text)

            def settle(self) -> dict[str, int]:
                counts = super().settle()
                found[0].ended = time.time()
                return counts

        patch.setattr(demo, "prepare", prepare)
        patch.setattr(demo, "Loop", WatchedLoop)
        demo.run("older-population", folder / "run", 11, Console(file=io.StringIO(), width=120))
        yield found[0]
        found[0].client.close()


def test_every_expression_of_every_dashboard_has_data(watched: Watched) -> None:
    empty = [
        (where, expression)
        for where, expression in expressions()
        if not watched.ask(filled_in(expression), watched.started, watched.ended)
    ]
    assert not empty


def test_every_rule_has_data(watched: Watched) -> None:
    empty = [
        (rule["alert"], rule["labels"]["severity"]) if "alert" in rule else rule["record"]
        for rule in rules()
        if not watched.ask(without_limits(rule["expr"]), watched.started, watched.ended)
    ]
    assert set(empty) <= EMPTY_BY_DESIGN


def test_every_metric_that_is_named_anywhere_is_there(watched: Watched) -> None:
    named = set().union(*(named_in(text) for _, text in expressions()), *(named_in(rule["expr"]) for rule in rules()))
    assert not {name for name in named if not watched.ask(f"count({name})", watched.started, watched.ended)}


def test_the_distribution_of_each_feature_moves_over_time(watched: Watched) -> None:
    shares = f'driftloop_feature_bin_share{{model_name="{MODEL}", model_version="1", feature="Age"}}'
    found = watched.ask(shares, watched.started, watched.ended)
    assert len(found) >= 10
    assert any(len({value for _, value in one["values"]}) > 1 for one in found)
    (total,) = watched.ask(f"sum({shares})", watched.started, watched.ended)
    assert all(float(value) == pytest.approx(1) for _, value in total["values"])


def test_nothing_fires_while_all_is_well_and_then_only_what_the_drift_calls_for(watched: Watched) -> None:
    assert watched.fired(watched.started, watched.changed) <= SETTLING | SLOW
    fired = watched.fired(watched.changed, watched.ended)
    assert "DriftloopDriftCritical" in fired
    assert fired <= SETTLING | SLOW | DRIFT


def test_alertmanager_tells_the_webhook_of_the_drift_with_texts_and_runbook(watched: Watched) -> None:
    def told() -> list[dict[str, Any]]:
        all_told = [alert | {"by": one} for one in watched.told for alert in one["alerts"]]
        return [one for one in all_told if one["labels"]["alertname"] in DRIFT]

    first = wait_until(told, "an alert of the drift", timeout=30)[0]
    assert first["by"]["authorization"] == "Bearer a-token"
    assert first["labels"]["model_name"] == MODEL
    assert MODEL in first["annotations"]["description"]
    assert "error" not in first["annotations"]["description"]
    assert first["annotations"]["runbook_url"].endswith("#" + first["labels"]["alertname"].lower())
    assert {one["alert"] for one in alerts()} >= {first["labels"]["alertname"]}
