"""The two scenarios: a simulated older population, and real patients split by age."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from driftloop.common.contract import Contract, baseline_path, load_contract
from driftloop.common.events import DriftDetected
from driftloop.common.rows import Row, read_baseline
from driftloop.demo import scoring
from driftloop.demo.loop import Loop
from driftloop.demo.observer import DemoFailed, wait_for
from driftloop.demo.phases import (
    FRESH,
    OUTCOMES_ARE_LATE_BY,
    SWAP_SECONDS,
    accuracy,
    meet_older_patients_until_critical,
    meet_older_patients_until_promoted,
    meet_the_baseline,
    wait_for_swap,
)
from driftloop.demo.populations import Case, older, pima_age_split

# The demo's time runs faster than a clinic's: its panes are half a second long, the shipped contract's a minute.
PANE_SECONDS = 0.5


@dataclass
class Findings:
    """What a scenario found. `versions` by number; `critical` and `swapped` are None where it did not come to it."""

    versions: dict[str, dict[str, Any]]
    features: list[dict[str, Any]]
    critical: datetime | None = None
    swapped: datetime | None = None
    notes: list[str] = field(default_factory=list)
    majority: float | None = None
    population: str = ""


class Scenario(NamedTuple):
    """How a scenario's contract is made in a folder, and how it goes.

    `rate` patients come a second; outcomes are late by `lab_delay` patients.
    """

    title: str
    prepare: Callable[[Path, Path], Path]
    rate: float
    lab_delay: int
    play: Callable[[Loop, np.random.Generator], Findings]


# --- an older population


def prepare_older(source: Path, folder: Path) -> Path:
    """The shipped contract with quick panes."""
    return write_contract(source, folder, {"drift": {"pane_seconds": PANE_SECONDS}})


def play_older(loop: Loop, rng: np.random.Generator) -> Findings:
    """Patients like the baseline's → GOOD; older ones → CRITICAL, retrained, replaced → GOOD again."""
    meet_the_baseline(loop, rng)
    first = meet_older_patients_until_critical(loop, rng)
    critical = _critical_alarm(loop, 1)
    features = _features(loop, critical)
    new = meet_older_patients_until_promoted(loop, rng)
    swapped = wait_for_swap(loop, rng, new)
    fresh = older(loop.contract, rng, FRESH)
    loop.say(f"{FRESH} fresh older patients, whom neither version has met")
    answers = loop.send(fresh)
    loop.flush_lab()
    loop.wait_for_window(new)
    loop.settle()
    verdict = loop.observer.report()["verdict"]
    loop.say(f"the verdict on version {new} is [bold]{verdict}[/]")
    if verdict != "GOOD":
        raise DemoFailed(f"version {new} meets the population that it was proven on, and the verdict is {verdict}")
    requests = loop.observer.training()["requests"]
    if len(requests) != 1 or requests[0]["state"] != "promoted":
        raise DemoFailed(f"one retraining should have been requested and promoted, there are {requests}")
    assert loop.trusted_keys is not None
    served_by_first = [one for one in first if one.model_version == 1]
    return Findings(
        versions={
            "1": {
                "accuracy": scoring.accuracy(loop.contract, loop.states()[0].served(1), loop.trusted_keys, fresh),
                "n": len(fresh),
                "accuracy_when_serving": accuracy(served_by_first),
                "n_when_serving": len(served_by_first),
            },
            str(new): {"accuracy": accuracy(answers), "n": len(answers)},
        },
        features=features,
        critical=critical.detected_at,
        swapped=swapped,
        majority=max(share := sum(case.label for case in fresh) / len(fresh), 1 - share),
        population=f"{FRESH} fresh older patients",
    )


# --- real patients, split by age


def prepare_age_split(source: Path, folder: Path) -> Path:
    """A contract whose baseline is the real patients of 30 or younger, with gates as small as the data."""
    contract = load_contract(source)
    split = pima_age_split(contract, *_baseline(source, contract))
    later = len(split.later)
    return write_contract(
        source,
        folder,
        {
            # All is as small as the data: windows of 30, a third to learn from, a quarter to judge by.
            "drift": {"pane_seconds": PANE_SECONDS / 2, "min_samples": 30},
            "gates": {
                "train_labels": later // 3,
                "gate_labels": later // 4,
                "reference_rows_min": later // 4,
                "reference_rows_max": later,
            },
            "baseline": {"holdout_rows": len(split.baseline) // 5},
            # The halves of a hundred rows differ by chance alone: no recent population could ever be called settled.
            "reference": "training",
            # Nobody is left whose outcomes could tell two models apart.
            "rollout": {"steps": []},
        },
        split.baseline,
    )


def play_age_split(loop: Loop, _rng: np.random.Generator) -> Findings:
    """Real patients of 42 or older come to a model of real patients of 30 or younger; whatever is true is said."""
    source = _shipped()
    later = pima_age_split(loop.contract, *_baseline(source, load_contract(source))).later
    loop.say(f"{len(later)} real patients of 42 years or more, to a model of those of 30 or less")
    answers = loop.send(later[: len(later) // 2])
    loop.kill_one()
    answers += loop.send(later[len(later) // 2 :])
    loop.flush_lab()
    loop.wait_until_counted()
    found = loop.wait_for_window(1, 2)
    loop.say(f"the verdict on version 1 is [bold]{found['verdict']}[/] (raw severity {found['raw_severity']})")
    alarm = next((one for one in loop.alarms() if one.change == "opened" and one.severity == "CRITICAL"), None)
    findings = Findings(
        versions={"1": {"accuracy": accuracy(answers), "n": len(answers)}},
        features=_features(loop, alarm) if alarm else [_told(one) for one in found["features"]],
        critical=alarm.detected_at if alarm else None,
        population="the newest real patients of 42 or older, on whom both were compared",
    )
    if alarm is None:
        findings.notes.append("no alarm opened: nothing was retrained")
    else:
        _decision(loop, findings)
    loop.settle()
    return findings


def _decision(loop: Loop, findings: Findings) -> None:
    """Wait for the trainer's decision, and add what it found."""

    def decided() -> dict[str, Any] | None:
        versions = loop.observer.training()["versions"]
        return next((one for one in versions if one["decision"] is not None), None)

    version = wait_for("the trainer's decision", decided, SWAP_SECONDS)
    number, decision = version["version"], version["decision"]
    newest = decision["newest"]
    findings.versions = {
        "1": {"accuracy": newest["champion_accuracy"], "n": newest["rows"]} | _serving(findings.versions["1"]),
        str(number): {
            "accuracy": newest["challenger_accuracy"],
            "n": newest["rows"],
            "promoted": decision["promoted"],
        },
    }
    word = "promoted" if decision["promoted"] else "rejected"
    findings.notes.append(f"version {number} was {word}: {'; '.join(decision['reasons'])}")
    loop.say(findings.notes[-1])
    if decision["promoted"]:
        replicas = wait_for(
            f"version {number} in every predictor",
            lambda: found if len(found := loop.observer.swapped(number)) == len(loop.doors.predictors) else None,
        )
        findings.swapped = max(replicas.values())


def _serving(version: dict[str, Any]) -> dict[str, Any]:
    return {"accuracy_when_serving": version["accuracy"], "n_when_serving": version["n"]}


# --- shared


SCENARIOS: Mapping[str, Scenario] = {
    "older-population": Scenario("an older population", prepare_older, 250, OUTCOMES_ARE_LATE_BY, play_older),
    "pima-age-split": Scenario("real patients, split by age", prepare_age_split, 60, 40, play_age_split),
}


def write_contract(
    source: Path, folder: Path, changes: Mapping[str, Any], baseline: Sequence[Case] | None = None
) -> Path:
    """Write a contract like `source` with some settings changed, and its baseline beside it. Returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    document = yaml.safe_load(source.read_text(encoding="utf-8"))
    for part, values in changes.items():
        document[part] = document.get(part, {}) | values if isinstance(values, dict) else values
    contract = load_contract(source)
    target = folder / "baseline.csv"
    document["baseline"]["path"] = target.name
    if baseline is None:
        target.write_bytes(baseline_path(source, contract).read_bytes())
    else:
        with target.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*contract.feature_names, contract.target.name])
            codes = (contract.target.negative, contract.target.positive)
            writer.writerows([*case.features.values(), codes[case.label]] for case in baseline)
    path = folder / "contract.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def _shipped() -> Path:
    return shipped_contract("diabetes")


def shipped_contract(model: str) -> Path:
    """The contract of a model that comes with the source tree. Raises DemoFailed outside of one."""
    for folder in (Path.cwd(), *Path(__file__).resolve().parents):
        path = folder / "models" / model / "contract.yaml"
        if path.is_file():
            return path
    raise DemoFailed(f"models/{model}/contract.yaml is not here: run the demo in Driftloop's source tree")


def _baseline(source: Path, contract: Contract) -> tuple[list[Row], np.ndarray[Any, np.dtype[np.int8]]]:
    return read_baseline(contract, baseline_path(source, contract))


def _critical_alarm(loop: Loop, version: int) -> DriftDetected:
    def opened() -> DriftDetected | None:
        return next((one for one in loop.alarms() if one.verdict == "CRITICAL" and one.model_version == version), None)

    return wait_for("the CRITICAL event in the log", opened)


def _features(loop: Loop, alarm: DriftDetected) -> list[dict[str, Any]]:
    """Every feature in the window that opened an alarm."""
    version = loop.observer.version(alarm.model_version)
    assert version is not None
    window = next(one for one in version["windows"] if datetime.fromisoformat(one["starts"]) == alarm.window_start)
    return [_told(one) for one in window["features"]]


def _told(one: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": one["name"],
        "d": one["statistic"],
        "p": one["p"],
        "psi": one["psi"],
        "severity": one["severity"],
        "raw_severity": one["raw_severity"],
        "n": one["n"],
    }
