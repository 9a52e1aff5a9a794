"""What people order of the trainer, by HTTP and by command."""

from dataclasses import replace
from typing import Any

import pytest

from driftloop.common.events import ModelUpdated
from driftloop.common.kafka.reader import ReadTimeout
from driftloop.common.topics import MODEL_UPDATES
from driftloop.trainer.api import create_app
from tests.support.asgi import ask
from tests.support.house import House
from tests.support.trainers import NAME, Trainer, alarm, contract_of


@pytest.fixture
def trainer(house: House) -> Trainer:
    """A trainer whose challenger was rejected."""
    trainer = Trainer(house, house.pool("trainer", max_size=8))
    trainer.first()
    trainer.drift()
    trainer.retrain()
    return trainer


def order(trainer: Trainer, what: str, body: dict[str, Any]) -> tuple[int, Any]:
    answer = ask(trainer.api, "POST", f"/v1/{what}", json=body)
    return answer.status_code, answer.json()


def test_a_version_that_was_rejected_can_be_promoted_by_hand_and_the_one_before_comes_back(trainer: Trainer) -> None:
    assert order(trainer, "promote", {"version": 2, "reason": "I know better"}) == (
        200,
        {"model_name": NAME, "champion": 2, "revision": 2},
    )
    assert trainer.published()[-1].reason == "promoted by anonymous: I know better"
    assert order(trainer, "rollback", {}) == (200, {"model_name": NAME, "champion": 1, "revision": 3})
    assert ask(trainer.api, "GET", "/v1/models").json()["models"][0]["champion"] == 1


def test_a_retraining_is_asked_for_once(trainer: Trainer) -> None:
    (waiting, *_) = trainer.requests()
    assert order(trainer, "retrain", {"model": NAME}) == (
        202,
        {"model_name": NAME, "request": waiting["id"], "opened": False},
    )


@pytest.mark.parametrize(
    ("what", "body", "status", "said"),
    [
        ("promote", {"version": 1}, 409, "serves already"),
        ("promote", {"version": 9}, 404, "has no version 9"),
        ("promote", {}, 422, "version"),
        ("rollback", {}, 409, "nothing served before it"),
        ("rollback", {"to": 0}, 422, "to"),
        ("retrain", {"model": "nobody"}, 404, "name one of ['loan']"),
        ("retrain", {"sinse": "2026-01-01T00:00:00Z"}, 422, "sinse"),
    ],
)
def test_what_cannot_be_done_is_refused_with_what_is_wrong(
    trainer: Trainer, what: str, body: dict[str, Any], status: int, said: str
) -> None:
    found, answer = order(trainer, what, body)
    assert (found, said in str(answer)) == (status, True)
    assert len(trainer.published()) == 1


@pytest.mark.parametrize("since", ["2026-02-01T00:00:00", "2099-01-01T00:00:00Z"])
def test_a_retraining_since_no_instant_in_the_past_is_refused(house: House, since: str) -> None:
    trainer = Trainer(house, house.pool("trainer", max_size=8))
    trainer.first()
    status, answer = order(trainer, "retrain", {"since": since})
    assert (status, "not an instant in the past" in answer["detail"]) == (409, True)


def test_a_model_without_a_version_takes_no_orders(house: House) -> None:
    trainer = Trainer(house, house.pool("trainer", max_size=8))
    for what, body in (("retrain", {}), ("promote", {"version": 1}), ("rollback", {})):
        status, answer = order(trainer, what, body)
        assert (status, "make one with `trainer train`" in answer["detail"]) == (409, True)


def test_without_a_broker_an_order_is_refused_for_now_and_nothing_is_decided(trainer: Trainer) -> None:
    def away(_model: str) -> int:
        raise ReadTimeout("the end was not reached")

    operations = replace(trainer.operations, highest_revision=away)
    app = create_app(trainer.pool, {NAME: trainer.contract}, operations)
    answer = ask(app, "POST", "/v1/promote", json={"version": 2})
    assert (answer.status_code, answer.headers["retry-after"], len(trainer.published())) == (503, "2", 1)


@pytest.mark.parametrize("body", [{"reason": "a\x00b"}, {"since": "0001-01-01T00:00:00+14:00"}])
def test_what_no_database_can_keep_is_refused(trainer: Trainer, body: dict[str, Any]) -> None:
    trainer.drift(alarm(change="cleared", verdict="GOOD"), "drift:2")
    assert order(trainer, "retrain", body)[0] in (409, 422)


def test_a_decision_is_made_again_and_is_the_same(trainer: Trainer) -> None:
    found = ask(trainer.api, "GET", f"/v1/models/{NAME}/versions/2/decision").json()
    assert (found["same"], found["decision"] == found["again"]) == (True, True)
    assert ask(trainer.api, "GET", f"/v1/models/{NAME}/versions/1/decision").status_code == 404


def test_requests_are_listed_newest_first_with_their_history(trainer: Trainer) -> None:
    follower, rejected = ask(trainer.api, "GET", f"/v1/requests?model={NAME}").json()["requests"]
    assert (follower["state"], rejected["state"]) == ("awaiting-labels", "rejected")
    assert [one["state"] for one in rejected["history"]] == ["awaiting-labels", "training", "evaluated", "rejected"]


def run(trainer: Trainer, *words: str) -> tuple[int | None, str]:
    """The command, in a process of its own."""
    house = trainer.house
    process, _url = house.process(
        "command",
        "driftloop.trainer.cli",
        {
            "DATABASE_URL": house.database_url("trainer"),
            "DRIFTLOOP_CONTRACTS": str(contract_of(house.folder)),
            "DRIFTLOOP_SIGNING_KEY": str(house.folder / "keys" / "signing.pem"),
            "DRIFTLOOP_TRAINING_SETS": trainer.sets.root,
        },
    )
    process.argv.extend(words)
    process.start()
    return process.wait_or_kill(120), process.tail()


def test_the_commands_do_what_the_api_does(trainer: Trainer) -> None:
    assert "version 2 serves from revision 2 on" in run(trainer, "promote", "2", "--reason", "a test's")[1]
    assert "version 1 serves from revision 3 on" in run(trainer, "rollback")[1]
    states = [event for _envelope, event in trainer.house.events(MODEL_UPDATES)]
    assert {one.revision for one in states if isinstance(one, ModelUpdated)} == {1, 2, 3}
    code, said = run(trainer, "promote", "9")
    assert (code, "has no version 9" in said) == (1, True)


def test_the_commands_show_what_there_is(trainer: Trainer) -> None:
    for words, said in (
        (("models",), '"rejected"'),
        (("requests",), '"history"'),
        (("card", "2"), "accuracy"),
        (("decision", "2"), '"same": true'),
        (("verify-set", "2"), ".arrow: OK"),
    ):
        code, shown = run(trainer, *words)
        assert (code, said in shown) == (0, True), shown
