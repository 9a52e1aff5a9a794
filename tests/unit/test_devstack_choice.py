"""Where a server comes from is decided in a fixed order, and when it can come from nowhere the remedies are named."""

import stat
from pathlib import Path

import pytest

from driftloop.devstack import StackUnavailable, docker, kafka, remedies, start
from driftloop.devstack.stack import Part, choose, parts


def executable(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without Java, Maven, Docker or jars; programs may be put into the returned folder."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(kafka, "_OTHER_JAVAS", ())
    # On macOS the cache's place comes from the home folder.
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "bin"


@pytest.fixture
def broker() -> Part:
    return parts()[0]


def test_the_environment_comes_first(bare: Path, broker: Part) -> None:
    assert choose(broker, {"KAFKA_BOOTSTRAP_SERVERS": "broker:9092"}) == "external"


def test_java_and_maven_come_before_docker(bare: Path, broker: Part) -> None:
    executable(bare / "java", "echo 'openjdk version \"21.0.1\"' >&2")
    executable(bare / "mvn", "true")
    executable(bare / "docker", "true")
    assert choose(broker, {}) == "local"


def test_maven_is_not_needed_once_the_jars_are_here(bare: Path, broker: Part) -> None:
    executable(bare / "java", "echo 'openjdk version \"17.0.15\"' >&2")
    kafka.jar_folder().mkdir(parents=True)
    assert choose(broker, {}) == "local"


def test_docker_is_taken_when_java_is_too_old(bare: Path, broker: Part) -> None:
    executable(bare / "java", "echo 'openjdk version \"11.0.2\"' >&2")
    executable(bare / "mvn", "true")
    executable(bare / "docker", "true")
    assert choose(broker, {}) == "docker"


def test_java_home_is_used_when_the_path_has_none(bare: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    executable(tmp_path / "jdk" / "bin" / "java", "echo 'openjdk version \"21\"' >&2")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    assert kafka.java_path() == str(tmp_path / "jdk" / "bin" / "java")


def test_with_none_of_them_one_error_names_all_three_remedies(bare: Path, tmp_path: Path) -> None:
    executable(bare / "apt-get", "true")
    executable(bare / "docker", "exit 1")
    with pytest.raises(StackUnavailable) as caught:
        start(tmp_path / "stack", environ={})
    text = str(caught.value)
    assert "Java 17 or newer and Maven are missing" in text
    assert "apt-get install -y" in text
    assert "Docker engine" in text
    assert "export KAFKA_BOOTSTRAP_SERVERS=" in text


def test_nothing_is_started_when_a_part_is_missing(bare: Path, tmp_path: Path) -> None:
    with pytest.raises(StackUnavailable):
        start(tmp_path / "stack", environ={})
    assert not (tmp_path / "stack").exists()


@pytest.mark.parametrize(
    ("manager", "missing", "packages"),
    [
        ("apt-get", ["maven"], "apt-get install -y maven"),
        ("dnf", ["java", "maven"], "dnf install -y java-21-openjdk-headless maven"),
        ("brew", ["java", "maven"], "brew install openjdk maven"),
    ],
)
def test_the_command_installs_what_is_missing_and_no_more(
    bare: Path, manager: str, missing: list[str], packages: str
) -> None:
    executable(bare / manager, "true")
    assert remedies.install_command(missing).removeprefix("sudo ") == packages


def test_the_container_runs_with_the_local_broker_s_settings(tmp_path: Path) -> None:
    environment = docker.kafka_container(tmp_path, {"broker": 20_000}).environment
    assert environment["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    assert environment["KAFKA_ADVERTISED_LISTENERS"] == "PLAINTEXT://127.0.0.1:20000"
