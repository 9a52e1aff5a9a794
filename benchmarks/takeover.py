"""How long from a CRITICAL alarm, with the labels at hand, until every predictor serves the new champion?

The demo's size, and no canary: 1,000 patients like the baseline's, then older ones, of whom 1,100 are labelled. The
services are as installed, with two predictors, but the monitor's alarm is put into its topic: its panes would decide
when the clock starts. Beside it stands what scikit-learn alone takes to fit the same forest to the same rows and to
score them out of fold.
"""

import json
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import httpx
import numpy as np
from confluent_kafka import KafkaError

from benchmarks.harness import ROOT, Figure, conditions, record, say
from benchmarks.support.predictors import CONTRACT
from driftloop import devstack
from driftloop.common.clock import utc_now
from driftloop.common.contract import Contract, baseline_path, load_contract
from driftloop.common.envelope import Outgoing
from driftloop.common.events import DriftDetected
from driftloop.common.kafka.config import producer_config
from driftloop.common.kafka.producer import DeliveryProducer
from driftloop.common.kafka.publisher import Publisher
from driftloop.common.rows import read_baseline, validator
from driftloop.common.topics import DRIFT_EVENTS
from driftloop.demo.installation import Installation, prepare
from driftloop.demo.observer import Observer, wait_for
from driftloop.demo.populations import BaselineLike, Case, older
from driftloop.demo.scenarios import write_contract
from driftloop.demo.traffic import Traffic
from driftloop.devstack import Stack
from driftloop.devstack.processes import ProcessGroup

RUNS, PREDICTORS = 3, 2
LIKE_THE_BASELINE, OLDER, LABELLED = 1000, 1700, 1100
WITHIN_SECONDS, TIMEOUT_SECONDS = 10.0, 300.0
LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Takeover:
    """One alarm: `seconds` until the last predictor served version 2, and how long each step of the way took."""

    seconds: float
    steps: dict[str, float]


def main() -> None:
    """Each run has an installation of its own; the worst counts."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    with tempfile.TemporaryDirectory(prefix="driftloop-bench-") as name:
        folder = Path(name)
        # PostgreSQL, which does not run as root, must be able to get there.
        folder.chmod(0o755)
        contract = write_contract(CONTRACT, folder / "contract", {"rollout": {"steps": []}})
        stack = devstack.start(folder / "stack")
        try:
            found = [_run(folder / f"run-{number}", stack, contract, seed=number) for number in range(runs)]
        finally:
            devstack.stop(folder / "stack", purge=True)
        alone = _scikit_learn(folder / "rows.npz", contract)
    worst = max(found, key=lambda one: one.seconds)
    record(
        Figure(
            figure="s from a CRITICAL alarm with labels at hand until every predictor serves the new champion",
            ours=worst.seconds,
            peer=alone,
            ratio=worst.seconds / alone,
            target=f"<= {WITHIN_SECONDS:g}",
            met=worst.seconds <= WITHIN_SECONDS,
            conditions=conditions(
                "scikit-learn", "skl2onnx", "onnxruntime",
                ours_is=f"the worst of {runs}, each an installation of its own",
                seconds=", ".join(f"{one.seconds:.2f}" for one in found),
                median_s=statistics.median(one.seconds for one in found),
                rows=LIKE_THE_BASELINE + OLDER, labels=LIKE_THE_BASELINE + LABELLED, predictors=PREDICTORS, trees=100,
                canary="off", looks=f"/v1/model each {LOOK_SECONDS:g} s",
                shares="all cores are shared: broker, database, label-ingest, trainer, predictors",
                monitor="its alarm is put into drift-events",
                steps_of_the_worst=", ".join(f"{name} {seconds:.2f}" for name, seconds in worst.steps.items()),
                peer_does="imputer and forest alone, in one thread: fit, and scores out of as many folds, same rows",
            ),
        )
    )  # fmt: skip


def _run(folder: Path, stack: Stack, contract_file: Path, seed: int) -> Takeover:
    installation = prepare(folder, stack, [contract_file], namespace=f"b{secrets.token_hex(4)}", predictors=PREDICTORS)
    contract = load_contract(contract_file)
    names = ["label-ingest", "trainer", *installation.predictors]
    observer = Observer(installation.doors, contract.name)
    try:
        with ProcessGroup([installation.process(name) for name in names]), _traffic(installation) as traffic:
            since = _meet(traffic, observer, _cases(contract, seed))
            begun = time.perf_counter()
            alarmed = utc_now()
            _alarm(installation, contract, since)
            _wait_for_version(installation, 2)
            seconds = time.perf_counter() - begun
            steps = _steps(installation, observer, alarmed)
            # One patient each, in turn.
            answered = {one.model_version for one in traffic.predict(_cases(contract, seed)[:PREDICTORS])}
        if answered != {2}:
            raise RuntimeError(f"every predictor says that it serves version 2, and they answer by {answered}")
        say(f"{seconds:.2f} s: {', '.join(f'{name} {took:.2f}' for name, took in steps.items())}")
        return Takeover(seconds, steps)
    finally:
        observer.close()


def _cases(contract: Contract, seed: int) -> list[Case]:
    """Patients like the baseline's, then older ones."""
    rng = np.random.default_rng(seed)
    rows, labels = read_baseline(contract, baseline_path(CONTRACT, contract))
    return BaselineLike(contract, rows, labels).draw(rng, LIKE_THE_BASELINE) + older(contract, rng, OLDER)


@contextmanager
def _traffic(installation: Installation) -> Iterator[Traffic]:
    traffic = Traffic.to(installation.doors)
    try:
        yield traffic
    finally:
        traffic.close()


def _meet(traffic: Traffic, observer: Observer, cases: Sequence[Case]) -> datetime:
    """Have all patients predicted, and those labelled who are; returns since when the older ones come."""
    say(f"{len(cases):,} patients")
    answers = traffic.predict(cases[:LIKE_THE_BASELINE])
    since = utc_now()
    answers += traffic.predict(cases[LIKE_THE_BASELINE:])
    if len(answers) != len(cases):
        raise RuntimeError(f"{len(cases) - len(answers)} of {len(cases)} requests failed")
    labels = LIKE_THE_BASELINE + LABELLED
    traffic.report_outcomes(answers[:labels])

    def stored() -> bool:
        counts = observer.labels()
        return bool(counts["predictions"] == len(cases) and counts["labeled"] == labels)

    wait_for(f"{labels:,} labels", stored, TIMEOUT_SECONDS)
    return since


def _alarm(installation: Installation, contract: Contract, since: datetime) -> None:
    """Put the monitor's alarm into its topic. Raises RuntimeError where it does not get there."""
    now = utc_now()
    event = DriftDetected(
        model_name=contract.name, model_version=1, change="opened", severity="CRITICAL", verdict="CRITICAL",
        window_start=since, window_end=since + timedelta(minutes=1), detected_at=now, features=(), changed_since=since,
    )  # fmt: skip
    failures: list[KafkaError] = []
    producer = DeliveryProducer(producer_config(installation.stack.bootstrap_servers, "bench"))
    publisher = Publisher(producer, installation.namespace, f"drift-monitor/bench/{secrets.token_hex(6)}")
    publisher.publish(
        Outgoing(DRIFT_EVENTS.name, contract.name, event, secrets.token_hex(16), now),
        lambda error: failures.append(error) if error else None,
    )
    if producer.close(TIMEOUT_SECONDS) or failures:
        raise RuntimeError(f"the alarm did not get into the log: {failures}")


def _wait_for_version(installation: Installation, version: int) -> None:
    """Wait until each predictor says that it serves a version. Raises TimeoutError."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    headers = {"x-api-key": installation.client_key.read_text()}
    left = [installation.ports[one].url for one in installation.predictors]
    with httpx.Client(headers=headers, timeout=TIMEOUT_SECONDS) as client:
        while left := [one for one in left if client.get(f"{one}/v1/model").json()["champion"] != version]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"version {version} does not serve at {left}: see {installation.folder / 'logs'}")
            time.sleep(LOOK_SECONDS)


def _steps(installation: Installation, observer: Observer, alarmed: datetime) -> dict[str, float]:
    """How long each step took, in s: by the request's history, and by the training's own words in the trainer's log."""
    (request,) = observer.training()["requests"]
    at = {one["state"]: datetime.fromisoformat(one["at"]) for one in request["history"]}
    moments = {"alarm": alarmed, "request opened": at["awaiting-labels"], "rows fetched": at["training"]}
    lines = (installation.folder / "logs" / "trainer.log").read_text().splitlines()
    for line in (json.loads(text) for text in lines if text.startswith("{")):
        if "step" in line:
            # What lasts is said again, with its seconds: the first time counts.
            moments.setdefault(line["step"].partition(":")[0], datetime.fromisoformat(line["time"]))
    moments |= {"evaluated": at["evaluated"], "promoted": at["promoted"], "served": utc_now()}
    return {f"to {name!r}": (end - start).total_seconds() for (_, start), (name, end) in pairwise(moments.items())}


def _scikit_learn(path: Path, contract_file: Path) -> float:
    """What the peer takes, in s, for the rows of the first run, in a process of its own, its imports not counted."""
    contract = load_contract(contract_file)
    cases = _cases(contract, seed=0)[: LIKE_THE_BASELINE + LABELLED]
    compiled = validator(contract)
    values = compiled.values([compiled.canonicalise(case.features) for case in cases])
    np.savez(path, values=values, labels=np.array([case.label for case in cases], dtype=np.int8))
    command = [sys.executable, "-m", "benchmarks.support.million", "peer", str(path)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout)["wall_s"])


if __name__ == "__main__":
    main()
