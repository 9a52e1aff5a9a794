"""Champion, canary and shadow: who answers, who is only heard, and what the log says of all of them."""

import itertools
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from driftloop.common.events import Canary
from driftloop.predictor.domain.model import LoadedModel
from driftloop.predictor.serving import Serving
from tests.support.bad_bodies import ROW
from tests.unit.predictor.builders import DIABETES, NOW, Running, artifact, loaded, running, state

WEIGHTS = {1: 0.1, 2: -0.1, 3: 0.0}
MODELS = {version: loaded(DIABETES, version, weight) for version, weight in WEIGHTS.items()}
PATIENTS = [f"MRN-{number}" for number in range(200)]


def serving(weight: float | None, shadow: int | None = None, revision: int = 1) -> Serving:
    canary = None if weight is None else Canary(version=2, weight=weight)
    named = [1, *([] if canary is None else [2]), *([] if shadow is None else [shadow])]
    served = state(revision, 1, canary=canary, shadow=shadow)
    return Serving(served, {version: (artifact(version), MODELS[version]) for version in named}, NOW)


@pytest.fixture
def diabetes() -> Iterator[Running]:
    with running(DIABETES) as found:
        yield found


def variants(found: Running, weight: float) -> list[str]:
    found.replica.serving = serving(weight)
    answers = [found.client.post("/v1/predict", json=ROW | {"patient_id": patient}).json() for patient in PATIENTS]
    return [answer["variant"] for answer in answers]


def test_at_weight_0_the_champion_answers_all_and_at_1_the_canary_does(diabetes: Running) -> None:
    assert set(variants(diabetes, 0.0)) == {"champion"}
    assert set(variants(diabetes, 1.0)) == {"canary"}


def test_a_ramp_moves_only_those_that_it_must(diabetes: Running) -> None:
    steps = [variants(diabetes, weight) for weight in (0.1, 0.25, 0.5)]
    for before, after in itertools.pairwise(steps):
        assert all(new == "canary" for old, new in zip(before, after, strict=True) if old == "canary")
    assert [step.count("canary") for step in steps] == pytest.approx([20, 50, 100], abs=25)


def test_a_patient_stays_with_whom_he_met(diabetes: Running) -> None:
    assert variants(diabetes, 0.5) == variants(diabetes, 0.5)


def test_the_answer_and_the_event_say_who_answered_and_what_the_other_said(diabetes: Running) -> None:
    diabetes.replica.serving = serving(1.0)
    answer = diabetes.client.post("/v1/predict", json=ROW).json()
    assert (answer["variant"], answer["model_version"], answer["probability"]) == ("canary", 2, 0.0)
    event = diabetes.logged[-1]
    assert (event.variant, event.model_version, event.score) == ("canary", 2, 0.0)
    assert [(one.model_version, one.score, one.prediction) for one in event.shadows] == [(1, 1.0, True)]


def test_a_shadow_is_logged_and_never_answered(diabetes: Running) -> None:
    diabetes.replica.serving = serving(None, shadow=3)
    answer = diabetes.client.post("/v1/predict", json=ROW).json()
    assert (answer["variant"], answer["model_version"]) == ("champion", 1)
    assert [(one.model_version, one.score) for one in diabetes.logged[-1].shadows] == [(3, 0.5)]


def test_without_canary_and_shadow_nothing_is_said_beside(diabetes: Running) -> None:
    diabetes.client.post("/v1/predict", json=ROW)
    assert diabetes.logged[-1].shadows == ()


def broken(version: int) -> LoadedModel:
    """A model whose input has another width than the rows: the runtime refuses it."""
    other = MODELS[version]
    narrow = msgspec.structs.replace(DIABETES, features=DIABETES.features[:2])
    return LoadedModel(
        other.name, version, other.width, loaded(narrow, version).session, other.conformal, other.reference
    )


def test_a_canary_that_breaks_costs_nobody_an_answer(diabetes: Running) -> None:
    found = serving(1.0)
    diabetes.replica.serving = Serving(found.state, dict(found.models) | {2: (artifact(2), broken(2))}, NOW)
    answer = diabetes.client.post("/v1/predict", json=ROW)
    assert (answer.status_code, answer.json()["variant"]) == (200, "champion")
    assert diabetes.logged[-1].shadows == ()


def test_what_serves_is_told(diabetes: Running) -> None:
    diabetes.replica.serving = serving(0.25, shadow=3, revision=7)
    told = diabetes.client.get("/v1/model").json()
    assert (told["revision"], told["champion"], told["canary"], told["canary_weight"], told["shadow"]) == (
        7, 1, 2, 0.25, 3,
    )  # fmt: skip
    assert told["since"] == "2026-03-01T12:00:00Z"
    assert set(told["artifacts"]) == {"1", "2", "3"}


def test_without_a_model_it_is_told_that_there_is_none(diabetes: Running) -> None:
    diabetes.replica.serving = None
    assert diabetes.client.get("/v1/model").status_code == 503


# --- batches


def test_a_batch_answers_each_row_in_its_place(diabetes: Running) -> None:
    rows = [ROW, ROW | {"Age": 500}, "no row", ROW | {"patient_id": "MRN-1", "order_id": "A-1"}, ROW | {"order_id": ""}]
    answer = diabetes.client.post("/v1/predict/batch", json={"rows": rows})
    results = answer.json()["results"]
    assert answer.status_code == 200
    assert ["error" in result for result in results] == [False, True, True, False, True]
    assert results[1]["error"]["errors"][0]["loc"] == ["body", "Age"]
    logged = {event.prediction_id: event for event in diabetes.logged}
    assert set(logged) == {results[0]["prediction_id"], results[3]["prediction_id"]}
    assert logged[results[3]["prediction_id"]].subject is not None
    assert logged[results[3]["prediction_id"]].order is not None


def test_a_batch_of_many_is_what_its_rows_are_by_themselves(diabetes: Running) -> None:
    rows = [ROW | {"Age": 20 + number % 80, "Glucose": 60 + number % 120} for number in range(90)]
    results = diabetes.client.post("/v1/predict/batch", json={"rows": rows}).json()["results"]
    alone = [diabetes.client.post("/v1/predict", json=row).json() for row in rows]
    assert [one["probability"] for one in results] == [one["probability"] for one in alone]


@pytest.mark.parametrize(
    "content", [b"{}", b"[]", b'{"rows": []}', b'{"rows": {}}', b'{"rows": [{}], "more": 1}', b'{"rows": [1', b""]
)
def test_a_body_that_is_no_batch_is_refused_whole(diabetes: Running, content: bytes) -> None:
    answer = diabetes.client.post("/v1/predict/batch", content=content)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert diabetes.log.taken == []


def test_a_batch_without_a_model_is_told_to_come_again(diabetes: Running) -> None:
    diabetes.replica.serving = None
    assert diabetes.client.post("/v1/predict/batch", json={"rows": [ROW]}).status_code == 503


# --- retries


@pytest.mark.parametrize("path", ["/predict", "/v1/predict"])
def test_a_retry_with_the_same_key_has_the_same_id(diabetes: Running, path: str) -> None:
    for key in ("one", "one", "two"):
        assert diabetes.client.post(path, json=ROW, headers={"Idempotency-Key": key}).status_code == 200
    first, again, other = diabetes.logged
    assert first.prediction_id == again.prediction_id != other.prediction_id
    assert first.repeatable_until is not None
    assert first.prediction_id[12] == "8"


def test_the_rows_of_a_batch_have_ids_of_their_own_that_a_retry_has_again(diabetes: Running) -> None:
    for _ in range(2):
        body = {"rows": [ROW, ROW]}
        diabetes.client.post("/v1/predict/batch", json=body, headers={"Idempotency-Key": "one"})
    ids = [event.prediction_id for event in diabetes.logged]
    assert ids[:2] == ids[2:]
    assert len(set(ids)) == 2


@pytest.mark.parametrize(("path", "body"), [("/v1/predict", ROW), ("/v1/predict/batch", {"rows": [ROW]})])
def test_a_key_that_no_header_should_hold_is_refused(diabetes: Running, path: str, body: dict[str, Any]) -> None:
    answer = diabetes.client.post(path, json=body, headers={"Idempotency-Key": "x" * 256})
    assert answer.status_code == 422
