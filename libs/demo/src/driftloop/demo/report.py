"""What the demo shows at its end, as a table and as `report.json`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from driftloop.demo.loop import Loop
from driftloop.demo.scenarios import Findings


def build(scenario: str, seed: int, loop: Loop, findings: Findings, events: Mapping[str, int]) -> dict[str, Any]:
    """The report's figures, each read from the services or the log."""
    counts = loop.traffic.counts
    took = None
    if findings.critical is not None and findings.swapped is not None:
        took = round((findings.swapped - findings.critical).total_seconds(), 3)
    return {
        "scenario": scenario,
        "seed": seed,
        "versions": findings.versions,
        "always_the_commoner_class": findings.majority,
        "features": findings.features,
        "verdicts": _verdicts(loop),
        "seconds_critical_to_last_swap": took,
        "requests": {
            "sent": counts.sent,
            "answered": counts.answered,
            "failed": counts.failed,
            "tried_again": counts.retried,
        },
        "outcomes": {"by_http": counts.by_http, "by_kafka": counts.by_kafka},
        "events": dict(events),
        "retrainings": loop.observer.training()["requests"],
        "notes": findings.notes,
        "seconds_total": round(loop.seconds(), 1),
    }


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Write the report, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    draft.replace(path)


def show(console: Console, report: Mapping[str, Any], population: str) -> None:
    """Print the report's tables."""
    console.print()
    console.print(_versions(report, population), _features(report), _loop(report))
    for note in report["notes"]:
        console.print(note, highlight=False, soft_wrap=True)


def _versions(report: Mapping[str, Any], population: str) -> Table:
    table = Table(title=f"Accuracy on {population}", title_justify="left")
    for name in ("version", "accuracy", "patients", "while it served"):
        table.add_column(name, justify="right")
    for version, found in report["versions"].items():
        served = ""
        if "accuracy_when_serving" in found:
            served = f"{found['accuracy_when_serving']:.3f} ({found['n_when_serving']})"
        table.add_row(version, f"{found['accuracy']:.3f}", str(found["n"]), served)
    if report["always_the_commoner_class"] is not None:
        table.add_row("always the commoner class", f"{report['always_the_commoner_class']:.3f}", "", "")
    return table


def _features(report: Mapping[str, Any]) -> Table:
    table = Table(title="Features, in the window that decided", title_justify="left")
    for name in ("feature", "D", "p", "PSI", "n", "raw severity"):
        table.add_column(name, justify="left" if name == "feature" else "right")
    for one in report["features"]:
        table.add_row(
            one["name"], f"{one['d']:.3f}", f"{one['p']:.2g}", f"{one['psi']:.3f}", str(one["n"]), one["raw_severity"]
        )
    return table


def _loop(report: Mapping[str, Any]) -> Table:
    requests, events = report["requests"], report["events"]
    table = Table(title="The loop", title_justify="left", show_header=False)
    took = report["seconds_critical_to_last_swap"]
    rows = {
        "from CRITICAL to the last predictor's swap": "no swap" if took is None else f"{took:.1f} s",
        "requests sent / answered / failed": f"{requests['sent']} / {requests['answered']} / {requests['failed']}",
        "predictions in the log / stored / counted": (
            f"{events['predictions']} / {events['stored']} / {events['counted']}"
        ),
        "outcomes reported / joined / counted": (
            f"{events['outcomes']} / {events['labeled']} / {events['counted_labels']}"
        ),
        "retrainings": ", ".join(f"{one['state']}" for one in report["retrainings"]) or "none",
        "seconds in all": f"{report['seconds_total']:.0f}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _verdicts(loop: Loop) -> list[dict[str, Any]]:
    """Every closed window's verdict, in the order of judging."""
    verdicts = [
        {
            "time": window["evaluated_at"],
            "model_version": version["model_version"],
            "severity": window["severity"],
            "raw_severity": window["raw_severity"],
            "n": window["n"],
        }
        for version in loop.observer.report()["versions"]
        for window in version["windows"]
    ]
    return sorted(verdicts, key=lambda one: str(one["time"]))
