"""The keys of an installation on this machine: made once, completed where some are missing, never made anew."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from driftloop.common.access import Caller, Refused, all_scopes
from driftloop.common.access.checking import Access
from driftloop.common.access.issuing import keep_key
from driftloop.common.access.keyring import KeyRing
from driftloop.demo.installation import keep_access

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def caller(folder: Path, file: str) -> Caller | Refused:
    """Whose key a file has."""
    return Access(KeyRing(folder / "api-keys.json")).check([(b"x-api-key", (folder / file).read_bytes())], "rows")


def test_the_client_may_do_everything_and_the_trainer_read_rows(folder: Path) -> None:
    keep_access(folder)
    assert caller(folder, "client-key") == Caller("client", all_scopes(["admin"]), "api-key")
    assert caller(folder, "trainer-key") == Caller("trainer", frozenset({"rows"}), "api-key")


def test_a_second_start_changes_nothing(folder: Path) -> None:
    keep_access(folder)
    before = files(folder)
    keep_access(folder)
    assert files(folder) == before


def test_an_installation_from_before_is_completed(folder: Path) -> None:
    (folder / "pseudonym").write_text("the key of all patients so far")
    keep_key(folder / "api-keys.json", "client", ["predict", "admin"], folder / "client-key", NOW)
    before = files(folder)
    keep_access(folder)
    after = files(folder)
    assert {name for name in after if after[name] != before.get(name)} == {"api-keys.json", "trainer-key"}
    assert isinstance(caller(folder, "client-key"), Caller)
