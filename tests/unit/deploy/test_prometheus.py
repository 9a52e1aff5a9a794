"""Rules, alerts, runbooks and routes belong together: none is without the others, and Prometheus's own tools agree."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.alert_rules import PROMETHEUS, RULE_FILES, alerts, named_in, rules, series
from tests.support.paths import ROOT

ALERTMANAGER = ROOT / "deploy" / "alertmanager"
RUNBOOKS = (ROOT / "docs" / "operations.md").read_text()
CONFIGURATIONS = sorted([ALERTMANAGER / "alertmanager.yml", *(ALERTMANAGER / "examples").glob("*.yml")])
TESTS = sorted((PROMETHEUS / "tests").glob("*.yaml"))

promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool (Debian: prometheus) is not installed")
amtool = pytest.mark.skipif(
    not shutil.which("amtool"), reason="amtool (Debian: prometheus-alertmanager) is not installed"
)
every_alert = pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"] + rule["labels"]["severity"])
every_configuration = pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)


def run(*command: str | Path) -> str:
    """What a tool says. Fails where it does."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def expected() -> dict[tuple[str, str], list[dict[str, str]]]:
    """The labels of the alerts that the rules' tests expect to fire, by name and severity."""
    found: dict[tuple[str, str], list[dict[str, str]]] = {}
    for path in TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test["promql_expr_test"]:
                for sample in case["exp_samples"]:
                    labels = dict(re.findall(r'(\w+)="([^"]*)"', sample["labels"]))
                    found.setdefault((labels["alertname"], labels["severity"]), []).append(labels)
    return found


@promtool
def test_promtool_finds_nothing_wrong_with_rules_and_configuration() -> None:
    run("promtool", "check", "rules", *RULE_FILES)
    run("promtool", "check", "config", "--syntax-only", PROMETHEUS / "prometheus.yml")


@promtool
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_each_alert_fires_where_it_should_and_nowhere_else(path: Path) -> None:
    run("promtool", "test", "rules", path)


@every_alert
def test_an_alert_has_a_test_in_which_it_fires_with_the_labels_that_its_texts_use(rule: dict[str, Any]) -> None:
    fired = expected()[rule["alert"], rule["labels"]["severity"]]
    used = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    for labels in fired:
        assert used <= labels.keys()


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_each_test_of_an_alert_has_series_that_do_not_fire_it(path: Path) -> None:
    for test in yaml.safe_load(path.read_text())["tests"]:
        (case,) = test["promql_expr_test"]
        assert len(test["input_series"]) > len(case["exp_samples"]), test["name"]


@every_alert
def test_an_alert_says_what_is_the_matter_and_where_its_runbook_is(rule: dict[str, Any]) -> None:
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert "for" in rule
    place, anchor = rule["annotations"]["runbook_url"].split("#")
    assert place.endswith("/docs/operations.md")
    assert anchor == rule["alert"].lower()
    section = RUNBOOKS.split(f"\n### {rule['alert']}\n")[1].split("\n### ")[0]
    for part in ("**Means.**", "**Look.**", "**Do.**", "**Escalate.**"):
        assert part in section


def test_every_runbook_is_an_alerts() -> None:
    assert re.findall(r"^### (Driftloop\w+)$", RUNBOOKS, re.M) == list(
        dict.fromkeys(re.findall(r"^### (Driftloop\w+)$", RUNBOOKS, re.M))
    )
    assert set(re.findall(r"^### (Driftloop\w+)$", RUNBOOKS, re.M)) == {rule["alert"] for rule in alerts()}
    assert set(re.findall(r"\]\(#(driftloop\w+)\)", RUNBOOKS)) <= {rule["alert"].lower() for rule in alerts()}


def test_no_rule_and_no_runbook_names_a_metric_that_there_is_not() -> None:
    for rule in rules():
        assert named_in(rule["expr"]), rule
        assert named_in(rule["expr"]) <= series(), rule
    assert named_in(RUNBOOKS) <= series()


@amtool
@every_configuration
def test_amtool_finds_nothing_wrong_and_each_severity_has_a_receiver(path: Path) -> None:
    run("amtool", "check-config", path)
    for severity in {rule["labels"]["severity"] for rule in alerts()}:
        receiver = run("amtool", "config", "routes", "test", f"--config.file={path}", f"severity={severity}")
        assert receiver.strip() == severity


def test_the_examples_route_and_inhibit_as_the_default_does() -> None:
    default, *others = [yaml.safe_load(path.read_text()) for path in CONFIGURATIONS]
    for other in others:
        assert other["inhibit_rules"] == default["inhibit_rules"]
        assert other["route"] | {"receiver": "none"} == default["route"]


def test_no_configuration_holds_a_secret() -> None:
    for path in CONFIGURATIONS:
        assert not re.search(r"^\s*-?\s*\w*(password|token|secret|api_url|credentials): ", path.read_text(), re.M)


def test_compose_scrapes_every_service_by_its_component() -> None:
    jobs = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    assert [job["job_name"] for job in jobs] == ["predictor", "label-ingest", "drift-monitor", "trainer"]
