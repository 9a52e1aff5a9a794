"""Brings into the chart what is written elsewhere in the tree, for a packaged chart holds its own folder only.

`make chart-files` writes, and `tests/unit/deploy/test_chart.py` compares:

- `files/models/diabetes`: the contract and the baseline of the shipped model
- `files/rules`, `files/dashboards`: the rules of Prometheus and the dashboards of Grafana
- `files/topics.yaml`: the topics with their configuration, for those whom Strimzi makes
- in `values.schema.json`: the settings that a service knows and the chart does not set itself
"""

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import yaml

from driftloop.common.settings import Secret, single_settings, variable
from driftloop.common.topics import all_topics
from driftloop.drift_monitor.settings import Settings as DriftMonitorSettings
from driftloop.label_ingest.settings import Settings as LabelIngestSettings
from driftloop.predictor.settings import Settings as PredictorSettings
from driftloop.trainer.settings import Settings as TrainerSettings

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "driftloop"
SETTINGS: dict[str, type[msgspec.Struct]] = {
    "predictor": PredictorSettings,
    "labelIngest": LabelIngestSettings,
    "driftMonitor": DriftMonitorSettings,
    "trainer": TrainerSettings,
}
COPIED = {
    "models/diabetes": ("models/diabetes", ("contract.yaml", "*.csv")),
    "rules": ("deploy/prometheus/rules", ("*.yaml",)),
    "dashboards": ("deploy/grafana/dashboards", ("*.json",)),
}
# Of the libraries: traces, S3, trackers.
LIBRARIES = "^(OTEL|AWS|MLFLOW|WANDB)_[A-Z0-9_]+$"
# The chart's Services, probes and policies name them.
PORTS = {"DRIFTLOOP_PORT", "DRIFTLOOP_MANAGEMENT_PORT"}


def files() -> dict[str, str]:
    """What there must be in the chart, by path below it."""
    wanted = {
        f"files/{target}/{path.name}": path.read_text(encoding="utf-8")
        for target, (source, patterns) in COPIED.items()
        for pattern in patterns
        for path in sorted((ROOT / source).glob(pattern))
    }
    wanted["files/topics.yaml"] = _topics()
    wanted["values.schema.json"] = _schema()
    return wanted


def copied() -> set[str]:
    """The files that are in the chart's copied folders now, by path below it."""
    folders = [CHART / "files" / target for target in COPIED]
    return {path.relative_to(CHART).as_posix() for folder in folders for path in folder.glob("*") if path.is_file()}


def _topics() -> str:
    topics = [{"name": one.name, "partitions": one.partitions, "config": dict(one.config)} for one in all_topics()]
    return "# Written by `make chart-files`.\n" + yaml.safe_dump(topics, sort_keys=False)


def _schema() -> str:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    templates = "".join(
        path.read_text(encoding="utf-8") for path in sorted((CHART / "templates").glob("*")) if path.is_file()
    )
    taken = PORTS | set(re.findall(r"name: ([A-Z][A-Z0-9_]+)", templates))
    taken |= {name.removesuffix("_FILE") for name in taken} | {f"{name}_FILE" for name in taken}
    # How brokers are reached is the commands' matter, too, and has values of its own.
    known = {
        component: {name for name in _variables(settings) - taken if not name.startswith("KAFKA_")}
        for component, settings in SETTINGS.items()
    }
    for component, names in {"common": set.intersection(*known.values()), **known}.items():
        schema["$defs"][f"{component}Settings"] = _settings(names)
    return json.dumps(schema, indent=2) + "\n"


def _variables(settings: type[msgspec.Struct]) -> set[str]:
    """By which a service is told its settings; a secret is given as a file only."""
    return {
        variable(field.name) + ("_FILE" if Secret in (field.type, *get_args(field.type)) else "")
        for field in single_settings(settings)
    }


def _settings(names: set[str]) -> dict[str, Any]:
    scalar = {"type": ["string", "number", "boolean"]}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: scalar for name in sorted(names)},
        "patternProperties": {LIBRARIES: scalar},
    }


def main() -> None:
    """Write what differs, and delete what is there no more."""
    wanted = files()
    for path in copied() - wanted.keys():
        (CHART / path).unlink()
    for path, text in wanted.items():
        (CHART / path).parent.mkdir(parents=True, exist_ok=True)
        (CHART / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
