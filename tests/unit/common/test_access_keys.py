"""API keys: shown once, kept as hashes, changed by one at a time, honoured as the file has them."""

import json
import logging
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.common.access import Caller, Refused, Scope
from driftloop.common.access.issuing import create_key, revoke_key, rotate_key
from driftloop.common.access.keyfile import ApiKeyFileError, read_keys
from driftloop.common.access.keyring import KeyRing
from tests.support.waiting import wait_until

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


class Time:
    """A clock of both kinds that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        """The instant."""
        return self.now

    def monotonic(self) -> float:
        """Seconds since some instant."""
        return self.now.timestamp()


def make(path: Path, name: str = "clinic", scope: Scope = "predict", not_after: datetime | None = None) -> bytes:
    return create_key(path, name, [scope], NOW, not_after).text.encode()


def ring_of(path: Path, time: Time | None = None) -> KeyRing:
    time = time or Time()
    return KeyRing(path, time, 2.0, time.monotonic)


def name_of(found: Caller | Refused) -> str:
    return found.name if isinstance(found, Caller) else f"{found.status} {found.reason}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "etc" / "keys.json"


# --- a key and its file


def test_a_key_is_known_by_its_name_and_scopes(path: Path) -> None:
    key = make(path)
    assert ring_of(path).caller(key) == Caller("clinic", frozenset({"predict"}), "api-key")


def test_admin_includes_all_others(path: Path) -> None:
    key = make(path, scope="admin")
    found = ring_of(path).caller(key)
    assert isinstance(found, Caller)
    assert found.scopes == {"admin", "predict", "label", "rows"}


def test_the_file_holds_no_secret_and_is_its_owners_alone(path: Path) -> None:
    secret = make(path)[16:]
    assert secret not in path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_has_an_id_that_may_be_logged_and_a_secret_of_256_bits(path: Path) -> None:
    issued = create_key(path, "clinic", ["predict"], NOW)
    prefix, key_id, secret = issued.text.split("_", 2)
    assert (prefix, key_id, len(secret)) == ("dl", issued.key.id, 43)


def test_no_two_keys_are_alike(path: Path) -> None:
    assert len({make(path, f"n{number}") for number in range(20)}) == 20


def test_a_name_has_one_key_unless_that_is_rotated(path: Path) -> None:
    make(path)
    with pytest.raises(ApiKeyFileError, match=r"name 'clinic' has key [a-z0-9]{12} already: rotate that one"):
        make(path)


def test_the_name_of_a_key_that_has_expired_is_free(path: Path) -> None:
    make(path, not_after=NOW)
    key = make(path)
    assert name_of(ring_of(path).caller(key)) == "clinic"


@pytest.mark.parametrize("name", ["", "a b", "ä", "-a", "x" * 65, "a\n", "https://issuer|sub"])
def test_a_name_that_is_none_is_refused_and_nothing_is_written(name: str, path: Path) -> None:
    with pytest.raises(ApiKeyFileError, match="a name has 1 to 64 letters"):
        make(path, name)
    assert not path.exists()


def test_an_old_key_ends_after_the_overlap(path: Path) -> None:
    time, old = Time(), make(path)
    issued, _ = rotate_key(path, old[3:15].decode(), NOW, 7 * DAY)
    ring = ring_of(path, time)
    assert [name_of(ring.caller(key)) for key in (old, issued.text.encode())] == ["clinic", "clinic"]
    time.now += 7 * DAY
    assert [name_of(ring.caller(key)) for key in (old, issued.text.encode())] == ["401 expired-key", "clinic"]


def test_an_overlap_makes_no_key_last_longer_than_it_would(path: Path) -> None:
    old = make(path, not_after=NOW + DAY)
    _, ended = rotate_key(path, old[3:15].decode(), NOW, 7 * DAY)
    assert ended.not_after == NOW + DAY


def test_a_key_that_has_expired_is_not_rotated(path: Path) -> None:
    old = make(path, not_after=NOW)
    with pytest.raises(ApiKeyFileError, match="has expired: create a new one of name 'clinic'"):
        rotate_key(path, old[3:15].decode(), NOW, DAY)


def test_an_unknown_id_is_named_but_a_whole_key_is_not(path: Path) -> None:
    key = make(path).decode()
    with pytest.raises(ApiKeyFileError, match=r"'abc' is not a key's id: see `driftloop api-keys list`"):
        revoke_key(path, "abc")
    with pytest.raises(ApiKeyFileError) as refused:
        revoke_key(path, key)
    assert key not in str(refused.value)


def test_whoever_could_read_the_file_can_read_what_replaces_it(path: Path) -> None:
    make(path)
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 12345, 12346)
    before = path.stat()
    make(path, "other")
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_a_link_stays_and_what_it_points_to_is_changed(path: Path, tmp_path: Path) -> None:
    make(path)
    link = tmp_path / "link.json"
    link.symlink_to(path)
    make(link, "other")
    assert link.is_symlink()
    assert [key.name for key in read_keys(path)[0]] == ["clinic", "other"]


GOOD = {"id": "abcdefghijkl", "name": "n", "scopes": ["predict"], "sha256": "0" * 64, "created": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"id": "ABCDEFGHIJKL"}, r"\$\.keys\[0\]\.id"),
        ({"scopes": ["root"]}, r"\$\.keys\[0\]\.scopes\[0\]"),
        ({"scopes": []}, r"\$\.keys\[0\]\.scopes"),
        ({"sha256": "00"}, r"\$\.keys\[0\]\.sha256"),
        ({"created": "2026-01-01T00:00:00"}, r"\$\.keys\[0\]\.created"),
        ({"not_after": "tomorrow"}, r"\$\.keys\[0\]\.not_after"),
        ({"secret": "x"}, "unknown field `secret`"),
    ],
)
def test_a_wrong_field_is_named_with_its_file_and_a_remedy(change: dict[str, object], where: str, path: Path) -> None:
    path.parent.mkdir()
    path.write_text(json.dumps({"keys": [GOOD | change]}))
    with pytest.raises(ApiKeyFileError, match=f"^{path}: .*{where}.*: correct it, or restore the file$"):
        read_keys(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{", b'{"keys": 1}', b"[" * 100_000])
def test_a_file_of_something_else_is_named(content: bytes, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ApiKeyFileError, match=f"^{path}: "):
        read_keys(path)


def test_an_id_that_is_there_twice_is_named(path: Path) -> None:
    path.parent.mkdir()
    path.write_text(json.dumps({"keys": [GOOD, GOOD]}))
    with pytest.raises(ApiKeyFileError, match=r"\$\.keys\[1\]\.id: 'abcdefghijkl' is there twice"):
        read_keys(path)


@pytest.mark.parametrize("kind", ["pipe", "folder", "nothing"])
def test_what_is_no_plain_file_holds_nobody_up(kind: str, path: Path) -> None:
    path.parent.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(ApiKeyFileError, match=f"^{path}: (is not a plain|cannot be read|does not exist)"):
        read_keys(path)


def test_a_file_that_is_broken_is_not_overwritten(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("{")
    with pytest.raises(ApiKeyFileError, match="is not JSON"):
        make(path)
    assert path.read_text() == "{"


# --- several at once, and one that dies

CREATE = """
import itertools, sys
from datetime import UTC, datetime
from pathlib import Path
from driftloop.common.access.issuing import create_key
for number in itertools.count():
    create_key(Path(sys.argv[1]), f"n{number}", ["predict"], datetime(2026, 3, 1, tzinfo=UTC))
"""


def test_of_those_who_make_keys_at_once_none_loses_one(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda number: make(path, f"n{number}"), range(40)))
    ring = ring_of(path)
    assert [name_of(ring.caller(key)) for key in keys] == [f"n{number}" for number in range(40)]


def test_whoever_dies_while_writing_leaves_a_whole_file_and_is_in_nobodys_way(path: Path) -> None:
    seen = 0
    for _ in range(3):
        path.unlink(missing_ok=True)
        with subprocess.Popen([sys.executable, "-c", CREATE, str(path)]) as process:
            wait_until(lambda: path.exists() and len(read_keys(path)[0]) > 5, "some keys", pause=0.001)
            process.kill()
        seen = len(read_keys(path)[0])
        make(path, "next")
        assert len(read_keys(path)[0]) == seen + 1


# --- what a process honours


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    path = tmp_path_factory.mktemp("ring") / "keys.json"
    make(path)
    return KeyRing(path)


@given(presented=st.binary(max_size=80) | st.binary(max_size=60).map(b"dl_".__add__))
def test_whatever_is_presented_is_answered(ring: KeyRing, presented: bytes) -> None:
    assert name_of(ring.caller(presented)) == "401 unknown-key"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda key: key[:-1],
        lambda key: key + b"A",
        lambda key: key[:-1] + (b"A" if key[-1:] != b"A" else b"B"),
        lambda key: b"xx_" + key[3:],
        lambda key: key[:15] + b"-" + key[16:],
        lambda key: key[:3] + b"abcdefghijkl" + key[15:],
        lambda key: key[:16],
        lambda key: key[:16] + b"\xff" * 43,
        lambda key: key.upper(),
    ],
)
def test_a_key_that_is_not_quite_right_is_unknown(spoil: Callable[[bytes], bytes], path: Path) -> None:
    key = make(path)
    assert name_of(ring_of(path).caller(spoil(key))) == "401 unknown-key"


def test_a_refusal_never_holds_what_was_presented(path: Path) -> None:
    make(path)
    found = ring_of(path).caller(b"dl_abcdefghijkl_" + b"s" * 43)
    assert isinstance(found, Refused)
    assert "abcdefghijkl" not in repr(found)
    assert "ssss" not in repr(found)


def test_a_key_is_honoured_and_refused_as_the_file_has_it(path: Path) -> None:
    time, first = Time(), make(path)
    ring = ring_of(path, time)
    second = make(path, "second")
    time.now += timedelta(seconds=2)
    assert name_of(ring.caller(second)) == "second"
    revoke_key(path, first[3:15].decode())
    time.now += timedelta(seconds=2)
    assert name_of(ring.caller(first)) == "401 unknown-key"


def test_the_file_is_not_looked_at_more_often_than_agreed(path: Path) -> None:
    time, first = Time(), make(path)
    ring = ring_of(path, time)
    revoke_key(path, first[3:15].decode())
    time.now += timedelta(seconds=1.9)
    assert name_of(ring.caller(first)) == "clinic"


@pytest.mark.parametrize("spoil", ["garbage", "gone", "folder"])
def test_a_file_that_cannot_be_read_leaves_the_last_good_keys_and_says_so_once(
    spoil: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    time, key = Time(), make(path)
    good = path.read_bytes()
    ring = ring_of(path, time)
    path.unlink()
    if spoil == "garbage":
        path.write_bytes(good[:50])
    elif spoil == "folder":
        path.mkdir()
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            time.now += timedelta(seconds=2)
            assert name_of(ring.caller(key)) == "clinic"
    assert len(caplog.records) == 1
    assert str(path) in str(ring.problem())


def test_a_file_that_is_good_again_is_read_again(path: Path) -> None:
    time, key = Time(), make(path)
    good = path.read_bytes()
    ring = ring_of(path, time)
    path.write_bytes(b"{")
    time.now += timedelta(seconds=2)
    ring.caller(key)
    path.write_bytes(good)
    time.now += timedelta(seconds=2)
    ring.caller(key)
    assert ring.problem() is None


def test_a_mounted_secret_that_is_swapped_by_its_link_is_read_anew(tmp_path: Path) -> None:
    time = Time()
    for version in "12":
        make(tmp_path / version / "keys.json", f"n{version}")
    second = make(tmp_path / "2" / "keys.json", "n3")
    (tmp_path / "data").symlink_to("1")
    (tmp_path / "keys.json").symlink_to("data/keys.json")
    ring = ring_of(tmp_path / "keys.json", time)
    (tmp_path / "new").symlink_to("2")
    (tmp_path / "new").rename(tmp_path / "data")
    time.now += timedelta(seconds=2)
    assert name_of(ring.caller(second)) == "n3"


def test_a_file_without_keys_lets_nobody_in_and_is_said(path: Path) -> None:
    key = make(path)
    revoke_key(path, key[3:15].decode())
    ring = ring_of(path)
    assert name_of(ring.caller(key)) == "401 unknown-key"
    assert "holds no key: make one" in str(ring.problem())
