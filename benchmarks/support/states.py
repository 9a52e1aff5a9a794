"""Serving states: versions to be served, revisions of `model-updates`, and what the replicas say of them."""

import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec
from confluent_kafka import OFFSET_END, Consumer, KafkaError, TopicPartition

from benchmarks.support.predictors import CONTRACT
from driftloop.common import keys
from driftloop.common.clock import utc_now
from driftloop.common.contract import load_contract
from driftloop.common.envelope import Outgoing, decode_event
from driftloop.common.events import ArtifactRef, ModelStatus, ModelUpdated, ServedVersion, type_name
from driftloop.common.kafka.config import producer_config, reader_config
from driftloop.common.kafka.producer import DeliveryProducer, ProducerFull
from driftloop.common.kafka.publisher import Publisher
from driftloop.common.kafka.reader import read_to_end
from driftloop.common.registry import write_bundle
from driftloop.common.topics import MODEL_STATUS, MODEL_UPDATES
from driftloop.demo.installation import Installation
from driftloop.trainer.build import load_baseline
from driftloop.trainer.bundling import bundle
from driftloop.trainer.domain.challenger import first_version

MODEL = "diabetes"
PAUSE_SECONDS = 0.005
TIMEOUT_SECONDS = 30.0


def first_state(installation: Installation) -> ModelUpdated:
    """What `trainer train` has published."""
    topic = installation.namespace.topic(MODEL_UPDATES)
    (record,) = read_to_end(installation.stack.bootstrap_servers, "bench", topic)
    event = decode_event(type_name(ModelUpdated), record.value or b"")
    assert isinstance(event, ModelUpdated)
    return event


def register(installation: Installation, version: int) -> ServedVersion:
    """Train one more version on the same rows, of another seed, and keep it signed, as the trainer does."""
    contract = load_contract(CONTRACT)
    estimator = msgspec.structs.replace(contract.estimator, seed=contract.estimator.seed + version)
    contract = msgspec.structs.replace(contract, estimator=estimator)
    made = bundle(contract, first_version(contract, load_baseline(CONTRACT, contract), version, utc_now()))
    signing = keys.load_signing_key(installation.folder / "keys" / "signing.pem")
    return ServedVersion(version=version, artifact=write_bundle(_artifacts(installation), made, signing))


def absent(installation: Installation, version: int) -> ServedVersion:
    """A version that is nowhere."""
    artifact = ArtifactRef(
        uri=f"{_artifacts(installation)}/{MODEL}/{version}", sha256=f"{version:064x}", signature="", key_id=""
    )
    return ServedVersion(version=version, artifact=artifact)


def state(revision: int, champion: ServedVersion) -> ModelUpdated:
    """A revision in which one version answers everybody."""
    return ModelUpdated(
        model_name=MODEL, revision=revision, decided_at=utc_now(), champion=champion.version, versions=(champion,)
    )


@dataclass(frozen=True)
class States:
    """Publishes revisions as the trainer does."""

    publisher: Publisher
    failures: list[KafkaError] = field(default_factory=list)

    def publish(self, states: Iterable[ModelUpdated]) -> None:
        """Put the revisions into the log, in this order; they are there when `publishing` ends."""
        for one in states:
            key = f"{one.model_name}/{one.revision}"
            outgoing = Outgoing(MODEL_UPDATES.name, key, one, secrets.token_hex(16), one.decided_at)
            while True:
                try:
                    self.publisher.publish(outgoing, lambda error: self.failures.append(error) if error else None)
                    break
                except ProducerFull:
                    time.sleep(PAUSE_SECONDS)


@contextmanager
def publishing(installation: Installation) -> Iterator[States]:
    """Who publishes. Raises RuntimeError where a revision did not get into the log."""
    producer = DeliveryProducer(producer_config(installation.stack.bootstrap_servers, "bench"))
    states = States(Publisher(producer, installation.namespace, f"trainer/bench/{secrets.token_hex(6)}"))
    try:
        yield states
    finally:
        lost = producer.close(TIMEOUT_SECONDS)
    if lost or states.failures:
        raise RuntimeError(f"{lost + len(states.failures)} revisions did not get into the log: {states.failures[:1]}")


class Replicas:
    """What the replicas say on `model-status` from now on."""

    def __init__(self, installation: Installation, names: Sequence[str]) -> None:
        self._revisions = dict.fromkeys(names, 0)
        self._consumer = Consumer(reader_config(installation.stack.bootstrap_servers, "bench"))
        self._consumer.assign([TopicPartition(installation.namespace.topic(MODEL_STATUS), 0, OFFSET_END)])
        # An assignment is begun, and not waited for.
        self._consumer.poll(TIMEOUT_SECONDS)

    def wait(self, revision: int) -> None:
        """Wait until each serves this revision. Raises TimeoutError, and RuntimeError where one refuses something."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while min(self._revisions.values()) < revision:
            if time.monotonic() > deadline:
                raise TimeoutError(f"revision {revision} is not everywhere: {self._revisions}")
            message = self._consumer.poll(0.1)
            if message is not None and message.error() is None:
                self._read(message.value() or b"")

    def close(self) -> None:
        """Read no more."""
        self._consumer.close()

    def _read(self, value: bytes) -> None:
        status = decode_event(type_name(ModelStatus), value)
        assert isinstance(status, ModelStatus)
        if status.error is not None:
            raise RuntimeError(f"{status.replica}: {status.error}")
        self._revisions[status.replica] = status.revision


def _artifacts(installation: Installation) -> str:
    return (installation.folder / "artifacts").as_uri()
