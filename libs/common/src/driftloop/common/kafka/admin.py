"""Topics are made here with their configuration, and checked here before a service calls itself ready."""

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, Producer, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigEntry, ConfigResource, NewTopic, ResourceType, TopicDescription

from driftloop.common.kafka.config import ADMIN, Brokers, admin_part, reaching
from driftloop.common.topics import Namespace, Topic, dead_letter_topic

TIMEOUT_SECONDS = 15.0
RETRY_SECONDS = 0.1
REACH_SECONDS = 10.0
REACH_STEP_SECONDS = 0.5

T = TypeVar("T")


class TopicsError(RuntimeError):
    """A topic is missing or not as it must be."""


class TopicMissing(TopicsError):
    """A topic does not exist."""


@dataclass(frozen=True)
class TopicIdentity:
    """Which cluster and which incarnation of a topic an offset counts in."""

    cluster_id: str
    topic_id: str
    partitions: int


class Unreachable(TimeoutError):
    """No broker lets us in; the text says why, as far as a client can tell."""


def check_reachable(brokers: Brokers | str, seconds: float = REACH_SECONDS) -> None:
    """Raises Unreachable: at once where a broker refuses us or we do not trust it, else after so many seconds.

    Clients keep trying, and what they wait for ends with no more than that it took too long.
    """
    troubles: list[KafkaError] = []
    client = Producer(reaching(brokers) | ADMIN | {"client.id": "driftloop-reach", "error_cb": troubles.append})
    deadline = time.monotonic() + seconds
    while True:
        try:
            client.list_topics(timeout=REACH_STEP_SECONDS)
            return
        except KafkaException as error:
            client.poll(0)
            # That all brokers are down says nothing of why.
            told = [one for one in troubles if one.code() != KafkaError._ALL_BROKERS_DOWN]
            refusal = next((one for one in told if _remedy(one)), None)
            if refusal is None and time.monotonic() < deadline:
                continue
            last = refusal or (told[-1] if told else error.args[0])
            remedy = _remedy(last) or ("" if told else "see whether they want another KAFKA_SECURITY_PROTOCOL")
            raise Unreachable(f"the brokers at {brokers}: {last.str()}" + (f": {remedy}" if remedy else "")) from error


def _remedy(error: KafkaError) -> str:
    """What must be changed, "" where waiting may help."""
    if error.code() == KafkaError._AUTHENTICATION:
        return "see to KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
    # A broker's own refusal comes as a connection that broke.
    if error.code() == KafkaError._SSL or (error.code() == KafkaError._TRANSPORT and "SSL" in error.str()):
        return "see to KAFKA_SECURITY_PROTOCOL and the files of KAFKA_SSL_…"
    return ""


def admin_client(brokers: Brokers | str, client_id: str = "driftloop-admin") -> AdminClient:
    """The process's administrative client of the brokers."""
    return admin_client_of(reaching(brokers) | {"client.id": client_id})


def admin_client_of(config: Mapping[str, Any]) -> AdminClient:
    """The process's administrative client with a configuration, of which it takes what such a client knows."""
    return _kept(tuple(sorted(admin_part(config).items())))


@cache
def _kept(config: tuple[tuple[str, Any], ...]) -> AdminClient:
    """A client that is never let go of.

    The garbage collector may run on the thread that brings an answer. If it found the client of that thread there, the
    client would be destroyed from within, which aborts the process.
    """
    return AdminClient(dict(config))


def create_topics(
    admin: AdminClient, namespace: Namespace, topics: Iterable[Topic], replication: int = -1
) -> tuple[list[str], list[str]]:
    """Create what is missing; several may do it at once. Returns (created, existing) names; then verifies them all.

    `replication` -1 is the broker's default. Raises TopicsError, KafkaException.
    """
    topics = tuple(topics)
    requests = [
        NewTopic(namespace.topic(topic), topic.partitions, replication, config=dict(topic.config)) for topic in topics
    ]
    created, existing = [], []
    for name, future in admin.create_topics(requests, operation_timeout=TIMEOUT_SECONDS).items():
        try:
            future.result(TIMEOUT_SECONDS)
            created.append(name)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
            existing.append(name)
    _await_all(admin, namespace, topics)
    return created, existing


def _await_all(admin: AdminClient, namespace: Namespace, topics: Iterable[Topic]) -> None:
    """Verify the topics; one that was created a moment ago is not known to every broker yet."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        try:
            return verify_topics(admin, namespace, topics)
        except TopicMissing:
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_SECONDS)


def verify_topics(admin: AdminClient, namespace: Namespace, topics: Iterable[Topic]) -> None:
    """Raise TopicsError unless every topic exists with the partitions and the clean-up policy that it must have.

    Retention is the platform team's to change; a compacted topic that deletes, fewer partitions, or a dead-letter topic
    that cannot hold its topic's largest record breaks a guarantee. Raises KafkaException where no broker answers.
    """
    topics = tuple(topics)
    found = identities(admin, [namespace.topic(topic) for topic in topics])
    resources = [ConfigResource(ResourceType.TOPIC, namespace.topic(topic)) for topic in topics]
    configs = {
        resource.name: _answer(resource.name, future) for resource, future in admin.describe_configs(resources).items()
    }
    for topic in topics:
        name = namespace.topic(topic)
        if found[name].partitions < topic.partitions:
            raise TopicsError(
                f"topic {name!r} has {found[name].partitions} partitions and needs {topic.partitions}: "
                f"raise it with kafka-topics --alter --topic {name} --partitions {topic.partitions}"
            )
        policy, wanted = configs[name]["cleanup.policy"].value, topic.config["cleanup.policy"]
        if policy != wanted:
            raise TopicsError(
                f"topic {name!r} has cleanup.policy={policy!r} and needs {wanted!r}: "
                f"change it with kafka-configs --alter --topic {name} --add-config cleanup.policy={wanted}"
            )
        letters = namespace.topic(dead_letter_topic(topic))
        if letters in configs and _most_bytes(configs[letters]) <= _most_bytes(configs[name]):
            least = 2 * _most_bytes(configs[name])
            raise TopicsError(
                f"topic {letters!r} must take larger records than {name!r}, whose it keeps with their reasons: "
                f"change it with kafka-configs --alter --topic {letters} --add-config max.message.bytes={least}"
            )


def _most_bytes(config: Mapping[str, ConfigEntry]) -> int:
    return int(config["max.message.bytes"].value or 0)


def identities(admin: AdminClient, names: Iterable[str]) -> dict[str, TopicIdentity]:
    """Which cluster and topic ids the names stand for. Raises TopicsError if one does not exist."""
    names = list(names)
    cluster = admin.describe_cluster(request_timeout=TIMEOUT_SECONDS).result(TIMEOUT_SECONDS)
    found = {}
    described = admin.describe_topics(TopicCollection(names), request_timeout=TIMEOUT_SECONDS)
    for name, future in described.items():
        topic = _answer(name, future)
        found[name] = TopicIdentity(cluster.cluster_id, str(topic.topic_id), len(topic.partitions))
    return found


def _answer(name: str, future: Future[T]) -> T:
    """What the broker says of a topic. Raises TopicMissing, KafkaException."""
    try:
        return future.result(TIMEOUT_SECONDS)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise TopicMissing(f"topic {name!r} does not exist: run `driftloop topics`") from error
        raise


class TopicWatch:
    """Asks the brokers now and then whether the topics are still those that offsets count in, and waits for no answer.

    A topic that is deleted and made anew under a running consumer is read on from the old offset: nothing else tells.
    """

    def __init__(self, admin: AdminClient, known: Mapping[str, TopicIdentity], every_seconds: float) -> None:
        self._admin = admin
        self._known = known
        self._every = every_seconds
        self._due = 0.0
        self._asked: dict[str, Future[TopicDescription]] = {}

    def remade(self) -> list[str]:
        """The topics that, as far as the last answer tells, are not the known ones. Brokers that are away say none."""
        if not self._asked and time.monotonic() >= self._due:
            names = TopicCollection(list(self._known))
            self._asked = self._admin.describe_topics(names, request_timeout=TIMEOUT_SECONDS)
        if not self._asked or not all(answer.done() for answer in self._asked.values()):
            return []
        answers, self._asked, self._due = self._asked, {}, time.monotonic() + self._every
        return [
            name
            for name, answer in answers.items()
            if answer.exception() is None and str(answer.result().topic_id) != self._known[name].topic_id
        ]
