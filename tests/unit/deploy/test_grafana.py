"""The dashboards that are checked in are those of the code, and each panel says what it shows."""

import re
from typing import Any

import pytest
import yaml

from deploy.grafana.dashboards import texts
from tests.support.alert_rules import named_in, series
from tests.support.dashboards import FOLDER, dashboards, expressions, panels
from tests.support.paths import ROOT

PROVISIONING = ROOT / "deploy" / "grafana" / "provisioning"
NAMES = ["drift", "models", "overview", "performance", "pipeline", "serving"]

every_dashboard = pytest.mark.parametrize("dashboard", dashboards().values(), ids=dashboards())


def test_what_is_checked_in_is_what_the_code_makes() -> None:
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == texts(), "run `make dashboards`"


def test_uids_are_stable_and_no_two_are_alike() -> None:
    assert [one["uid"] for one in dashboards().values()] == [f"driftloop-{name}" for name in NAMES]


@every_dashboard
def test_each_panel_has_a_title_a_description_a_unit_and_thresholds(dashboard: dict[str, Any]) -> None:
    for panel in panels(dashboard):
        defaults = panel["fieldConfig"]["defaults"]
        assert panel["title"], panel
        assert len(panel["description"]) > 20, panel["title"]
        assert defaults["unit"], panel["title"]
        assert defaults["thresholds"]["steps"], panel["title"]


@every_dashboard
def test_no_two_panels_overlap_and_each_is_in_its_row(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


@every_dashboard
def test_queries_of_a_panel_go_to_the_chosen_data_source_and_have_names_of_their_own(dashboard: dict[str, Any]) -> None:
    for panel in panels(dashboard):
        names = [target["refId"] for target in panel["targets"]]
        assert names == list("ABCDEFGH"[: len(names)]), panel["title"]
        for place in (panel, *panel["targets"]):
            assert place["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@every_dashboard
def test_each_dashboard_leads_to_the_others_and_to_the_runbooks(dashboard: dict[str, Any]) -> None:
    assert dashboard["tags"] == ["driftloop"]
    assert [link["type"] for link in dashboard["links"]] == ["dashboards", "link"]
    assert dashboard["links"][0]["tags"] == ["driftloop"]
    assert dashboard["links"][1]["url"].endswith("/docs/operations.md#runbooks")


@every_dashboard
def test_each_variable_that_is_used_is_there(dashboard: dict[str, Any]) -> None:
    there = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$(?!__)\{?(\w+)", str(dashboard["panels"]) + str(dashboard.get("annotations"))))
    assert used <= there


def test_no_expression_names_a_metric_that_there_is_not() -> None:
    for where, expression in expressions():
        assert named_in(expression) - {"ALERTS"} <= series(), where
        assert named_in(expression) or "ALERTS" in expression, where


def test_grafana_is_told_of_the_data_source_and_of_the_folder() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "driftloop.yaml").read_text())["providers"]
    assert provider["options"] == {"path": "/var/lib/grafana/dashboards"}
