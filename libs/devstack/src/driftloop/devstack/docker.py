"""The same two servers in containers, where there is a Docker engine and not the programs themselves."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from driftloop.devstack import kafka, postgres
from driftloop.devstack.model import Progress, StackUnavailable
from driftloop.devstack.server import Ports, Server

KAFKA_IMAGE = f"apache/kafka:{kafka.VERSION}"
POSTGRES_IMAGE = "postgres:18"
# How long a container may take to end; less than its supervisor's patience.
STOP_SECONDS = 15
_FILE = "container.json"
_KAFKA_DATA = "/var/lib/kafka/data"
_PULL_SECONDS = 600.0


@dataclass(frozen=True)
class Container:
    """A container with a name and a volume of its own; `ports` leads from its ports to those of 127.0.0.1."""

    image: str
    name: str
    volume: str
    mount: str
    environment: dict[str, str]
    ports: dict[str, int]


def available() -> bool:
    """Whether a Docker engine answers."""
    try:
        return shutil.which("docker") is not None and _docker("info", seconds=10).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def kafka_server() -> Server:
    """Kafka in a container."""
    return Server(
        name=f"Kafka (container {KAFKA_IMAGE})",
        port_names=("broker",),
        prepare=partial(_prepare, kafka_container),
        argv=_argv,
        address=kafka.address,
        unreachable=kafka.unreachable,
        sweep=_sweep,
        purge=_purge,
    )


def postgres_server() -> Server:
    """PostgreSQL in a container."""
    return Server(
        name=f"PostgreSQL (container {POSTGRES_IMAGE})",
        port_names=("database",),
        prepare=partial(_prepare, postgres_container),
        argv=_argv,
        address=postgres.address,
        unreachable=postgres.unreachable,
        sweep=_sweep,
        purge=_purge,
    )


def kafka_container(folder: Path, ports: Ports) -> Container:
    """The broker's container, with the local broker's settings."""
    listeners = "PLAINTEXT://0.0.0.0:9092,CONTROLLER://127.0.0.1:9093"
    properties = kafka.settings(listeners, kafka.address(folder, ports), "127.0.0.1:9093", _KAFKA_DATA)
    # The image takes a server's property from a variable of its name.
    environment = {f"KAFKA_{name.upper().replace('.', '_')}": value for name, value in properties.items()}
    return Container(KAFKA_IMAGE, _name(folder), _name(folder), _KAFKA_DATA, environment, {"9092/tcp": ports["broker"]})


def postgres_container(folder: Path, ports: Ports) -> Container:
    """The database's container."""
    # The language makes the encoding UTF-8, whatever the image is set to.
    environment = {"POSTGRES_PASSWORD": postgres.make_password(folder), "LANG": "C.UTF-8", "TZ": "UTC"}
    # From 18 on the image keeps its data in a folder of the version below this one.
    mount = "/var/lib/postgresql"
    return Container(POSTGRES_IMAGE, _name(folder), _name(folder), mount, environment, {"5432/tcp": ports["database"]})


def _name(folder: Path) -> str:
    return f"driftloop-{folder.name}-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]}"


def _prepare(make: Callable[[Path, Ports], Container], folder: Path, ports: Ports, progress: Progress) -> None:
    container = make(folder, ports)
    # It holds a password.
    with os.fdopen(os.open(folder / _FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(asdict(container), file)
    if _docker("image", "inspect", container.image).returncode != 0:
        progress(f"pulling {container.image}")
        done = _docker("pull", container.image, seconds=_PULL_SECONDS)
        if done.returncode != 0:
            raise StackUnavailable(f"{container.image} could not be pulled: {done.stderr.strip()[-500:]}")


def _argv(folder: Path, _ports: Ports) -> list[str]:
    return [sys.executable, "-P", "-m", "driftloop.devstack.container", str((folder / _FILE).resolve())]


def _sweep(folder: Path) -> None:
    if (folder / _FILE).exists():
        _docker("rm", "--force", _name(folder))


def _purge(folder: Path) -> None:
    _docker("volume", "rm", "--force", _name(folder))


def _docker(*arguments: str, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=seconds, check=False)
