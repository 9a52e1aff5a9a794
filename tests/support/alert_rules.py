"""The alert and recording rules of deploy/prometheus, and the metrics that expressions may name."""

import re
from collections.abc import Iterator
from typing import Any

import yaml
from prometheus_client.metrics import MetricWrapperBase

from driftloop.common import metrics
from tests.support.paths import ROOT

PROMETHEUS = ROOT / "deploy" / "prometheus"
RULE_FILES = sorted((PROMETHEUS / "rules").glob("*.yaml"))
# Prometheus's own, and those that a process or its parent tells of itself.
OTHERS = {
    *("up", "driftloop_ready", "driftloop_worker_up", "driftloop_worker_restarts_total"),
    *("process_cpu_seconds_total", "process_resident_memory_bytes"),
}
_NAME = re.compile(r"(?<![\w:])(?:\w+:)?driftloop_\w+(?::\w+)*|\bup(?=[{ ])|\bprocess_\w+")
_SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def rules() -> Iterator[dict[str, Any]]:
    """Every rule of every file."""
    for path in RULE_FILES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


def alerts() -> list[dict[str, Any]]:
    """The alert rules. Two of one name differ in their severity."""
    return [rule for rule in rules() if "alert" in rule]


def series() -> set[str]:
    """The name of every series that there can be: of metrics, of recording rules, and Prometheus's own."""
    found = {rule["record"] for rule in rules() if "record" in rule} | OTHERS
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            (described,) = metric.describe()
            found |= {described.name + suffix for suffix in _SUFFIXES[described.type]}
    return found


def named_in(expression: str) -> set[str]:
    """The series that an expression, or a text, names."""
    return set(_NAME.findall(expression))
