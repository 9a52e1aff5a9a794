"""Sentry, by its own SDK, hears of errors in requests and in the consumer loop, and of no patient."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from driftloop.common.events import OutcomeReported
from driftloop.common.sentry import start_sentry
from driftloop.common.settings import SettingsError
from driftloop.common.topics import OUTCOMES
from driftloop.devstack.processes import ServiceProcess
from tests.support.house import House
from tests.support.predictions import START
from tests.support.sentry import Sentry, receiving
from tests.support.waiting import wait_until

# No part of it is in any program.
PATIENT = "Zwölfmillionenschwester"
NUMBER = "777123456"
# What a process may take to end beside, on a busy machine.
PATIENCE = 3.0

Start = Callable[[Sentry], tuple[ServiceProcess, str]]


@pytest.fixture
def start(house: House) -> Start:
    """Starts the failing service with a Sentry."""

    def start(sentry: Sentry) -> tuple[ServiceProcess, str]:
        dsn = house.folder / "dsn"
        dsn.write_text(sentry.dsn + "\n")
        own = {
            "DATABASE_URL": house.database_url("trainer"),
            "DRIFTLOOP_REVISION": "abc",
            "DRIFTLOOP_LOG_FORMAT": "ecs",
        }
        own |= {"SENTRY_DSN_FILE": str(dsn), "SENTRY_ENVIRONMENT": "ward"}
        process, url = house.process("failing", "tests.support.failing_service", own)
        process.start()
        process.wait_ready()
        return process, url

    return start


def stumble(url: str) -> None:
    """Send a request that the service breaks at."""
    answer = httpx.post(
        f"{url}/patients?name={PATIENT}", json={"name": f"{PATIENT} {NUMBER}"}, headers={"x-patient": NUMBER}
    )
    assert answer.status_code == 500


def log_of(process: ServiceProcess) -> list[dict[str, Any]]:
    """The lines of a service's log."""
    return [json.loads(line) for line in process.log_path.read_text().splitlines()]


def types(event: dict[str, object]) -> list[str]:
    """The types of an event's errors."""
    errors = event["exception"]
    assert isinstance(errors, dict)
    return [one["type"] for one in errors["values"]]


def test_an_error_in_a_request_and_one_in_the_consumer_loop_arrive_and_tell_nothing_of_a_patient(
    house: House, start: Start
) -> None:
    with receiving() as sentry:
        process, url = start(sentry)
        stumble(url)
        (first,) = wait_until(sentry.events, "the request's error has arrived")
        outcome = OutcomeReported(prediction_id=None, patient_id=f"{PATIENT} {NUMBER}", label=1, reported_at=START)
        house.publish(OUTCOMES, [("key", outcome)])
        assert process.wait_or_kill(60) == 1
        second = sentry.events()[-1]
    assert set(types(first)) == {"ExceptionGroup", "PatientError"}
    assert types(second)[-1] == "PatientError"
    assert (second["logger"], second["logentry"]["message"]) == ("driftloop.common.process", "a worker failed")
    assert (second["level"], second["extra"]) == ("fatal", {"worker": "counter"})
    frame = second["exception"]["values"][-1]["stacktrace"]["frames"][-1]
    assert (frame["function"], frame["context_line"].strip()[:18]) == ("stumble", "raise PatientError")
    for event in (first, second):
        assert event["release"] == "driftloop@0.1.0+abc"
        assert event["environment"] == "ward"
        assert event["tags"]["service"] == "failing"
    raw = b"".join(sentry.envelopes)
    for planted in (PATIENT, json.dumps(PATIENT)[1:-1], PATIENT[:8], NUMBER):
        assert planted.encode() not in raw
    # Where they are the search finds them: in the service's own log.
    assert json.dumps(PATIENT)[1:-1] in process.log_path.read_text()


def test_a_service_s_whole_log_is_in_the_common_schema_uvicorn_s_lines_among_it(start: Start) -> None:
    with receiving() as sentry:
        process, url = start(sentry)
        stumble(url)
        process.terminate()
    lines = log_of(process)
    for line in lines:
        assert list(line)[:3] == ["@timestamp", "log.level", "message"]
        assert line["service.name"] == "failing"
    (failure,) = [line for line in lines if line["log.logger"] == "uvicorn.error" and "error.type" in line]
    assert (failure["log.level"], failure["error.type"]) == ("error", "ExceptionGroup")


def test_a_sentry_that_never_answers_slows_no_answer_and_the_end_by_two_seconds_at_most(start: Start) -> None:
    with receiving(answers=False) as sentry:
        process, url = start(sentry)
        begun = time.monotonic()
        for _ in range(20):
            stumble(url)
        # The SDK itself waits 30 seconds for an answer.
        assert time.monotonic() - begun < 20
        wait_until(lambda: sentry.envelopes, "the error is on its way")
        assert process.terminate() == 0
        ended = datetime.now(UTC)
    # 20 errors at one place are news once.
    assert len(sentry.envelopes) == 1
    (stopped,) = [line for line in log_of(process) if line["message"] == "stopped"]
    assert (ended - datetime.fromisoformat(stopped["@timestamp"])).total_seconds() < 2 + PATIENCE


def test_an_error_before_the_service_runs_arrives_too() -> None:
    code = "from driftloop.common.sentry import start_sentry\nstart_sentry('early')\nraise KeyError('Mrs Example')"
    with receiving() as sentry:
        done = subprocess.run(
            [sys.executable, "-c", code], env={"SENTRY_DSN": sentry.dsn}, capture_output=True, check=False, timeout=60
        )
        assert done.returncode == 1
        (event,) = sentry.events()
    assert types(event) == ["KeyError"]
    assert b"Example" not in sentry.envelopes[0]


def test_without_a_dsn_the_sdk_is_not_imported() -> None:
    code = (
        "import sys, driftloop.predictor.main, driftloop.common.sentry as sentry\n"
        "sentry.start_sentry('predictor', {'SENTRY_DSN': ''}); sentry.stop_sentry()\n"
        "print('sentry_sdk' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "dsn", ["sentry.example/7", "https://sentry.example/7", "https://key@sentry.example/project", "https://key@[/7"]
)
def test_a_dsn_that_is_none_is_refused_without_being_shown(dsn: str) -> None:
    with pytest.raises(SettingsError, match=r"^SENTRY_DSN: .*https://KEY@HOST/NUMBER$") as refused:
        start_sentry("predictor", {"SENTRY_DSN": dsn})
    assert "key@" not in str(refused.value)


def test_without_the_sdk_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentry_sdk", None)
    with pytest.raises(SettingsError, match=r"SENTRY_DSN is set, .*driftloop-common\[sentry\]"):
        start_sentry("predictor", {"SENTRY_DSN": "https://key@sentry.example/7"})
