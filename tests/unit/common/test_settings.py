"""Settings come from the environment or from mounted files; an error names the variable and hides a secret."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from driftloop.common.settings import Secret, SettingsError, read_secret, read_settings
from driftloop.common.topics import Namespace


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One field of each kind."""

    kafka_bootstrap_servers: str
    database_url: Secret
    contracts: tuple[Path, ...] = ()
    names: tuple[str, ...] | None = None
    folder: Path = Path("here")
    seconds: float = 1.0
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    eager: bool = False
    level: Literal["INFO", "DEBUG"] = "INFO"
    token: Secret | None = None
    comment: str | None = None


REQUIRED = {"KAFKA_BOOTSTRAP_SERVERS": "broker:9092", "DATABASE_URL": "postgresql://u:hunter2@db/x"}


def test_what_is_not_set_has_its_default() -> None:
    settings = read_settings(Settings, REQUIRED)
    assert settings == Settings(
        kafka_bootstrap_servers="broker:9092", database_url=Secret("postgresql://u:hunter2@db/x")
    )


def test_every_kind_of_field_is_read() -> None:
    settings = read_settings(
        Settings,
        REQUIRED
        | {
            "DRIFTLOOP_CONTRACTS": "a.yaml, b/c.yaml,",
            "DRIFTLOOP_NAMES": "x,y",
            "DRIFTLOOP_FOLDER": "~/data",
            "DRIFTLOOP_SECONDS": "0.25",
            "DRIFTLOOP_PORT": "0",
            "DRIFTLOOP_EAGER": "true",
            "DRIFTLOOP_LEVEL": "DEBUG",
            "DRIFTLOOP_TOKEN": "abc",
            "DRIFTLOOP_COMMENT": "12",
        },
    )
    assert settings == Settings(
        kafka_bootstrap_servers="broker:9092",
        database_url=Secret("postgresql://u:hunter2@db/x"),
        contracts=(Path("a.yaml"), Path("b/c.yaml")),
        names=("x", "y"),
        folder=Path.home() / "data",
        seconds=0.25,
        port=0,
        eager=True,
        level="DEBUG",
        token=Secret("abc"),
        comment="12",
    )


def test_an_empty_variable_is_not_set() -> None:
    assert read_settings(Settings, REQUIRED | {"DRIFTLOOP_PORT": ""}).port == 8000
    with pytest.raises(SettingsError, match=r"^KAFKA_BOOTSTRAP_SERVERS is not set"):
        read_settings(Settings, REQUIRED | {"KAFKA_BOOTSTRAP_SERVERS": ""})


def test_a_missing_setting_is_named_with_both_ways_to_give_it() -> None:
    with pytest.raises(SettingsError, match=r"^DATABASE_URL is not set: set it, or DATABASE_URL_FILE$"):
        read_settings(Settings, {"KAFKA_BOOTSTRAP_SERVERS": "broker:9092"})


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("DRIFTLOOP_PORT", "eighty"),
        ("DRIFTLOOP_PORT", "70000"),
        ("DRIFTLOOP_SECONDS", "1s"),
        ("DRIFTLOOP_EAGER", "perhaps"),
        ("DRIFTLOOP_LEVEL", "LOUD"),
    ],
)
def test_a_wrong_value_is_named_with_its_variable(variable: str, text: str) -> None:
    with pytest.raises(SettingsError, match=f"^{variable}='{text}': "):
        read_settings(Settings, REQUIRED | {variable: text})


@pytest.mark.parametrize("variable", ["DATABASE_URL", "DRIFTLOOP_TOKEN"])
def test_a_value_can_be_in_a_file(variable: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("from the file\n")
    environ = {name: text for name, text in REQUIRED.items() if name != variable} | {f"{variable}_FILE": str(file)}
    settings = read_settings(Settings, environ)
    assert {settings.database_url.value, settings.token.value if settings.token else None} & {"from the file"}


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff"])
def test_a_file_that_holds_no_value_is_named_with_its_variable(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=f"^DATABASE_URL_FILE={file}: "):
        read_settings(Settings, {"KAFKA_BOOTSTRAP_SERVERS": "b", "DATABASE_URL_FILE": str(file)})


def test_a_secret_never_shows_itself() -> None:
    secret = Secret("hunter2")
    settings = read_settings(Settings, REQUIRED | {"DRIFTLOOP_TOKEN": "hunter2"})
    for shown in (repr(secret), str(secret), f"{secret}", repr(settings), str(settings), repr([secret])):
        assert "hunter2" not in shown


def test_an_error_about_another_setting_shows_no_secret() -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings(Settings, REQUIRED | {"DRIFTLOOP_TOKEN": "hunter2", "DRIFTLOOP_PORT": "x"})
    assert "hunter2" not in str(refused.value)


def test_a_secret_alone_is_read_from_variable_or_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("k")
    assert read_secret("A", {"A": "v"}) == Secret("v")
    assert read_secret("A", {"A_FILE": str(file)}) == Secret("k")
    assert read_secret("A", {}) is None


@pytest.mark.parametrize("prefix", ["Blue", "blue-green", "1st", "x" * 31, "ä", "a.b", 'a"b'])
def test_a_namespace_that_cannot_be_part_of_a_name_is_a_wrong_setting(prefix: str) -> None:
    with pytest.raises(SettingsError, match="namespace"):
        Namespace(prefix)
