"""`docker compose up --wait` gives an installation that predicts, logs, joins and counts, heals, and is confined."""

import json
import subprocess

import httpx
import pytest

from tests.support.compose import PATIENT, SERVICES, WATCHING, Containers
from tests.support.waiting import wait_until

BOTH = ("PREDICTOR_1_PORT", "PREDICTOR_2_PORT")


@pytest.mark.parametrize("port", BOTH)
def test_each_predictor_answers_as_the_service_that_it_replaces(containers: Containers, port: str) -> None:
    answer = httpx.post(containers.url(port, "/predict"), json=PATIENT, headers=containers.key(), timeout=15)
    assert (answer.status_code, answer.text) in {(200, '{"diabetic":true}'), (200, '{"diabetic":false}')}


@pytest.mark.parametrize(("port", "path"), [("PREDICTOR_1_PORT", "/predict"), ("LABEL_INGEST_PORT", "/v1/outcomes")])
def test_without_a_key_nothing_is_answered(containers: Containers, port: str, path: str) -> None:
    assert httpx.post(containers.url(port, path), json=PATIENT, timeout=15).status_code == 401


def test_what_was_answered_is_in_the_log(containers: Containers) -> None:
    assert containers.predict().encode() in containers.logged()


def test_an_outcome_meets_its_prediction(containers: Containers) -> None:
    prediction = containers.predict("PREDICTOR_2_PORT")
    outcomes = containers.url("LABEL_INGEST_PORT", "/v1/outcomes")
    before = containers.counted()[1]
    outcome, key = {"prediction_id": prediction, "label": 1}, containers.key()
    assert httpx.post(outcomes, json=outcome, headers=key, timeout=15).status_code == 200
    wait_until(lambda: containers.counted()[1] == before + 1, "the monitor's count of the outcome")


@pytest.mark.parametrize("service", SERVICES)
def test_no_service_is_root_or_can_write_beside_its_program(containers: Containers, service: str) -> None:
    look = "id -u; touch /opt/driftloop/x 2>/dev/null || echo refused"
    assert containers.compose("exec", "-T", service, "sh", "-c", look).split() == ["10001", "refused"]


@pytest.mark.parametrize("service", [*SERVICES, *WATCHING, "kafka", "postgres"])
def test_everything_has_its_limits(containers: Containers, service: str) -> None:
    name = containers.compose("ps", "--quiet", service).strip()
    found = subprocess.run(["docker", "inspect", name], capture_output=True, text=True, check=True).stdout
    limits = json.loads(found)[0]["HostConfig"]
    assert limits["Memory"] >= 128 * 1024**2
    assert limits["NanoCpus"] >= 10**9


def test_the_clients_key_was_shown_when_it_was_made(containers: Containers) -> None:
    # Somebody who only looks at what `docker compose up` says can call the predictors.
    said = containers.compose("logs", "--no-log-prefix", "secrets")
    assert said.count(containers.key()["x-api-key"]) == 1


def test_a_second_start_keeps_the_keys_and_the_model_and_shows_no_key(containers: Containers) -> None:
    before, key = (containers.keys(), containers.model()["revision"]), containers.key()["x-api-key"]
    containers.up()
    assert (containers.keys(), containers.model()["revision"]) == before
    assert containers.compose("logs", "--no-log-prefix", "secrets").count(key) <= 1


def test_what_was_taken_down_comes_back_with_its_keys_its_model_and_its_data(containers: Containers) -> None:
    containers.predict()
    before = (containers.keys(), containers.model()["revision"], sorted(map(str, containers.logged())))
    containers.compose("down", "--timeout", "20", seconds=180)
    containers.up()
    assert (containers.keys(), containers.model()["revision"], sorted(map(str, containers.logged()))) == before
    wait_until(lambda: containers.counted()[0] == len(containers.logged()), "the monitor's count of all predictions")
    # The job's container is a new one: it has made nothing, and shows no key.
    assert containers.key()["x-api-key"] not in containers.compose("logs", "--no-log-prefix", "secrets")


@pytest.mark.parametrize("service", [*SERVICES, "kafka", "postgres", *WATCHING])
def test_what_is_killed_costs_no_answered_prediction(containers: Containers, service: str) -> None:
    containers.compose("kill", "--signal", "KILL", service)
    # While the broker is away, the predictors' spools keep what they answer.
    port = "PREDICTOR_1_PORT" if service == "predictor-2" else "PREDICTOR_2_PORT"
    answered = containers.predict(port)
    containers.heal(service)
    wait_until(lambda: answered.encode() in containers.logged(), "the prediction in the log")
    wait_until(lambda: containers.counted()[0] == len(set(containers.logged())), "the monitor's count")


@pytest.mark.parametrize("service", ["predictor-1", "drift-monitor", "prometheus"])
def test_what_ends_by_itself_is_started_again(containers: Containers, service: str) -> None:
    name = containers.compose("ps", "--quiet", service).strip()

    def started() -> str:
        look = ["docker", "inspect", "--format", "{{.State.StartedAt}} {{.State.Running}}", name]
        return subprocess.run(look, capture_output=True, text=True, check=True).stdout.strip()

    before = started()
    containers.compose("exec", "-T", service, "sh", "-c", "kill -TERM 1")
    wait_until(lambda: started() != before and started().endswith("true"), f"{service} started again")
    containers.heal(service)


def test_a_contract_that_is_not_there_is_named(containers: Containers) -> None:
    wrong = "/models/nothing/contract.yaml"
    for service, variable, command in (
        ("trainer", "DRIFTLOOP_CONTRACTS", ("trainer", "train")),
        ("predictor-1", "DRIFTLOOP_CONTRACT", ("driftloop-predictor",)),
    ):
        done = containers.run("run", "--rm", "-T", "--no-deps", "--env", f"{variable}={wrong}", service, *command)
        # By its words: podman's API loses the status of a container that is removed at its end.
        said = done.stdout + done.stderr
        assert wrong in said
        assert "No such file" in said
