"""Apache Kafka in KRaft mode, one node, from Maven's jars."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from filelock import FileLock

from driftloop.devstack.model import Progress, StackUnavailable
from driftloop.devstack.server import Ports, Server

VERSION = "4.3.1"
LEAST_JAVA = 17
# The server, its command-line tools, and the binding that gives it a log.
_ARTIFACTS = (
    ("org.apache.kafka", "kafka_2.13", VERSION),
    ("org.apache.kafka", "kafka-tools", VERSION),
    ("org.slf4j", "slf4j-simple", "1.7.36"),
)
_MAVEN_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:{}:copy-dependencies"
_MAVEN_PLUGIN_VERSION = "3.6.1"
_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>driftloop</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>{}</dependencies>
</project>
"""
_DEPENDENCY = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"
# Homebrew keeps its Java off the PATH.
_OTHER_JAVAS = ("/opt/homebrew/opt/openjdk/bin/java", "/usr/local/opt/openjdk/bin/java")


def server() -> Server:
    """Kafka as a local server."""
    return Server(
        name="Kafka",
        port_names=("broker", "controller"),
        prepare=_prepare,
        argv=lambda folder, _ports: _java("kafka.Kafka", str((folder / "server.properties").resolve())),
        address=address,
        unreachable=unreachable,
        environment={"PATH": os.environ.get("PATH", ""), "HOME": os.environ.get("HOME", "/")},
    )


def address(_folder: Path, ports: Ports) -> str:
    """The bootstrap servers."""
    return f"127.0.0.1:{ports['broker']}"


def unreachable(bootstrap_servers: str) -> str | None:
    """Why no broker answers there, or None if one does."""
    client = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    try:
        brokers = client.list_topics(timeout=2).brokers
    except KafkaException as error:
        return str(error.args[0].str())
    return None if brokers else "no broker has registered yet"


def settings(listeners: str, advertised: str, controller: str, data: str) -> dict[str, str]:
    """The server's properties: one node that is broker and controller, and topics that only an administrator makes."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{controller}",
        "controller.listener.names": "CONTROLLER",
        "listeners": listeners,
        "advertised.listeners": f"PLAINTEXT://{advertised}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": data,
        # A topic that nobody made is a mistake that must show.
        "auto.create.topics.enable": "false",
        "default.replication.factor": "1",
        "min.insync.replicas": "1",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        # Groups form at once, and tests may see a dead member leave within a second.
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        # A broker that was killed is let back in when the session of its former self has ended.
        "broker.session.timeout.ms": "4000",
        "broker.heartbeat.interval.ms": "500",
        "num.network.threads": "2",
        "num.io.threads": "4",
        "log.segment.bytes": "67108864",
        "log.retention.hours": "168",
    }


def java_path() -> str | None:
    """The Java to run, of version 17 or newer: JAVA_HOME's, the PATH's, or Homebrew's."""
    return next((java for java in _javas() if _java_version(java) >= LEAST_JAVA), None)


def missing() -> list[str]:
    """What is missing to run Kafka on this machine: `java`, `maven`; nothing if it can be run."""
    lacking = [] if java_path() else ["java"]
    if not jar_folder().is_dir() and shutil.which("mvn") is None:
        lacking.append("maven")
    return lacking


def cache_folder() -> Path:
    """Where jars are kept, outside the tree, by the platform's custom."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "driftloop"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "driftloop"


def jar_folder() -> Path:
    """Where these very jars are, once they have been fetched: it appears under its name only when it is complete."""
    return cache_folder() / f"kafka-{VERSION}-{hashlib.sha256(_pom().encode()).hexdigest()[:8]}"


def fetch_jars(progress: Progress) -> None:
    """Have Maven fetch Kafka's jars, if they are not there. Raises StackUnavailable."""
    folder = jar_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        if folder.is_dir():
            return
        progress(f"fetching Kafka {VERSION} with Maven (54 MB, once)")
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            work = Path(temporary)
            (work / "pom.xml").write_text(_pom())
            goal = _MAVEN_GOAL.format(_MAVEN_PLUGIN_VERSION)
            _run(
                ["mvn", "-B", "-q", goal, "-DincludeScope=runtime", f"-DoutputDirectory={work / 'jars'}"],
                work,
                f"Maven could not fetch Kafka {VERSION} (is a Maven repository reachable? see ~/.m2/settings.xml)",
            )
            (work / "jars").rename(folder)


def _pom() -> str:
    return _POM.format("".join(_DEPENDENCY.format(*artifact) for artifact in _ARTIFACTS))


def _run(command: list[str], folder: Path, failure: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StackUnavailable(f"{failure}:\n{(done.stdout + done.stderr).strip()[-2000:]}")


def _javas() -> Iterator[str]:
    home = os.environ.get("JAVA_HOME")
    for candidate in (f"{home}/bin/java" if home else None, shutil.which("java"), *_OTHER_JAVAS):
        if candidate and os.access(candidate, os.X_OK):
            yield candidate


def _java_version(java: str) -> int:
    done = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    match = re.search(r'version "(\d+)', done.stderr + done.stdout)
    return int(match.group(1)) if match else 0


def _java(main: str, *arguments: str) -> list[str]:
    java = java_path()
    if java is None:
        raise StackUnavailable(f"there is no Java of version {LEAST_JAVA} or newer: install one, or set JAVA_HOME")
    logger = "-Dorg.slf4j.simpleLogger."
    # Modest and quick to start: it serves one machine, and shares it.
    return [
        java, "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true",
        f"{logger}defaultLogLevel=warn", f"{logger}showDateTime=true",
        f"{logger}dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
        "-cp", f"{jar_folder()}/*", main, *arguments,
    ]  # fmt: skip


def _prepare(folder: Path, ports: Ports, progress: Progress) -> None:
    fetch_jars(progress)
    data = folder.resolve() / "data"
    broker, controller = f"127.0.0.1:{ports['broker']}", f"127.0.0.1:{ports['controller']}"
    properties = settings(f"PLAINTEXT://{broker},CONTROLLER://{controller}", broker, controller, str(data))
    configuration = (folder / "server.properties").resolve()
    configuration.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    if (data / "meta.properties").exists():
        return
    shutil.rmtree(data, ignore_errors=True)
    progress("formatting Kafka's data folder")
    cluster = urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
    # Joined with = because an id may begin with a dash.
    command = _java("kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", str(configuration))
    try:
        _run(command, folder, "Kafka's data folder could not be formatted")
    except BaseException:
        shutil.rmtree(data, ignore_errors=True)
        raise
