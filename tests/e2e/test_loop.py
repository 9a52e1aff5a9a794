"""The whole loop, as `make demo` plays it, on the run's broker and database."""

import io
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from rich.console import Console

from driftloop.common.asyncapi import document, headers
from driftloop.common.events import EVENT_TYPES
from driftloop.common.kafka.records import Record
from driftloop.demo import run as demo
from driftloop.demo.loop import Loop
from driftloop.devstack import Stack

pytestmark = [
    # Five processes each: on two cores more than one loop at a time would only measure the machine.
    pytest.mark.xdist_group("loop"),
    pytest.mark.timeout(400),
]


@pytest.fixture
def on_the_runs_stack(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", stack.bootstrap_servers)
    monkeypatch.setenv("DATABASE_URL", stack.database_url)


def play(scenario: str, folder: Path, seed: int, kill: str | None = None) -> dict[str, Any]:
    return demo.run(scenario, folder, seed, Console(file=io.StringIO(), width=120), kill)


@pytest.mark.slow("a population must drift, be labelled, be learnt and be met again")
@pytest.mark.usefixtures("on_the_runs_stack")
def test_an_older_population_is_noticed_learnt_and_served(tmp_path: Path) -> None:
    report = play("older-population", tmp_path, seed=11)
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(report))
    versions = sorted(report["versions"], key=int)
    assert versions[0] == "1"
    assert report["versions"]["1"]["accuracy"] <= 0.70
    assert report["versions"][versions[1]]["accuracy"] >= 0.95
    assert report["requests"]["failed"] == 0
    assert report["requests"]["sent"] == report["requests"]["answered"]
    events = report["events"]
    assert events["predictions"] == events["stored"] == events["counted"] == report["requests"]["answered"]
    assert events["outcomes"] == events["labeled"] == events["counted_labels"]
    first, last = report["verdicts"][0], report["verdicts"][-1]
    assert (first["model_version"], first["severity"]) == (1, "GOOD")
    assert (last["model_version"], last["severity"]) == (int(versions[1]), "GOOD")
    assert "CRITICAL" in {one["severity"] for one in report["verdicts"]}
    assert report["seconds_critical_to_last_swap"] > 0


@pytest.mark.slow("a service that was killed must take its partitions back before the counts can agree")
@pytest.mark.parametrize("victim", ["drift-monitor", "label-ingest"])
@pytest.mark.usefixtures("on_the_runs_stack")
def test_a_killed_service_changes_no_count(tmp_path: Path, victim: str) -> None:
    report = play("pima-age-split", tmp_path, seed=1, kill=victim)
    events = report["events"]
    assert events["predictions"] == events["stored"] == events["counted"] == 172
    assert events["outcomes"] == events["labeled"] == events["counted_labels"] == 172


@pytest.mark.slow("real patients are to be judged by the trainer")
@pytest.mark.usefixtures("on_the_runs_stack")
def test_every_message_of_a_run_keeps_to_its_published_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Record] = []
    settle = Loop.settle

    def settle_and_keep(loop: Loop) -> dict[str, int]:
        counts = settle(loop)
        seen[:] = loop.records()
        return counts

    monkeypatch.setattr(Loop, "settle", settle_and_keep)
    play("pima-age-split", tmp_path, seed=1)
    components = document()["components"]["schemas"]
    types = set()
    for record in seen:
        if record.value is None or "ce_type" not in record.headers:
            continue
        kind = record.headers["ce_type"].decode()
        event = EVENT_TYPES[kind]
        schema = {"components": {"schemas": components}, "$ref": f"#/components/schemas/{event.__name__}"}
        jsonschema.validate(json.loads(record.value), schema)
        jsonschema.validate({name: value.decode() for name, value in record.headers.items()}, headers(event))
        types.add(event.__name__)
    assert types == {"PredictionMade", "PredictionLabeled", "DriftDetected", "ModelUpdated", "ModelStatus"}
