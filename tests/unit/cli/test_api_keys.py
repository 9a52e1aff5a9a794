"""`driftloop api-keys`: a key goes to standard output, once and alone; everything else to standard error."""

import re
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from driftloop.cli.main import app
from driftloop.common.access import Caller
from driftloop.common.access.keyfile import ApiKey, read_keys
from driftloop.common.access.keyring import KeyRing

KEY = re.compile(r"dl_[a-z0-9]{12}_[A-Za-z0-9_-]{43}\n")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "etc" / "keys.json"


def run(file: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["api-keys", *arguments], env={"DRIFTLOOP_API_KEYS": str(file)})


def create(file: Path, *more: str, name: str = "clinic") -> str:
    result = run(file, "create", "--name", name, "--scope", "predict", *more)
    assert result.exit_code == 0, result.stderr
    return result.stdout.strip()


def keys(file: Path) -> dict[str, ApiKey]:
    return {key.id: key for key in read_keys(file)[0]}


def refusal(result: Result) -> str:
    assert (result.exit_code, result.stdout) == (1, "")
    return result.stderr


def test_create_prints_the_key_alone_and_says_the_rest_beside(file: Path) -> None:
    result = run(file, "create", "--name", "clinic", "--scope", "predict", "--scope", "admin")
    assert KEY.fullmatch(result.stdout)
    assert "scopes predict, admin, not after: never" in result.stderr
    assert result.stdout.strip() not in result.stderr


def test_a_key_that_was_created_is_honoured(file: Path) -> None:
    key = create(file)
    assert isinstance(KeyRing(file).caller(key.encode()), Caller)


def test_a_key_may_be_good_for_some_time(file: Path) -> None:
    key_id = create(file, "--expires", "90d")[3:15]
    found = keys(file)[key_id]
    assert found.not_after == found.created + timedelta(days=90)


def test_list_shows_ids_and_no_secret_and_no_hash(file: Path) -> None:
    key = create(file)
    create(file, "--expires", "0s", name="old")
    output = run(file, "list").stdout
    assert key[3:15] in output
    assert key[16:] not in output
    assert keys(file)[key[3:15]].sha256 not in output
    assert [line.split()[-1] for line in output.splitlines()[1:]] == ["good", "expired"]


def test_a_key_that_was_revoked_is_gone(file: Path) -> None:
    key = create(file)
    result = run(file, "revoke", key[3:15])
    assert (result.exit_code, keys(file)) == (0, {})


def test_rotate_prints_a_new_key_and_lets_the_old_one_end(file: Path) -> None:
    old = create(file)
    result = run(file, "rotate", old[3:15], "--overlap", "7d")
    assert KEY.fullmatch(result.stdout)
    new = keys(file)[result.stdout[3:15]]
    assert (new.name, new.scopes, new.not_after) == ("clinic", ("predict",), None)
    assert keys(file)[old[3:15]].not_after == new.created + timedelta(days=7)


def test_a_key_that_expires_is_not_rotated_to_one_that_does_not_unless_that_is_said(file: Path) -> None:
    old = create(file, "--expires", "90d")
    assert "say with --expires how long" in refusal(run(file, "rotate", old[3:15]))
    result = run(file, "rotate", old[3:15], "--expires", "30d")
    new = keys(file)[result.stdout[3:15]]
    assert new.not_after == new.created + timedelta(days=30)


@pytest.mark.parametrize("duration", ["", "90", "d", "-1d", "1y", "1.5d", "99999999w", "1d1h", "٣d"])
def test_a_duration_that_is_none_is_refused_and_nothing_is_made(file: Path, duration: str) -> None:
    result = run(file, "create", "--name", "clinic", "--scope", "predict", f"--expires={duration}")
    assert "is not a duration: use a number and one of s, m, h, d, w" in refusal(result)
    assert not file.exists()


def test_a_scope_that_is_none_is_refused(file: Path) -> None:
    result = run(file, "create", "--name", "clinic", "--scope", "root")
    assert "--scope 'root' is not known: use one of predict, label, rows, admin" in refusal(result)


def test_a_name_that_is_none_is_shown_as_it_was_given(file: Path) -> None:
    result = run(file, "create", "--name", "[red]a b[/]", "--scope", "predict")
    assert "'[red]a b[/]'" in refusal(result)


@pytest.mark.parametrize("arguments", [["list"], ["rotate", "abcdefghijkl"], ["revoke", "abcdefghijkl"]])
def test_what_is_not_there_is_named(file: Path, arguments: list[str]) -> None:
    assert str(file) in refusal(run(file, *arguments))
