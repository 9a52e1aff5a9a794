"""Who is let in to the predictor, and what those are told who are not."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from starlette.types import Receive, Send
from starlette.types import Scope as ASGIScope

from driftloop.common.access import Scope
from driftloop.common.access.checking import Access
from driftloop.common.access.guard import Guard
from driftloop.common.access.issuing import create_key
from driftloop.common.access.keyring import KeyRing
from driftloop.common.access.rate import RateLimit
from driftloop.common.http import SECURITY_HEADERS
from driftloop.common.logs import REQUEST_ID
from driftloop.predictor.api import COMPATIBLE, Admission
from tests.support.bad_bodies import ROW
from tests.unit.predictor.builders import DIABETES, Client, Running, running

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROUTES = [
    ("GET", "/"),
    ("HEAD", "/"),
    ("GET", "/v1/model"),
    ("GET", "/openapi.json"),
    ("GET", "/nothing"),
    ("POST", "/predict"),
    ("POST", "/v1/predict"),
    ("POST", "/v1/predict/batch"),
    ("GET", "/v2"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/models/diabetes"),
    ("POST", "/v2/models/diabetes/infer"),
]
Make = Callable[..., Running]


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def key(keys: Path) -> str:
    return key_of(keys, "clinic")


def key_of(path: Path, name: str, scope: Scope = "predict") -> str:
    return create_key(path, name, [scope], NOW).text


@pytest.fixture
def make(keys: Path, key: str) -> Iterator[Make]:
    with ExitStack() as stack:

        def made(limit: RateLimit | None = None, compat_anonymous: bool = False) -> Running:
            admission = Admission(Access(KeyRing(keys)), limit, compat_anonymous)
            return stack.enter_context(running(DIABETES, admission=admission))

        yield made


@pytest.fixture
def client(make: Make) -> Client:
    return make().client


def refusals(reason: str) -> float:
    return REGISTRY.get_sample_value("driftloop_access_refused_total", {"reason": reason}) or 0.0


# --- keys


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_without_a_key_nothing_is_answered(client: Client, method: str, path: str) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.headers["content-type"] == "application/problem+json"


def test_what_is_refused_is_not_logged(make: Make) -> None:
    found = make()
    found.client.post("/v1/predict", json=ROW)
    assert not found.logged


@pytest.mark.parametrize("form", [("authorization", "Bearer {}"), ("x-api-key", "{}")])
def test_with_a_key_a_prediction_is_answered(client: Client, key: str, form: tuple[str, str]) -> None:
    answer = client.post("/v1/predict", json=ROW, headers={form[0]: form[1].format(key)})
    assert answer.status_code == 200


def test_a_wrong_key_is_never_echoed(client: Client) -> None:
    answer = client.post("/v1/predict", json=ROW, headers={"x-api-key": "dl_abcdefghijkl_" + "s" * 43})
    assert answer.status_code == 401
    assert "sssss" not in answer.text + str(answer.headers)


def test_the_same_idempotency_key_of_two_callers_gives_two_ids(key: str, keys: Path) -> None:
    other = key_of(keys, "other")
    with running(DIABETES, admission=Admission(Access(KeyRing(keys)))) as found:
        sent = [{"x-api-key": one, "idempotency-key": "1"} for one in (key, other, key)]
        first, second, third = (found.client.post("/v1/predict", json=ROW, headers=one).json() for one in sent)
    assert first["prediction_id"] == third["prediction_id"] != second["prediction_id"]


# --- the replaced service's clients


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_compatible_routes_alone_can_be_opened(make: Make, method: str, path: str) -> None:
    answer = make(compat_anonymous=True).client.request(method, path, **({"json": ROW} if method == "POST" else {}))
    assert answer.status_code == (200 if (method, path) in COMPATIBLE else 401)


def test_who_sends_no_key_where_none_is_needed_is_not_counted_as_refused(make: Make) -> None:
    client, before = make(compat_anonymous=True).client, refusals("missing")
    client.get("/")
    assert refusals("missing") == before


def test_a_wrong_key_is_refused_where_none_is_needed_too(make: Make) -> None:
    answer = make(compat_anonymous=True).client.post("/predict", json=ROW, headers={"x-api-key": "wrong"})
    assert answer.status_code == 401


# --- rates


def test_who_asks_too_often_is_told_when_to_come_again(make: Make, key: str) -> None:
    client, before = make(RateLimit(0.5, 2, lambda: 0.0)).client, refusals("rate")
    answers = [client.post("/v1/predict", json=ROW, headers={"x-api-key": key}) for _ in range(3)]
    assert [one.status_code for one in answers] == [200, 200, 429]
    assert answers[2].headers["retry-after"] == "2"
    assert refusals("rate") == before + 1


def test_a_callers_rate_is_not_anothers(make: Make, key: str, keys: Path) -> None:
    other = key_of(keys, "other")
    client = make(RateLimit(1, 1, lambda: 0.0)).client
    answers = [client.post("/v1/predict", json=ROW, headers={"x-api-key": one}) for one in (key, other)]
    assert [one.status_code for one in answers] == [200, 200]


def test_who_has_no_key_shares_one_rate(make: Make) -> None:
    client = make(RateLimit(1, 1, lambda: 0.0), compat_anonymous=True).client
    assert [client.post("/predict", json=ROW).status_code for _ in range(2)] == [200, 429]


# --- what every answer says


@pytest.mark.parametrize("path", ["/", "/nothing", "/v1/predict"])
def test_every_answer_tells_browsers_to_stay_away(client: Client, key: str, path: str) -> None:
    for headers in ({}, {"x-api-key": key}):
        answer = client.request("GET", path, headers=headers)
        assert {name: answer.headers.get(name) for name in dict(said())} == dict(said())


def said() -> list[tuple[str, str]]:
    return [(name.decode(), value.decode()) for name, value in SECURITY_HEADERS]


def test_no_other_origin_may_read_an_answer(client: Client, key: str) -> None:
    headers = {"x-api-key": key, "origin": "https://elsewhere.example"}
    assert "access-control-allow-origin" not in client.request("GET", "/", headers=headers).headers
    headers["access-control-request-method"] = "POST"
    assert client.request("OPTIONS", "/predict", headers=headers).status_code == 405


def test_a_requests_own_id_is_answered(client: Client) -> None:
    answer = client.request("GET", "/", headers={"x-request-id": "order-17:a.b"})
    assert answer.headers["x-request-id"] == "order-17:a.b"


@pytest.mark.parametrize("sent", ["", "a b", "é", "x" * 129, "{}"])
def test_an_id_that_is_no_plain_word_is_replaced(client: Client, sent: str) -> None:
    answer = client.request("GET", "/", headers={"x-request-id": sent.encode()})
    assert len(answer.headers["x-request-id"]) == 16


def test_what_runs_for_a_request_knows_its_id() -> None:
    seen = []

    async def app(_scope: ASGIScope, _receive: Receive, _send: Send) -> None:
        seen.append(REQUEST_ID.get())

    async def nothing(*_message: object) -> None: ...

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"x-request-id", b"order-17")]}
    asyncio.run(Guard(app, Access.off(), "predict")(scope, nothing, nothing))  # type: ignore[arg-type]
    assert (seen, REQUEST_ID.get()) == (["order-17"], None)
