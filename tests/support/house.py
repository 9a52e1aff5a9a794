"""A fresh namespace on the run's real broker and database, and what a test needs to look into it."""

import itertools
import os
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import psycopg
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from psycopg import Connection, conninfo
from psycopg.rows import TupleRow

from driftloop.common import keys
from driftloop.common.envelope import Envelope, decode_envelope, decode_event, encode_event
from driftloop.common.events import ArtifactRef, Event, ModelUpdated, ServedVersion, type_name
from driftloop.common.kafka.admin import TopicIdentity, admin_client, create_topics, identities
from driftloop.common.kafka.reader import read_to_end
from driftloop.common.kafka.records import Record
from driftloop.common.postgres import migrations
from driftloop.common.postgres.pool import Pool, open_pool
from driftloop.common.registry import Bundle, write_bundle
from driftloop.common.settings import Secret
from driftloop.common.topics import (
    MODEL_UPDATES,
    TOPICS,
    Namespace,
    Topic,
    all_topics,
    dead_letter_topic,
    partition_for,
)
from driftloop.demo.installation import remove
from driftloop.devstack import Stack
from driftloop.devstack.processes import ServiceProcess, free_ports
from tests.support.waiting import TIMEOUT_SECONDS, wait_until

PASSWORD = "a password of the tests"


@dataclass
class House:
    """One installation's topics, schemas and roles under a prefix of its own; `folder` is the test's."""

    stack: Stack
    namespace: Namespace
    folder: Path
    _pools: list[Pool] = field(default_factory=list)
    _processes: list[ServiceProcess] = field(default_factory=list)
    _sequence: Iterator[int] = field(default_factory=itertools.count)
    _source: str = field(default_factory=lambda: f"tests/{uuid.uuid4().hex[:12]}")

    # --- making and removing

    def prepare(self) -> None:
        """Make every schema, role and topic."""
        self.migrate()
        create_topics(self.admin, self.namespace, all_topics(), replication=1)

    def migrate(self) -> dict[str, list[str]]:
        """Bring every schema up to date; by service, what was applied."""
        passwords = {service: Secret(PASSWORD) for service in migrations.services()}
        return migrations.migrate(self.stack.database_url, self.namespace, passwords)

    def end(self) -> None:
        """End the processes that the test has started."""
        for process in self._processes:
            process.kill()

    def remove(self) -> None:
        """End what the test has started, and leave nothing of it on the stack."""
        self.end()
        for pool in self._pools:
            pool.close()
        remove(self.stack, self.namespace)

    @cached_property
    def admin(self) -> AdminClient:
        """An administrative client of the broker."""
        return admin_client(self.stack.bootstrap_servers)

    @cached_property
    def identities(self) -> dict[str, TopicIdentity]:
        """The topics' identities, by their names on the broker."""
        return identities(self.admin, [self.namespace.topic(topic) for topic in TOPICS])

    # --- the database

    def database_url(self, service: str) -> str:
        """The URL with which a service's own role connects; `service` is its import name."""
        return conninfo.make_conninfo(self.stack.database_url, user=self.namespace.role(service), password=PASSWORD)

    def pool(self, service: str, max_size: int = 4) -> Pool:
        """A pool as the service itself opens it; closed with the house."""
        pool = open_pool(self.database_url(service), self.namespace.schema(service), f"tests-{service}", max_size)
        self._pools.append(pool)
        return pool

    @contextmanager
    def database(self, service: str) -> Iterator[Connection[TupleRow]]:
        """The administrator's connection into a service's schema; commits at the end of the block."""
        with psycopg.connect(
            self.stack.database_url, options=f"-c search_path={self.namespace.schema(service)} -c timezone=UTC"
        ) as connection:
            yield connection

    # --- the broker

    @cached_property
    def _producer(self) -> Producer:
        return Producer({"bootstrap.servers": self.stack.bootstrap_servers, "acks": "all", "linger.ms": 1})

    def produce(
        self,
        topic: Topic,
        value: bytes | None,
        key: str | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int | None = None,
    ) -> None:
        """Put one raw record into the log, and wait for its ack."""
        self.produce_all(topic, [(value, key, headers, partition)])

    def produce_all(
        self,
        topic: Topic,
        records: Iterable[tuple[bytes | None, str | None, Sequence[tuple[str, bytes]], int | None]],
    ) -> None:
        """Put raw records (value, key, headers, partition) into the log, and wait for all acks."""
        failures: list[object] = []
        for value, key, headers, partition in records:
            where = partition if partition is not None else partition_for(key or "", topic.partitions)
            self._producer.produce(
                self.namespace.topic(topic), value=value, key=key, headers=list(headers), partition=where,
                on_delivery=lambda error, _message: failures.append(error) if error else None,
            )  # fmt: skip
            self._producer.poll(0)
        assert self._producer.flush(TIMEOUT_SECONDS) == 0
        if failures:
            raise AssertionError(f"the broker did not take all records: {failures}")

    def publish(self, topic: Topic, keyed: Iterable[tuple[str, Event]], copies: int = 1) -> None:
        """Publish events (key, event) as one of our producers would: CloudEvents headers, dense sequence numbers.

        `copies`: how often each is produced, as by a producer that tries again.
        """
        records = []
        for key, event in keyed:
            partition = partition_for(key, topic.partitions)
            envelope = Envelope(
                id=uuid.uuid4().hex,
                # A source a record, so that any order and any partition is dense.
                source=f"{self._source}/{next(self._sequence)}",
                type=type_name(type(event)),
                time=_event_time(event),
                sequence=0,
            )
            records += [(encode_event(event), key, envelope.headers(), partition)] * copies
        self.produce_all(topic, records)

    def records(self, topic: Topic) -> list[Record]:
        """All that a topic holds now."""
        return read_to_end(self.stack.bootstrap_servers, "tests", self.namespace.topic(topic))

    def dead_letters(self, topic: Topic) -> list[Record]:
        """All that a topic's dead-letter topic holds now."""
        return self.records(dead_letter_topic(topic))

    def events(self, topic: Topic) -> list[tuple[Envelope, Event]]:
        """All events that a topic holds now, decoded as its consumers would; tombstones left out."""
        found = []
        for record in self.records(topic):
            if record.value is not None:
                envelope = decode_envelope(record.headers, topic.events)
                found.append((envelope, decode_event(envelope.type, record.value)))
        return found

    def wait_for_events(self, topic: Topic, count: int) -> list[tuple[Envelope, Event]]:
        """The topic's events, as soon as there are `count` of them."""

        def enough() -> list[tuple[Envelope, Event]] | None:
            events = self.events(topic)
            return events if len(events) >= count else None

        return wait_until(enough, f"{count} events on {topic.name}")

    # --- models

    @cached_property
    def signing_key(self) -> keys.SigningKey:
        """The trainer's key; its public half is in `trusted_keys`."""
        private = self.folder / "keys" / "signing.pem"
        keys.generate(private, self.trusted_keys / "signing.pub.pem")
        return keys.load_signing_key(private)

    @property
    def trusted_keys(self) -> Path:
        """The folder of trusted public keys."""
        return self.folder / "keys" / "trusted"

    @property
    def artifacts(self) -> str:
        """The URI under which artifacts are kept."""
        return (self.folder / "artifacts").resolve().as_uri()

    def register(self, bundle: Bundle) -> ArtifactRef:
        """Sign and keep a bundle, as the trainer does."""
        return write_bundle(self.artifacts, bundle, self.signing_key)

    def serve(self, revision: int, champion: ArtifactRef, model: str, version: int) -> ModelUpdated:
        """Publish the serving state `revision` with one version, as the trainer does. Returns it."""
        state = ModelUpdated(
            model_name=model,
            revision=revision,
            decided_at=_now(),
            champion=version,
            versions=(ServedVersion(version=version, artifact=champion),),
        )
        self.publish(MODEL_UPDATES, [(f"{model}/{revision}", state)])
        return state

    # --- processes

    def process(self, name: str, module: str, environment: dict[str, str]) -> tuple[ServiceProcess, str]:
        """A service's real process, not yet started, and its API's URL; killed with the house.

        Broker, namespace, ports, trusted keys and artifacts are set, and nobody needs an API key; `environment` adds
        the rest.
        """
        port, management = free_ports(2)
        own = {
            "KAFKA_BOOTSTRAP_SERVERS": self.stack.bootstrap_servers,
            "DRIFTLOOP_NAMESPACE": self.namespace.prefix,
            "DRIFTLOOP_PORT": str(port),
            "DRIFTLOOP_MANAGEMENT_PORT": str(management),
            "DRIFTLOOP_TRUSTED_KEYS": str(self.trusted_keys),
            "DRIFTLOOP_ARTIFACTS": self.artifacts,
            "DRIFTLOOP_ACCESS": "off",
        }
        kept = {key: value for key, value in os.environ.items() if not key.startswith("DRIFTLOOP_")}
        process = ServiceProcess(
            name=name,
            argv=[sys.executable, "-m", module],
            env=kept | {"OMP_NUM_THREADS": "1"} | own | environment,
            log_path=self.folder / f"{name}.log",
            management_port=management,
        )
        self._processes.append(process)
        return process, f"http://127.0.0.1:{port}"


def _now() -> datetime:
    return datetime.now(UTC)


def _event_time(event: Event) -> datetime:
    """When an event says that it happened."""
    for name in ("predicted_at", "labeled_at", "detected_at", "decided_at", "reported_at"):
        time = getattr(event, name, None)
        if isinstance(time, datetime):
            return time
    return _now()
