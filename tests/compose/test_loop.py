"""`docker compose --profile demo up`: from a prediction to version 2 in every predictor, watched by Prometheus."""

from typing import Any

import httpx
import pytest

from tests.support.compose import SERVICES, UP_SECONDS, Containers, all_but_grafana
from tests.support.waiting import wait_until

DEMO_SECONDS = 420


@pytest.fixture(scope="module")
def shown(containers: Containers) -> str:
    """What the demo has shown, after it has ended well."""
    demo = (*all_but_grafana(), "demo") if all_but_grafana() else ()
    containers.compose("--profile", "demo", "up", "--detach", *demo, seconds=UP_SECONDS)
    done = containers.run("--profile", "demo", "wait", "demo", seconds=DEMO_SECONDS)
    said = containers.compose("--profile", "demo", "logs", "--no-log-prefix", "demo")
    assert done.stdout.split()[-1:] == ["0"], said
    return said


def test_version_2_serves_in_every_predictor(containers: Containers, shown: str) -> None:
    assert "2 predictors serve version 2" in shown
    for port in ("PREDICTOR_1_PORT", "PREDICTOR_2_PORT"):
        answer = containers.get(port, "/v1/model", **containers.key())
        assert answer["champion"] == 2, answer
    told = {one["replica"]: one["model_version"] for one in containers.model()["replicas"]}
    assert told == {"predictor-1": 2, "predictor-2": 2}


def test_version_2_is_better_and_no_request_failed(shown: str) -> None:
    assert "/ 0" in next(line for line in shown.splitlines() if "sent / answered / failed" in line)
    right = next(line for line in shown.splitlines() if "version 2 is right about" in line)
    assert float(right.partition("about ")[2].partition("%")[0]) > 90


def test_all_that_was_answered_is_counted_once(containers: Containers, shown: str) -> None:
    assert shown
    logged = len(set(containers.logged()))
    wait_until(lambda: containers.counted()[0] >= logged, f"{logged} predictions counted", timeout=180)
    assert containers.counted()[0] == logged


def test_a_demo_that_has_been_shown_says_so(containers: Containers, shown: str) -> None:
    assert shown
    again = containers.compose("--profile", "demo", "run", "--rm", "-T", "--no-deps", "demo")
    assert "version 2 serves" in again


def prometheus(containers: Containers, path: str) -> Any:
    """What Prometheus answers."""
    return containers.get("PROMETHEUS_PORT", f"/api/v1/{path}")["data"]


def test_prometheus_has_every_target_up(containers: Containers) -> None:
    def down() -> list[str] | None:
        targets = prometheus(containers, "targets")["activeTargets"]
        return [one["scrapeUrl"] for one in targets if one["health"] != "up"] or None

    wait_until(lambda: down() is None, f"every target up, but for {down()}")
    jobs = [one["labels"]["job"] for one in prometheus(containers, "targets")["activeTargets"]]
    assert set(jobs) >= {"predictor", "label-ingest", "drift-monitor", "trainer"}
    assert len(jobs) >= len(SERVICES)


def test_prometheus_evaluates_its_rules(containers: Containers) -> None:
    def evaluated() -> list[dict[str, Any]]:
        rules = [one for group in prometheus(containers, "rules")["groups"] for one in group["rules"]]
        return rules if all(one["health"] == "ok" for one in rules) else []

    wait_until(evaluated, "all rules evaluated")


def test_prometheus_tells_alertmanager(containers: Containers) -> None:
    told = prometheus(containers, "alertmanagers")["activeAlertmanagers"]
    assert [one["url"] for one in told] == ["http://alertmanager:9093/api/v2/alerts"]
    assert httpx.get(containers.url("ALERTMANAGER_PORT", "/-/ready"), timeout=15).status_code == 200
    # Alertmanager answers Prometheus's container, too: that it knows no queries.
    asked = containers.run("exec", "-T", "prometheus", "promtool", "query", "instant", "http://alertmanager:9093", "up")
    assert "404" in asked.stdout + asked.stderr


def test_prometheus_has_seen_the_roll_out(containers: Containers, shown: str) -> None:
    assert shown

    def serving() -> set[str]:
        found = prometheus(containers, "query?query=driftloop_model_version")["result"]
        return {one["metric"]["instance"] for one in found if one["value"][1] == "2"}

    wait_until(lambda: serving() == {"predictor-1:9000", "predictor-2:9000"}, "version 2 in both predictors' metrics")
