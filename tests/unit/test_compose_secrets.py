"""The Compose installation's keys and passwords are made once, whole, and never anew."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from psycopg import conninfo

from driftloop.common import keys
from driftloop.common.access import Caller, Refused, all_scopes
from driftloop.common.access.checking import Access
from driftloop.common.access.issuing import create_key, keep_key
from driftloop.common.access.keyfile import read_keys
from driftloop.common.access.keyring import KeyRing
from tests.support.paths import ROOT

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SCRIPT = ROOT / "deploy" / "compose" / "make_secrets.py"
MADE = {
    "admin/database-url",
    "admin/drift_monitor-password",
    "admin/label_ingest-password",
    "admin/postgres-password",
    "admin/trainer-password",
    "drift-monitor/database-url",
    "label-ingest/database-url",
    "client/api-key",
    "client/operator-key",
    "grafana/admin-password",
    "predictor/.api-keys.json.lock",
    "predictor/api-keys.json",
    "predictor/pseudonym",
    "trainer/.api-keys.json.lock",
    "trainer/api-keys.json",
    "trainer/database-url",
    "trainer/label-ingest-key",
    "trainer/signing.pem",
}


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), str(folder)], capture_output=True, text=True, check=False)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path


def test_everything_that_the_compose_file_mounts_is_made(made: Path) -> None:
    key_id = keys.load_signing_key(made / "trainer" / "signing.pem").key_id
    assert files(made).keys() == MADE | {f"trusted/{key_id}.pem"}


def test_what_the_trainer_signs_is_trusted(made: Path) -> None:
    signing = keys.load_signing_key(made / "trainer" / "signing.pem")
    assert signing.key_id in keys.load_public_keys(made / "trusted")


def test_a_services_url_holds_its_roles_password(made: Path) -> None:
    url = conninfo.conninfo_to_dict((made / "label-ingest" / "database-url").read_text())
    password = (made / "admin" / "label_ingest-password").read_text()
    assert (url["user"], url["password"], url["host"]) == ("driftloop_label_ingest", password, "postgres")


def test_services_are_led_to_the_database_of_an_administrator_who_was_there_before(tmp_path: Path) -> None:
    (tmp_path / "admin").mkdir()
    (tmp_path / "admin" / "database-url").write_text("postgresql://root:p%40ss@db.example:6432/loop?sslmode=require\n")
    assert run(tmp_path).returncode == 0
    url = conninfo.conninfo_to_dict((tmp_path / "trainer" / "database-url").read_text())
    password = (tmp_path / "admin" / "trainer-password").read_text()
    assert url == {
        "user": "driftloop_trainer", "password": password, "host": "db.example", "port": "6432", "dbname": "loop",
        "sslmode": "require",
    }  # fmt: skip


def test_a_database_url_that_is_none_is_refused_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "admin").mkdir()
    (tmp_path / "admin" / "database-url").write_text("host=db.example password=sesame")
    done = run(tmp_path)
    assert (done.returncode, "admin/database-url: write it as postgresql://" in done.stderr) == (1, True)
    assert "sesame" not in done.stderr


def caller(folder: Path, file: str) -> Caller | Refused:
    """Whose key a file has."""
    return Access(KeyRing(folder / "predictor" / "api-keys.json")).check(
        [(b"x-api-key", (folder / file).read_bytes())], "rows"
    )


def test_the_clients_key_opens_everything(made: Path) -> None:
    assert caller(made, "client/api-key") == Caller("client", all_scopes(["admin"]), "api-key")


def test_the_trainers_key_reads_rows_and_no_more(made: Path) -> None:
    assert caller(made, "trainer/label-ingest-key") == Caller("trainer", frozenset({"rows"}), "api-key")


def test_an_installation_from_before_gets_the_trainers_key_and_keeps_its_own(made: Path) -> None:
    (made / "trainer" / "label-ingest-key").unlink()
    (made / "client" / "api-key").unlink()
    (made / "predictor" / "api-keys.json").unlink()
    keep_key(made / "predictor" / "api-keys.json", "client", ["predict", "admin"], made / "client" / "api-key", NOW)
    create_key(made / "predictor" / "api-keys.json", "clinic", ["predict"], NOW)
    before, known = files(made), read_keys(made / "predictor" / "api-keys.json")[0]
    assert run(made).stdout.startswith("made trainer/label-ingest-key\n")
    after = files(made)
    assert {name for name in after if after[name] != before.get(name)} == {
        "predictor/api-keys.json", "trainer/label-ingest-key",
    }  # fmt: skip
    assert read_keys(made / "predictor" / "api-keys.json")[0][:-1] == known
    assert isinstance(caller(made, "client/api-key"), Caller)


def test_a_key_whose_text_is_lost_is_replaced(made: Path) -> None:
    lost = (made / "client" / "api-key").read_bytes()
    (made / "client" / "api-key").unlink()
    assert run(made).returncode == 0
    access = Access(KeyRing(made / "predictor" / "api-keys.json"))
    assert isinstance(access.check([(b"x-api-key", lost)], "predict"), Refused)
    assert isinstance(access.check([(b"x-api-key", (made / "client" / "api-key").read_bytes())], "predict"), Caller)


def test_a_second_run_changes_nothing(made: Path) -> None:
    before = files(made)
    assert run(made).stdout.startswith("every key and password is there\n")
    assert files(made) == before


def test_only_what_is_missing_is_made(made: Path) -> None:
    before = files(made)
    (made / "drift-monitor" / "database-url").unlink()
    assert run(made).stdout.startswith("made drift-monitor/database-url\n")
    assert files(made) == before


def test_after_a_new_signing_key_the_old_one_is_still_trusted(made: Path) -> None:
    old = keys.load_signing_key(made / "trainer" / "signing.pem").key_id
    (made / "trainer" / "signing.pem").unlink()
    run(made)
    new = keys.load_signing_key(made / "trainer" / "signing.pem").key_id
    assert keys.load_public_keys(made / "trusted").keys() == {old, new}


def test_several_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert {done.returncode for done in pool.map(run, [tmp_path] * 4)} == {0}
    trusted = keys.load_public_keys(tmp_path / "trusted")
    assert trusted.keys() == {keys.load_signing_key(tmp_path / "trainer" / "signing.pem").key_id}


def test_private_files_are_their_owners_alone(made: Path) -> None:
    readable = {name for name in files(made) if (made / name).stat().st_mode & 0o077}
    assert {name.partition("/")[0] for name in readable} == {"admin", "grafana", "trusted"}
    assert "admin/postgres-password" in readable


def test_nothing_secret_is_said_but_the_clients_key_when_it_is_made(tmp_path: Path) -> None:
    said = [run(tmp_path).stdout for _time in range(2)]
    told = {name for name, content in files(tmp_path).items() if content and content.decode() in said[0]}
    assert told == {"client/api-key"}
    assert not any(content and content.decode() in said[1] for content in files(tmp_path).values())


def test_a_signing_key_that_is_none_is_an_error_that_names_it(made: Path) -> None:
    path = made / "trainer" / "signing.pem"
    path.unlink()
    path.write_text("garbage")
    done = run(made)
    assert (done.returncode, "signing.pem: is no private key in PEM form" in done.stderr) == (1, True)
    assert path.read_text() == "garbage"
