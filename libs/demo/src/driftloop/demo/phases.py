"""What happens when an older population comes: met, noticed, learnt, served. Through the doors that everyone has."""

import time
from collections.abc import Sequence
from datetime import datetime

import numpy as np

from driftloop.common.contract import baseline_path
from driftloop.common.rows import read_baseline
from driftloop.demo.loop import Loop
from driftloop.demo.observer import LOOK_SECONDS, DemoFailed, wait_for
from driftloop.demo.populations import BaselineLike, older
from driftloop.demo.traffic import Answer

LIKE_THE_BASELINE = 1000
OLDER_AT_ONCE = 100
OLDER_AT_MOST = 6000
OUTCOMES_ARE_LATE_BY = 600
KILLED_AFTER = 300
FRESH = 1000
TRICKLE = 10
SWAP_SECONDS = 120.0


def meet_the_baseline(loop: Loop, rng: np.random.Generator) -> None:
    """Patients like the baseline's come. Raises DemoFailed unless the verdict on them is GOOD."""
    rows, labels = read_baseline(loop.contract, baseline_path(loop.contract_file, loop.contract))
    before = loop.observer.version(1)
    loop.say(f"{LIKE_THE_BASELINE} patients like the baseline's")
    loop.send(BaselineLike(loop.contract, rows, labels).draw(rng, LIKE_THE_BASELINE))
    found = loop.wait_for_window(1, before["windows_closed"] + 1 if before else 1)
    loop.say(f"the verdict on version 1 is [bold]{found['verdict']}[/] (raw severity {found['raw_severity']})")
    if found["verdict"] != "GOOD":
        raise DemoFailed(f"patients like the baseline's give the verdict {found['verdict']}, not GOOD")


def meet_older_patients_until_critical(loop: Loop, rng: np.random.Generator) -> list[Answer]:
    """Older patients come until the monitor is CRITICAL. Returns what was answered; raises DemoFailed."""
    loop.say("an older population comes: mean age 56, glucose 140, BMI 34")
    answers: list[Answer] = []
    while loop.observer.report()["verdict"] != "CRITICAL":
        if len(answers) >= OLDER_AT_MOST:
            raise DemoFailed(f"{len(answers)} older patients came, and the monitor is not CRITICAL")
        answers += loop.send(older(loop.contract, rng, OLDER_AT_ONCE))
        if len(answers) >= KILLED_AFTER:
            loop.kill_one()
    version = loop.observer.version(1)
    assert version is not None
    realised = version["performance"]["accuracy"]
    known = f"; accuracy on the outcomes known so far {realised:.3f}" if realised is not None else ""
    loop.say(f"the verdict on version 1 is [bold red]CRITICAL[/] after {len(answers)} of them{known}")
    loop.say(f"the monitor: {version['attribution']['sentence']}")
    return answers


def meet_older_patients_until_promoted(loop: Loop, rng: np.random.Generator) -> int:
    """Older patients come, and their outcomes, until a new version is to serve: its number. Raises DemoFailed."""
    sent, said = 0, ""
    while True:
        training = loop.observer.training()
        if training["champion"] != 1:
            loop.say(f"the trainer: {training['requests'][0]['reason']}")
            loop.say(f"version {training['champion']} is promoted")
            return int(training["champion"])
        request = next(iter(training["requests"]), None)
        reason = _rounded(request["reason"]) if request else ""
        if reason and reason != said:
            loop.say(f"the trainer: {request['reason'] if request else ''}")
            said = reason
        if sent >= OLDER_AT_MOST:
            raise DemoFailed(f"{sent} more older patients came, and no version was promoted: {request}")
        # With enough labels the trainer is at work: a few patients at a time go on coming.
        waits = request is None or request["state"] == "canary" or sum(request["lacking"].values()) > 0
        count = OLDER_AT_ONCE if waits else TRICKLE
        loop.send(older(loop.contract, rng, count))
        sent += count
        if not waits:
            time.sleep(LOOK_SECONDS)


def _rounded(reason: str) -> str:
    """A reason without its digits: what is only counted down is said once."""
    return "".join(char for char in reason if not char.isdigit())


def wait_for_swap(loop: Loop, rng: np.random.Generator, version: int) -> datetime:
    """Patients go on coming until every predictor has said that it serves `version`. Returns when the last did."""

    def all_swapped() -> dict[str, datetime] | None:
        loop.send(older(loop.contract, rng, TRICKLE))
        found = loop.observer.swapped(version)
        return found if set(found) >= set(loop.doors.predictors) else None

    replicas = wait_for(f"version {version} in every predictor", all_swapped, SWAP_SECONDS)
    loop.say(f"{len(replicas)} predictors serve version {version}")
    return max(replicas.values())


def accuracy(answers: Sequence[Answer]) -> float:
    """The share of answers that came true."""
    return sum(one.right for one in answers) / len(answers)
