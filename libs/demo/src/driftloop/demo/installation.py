"""One installation on this machine: keys, secrets, schemas, topics, version 1, and the processes of its services."""

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
from confluent_kafka import KafkaError, KafkaException
from psycopg import conninfo, sql

from driftloop.common import keys
from driftloop.common.access import Scope
from driftloop.common.access.issuing import keep_key
from driftloop.common.clock import utc_now
from driftloop.common.contract import load_contract
from driftloop.common.kafka.admin import admin_client, create_topics
from driftloop.common.postgres import migrations
from driftloop.common.settings import Secret
from driftloop.common.topics import Namespace, all_topics
from driftloop.demo.doors import Doors
from driftloop.devstack import Stack
from driftloop.devstack.processes import ServiceProcess, free_ports

Say = Callable[[str], None]
SERVICES = ("label_ingest", "drift_monitor", "trainer")
PREDICTOR_PORT, LABEL_INGEST_PORT, DRIFT_MONITOR_PORT, TRAINER_PORT = 8000, 8001, 8002, 8003
MANAGEMENT_OFFSET = 1000
ADMIN_SECONDS = 15.0
# Files among the installation's secrets.
API_KEYS, PSEUDONYM_KEY, CLIENT_KEY, TRAINER_KEY = "api-keys.json", "pseudonym", "client-key", "trainer-key"


class SetUpError(RuntimeError):
    """The installation could not be made; the text says which step failed and where its log is."""


@dataclass(frozen=True)
class Ports:
    """Where a service listens: its API, and its health and metrics."""

    api: int
    management: int

    @property
    def url(self) -> str:
        """The API's base URL on this machine."""
        return f"http://127.0.0.1:{self.api}"


@dataclass(frozen=True)
class Installation:
    """All that is needed to start, talk to and look into one installation.

    `ports` are by process name; `served` says which contract each predictor process serves.
    """

    folder: Path
    stack: Stack
    namespace: Namespace
    contracts: tuple[Path, ...]
    ports: Mapping[str, Ports]
    served: Mapping[str, Path]
    passwords: Mapping[str, Secret]

    @property
    def predictors(self) -> tuple[str, ...]:
        """The names of the predictor processes."""
        return tuple(self.served)

    @property
    def client_key(self) -> Path:
        """The file with the API key of a client on this machine, who may do everything."""
        return self.folder / "secrets" / CLIENT_KEY

    @property
    def doors(self) -> Doors:
        """Where others come in; on this machine one key opens all. Raises OSError."""
        key = Secret(self.client_key.read_text())
        return Doors(
            predictors={name: self.ports[name].url for name in self.predictors},
            label_ingest=self.ports["label-ingest"].url,
            drift_monitor=self.ports["drift-monitor"].url,
            trainer=self.ports["trainer"].url,
            bootstrap_servers=self.stack.bootstrap_servers,
            namespace=self.namespace,
            client_key=key,
            operator_key=key,
        )

    def environment(self, name: str) -> dict[str, str]:
        """The environment of one process: what the settings of its service ask for."""
        common = {
            "KAFKA_BOOTSTRAP_SERVERS": self.stack.bootstrap_servers,
            "DRIFTLOOP_NAMESPACE": self.namespace.prefix,
            "DRIFTLOOP_TRUSTED_KEYS": str(self.folder / "keys" / "trusted"),
        }
        if name in self.ports:
            common["DRIFTLOOP_PORT"] = str(self.ports[name].api)
            common["DRIFTLOOP_MANAGEMENT_PORT"] = str(self.ports[name].management)
        if name in self.served:
            return (
                common
                | {
                    "DRIFTLOOP_CONTRACT": str(self.served[name]),
                    "DRIFTLOOP_REPLICA": name,
                    "DRIFTLOOP_SPOOL": str(self.folder / "spool" / name),
                }
                | self._doors()
            )
        service = name.replace("-", "_")
        common["DRIFTLOOP_CONTRACTS"] = ",".join(map(str, self.contracts))
        common["DRIFTLOOP_ARTIFACTS"] = (self.folder / "artifacts").as_uri()
        common["DATABASE_URL"] = self.database_url(service)
        if service == "label_ingest":
            common |= self._doors()
        if service == "trainer":
            common["DRIFTLOOP_API_KEYS"] = str(self.folder / "secrets" / API_KEYS)
            common["DRIFTLOOP_SIGNING_KEY"] = str(self.folder / "keys" / "signing.pem")
            common["DRIFTLOOP_LABEL_INGEST_URL"] = self.ports["label-ingest"].url
            common["DRIFTLOOP_LABEL_INGEST_KEY_FILE"] = str(self.folder / "secrets" / TRAINER_KEY)
        return common

    def _doors(self) -> dict[str, str]:
        """What those share who let callers in and give patients and orders their pseudonyms."""
        return {
            "DRIFTLOOP_API_KEYS": str(self.folder / "secrets" / API_KEYS),
            "DRIFTLOOP_PSEUDONYM_KEY_FILE": str(self.folder / "secrets" / PSEUDONYM_KEY),
        }

    def database_url(self, service: str) -> str:
        """The URL with which a service's own role connects."""
        role, password = self.namespace.role(service), self.passwords[service].value
        return conninfo.make_conninfo(self.stack.database_url, user=role, password=password)

    def process(self, name: str) -> ServiceProcess:
        """One service's process, not yet started."""
        module = "predictor" if name in self.served else name.replace("-", "_")
        return ServiceProcess(
            name=name,
            argv=[sys.executable, "-m", f"driftloop.{module}.main"],
            env=base_environment() | self.environment(name),
            log_path=self.folder / "logs" / f"{name}.log",
            management_port=self.ports[name].management,
        )

    def processes(self) -> list[ServiceProcess]:
        """Every process, in the order of starting."""
        return [self.process(name) for name in self.ports]


def base_environment() -> dict[str, str]:
    """What a child needs of this process's environment, without its settings and without the administrator's URL."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DRIFTLOOP_", "DATABASE_URL"))}
    # A forest is small: several threads a process would only fight over two cores.
    return kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def prepare(
    folder: Path,
    stack: Stack,
    contracts: Sequence[Path],
    *,
    namespace: str = "",
    predictors: int = 2,
    fixed_ports: bool = False,
    say: Say = lambda _text: None,
) -> Installation:
    """Make an installation in `folder`, or complete the one that is there. Raises SetUpError and what the steps raise.

    Each contract gets so many `predictors`. With `fixed_ports` the services listen where the README says, otherwise on
    free ports.
    """
    for name in ("keys/trusted", "secrets", "artifacts", "logs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    say("keys and passwords")
    signing = folder / "keys" / "signing.pem"
    if not signing.exists():
        keys.generate(signing, folder / "keys" / "trusted" / "signing.pub.pem")
    passwords = {service: Secret(_secret(folder / "secrets" / service)) for service in SERVICES}
    keep_access(folder / "secrets")
    contracts = tuple(path.resolve() for path in contracts)
    served = _served(contracts, predictors)
    installation = Installation(
        folder.resolve(), stack, Namespace(namespace), contracts, _ports(served, fixed_ports), served, passwords
    )
    say("schemas and roles")
    migrations.migrate(stack.database_url, installation.namespace, passwords)
    say("topics")
    create_topics(admin_client(stack.bootstrap_servers), installation.namespace, all_topics(), replication=1)
    say("version 1, from the baseline")
    said = train_first(installation)
    say(said.splitlines()[-1])
    return installation


def remove(stack: Stack, namespace: Namespace) -> None:
    """Delete every topic, schema and role of a namespace; what is not there is no error. For demos and tests only."""
    admin = admin_client(stack.bootstrap_servers)
    for future in admin.delete_topics([namespace.topic(topic) for topic in all_topics()]).values():
        try:
            future.result(ADMIN_SECONDS)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        for service in migrations.services():
            schema, role = namespace.schema(service), namespace.role(service)
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [role])
            connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema)))
            if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone():
                connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
                connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def train_first(installation: Installation) -> str:
    """Run `trainer train`; returns what it said. Raises SetUpError."""
    done = subprocess.run(
        [sys.executable, "-m", "driftloop.trainer.cli", "train"],
        env=base_environment() | installation.environment("trainer"),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    if done.returncode != 0:
        raise SetUpError(f"`trainer train` failed: {done.stderr.strip()[-2000:]}")
    return done.stdout.strip()


def _secret(path: Path) -> str:
    """The secret in a file that only its owner reads, made if it is not there."""
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32))
    return path.read_text()


def keep_access(secrets_folder: Path) -> None:
    """Make the pseudonym key and the callers' keys that are missing, and leave alone those that are there.

    Raises ApiKeyFileError, OSError.
    """
    _secret(secrets_folder / PSEUDONYM_KEY)
    callers: dict[str, tuple[str, list[Scope]]] = {
        "client": (CLIENT_KEY, ["predict", "label", "rows", "admin"]),
        "trainer": (TRAINER_KEY, ["rows"]),
    }
    for name, (file, scopes) in callers.items():
        keep_key(secrets_folder / API_KEYS, name, scopes, secrets_folder / file, utc_now())


def fixed_ports(contracts: Sequence[Path], predictors: int) -> dict[str, Ports]:
    """Where the processes of these models listen with `fixed_ports`, by name."""
    return _ports(_served(contracts, predictors), fixed=True)


def _served(contracts: Sequence[Path], predictors: int) -> dict[str, Path]:
    """Which contract each predictor serves: `predictor-1`, … of the first, `predictor-<model>-1`, … of the others."""
    served: dict[str, Path] = {}
    for place, contract in enumerate(contracts):
        model = f"-{load_contract(contract).name}" if place else ""
        served |= {f"predictor{model}-{number + 1}": contract for number in range(predictors)}
    return served


def _ports(served: Mapping[str, Path], fixed: bool) -> dict[str, Ports]:
    names = ["label-ingest", "drift-monitor", "trainer", *served]
    if not fixed:
        free = iter(free_ports(2 * len(names)))
        return {name: Ports(next(free), next(free)) for name in names}
    # The first predictor has the port of the service that it replaces; the others follow those of the services.
    apis = [LABEL_INGEST_PORT, DRIFT_MONITOR_PORT, TRAINER_PORT, PREDICTOR_PORT]
    apis += range(TRAINER_PORT + 1, TRAINER_PORT + len(served))
    return {name: Ports(port, port + MANAGEMENT_OFFSET) for name, port in zip(names, apis, strict=True)}
