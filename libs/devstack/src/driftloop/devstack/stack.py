"""A real broker and a real database, each chosen in a fixed order: the environment's, this machine's, a container."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from driftloop.devstack import docker, kafka, postgres, server
from driftloop.devstack.model import Kind, Progress, Stack, StackUnavailable, silent
from driftloop.devstack.remedies import unavailable
from driftloop.devstack.server import Server

KAFKA, POSTGRES = "kafka", "postgres"


@dataclass(frozen=True)
class Part:
    """One of the two servers and the ways to have it."""

    name: str
    variable: str
    missing: Callable[[], list[str]]
    unreachable: Callable[[str], str | None]
    local: Server
    container: Server

    def places(self, data_dir: Path) -> tuple[tuple[Kind, Server, Path], ...]:
        """The kinds of server that may run for this folder, and where each keeps its files."""
        return (
            ("local", self.local, data_dir / self.name),
            ("docker", self.container, data_dir / f"{self.name}-docker"),
        )


def parts(*, fsync: bool = True) -> tuple[Part, Part]:
    """The broker and the database."""
    return (
        Part(KAFKA, "KAFKA_BOOTSTRAP_SERVERS", kafka.missing, kafka.unreachable, kafka.server(), docker.kafka_server()),
        Part(
            POSTGRES,
            "DATABASE_URL",
            postgres.missing,
            postgres.unreachable,
            postgres.server(fsync=fsync),
            docker.postgres_server(),
        ),
    )


def start(
    data_dir: Path,
    *,
    attached: bool = True,
    fsync: bool = True,
    progress: Progress = silent,
    environ: Mapping[str, str] = os.environ,
) -> Stack:
    """Start what is not there, and return where it is; what runs already is used as it is.

    Safe to call from several processes at once. Attached servers end with the last process that has called this for
    the folder, however that ends; others run until `stop`. Data are kept. `fsync=False` makes a local database
    quicker and lets a crash of the whole machine lose commits: for tests. Raises StackUnavailable.
    """
    both = parts(fsync=fsync)
    kinds = [choose(part, environ) for part in both]
    addresses: list[str] = []
    started: list[tuple[Server, Path]] = []
    try:
        for part, kind in zip(both, kinds, strict=True):
            if kind == "external":
                addresses.append(_external(part, environ[part.variable]))
                continue
            _, one, folder = next(place for place in part.places(data_dir) if place[0] == kind)
            address, new = server.ensure(one, folder, attached=attached, progress=progress)
            addresses.append(address)
            if new:
                started.append((one, folder))
    except BaseException:
        # Half a stack is of no use to anyone, after Ctrl-C least of all.
        for one, folder in started:
            server.stop(one, folder)
        raise
    bootstrap, database = addresses
    return Stack(bootstrap, database, *kinds)


def stop(data_dir: Path, *, purge: bool = False) -> None:
    """Stop what was started in this folder, by whomever; with `purge` the data go, too. Nothing to stop is fine."""
    for part in parts():
        for _, one, folder in part.places(data_dir):
            server.stop(one, folder, purge=purge)


def find(data_dir: Path, *, environ: Mapping[str, str] = os.environ) -> Stack | None:
    """The stack that runs for this folder, or None unless both of its parts answer. Starts nothing."""
    found: list[tuple[str, Kind]] = []
    for part in parts():
        if environ.get(part.variable):
            address = environ[part.variable]
            if part.unreachable(address) is None:
                found.append((address, "external"))
            continue
        places = ((server.find(one, folder), kind) for kind, one, folder in part.places(data_dir))
        found.extend((address, kind) for address, kind in places if address)
    if len(found) != len(parts()):
        return None
    (bootstrap, kind), (database, database_kind) = found
    return Stack(bootstrap, database, kind, database_kind)


def status(data_dir: Path, *, environ: Mapping[str, str] = os.environ) -> dict[str, str | None]:
    """For `kafka` and `postgres`: why it is not usable, or None if it is well."""
    found: dict[str, str | None] = {}
    for part in parts():
        if environ.get(part.variable):
            found[part.name] = part.unreachable(environ[part.variable])
            continue
        places = [(one, folder) for _, one, folder in part.places(data_dir) if folder.exists()]
        problems = [server.problem(one, folder) for one, folder in places]
        found[part.name] = None if None in problems else next(iter(problems), "not running")
    return found


@contextmanager
def running(
    data_dir: Path, *, ephemeral: bool = True, fsync: bool = True, progress: Progress = silent
) -> Iterator[Stack]:
    """A stack for the time of a block.

    An ephemeral one is stopped after it and its data removed; of another the data stay, and what `devstack up` has
    started in the folder goes on running. Raises StackUnavailable.
    """
    try:
        yield start(data_dir, fsync=fsync, progress=progress)
    finally:
        leave(data_dir, purge=ephemeral)


def leave(data_dir: Path, *, purge: bool = False) -> None:
    """Stop what is not meant to stay: what `devstack up` has started does, unless its data are to go."""
    for part in parts():
        for _, one, folder in part.places(data_dir):
            if purge or not server.is_detached(folder):
                server.stop(one, folder, purge=purge)


def kill_kafka(data_dir: Path) -> None:
    """Kill the local broker at once, as a crash would; `restart_kafka` or `start` brings it back, data and address.

    Raises StackUnavailable when no local broker runs in this folder.
    """
    server.kill(kafka.server(), data_dir / KAFKA)


def kill_postgres(data_dir: Path) -> None:
    """Kill the local database at once, as a crash would; `restart_postgres` or `start` brings it back.

    Raises StackUnavailable when no local database runs in this folder.
    """
    server.kill(postgres.server(), data_dir / POSTGRES)


def restart_kafka(data_dir: Path, *, progress: Progress = silent) -> str:
    """Kill the local broker if it runs, and start it with its data on its port. Returns its bootstrap servers."""
    return _restart(kafka.server(), data_dir / KAFKA, progress)


def restart_postgres(data_dir: Path, *, progress: Progress = silent) -> str:
    """Kill the local database if it runs, and start it with its data on its port. Returns the administrator's URL."""
    return _restart(postgres.server(), data_dir / POSTGRES, progress)


def choose(part: Part, environ: Mapping[str, str]) -> Kind:
    """How this part can be had. Raises StackUnavailable, naming the remedies, if it cannot."""
    if environ.get(part.variable):
        return "external"
    missing = part.missing()
    if not missing:
        return "local"
    if docker.available():
        return "docker"
    raise unavailable(part.local.name, part.variable, missing)


def _external(part: Part, address: str) -> str:
    reason = part.unreachable(address)
    if reason is not None:
        raise StackUnavailable(
            f"{part.local.name}, which {part.variable} names, does not answer ({reason}): "
            f"start it, or unset {part.variable} to have one started here"
        )
    return address


def _restart(one: Server, folder: Path, progress: Progress) -> str:
    if server.problem(one, folder) is None:
        server.kill(one, folder)
    address, _ = server.ensure(one, folder, attached=not server.is_detached(folder), progress=progress)
    return address
