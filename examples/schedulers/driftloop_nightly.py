"""Ask the drift monitor for its verdict; where that calls for it, order a retraining once a run, and wait for it.

Needs Python and nothing else. The schedulers' examples beside it call it; `--help` lists its arguments.
"""

import argparse
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

# What is worth another try: too many requests, or a service that is away for the moment.
AWAY = (429, 502, 503, 504)
RETRY_SECONDS = 2.0
LOOK_SECONDS = 5.0
# How a retraining ends well: the new version serves, is tried out, or is not wanted any more.
WELL = ("promoted", "canary", "withdrawn")
BADLY = ("rejected", "rolled-back")


class Failed(RuntimeError):
    """Somebody has to look at it; the text says why."""


class Away(Failed):
    """A service did not answer in time; later it may."""


def nightly(
    monitor: str, trainer: str, key: str, model: str, run: str, seconds: float, policy: Sequence[str] = ("CRITICAL",)
) -> str:
    """Do the night's work, in so many seconds at most; returns what came of it in a sentence. Raises Failed."""
    until = time.monotonic() + seconds
    verdict = wanted(monitor, model, policy, until)
    if verdict is None:
        return f"{model}: no retraining is called for"
    request = order(trainer, key, model, run, until)
    while (said := outcome(trainer, key, model, request, until)) is None:
        if time.monotonic() > until:
            raise Failed(f"{model}: request {request} is not decided after {seconds:g} s: it goes on in the trainer")
        time.sleep(LOOK_SECONDS)
    return f"{model}: {verdict}; {said}"


def wanted(monitor: str, model: str, policy: Sequence[str], until: float) -> str | None:
    """The verdict, if it is one of the policy's; None for no retraining. Raises Failed, also where the data are bad."""
    report = ask(f"{monitor}/v1/report?{urlencode({'model': model, 'windows': 1})}", until)
    cause = report["attribution"] or {}
    if cause.get("kind") == "quality":
        raise Failed(f"{model}: the data are bad, and must not teach the model: {cause['sentence']}")
    return str(report["verdict"]) if report["verdict"] in policy else None


def order(trainer: str, key: str, model: str, run: str, until: float) -> int:
    """Order a retraining, unless this run has ordered one already; returns the request's number. Raises Failed."""
    for request in requests(trainer, key, model, until):
        if any(str(change["reason"]).endswith(f": {run}") for change in request["history"]):
            return int(request["id"])
    # Of a model one request is open at most: where an alarm or a run beside this one was first, theirs is answered.
    return int(ask(f"{trainer}/v1/retrain", until, key, {"model": model, "reason": run})["request"])


def outcome(trainer: str, key: str, model: str, request: int, until: float) -> str | None:
    """How a request has ended, in a sentence; None while it has not. Raises Failed where it ended badly."""
    found = next((one for one in requests(trainer, key, model, until) if one["id"] == request), None)
    if found is None:
        raise Failed(f"{model}: the trainer does not know request {request} any more")
    said = f"request {request} is {found['state']}: {found['reason']}"
    if found["state"] in BADLY:
        raise Failed(f"{model}: {said}")
    return said if found["state"] in WELL else None


def requests(trainer: str, key: str, model: str, until: float) -> list[dict[str, Any]]:
    """The model's newest requests, each with its history."""
    found: list[dict[str, Any]] = ask(f"{trainer}/v1/requests?{urlencode({'model': model})}", until, key)["requests"]
    return found


def ask(url: str, until: float, key: str = "", order: dict[str, str] | None = None) -> Any:
    """A service's answer; one that is away is asked again until an instant of `time.monotonic`. Raises Failed, Away."""
    headers = {"content-type": "application/json"} | ({"x-api-key": key} if key else {})
    body = None if order is None else json.dumps(order).encode()
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            why = f"{url} answers {error.code}: {error.read(1000).decode(errors='replace')}"
            if error.code not in AWAY:
                raise Failed(why) from error
        except (OSError, ValueError) as error:
            why = f"{url} does not answer: {error}"
        if time.monotonic() + RETRY_SECONDS > until:
            raise Away(why)
        time.sleep(RETRY_SECONDS)


def run_name(day: datetime) -> str:
    """What a night's run is called: two runs of one name order one retraining."""
    return f"nightly {day:%Y-%m-%d}"


def main() -> None:
    """The night's work by arguments and environment; status 1 where somebody has to look at it."""
    given = os.environ.get
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--monitor", default=given("DRIFTLOOP_MONITOR_URL"), help="default: DRIFTLOOP_MONITOR_URL")
    parser.add_argument("--trainer", default=given("DRIFTLOOP_TRAINER_URL"), help="default: DRIFTLOOP_TRAINER_URL")
    parser.add_argument("--key-file", type=Path, help="default: the key itself in DRIFTLOOP_OPERATOR_KEY")
    parser.add_argument("--run", default=run_name(datetime.now(UTC)), help="default: the day's, in UTC")
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--on", nargs="+", default=["CRITICAL"], choices=["WARNING", "CRITICAL"])
    told = parser.parse_args()
    key = told.key_file.read_text().strip() if told.key_file else given("DRIFTLOOP_OPERATOR_KEY")
    if not (told.monitor and told.trainer and key):
        parser.error("the addresses of monitor and trainer and an API key of scope admin are needed: see --help")
    try:
        print(nightly(told.monitor, told.trainer, key, told.model, told.run, told.seconds, told.on))
    except Failed as failure:
        sys.exit(f"driftloop-nightly: {failure}")


if __name__ == "__main__":
    main()
