"""What the schedulers' program does with answers that the real services give rarely."""

import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from tests.support.paths import ROOT

RUN = "nightly 2026-03-01"
GOOD = {"verdict": "GOOD", "attribution": None}
CRITICAL = {"verdict": "CRITICAL", "attribution": {"kind": "covariate", "sentence": "Age moved"}}


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program, which does not pause."""
    spec = importlib.util.spec_from_file_location("nightly", ROOT / "examples/schedulers/driftloop_nightly.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    return module


def request(state: str, reason: str = "why") -> dict[str, Any]:
    return {"id": 7, "state": state, "reason": reason, "history": [{"reason": f"asked for by operator: {RUN}"}]}


def services(report: dict[str, Any], *requests: list[dict[str, Any]]) -> tuple[Callable[..., Any], list[str]]:
    """Services that answer with a report, and with one list of requests after the other; and what was ordered."""
    left, ordered = list(requests), []

    def ask(url: str, _until: float, _key: str = "", order: dict[str, str] | None = None) -> Any:
        if order is not None:
            ordered.append(order["reason"])
            return {"request": 7}
        if "/v1/report" in url:
            return report
        return {"requests": left.pop(0) if len(left) > 1 else left[0]}

    return ask, ordered


def work(program: ModuleType, monkeypatch: pytest.MonkeyPatch, ask: Callable[..., Any], seconds: float = 60) -> str:
    monkeypatch.setattr(program, "ask", ask)
    return str(program.nightly("http://monitor", "http://trainer", "key", "loan", RUN, seconds))


def test_one_order_is_waited_for_until_it_is_decided(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    ask, ordered = services(CRITICAL, [], [request("training")], [request("promoted", "proven better")])
    assert work(program, monkeypatch, ask) == "loan: CRITICAL; request 7 is promoted: proven better"
    assert ordered == [RUN]


def test_a_night_that_has_ordered_one_orders_none(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    ask, ordered = services(CRITICAL, [request("withdrawn")])
    assert work(program, monkeypatch, ask) == "loan: CRITICAL; request 7 is withdrawn: why"
    assert ordered == []


@pytest.mark.parametrize("state", ["rejected", "rolled-back"])
def test_a_version_that_is_not_better_fails_the_night(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    ask, _ordered = services(CRITICAL, [request(state)])
    with pytest.raises(program.Failed, match=f"request 7 is {state}: why"):
        work(program, monkeypatch, ask)


def test_what_is_not_decided_in_time_fails_the_night(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    ask, _ordered = services(CRITICAL, [request("awaiting-labels")])
    with pytest.raises(program.Failed, match=r"request 7 is not decided after 0\.01 s"):
        work(program, monkeypatch, ask, 0.01)


def test_bad_data_order_nothing_and_fail_the_night(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = {"verdict": "CRITICAL", "attribution": {"kind": "quality", "sentence": "a unit has changed"}}
    ask, ordered = services(bad, [])
    with pytest.raises(program.Failed, match="a unit has changed"):
        work(program, monkeypatch, ask)
    assert ordered == []


def test_a_good_verdict_orders_nothing(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    ask, ordered = services(GOOD, [])
    assert work(program, monkeypatch, ask) == "loan: no retraining is called for"
    assert ordered == []
