"""The expressions of the dashboards that are checked in."""

import json
from collections.abc import Iterator
from typing import Any

from tests.support.paths import ROOT

FOLDER = ROOT / "deploy" / "grafana" / "dashboards"


def dashboards() -> dict[str, dict[str, Any]]:
    """What is checked in, by file name."""
    return {path.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """All panels but rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression of every panel and annotation, and where it stands."""
    for name, dashboard in dashboards().items():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                yield f"{name}: {panel['title']}", target["expr"]
        for annotation in dashboard.get("annotations", {}).get("list", []):
            yield f"{name}: {annotation['name']}", annotation["expr"]
