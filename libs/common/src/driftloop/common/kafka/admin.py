"""Topics are made here with their configuration, and checked here before a service calls itself ready."""

from collections.abc import Iterable
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from driftloop.common.kafka.config import admin_config
from driftloop.common.topics import Namespace, Topic

TIMEOUT_SECONDS = 15.0


class TopicsError(RuntimeError):
    """A topic is missing or not as it must be."""


@dataclass(frozen=True)
class TopicIdentity:
    """Which cluster and which incarnation of a topic an offset counts in."""

    cluster_id: str
    topic_id: str
    partitions: int


def admin_client(bootstrap_servers: str, client_id: str = "driftloop-admin") -> AdminClient:
    """An administrative client of the brokers."""
    return AdminClient(admin_config(bootstrap_servers, client_id))


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
    verify_topics(admin, namespace, topics)
    return created, existing


def verify_topics(admin: AdminClient, namespace: Namespace, topics: Iterable[Topic]) -> None:
    """Raise TopicsError unless every topic exists with the partitions and the clean-up policy that it must have.

    Retention is the platform team's to change; a compacted topic that deletes, or fewer partitions, breaks a guarantee.
    """
    topics = tuple(topics)
    found = identities(admin, [namespace.topic(topic) for topic in topics])
    resources = [ConfigResource(ResourceType.TOPIC, namespace.topic(topic)) for topic in topics]
    configs = {
        resource.name: future.result(TIMEOUT_SECONDS) for resource, future in admin.describe_configs(resources).items()
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


def identities(admin: AdminClient, names: Iterable[str]) -> dict[str, TopicIdentity]:
    """Which cluster and topic ids the names stand for. Raises TopicsError if one does not exist."""
    names = list(names)
    cluster = admin.describe_cluster(request_timeout=TIMEOUT_SECONDS).result(TIMEOUT_SECONDS)
    found = {}
    described = admin.describe_topics(TopicCollection(names), request_timeout=TIMEOUT_SECONDS)
    for name, future in described.items():
        try:
            topic = future.result(TIMEOUT_SECONDS)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise TopicsError(f"topic {name!r} does not exist: run `driftloop topics`") from error
            raise
        found[name] = TopicIdentity(cluster.cluster_id, str(topic.topic_id), len(topic.partitions))
    return found
