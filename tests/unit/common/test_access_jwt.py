"""Tokens: only what the configured issuer signed for this audience, by an algorithm that only it can use."""

import base64
import hmac
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import RSAAlgorithm

from driftloop.common.access import Caller, Refused
from driftloop.common.access import jwks as jwks_module
from driftloop.common.access.jwks import IssuerKeys, KeysUnavailable, fetcher
from driftloop.common.access.jwt import ALGORITHMS, Rules, Tokens
from driftloop.common.settings import SettingsError
from tests.support.tokens import AUDIENCE, ISSUER, PRIVATE, claims, jwk, key_set, token
from tests.support.waiting import wait_until

OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def issuer_keys(*members: dict[str, Any]) -> IssuerKeys:
    keys = IssuerKeys(lambda: key_set(*members), ALGORITHMS)
    keys.refresh()
    return keys


def tokens(*members: dict[str, Any]) -> Tokens:
    return Tokens(Rules(ISSUER, AUDIENCE), issuer_keys(*members))


def said(found: Caller | Refused) -> str:
    return found.name if isinstance(found, Caller) else f"{found.status} {found.reason}"


KNOWN = f"{ISSUER}|clinic"
BAD = "401 invalid-token"


# --- what is good


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_of_the_issuer_names_its_caller(algorithm: str) -> None:
    expected = Caller(KNOWN, frozenset({"predict"}), "jwt")
    assert tokens().caller(token(algorithm)) == expected


EVERYTHING = {"predict", "label", "rows", "admin"}


@pytest.mark.parametrize(
    ("changes", "scopes"),
    [
        ({"scope": "predict"}, {"predict"}),
        ({"scope": "label rows"}, {"label", "rows"}),
        ({"scope": "admin"}, EVERYTHING),
        ({"scope": None, "scp": ["predict", "x"]}, {"predict"}),
        ({"scope": None, "scp": "x admin"}, EVERYTHING),
        ({"scope": "x", "scp": "admin"}, set()),
        ({"scope": None}, set()),
        ({"scope": 7}, set()),
        ({"scope": None, "scp": [None, ["admin"], {}]}, set()),
        ({"scope": "PREDICT predictor"}, set()),
    ],
)
def test_scopes_come_from_scope_or_scp(changes: dict[str, Any], scopes: set[str]) -> None:
    found = tokens().caller(token(**changes))
    assert isinstance(found, Caller)
    assert found.scopes == scopes


def test_one_of_several_audiences_is_enough() -> None:
    assert said(tokens().caller(token(aud=["other", AUDIENCE]))) == KNOWN


def test_clocks_may_differ_a_little() -> None:
    now = time.time()
    assert said(tokens().caller(token(exp=now - 20, nbf=now + 20, iat=now + 20))) == KNOWN


def test_a_token_without_a_key_id_is_checked_by_the_only_key_of_its_algorithm() -> None:
    assert said(tokens().caller(token(header={}))) == KNOWN


# --- what is not


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"exp": 1}, "401 expired-token"),
        ({"exp": None}, BAD),
        ({"exp": "soon"}, BAD),
        ({"exp": float("inf")}, BAD),
        ({"nbf": 9_999_999_999}, BAD),
        ({"iss": "https://other.example"}, BAD),
        ({"iss": None}, BAD),
        ({"aud": "other"}, BAD),
        ({"aud": None}, BAD),
        ({"sub": None}, BAD),
        ({"sub": 7}, BAD),
    ],
)
def test_a_claim_that_is_missing_or_wrong_is_refused(changes: dict[str, Any], refusal: str) -> None:
    assert said(tokens().caller(token(**changes))) == refusal


def test_a_token_that_is_good_for_ever_is_no_error() -> None:
    assert said(tokens().caller(token(exp=10**400))) == KNOWN


def test_a_token_of_another_key_is_refused() -> None:
    assert said(tokens().caller(token("RS256", OTHER))) == BAD


def test_a_key_that_the_issuer_does_not_publish_is_unknown() -> None:
    assert said(tokens().caller(token(header={"kid": "x"}))) == "401 unknown-signer"


def encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def forged(header: dict[str, Any], sign: Callable[[bytes], bytes]) -> bytes:
    """What the library would not make."""
    signed = encoded(json.dumps(header).encode()) + b"." + encoded(json.dumps(claims()).encode())
    return signed + b"." + encoded(sign(signed))


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", ""])
def test_an_unsigned_token_is_refused(algorithm: str) -> None:
    assert said(tokens().caller(forged({"alg": algorithm, "kid": "RS256"}, lambda _signed: b""))) == BAD


@pytest.mark.parametrize("form", [Encoding.DER, Encoding.PEM])
def test_the_public_key_is_no_shared_secret(form: Encoding) -> None:
    public = PRIVATE["RS256"].public_key().public_bytes(form, PublicFormat.SubjectPublicKeyInfo)
    presented = forged({"alg": "HS256", "kid": "RS256"}, lambda signed: hmac.digest(public, signed, "sha256"))
    assert said(tokens().caller(presented)) == BAD


def test_a_shared_secret_in_the_set_signs_nothing() -> None:
    secret = encoded(b"s" * 32).decode()
    checked = tokens(jwk("RS256"), {"kty": "oct", "k": secret, "kid": "HS256", "alg": "HS256"})
    assert said(checked.caller(token("HS256", b"s" * 32))) == BAD


def test_a_key_is_used_by_its_own_algorithm_only() -> None:
    assert said(tokens(jwk("RS256", alg="RS256")).caller(token("ES256", header={"kid": "RS256"}))) != KNOWN


def test_an_algorithm_that_was_not_allowed_is_refused() -> None:
    keys = IssuerKeys(key_set, ["ES256"])
    keys.refresh()
    assert said(Tokens(Rules(ISSUER, AUDIENCE), keys).caller(token("RS256"))) == BAD


def test_a_weak_key_is_refused() -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    assert said(tokens(jwk("RS256", weak)).caller(token("RS256", weak))) == BAD


@pytest.mark.parametrize("header", [{"crit": ["x"], "x": 1}, {"b64": False, "crit": ["b64"]}, {"alg": ["RS256"]}])
def test_a_header_that_is_not_understood_is_refused(header: dict[str, Any]) -> None:
    good = token().split(b".")
    good[0] = encoded(json.dumps({"alg": "RS256", "kid": "RS256"} | header).encode())
    assert said(tokens().caller(b".".join(good))) == BAD


@pytest.fixture(scope="module")
def checked() -> Tokens:
    return tokens()


segment = st.binary(max_size=60).map(encoded)
header_like = st.dictionaries(
    st.sampled_from(["alg", "kid", "typ", "crit"]), st.none() | st.text(max_size=5) | st.sampled_from(ALGORITHMS)
).map(lambda header: encoded(json.dumps(header).encode()))


@given(presented=st.binary(max_size=200) | st.tuples(segment | header_like, segment, segment).map(b".".join))
def test_whatever_is_presented_is_answered(checked: Tokens, presented: bytes) -> None:
    assert said(checked.caller(presented)).startswith("401 ")


def test_a_token_that_is_deep_or_long_is_refused(checked: Tokens) -> None:
    deep = encoded(b"[" * 9_000)
    assert said(checked.caller(deep + b".e30.e30")) == BAD
    assert said(checked.caller(token(filler="x" * 20_000))) == BAD


# --- what is remembered


class Time:
    """Clocks that go as they are told, from the real instant on."""

    def __init__(self) -> None:
        self.passed = 0.0

    def __call__(self) -> datetime:
        """The instant."""
        return datetime.now(UTC) + timedelta(seconds=self.passed)

    def monotonic(self) -> float:
        """Seconds since some instant."""
        return self.passed


@pytest.mark.parametrize(("exp", "seconds"), [(600, 60), (30, 29)])
def test_a_good_token_is_remembered_until_it_expires_and_a_minute_at_most(exp: int, seconds: int) -> None:
    now, published = Time(), [key_set()]
    keys = IssuerKeys(lambda: published[0], ALGORITHMS)
    keys.refresh()
    checked = Tokens(Rules(ISSUER, AUDIENCE), keys, now, now.monotonic)
    presented = token(exp=time.time() + exp)
    checked.caller(presented)
    published[0] = key_set(jwk("RS256", OTHER))
    keys.refresh()
    now.passed = seconds - 1
    assert said(checked.caller(presented)) == KNOWN
    now.passed = seconds + 1
    assert said(checked.caller(presented)) == BAD


def test_of_many_tokens_the_newest_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("driftloop.common.access.jwt.MAX_REMEMBERED", 3)
    published = [key_set()]
    keys = IssuerKeys(lambda: published[0], ALGORITHMS)
    keys.refresh()
    checked = Tokens(Rules(ISSUER, AUDIENCE), keys)
    presented = [token(sub=f"s{number}") for number in range(5)]
    for one in presented:
        checked.caller(one)
    published[0] = key_set(jwk("RS256", OTHER))
    keys.refresh()
    assert [said(checked.caller(one)) for one in presented] == [BAD, BAD, *(f"{ISSUER}|s{n}" for n in (2, 3, 4))]


# --- an issuer's keys


@pytest.mark.parametrize(
    "published",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"keys": {}}',
        b'{"keys": []}',
        b'{"keys": [1]}',
        key_set(jwk("RS256", use="enc")),
        key_set(jwk("RS256", alg="RS512")),
        key_set({"kty": "RSA"}),
        key_set({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
        key_set({"kty": "new"}),
        key_set({"kty": 7}),
        key_set(RSAAlgorithm.to_jwk(PRIVATE["RS256"], as_dict=True)),
        key_set(jwk("RS256", kid=7)),
    ],
    ids=lambda _published: "set",
)
def test_a_set_without_a_key_that_can_verify_is_refused_and_the_last_good_one_stays(published: bytes) -> None:
    answers = [key_set(), published]
    keys = IssuerKeys(lambda: answers.pop(0), ALGORITHMS)
    keys.refresh()
    with pytest.raises(KeysUnavailable):
        keys.refresh()
    assert keys.key("RS256", "RS256") is not None


def test_what_is_wrong_with_one_key_is_not_wrong_with_the_others() -> None:
    assert said(tokens({"kty": "new"}, {}, jwk("RS256")).caller(token())) == KNOWN


def test_keys_that_share_an_id_are_told_apart_by_their_algorithm() -> None:
    checked = tokens(jwk("RS256", kid="a"), jwk("ES256", kid="a"))
    found = [said(checked.caller(token(algorithm, header={"kid": "a"}))) for algorithm in ("RS256", "ES256")]
    assert found == [KNOWN, KNOWN]


def test_before_the_first_keys_came_nobody_can_tell() -> None:
    checked = Tokens(Rules(ISSUER, AUDIENCE), IssuerKeys(key_set, ALGORITHMS))
    found = checked.caller(token())
    assert isinstance(found, Refused)
    assert (found.status, found.headers) == (503, ((b"retry-after", b"1"),))


@pytest.fixture
def running() -> Iterator[Callable[[IssuerKeys], None]]:
    stop, threads = threading.Event(), list[threading.Thread]()

    def run(keys: IssuerKeys) -> None:
        threads.append(threading.Thread(target=keys.run, args=[stop]))
        threads[-1].start()

    yield run
    stop.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_an_unknown_key_has_the_keys_fetched_anew(running: Callable[[IssuerKeys], None]) -> None:
    published = [key_set(jwk("RS256", OTHER, kid="old"))]
    keys = IssuerKeys(lambda: published[0], ALGORITHMS, least_seconds=0.01)
    checked = Tokens(Rules(ISSUER, AUDIENCE), keys)
    running(keys)
    wait_until(lambda: keys.known, "the first keys", pause=0.005)
    published[0] = key_set()
    wait_until(lambda: said(checked.caller(token())) == KNOWN, "the new key", pause=0.005)


def test_unknown_keys_have_the_keys_fetched_only_so_often(running: Callable[[IssuerKeys], None]) -> None:
    fetched: list[float] = []

    def fetch() -> bytes:
        fetched.append(time.monotonic())
        return key_set()

    keys = IssuerKeys(fetch, ALGORITHMS, least_seconds=0.1)
    running(keys)

    def asked() -> bool:
        keys.key("unknown", "RS256")
        return len(fetched) >= 4

    wait_until(asked, "some fetches", pause=0.001)
    assert min(later - earlier for earlier, later in pairwise(fetched)) >= 0.1


def test_a_token_by_an_algorithm_that_is_not_allowed_has_nothing_fetched() -> None:
    keys = issuer_keys()
    Tokens(Rules(ISSUER, AUDIENCE), keys).caller(token("HS256", b"s" * 32, {"kid": "unknown"}))
    assert not keys._wanted.is_set()


def test_an_issuer_that_is_away_is_said_once_and_its_keys_stay(caplog: pytest.LogCaptureFixture) -> None:
    def away() -> bytes:
        raise KeysUnavailable("https://issuer.example was not fetched (timed out)")

    answers = [key_set, away, away, away]
    keys = IssuerKeys(lambda: answers.pop(0)(), ALGORITHMS)
    keys.refresh()
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            with pytest.raises(KeysUnavailable):
                keys.refresh()
    assert (len(caplog.records), keys.problem()) == (1, "https://issuer.example was not fetched (timed out)")
    assert said(Tokens(Rules(ISSUER, AUDIENCE), keys).caller(token())) == KNOWN


# --- fetching


Respond = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def serve() -> Iterator[Callable[[Respond], str]]:
    servers: list[ThreadingHTTPServer] = []

    def start(respond: Respond) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                respond(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=[0.01], daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/jwks"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def answer(status: int, body: bytes, **headers: str) -> Respond:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return respond


def test_keys_are_fetched_from_a_url(serve: Callable[[Respond], str]) -> None:
    assert fetcher(serve(answer(200, key_set())))() == key_set()


@pytest.mark.parametrize(
    ("respond", "reason"),
    [
        (answer(500, b""), "status 500"),
        (answer(302, b"", location="http://127.0.0.1:1/"), "status 302"),
        (answer(200, b"x" * (1024 * 1024 + 1)), "answers more than 1048576 bytes"),
        (answer(200, b"x", **{"content-length": "100"}), "^(?!.*status)"),
    ],
)
def test_an_answer_that_is_no_key_set_is_refused(
    serve: Callable[[Respond], str], respond: Respond, reason: str
) -> None:
    keys = IssuerKeys(fetcher(serve(respond)), ALGORITHMS)
    with pytest.raises(KeysUnavailable, match=reason):
        keys.refresh()


@pytest.mark.parametrize("drop", [b"", b"x"])
def test_an_issuer_that_dawdles_is_given_up(
    serve: Callable[[Respond], str], drop: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks_module, "FETCH_SECONDS", 0.2)
    enough = threading.Event()

    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        # One byte now and then, or none, is no reason to wait for ever.
        while not enough.wait(0.02) and drop:
            handler.wfile.write(drop)
            handler.wfile.flush()
        enough.wait(60)

    started = time.monotonic()
    try:
        with pytest.raises(KeysUnavailable):
            fetcher(serve(respond))()
    finally:
        enough.set()
    assert time.monotonic() - started < 30


def test_an_issuer_that_is_not_there_is_named() -> None:
    with pytest.raises(KeysUnavailable, match=r"^http://127\.0\.0\.1:1/jwks was not fetched"):
        fetcher("http://127.0.0.1:1/jwks")()


@pytest.mark.parametrize(
    "source",
    ["http://issuer.example/jwks", "ftp://issuer.example/jwks", "file:///etc/passwd", "https://", "https://[x/jwks"],
)
def test_keys_come_over_https_or_from_a_file(source: str) -> None:
    with pytest.raises(SettingsError, match=r"^DRIFTLOOP_JWT_JWKS="):
        fetcher(source)


def test_a_password_in_a_url_is_not_shown() -> None:
    with pytest.raises(SettingsError) as refused:
        fetcher("https://user:hunter2@issuer.example/jwks")
    assert "hunter2" not in str(refused.value)
