"""What a service asks: who sends these headers, may they, and how often?"""

import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from driftloop.common.access import Caller, Header, Refused, Scope
from driftloop.common.access.checking import Access
from driftloop.common.access.issuing import create_key
from driftloop.common.access.keyring import KeyRing
from driftloop.common.access.rate import RateLimit
from driftloop.common.access.refusals import too_many
from driftloop.common.access.settings import AccessSettings, build_access, build_rate_limit
from driftloop.common.settings import SettingsError, read_settings
from tests.support.tokens import AUDIENCE, ISSUER, key_set, token

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def key_of(path: Path, name: str = "clinic", scope: Scope = "predict") -> bytes:
    return create_key(path, name, [scope], NOW).text.encode()


def said(found: Caller | Refused) -> str:
    return found.name if isinstance(found, Caller) else f"{found.status} {found.reason}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def key(path: Path) -> bytes:
    return key_of(path)


@pytest.fixture
def access(path: Path, key: bytes) -> Access:
    return Access(KeyRing(path))


# --- credentials


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        (b"authorization", b"Bearer ", b""),
        (b"authorization", b"bearer ", b""),
        (b"authorization", b"BEARER   ", b" "),
        (b"x-api-key", b"", b""),
        (b"x-api-key", b" ", b"\t"),
    ],
)
def test_a_credential_may_be_in_either_header(
    access: Access, key: bytes, name: bytes, before: bytes, after: bytes
) -> None:
    headers = [(b"host", b"x"), (name, before + key + after)]
    assert said(access.check(headers, "predict")) == "clinic"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"host", b"x")],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"Basic dXNlcjpwYXNz")],
        [(b"x-api-key", b"")],
    ],
)
def test_without_a_credential_the_answer_says_how_to_give_one(access: Access, headers: list[Header]) -> None:
    found = access.check(headers, "predict")
    assert isinstance(found, Refused)
    assert (found.status, found.headers) == (401, ((b"www-authenticate", b"Bearer"),))
    assert "`X-API-Key: <key>`" in found.detail


def test_the_same_credential_twice_is_one(access: Access, key: bytes) -> None:
    headers = [(b"authorization", b"Bearer " + key), (b"x-api-key", key)]
    assert said(access.check(headers, "predict")) == "clinic"


def test_two_credentials_that_differ_are_none(access: Access, key: bytes, path: Path) -> None:
    headers = [(b"authorization", b"Bearer " + key), (b"x-api-key", key_of(path, "other"))]
    assert said(access.check(headers, "predict")) == "400 ambiguous"


def test_a_header_that_is_there_twice_and_differs_is_none(access: Access, key: bytes) -> None:
    headers = [(b"authorization", b"Bearer x"), (b"authorization", b"Bearer " + key)]
    assert said(access.check(headers, "predict")) == "400 ambiguous"


def test_what_a_proxy_is_told_beside_the_key_does_not_matter(access: Access, key: bytes) -> None:
    headers = [(b"authorization", b"Basic dXNlcjpwYXNz"), (b"x-api-key", key)]
    assert said(access.check(headers, "predict")) == "clinic"


@pytest.mark.parametrize("credential", [b"x", b"\xff\xfe", b"dl_", b"a.b.c", b"dl_abcdefghijkl_" + b"s" * 43])
def test_a_credential_that_is_not_good_is_never_echoed(access: Access, credential: bytes) -> None:
    found = access.check([(b"x-api-key", credential)], "predict")
    assert isinstance(found, Refused)
    assert (found.status, found.headers) == (401, ((b"www-authenticate", b'Bearer error="invalid_token"'),))
    assert credential[-9:].decode("latin-1") not in found.detail or len(credential) < 9


# --- scopes


@pytest.mark.parametrize(
    ("has", "needs", "answer"),
    [
        ("predict", "predict", "n"),
        ("predict", "admin", "403 scope"),
        ("predict", "label", "403 scope"),
        ("predict", "rows", "403 scope"),
        ("label", "label", "n"),
        ("label", "rows", "403 scope"),
        ("rows", "rows", "n"),
        ("rows", "label", "403 scope"),
        ("admin", "predict", "n"),
        ("admin", "label", "n"),
        ("admin", "rows", "n"),
        ("admin", "admin", "n"),
    ],
)
def test_a_caller_may_do_what_its_scopes_say(path: Path, has: Scope, needs: Scope, answer: str) -> None:
    key = key_of(path, "n", has)
    assert said(Access(KeyRing(path)).check([(b"x-api-key", key)], needs)) == answer


def test_a_scope_that_lacks_is_named(access: Access, key: bytes) -> None:
    found = access.check([(b"x-api-key", key)], "admin")
    assert isinstance(found, Refused)
    challenge = b'Bearer error="insufficient_scope", scope="admin"'
    assert ("'admin'" in found.detail, found.headers) == (True, ((b"www-authenticate", challenge),))


def test_refusals_are_counted_by_reason(access: Access) -> None:
    def count() -> float:
        return REGISTRY.get_sample_value("driftloop_access_refused_total", {"reason": "missing"}) or 0.0

    before = count()
    access.check([], "predict")
    assert count() == before + 1


# --- settings


def settings(**variables: str | Path) -> AccessSettings:
    return read_settings(AccessSettings, {f"DRIFTLOOP_{name.upper()}": str(value) for name, value in variables.items()})


def test_access_is_on_unless_said_otherwise_and_wants_keys_or_tokens() -> None:
    with pytest.raises(SettingsError, match=r"^DRIFTLOOP_API_KEYS is not set: make a key with `driftloop api-keys"):
        build_access(settings())


def test_access_that_is_off_lets_everybody_in_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    access = build_access(settings(access="off"))
    assert access.check([(b"x-api-key", b"x")], "admin") == Caller(
        "anonymous", frozenset({"predict", "label", "rows", "admin"}), "anonymous"
    )
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize("text", ["OFF", "no", "false", "0"])
def test_nothing_but_off_is_off(text: str) -> None:
    with pytest.raises(SettingsError, match=f"^DRIFTLOOP_ACCESS='{text}'"):
        settings(access=text)


def test_a_key_file_that_is_not_there_is_a_wrong_setting(path: Path) -> None:
    with pytest.raises(SettingsError, match=f"^DRIFTLOOP_API_KEYS={path}: does not exist: make it with"):
        build_access(settings(api_keys=path))


def test_keys_and_tokens_may_both_be_taken(path: Path, key: bytes, tmp_path: Path) -> None:
    jwks = tmp_path / "jwks.json"
    jwks.write_bytes(key_set())
    access = build_access(settings(api_keys=path, jwt_issuer=ISSUER, jwt_audience=AUDIENCE, jwt_jwks=jwks))
    found = [said(access.check([(b"authorization", b"Bearer " + one)], "predict")) for one in (key, token())]
    assert found == ["clinic", f"{ISSUER}|clinic"]


def test_tokens_alone_are_enough_and_then_no_key_is_good(tmp_path: Path, key: bytes) -> None:
    jwks = tmp_path / "jwks.json"
    jwks.write_bytes(key_set())
    access = build_access(settings(jwt_issuer=ISSUER, jwt_audience=AUDIENCE, jwt_jwks=jwks))
    assert said(access.check([(b"x-api-key", key)], "predict")) == "401 unreadable"


def test_an_issuer_that_is_away_at_the_start_is_waited_for() -> None:
    access = build_access(settings(jwt_issuer=ISSUER, jwt_audience=AUDIENCE, jwt_jwks="http://127.0.0.1:1/"))
    assert access.note() == "the issuer's keys were not fetched yet"
    assert [worker.name for worker in access.workers] == ["issuer-keys"]


@pytest.mark.parametrize("missing", ["jwt_issuer", "jwt_audience", "jwt_jwks"])
def test_half_of_what_tokens_need_is_a_wrong_setting(missing: str, path: Path, key: bytes) -> None:
    given = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_jwks": "https://issuer.example/jwks"}
    del given[missing]
    with pytest.raises(SettingsError, match=f"^DRIFTLOOP_{missing.upper()} must be set, too"):
        build_access(settings(api_keys=path, **given))


@pytest.mark.parametrize("algorithms", ["HS256", "none", "RS256,none"])
def test_an_algorithm_that_others_can_use_is_a_wrong_setting(algorithms: str) -> None:
    with pytest.raises(SettingsError, match=r"^DRIFTLOOP_JWT_ALGORITHMS="):
        settings(jwt_algorithms=algorithms)


def test_a_key_set_file_that_is_not_there_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"^DRIFTLOOP_JWT_JWKS={tmp_path}/x: cannot be read"):
        build_access(settings(jwt_issuer=ISSUER, jwt_audience=AUDIENCE, jwt_jwks=tmp_path / "x"))


def test_settings_of_a_service_inherit_those_of_access() -> None:
    class Settings(AccessSettings, frozen=True, kw_only=True):
        """A service's."""

        port: int = 8000

    assert read_settings(Settings, {"DRIFTLOOP_ACCESS": "off", "DRIFTLOOP_PORT": "1"}) == Settings(access="off", port=1)


# --- how often


class Seconds:
    """A monotonic clock that stands still until it is moved."""

    now = 1_000_000.0

    def __call__(self) -> float:
        """Seconds since some instant."""
        return self.now


def test_a_caller_may_take_a_burst_and_then_waits_for_the_next_token() -> None:
    limit = RateLimit(10, 3, Seconds())
    assert [limit.take("a") for _ in range(4)] == [0, 0, 0, pytest.approx(0.1)]


def test_who_waits_as_long_as_told_is_served() -> None:
    seconds = Seconds()
    limit = RateLimit(3, 2, seconds)
    for _ in range(50):
        while wait := limit.take("a"):
            seconds.now += wait
    assert seconds.now == pytest.approx(1_000_000 + 48 / 3)


def test_who_is_refused_takes_nothing() -> None:
    seconds = Seconds()
    limit = RateLimit(1, 1, seconds)
    limit.take("a")
    for _ in range(100):
        assert limit.take("a") == pytest.approx(1.0)
    seconds.now += 1
    assert limit.take("a") == 0


def test_one_caller_takes_nothing_from_another() -> None:
    limit = RateLimit(1, 1, Seconds())
    assert [limit.take("a"), limit.take("b")] == [0, 0]


def test_a_bucket_holds_no_more_than_a_burst() -> None:
    seconds = Seconds()
    limit = RateLimit(10, 2, seconds)
    seconds.now += 3600
    assert [limit.take("a") > 0 for _ in range(3)] == [False, False, True]


def test_who_wants_more_than_a_burst_is_served_once_and_pays_for_all() -> None:
    limit = RateLimit(10, 5, Seconds())
    assert limit.take("a", 100) == 0
    assert limit.take("a") == pytest.approx((100 - 5 + 1) / 10)


def test_of_many_callers_those_who_asked_last_are_remembered() -> None:
    limit = RateLimit(1, 1, Seconds(), max_callers=3)
    for caller in ("a", "b", "c", "a", "d"):
        limit.take(caller)
    assert [limit.take(caller) > 0 for caller in ("a", "d", "b")] == [True, True, False]


def test_without_a_limit_there_is_none() -> None:
    assert build_rate_limit(settings()) is None
    assert build_rate_limit(settings(rate_limit="5", rate_burst="7")) is not None


@pytest.mark.parametrize(("seconds", "header"), [(0.01, b"1"), (1.2, b"2"), (60.0, b"60")])
def test_who_asks_too_often_is_told_in_whole_seconds_when_to_come_again(seconds: float, header: bytes) -> None:
    found = too_many(seconds)
    assert (found.status, found.headers) == (429, ((b"retry-after", header),))
