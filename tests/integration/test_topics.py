"""Topics are made and checked by us, never by the broker on its own; and a topic can be read whole."""

import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

from driftloop.common.kafka.admin import (
    TopicMissing,
    TopicsError,
    TopicWatch,
    admin_client,
    create_topics,
    identities,
    verify_topics,
)
from driftloop.common.kafka.reader import read_to_end
from driftloop.common.startup import NotThere, wait_for_topics
from driftloop.common.topics import MODEL_UPDATES, PREDICTIONS, Namespace, all_topics, dead_letter_topic
from driftloop.devstack import Stack
from tests.support.waiting import wait_until


@pytest.fixture
def admin(stack: Stack) -> AdminClient:
    """An administrative client of the run's broker."""
    return admin_client(stack.bootstrap_servers)


@pytest.fixture
def namespace(admin: AdminClient) -> Iterator[Namespace]:
    """A namespace without a topic in it; what a test makes there is removed."""
    namespace = Namespace(f"t{uuid.uuid4().hex[:12]}")
    yield namespace
    names = [name for name in admin.list_topics(timeout=10).topics if name.startswith(f"{namespace.prefix}.")]
    if names:
        for future in admin.delete_topics(names).values():
            future.result(10)


def make(admin: AdminClient, name: str, partitions: int = 1, **config: str) -> str:
    """A topic with whatever configuration; names in `config` have _ for a dot."""
    dotted = {key.replace("_", "."): value for key, value in config.items()}
    admin.create_topics([NewTopic(name, partitions, 1, config=dotted)])[name].result(10)
    # The broker says that it is made a moment before it knows of it.
    wait_until(lambda: known(admin, name), f"the broker knows {name}")
    return name


def known(admin: AdminClient, name: str) -> bool:
    try:
        return name in identities(admin, [name])
    except TopicMissing:
        return False


# --- the client

LETS_GO = """
import gc
import sys
from confluent_kafka.admin import AdminClient, NewTopic
from driftloop.common.kafka.admin import admin_client

told = AdminClient._make_topics_result
AdminClient._make_topics_result = staticmethod(lambda answer, topics: (gc.collect(), told(answer, topics)))
gc.disable()

def ask():
    cycle = [admin_client(sys.argv[1])]
    cycle.append(cycle)
    return cycle[0].create_topics([NewTopic(sys.argv[2], 1, 1)])[sys.argv[2]]

ask().result(10)
"""


def test_a_client_that_nobody_holds_while_its_answer_comes_harms_nobody(stack: Stack, namespace: Namespace) -> None:
    command = [sys.executable, "-c", LETS_GO, stack.bootstrap_servers, f"{namespace.prefix}.let.go"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


# --- making and checking


def test_topics_are_made_once_and_found_the_next_time(admin: AdminClient, namespace: Namespace) -> None:
    names = {namespace.topic(topic) for topic in all_topics()}
    created, existing = create_topics(admin, namespace, all_topics(), replication=1)
    assert (set(created), existing) == (names, [])
    created, existing = create_topics(admin, namespace, all_topics(), replication=1)
    assert (created, set(existing)) == ([], names)


def test_several_may_make_the_topics_at_once(stack: Stack, admin: AdminClient, namespace: Namespace) -> None:
    with ThreadPoolExecutor(5) as pool:
        results = list(
            pool.map(
                lambda _: create_topics(admin_client(stack.bootstrap_servers), namespace, all_topics(), replication=1),
                range(5),
            )
        )
    created = [name for made, _existing in results for name in made]
    assert sorted(created) == sorted(namespace.topic(topic) for topic in all_topics())


def test_topics_have_the_partitions_and_the_policy_that_they_were_made_with(
    admin: AdminClient, namespace: Namespace
) -> None:
    create_topics(admin, namespace, all_topics(), replication=1)
    verify_topics(admin, namespace, all_topics())
    found = identities(admin, [namespace.topic(topic) for topic in all_topics()])
    assert {name: one.partitions for name, one in found.items()} == {
        namespace.topic(topic): topic.partitions for topic in all_topics()
    }


def test_a_topic_with_too_few_partitions_is_refused_with_the_remedy(admin: AdminClient, namespace: Namespace) -> None:
    name = make(admin, namespace.topic(PREDICTIONS), partitions=2)
    with pytest.raises(TopicsError, match=rf"{name}.*2 partitions and needs 6.*kafka-topics --alter"):
        create_topics(admin, namespace, [PREDICTIONS], replication=1)


def test_more_partitions_than_needed_are_fine(admin: AdminClient, namespace: Namespace) -> None:
    make(admin, namespace.topic(PREDICTIONS), partitions=12)
    verify_topics(admin, namespace, [PREDICTIONS])


def test_a_topic_with_another_policy_is_refused_with_the_remedy(admin: AdminClient, namespace: Namespace) -> None:
    name = make(admin, namespace.topic(MODEL_UPDATES), cleanup_policy="delete")
    with pytest.raises(TopicsError, match=rf"{name}.*cleanup.policy='delete' and needs 'compact'.*kafka-configs"):
        verify_topics(admin, namespace, [MODEL_UPDATES])


def test_a_dead_letter_topic_that_cannot_hold_its_topics_largest_record_is_refused(
    admin: AdminClient, namespace: Namespace
) -> None:
    make(admin, namespace.topic(PREDICTIONS), partitions=6, max_message_bytes="5000000")
    letters = make(admin, namespace.topic(dead_letter_topic(PREDICTIONS)))
    with pytest.raises(TopicsError, match=rf"{letters}.*larger records.*max.message.bytes=10000000"):
        verify_topics(admin, namespace, [PREDICTIONS, dead_letter_topic(PREDICTIONS)])


def test_a_service_waits_for_its_dead_letter_topics_too(stack: Stack, admin: AdminClient, namespace: Namespace) -> None:
    create_topics(admin, namespace, [PREDICTIONS], replication=1)
    with pytest.raises(NotThere, match=rf"{namespace.prefix}.predictions.dlq.*does not exist"):
        wait_for_topics(stack.bootstrap_servers, namespace, [PREDICTIONS], seconds=0)
    create_topics(admin, namespace, [dead_letter_topic(PREDICTIONS)], replication=1)
    assert set(wait_for_topics(stack.bootstrap_servers, namespace, [PREDICTIONS])) == {namespace.topic(PREDICTIONS)}


def test_a_topic_that_is_missing_is_refused_with_the_remedy(admin: AdminClient, namespace: Namespace) -> None:
    with pytest.raises(TopicMissing, match=rf"{namespace.prefix}.predictions.*does not exist.*driftloop topics"):
        verify_topics(admin, namespace, [PREDICTIONS])


def test_the_broker_makes_no_topic_on_its_own(stack: Stack, namespace: Namespace, admin: AdminClient) -> None:
    # A client that asks for it, as most do by default.
    producer = Producer(
        {
            "bootstrap.servers": stack.bootstrap_servers,
            "allow.auto.create.topics": True,
            "message.timeout.ms": 1_000,
            "topic.metadata.propagation.max.ms": 500,
        }
    )
    errors: list[KafkaError | None] = []
    name = namespace.topic(PREDICTIONS)
    producer.produce(name, b"", on_delivery=lambda error, _message: errors.append(error))
    producer.flush(10)
    assert len(errors) == 1
    assert errors[0] is not None
    assert name not in admin.list_topics(timeout=10).topics


def test_a_topic_that_was_made_anew_is_noticed(admin: AdminClient, namespace: Namespace) -> None:
    name = make(admin, namespace.topic(PREDICTIONS))
    watch = TopicWatch(admin, identities(admin, [name]), every_seconds=0.01)
    assert [watch.remade() for _ in range(20)] == [[]] * 20
    admin.delete_topics([name])[name].result(10)
    make(admin, name)
    assert wait_until(lambda: watch.remade() or None, "it is noticed") == [name]


# --- reading whole


def fill(stack: Stack, topic: str, values: int, partitions: int = 1) -> None:
    producer = Producer({"bootstrap.servers": stack.bootstrap_servers})
    for number in range(values):
        producer.produce(topic, f"{number}".encode(), key=f"{number % 3}".encode(), partition=number % partitions)
    assert producer.flush(10) == 0


def read(stack: Stack, topic: str, timeout: float = 10) -> list[int]:
    return [int(record.value or b"-1") for record in read_to_end(stack.bootstrap_servers, "tests", topic, timeout)]


def test_an_empty_topic_is_read_to_its_end(stack: Stack, admin: AdminClient, namespace: Namespace) -> None:
    assert read(stack, make(admin, f"{namespace.prefix}.empty", partitions=3)) == []


def test_all_partitions_are_read_each_in_order(stack: Stack, admin: AdminClient, namespace: Namespace) -> None:
    topic = make(admin, f"{namespace.prefix}.wide", partitions=5)
    fill(stack, topic, 3_000, partitions=4)
    records = read_to_end(stack.bootstrap_servers, "tests", topic)
    for partition in range(5):
        found = [int(record.value or b"") for record in records if record.partition == partition]
        assert found == list(range(partition, 3_000, 4) if partition < 4 else [])


def test_what_was_deleted_at_the_beginning_is_no_gap(stack: Stack, admin: AdminClient, namespace: Namespace) -> None:
    topic = make(admin, f"{namespace.prefix}.cut")
    fill(stack, topic, 20)
    admin.delete_records([TopicPartition(topic, 0, 15)])[TopicPartition(topic, 0)].result(10)
    assert read(stack, topic) == list(range(15, 20))


def test_a_topic_whose_records_are_all_deleted_is_empty(stack: Stack, admin: AdminClient, namespace: Namespace) -> None:
    topic = make(admin, f"{namespace.prefix}.gone")
    fill(stack, topic, 20)
    admin.delete_records([TopicPartition(topic, 0, 20)])[TopicPartition(topic, 0)].result(10)
    assert read(stack, topic) == []


def test_of_transactions_what_was_committed_is_read_and_their_markers_do_not_stop_it(
    stack: Stack, admin: AdminClient, namespace: Namespace
) -> None:
    topic = make(admin, f"{namespace.prefix}.transactions")
    producer = Producer({"bootstrap.servers": stack.bootstrap_servers, "transactional.id": topic})
    producer.init_transactions(15)
    for number, end in enumerate([producer.commit_transaction, producer.abort_transaction] * 2):
        producer.begin_transaction()
        producer.produce(topic, f"{number}".encode())
        producer.flush(10)
        if number == 3:
            assert read(stack, topic) == [0, 2], "one is still open"
        end(10)
    assert read(stack, topic) == [0, 2]


def hurry_compaction(admin: AdminClient) -> None:
    """Have the broker look for what to compact five times a second, not every 15 s."""
    entry = ConfigEntry("log.cleaner.backoff.ms", "200", incremental_operation=AlterConfigOpType.SET)
    for broker in admin.list_topics(timeout=10).brokers:
        resource = ConfigResource(ResourceType.BROKER, str(broker), incremental_configs=[entry])
        admin.incremental_alter_configs([resource])[resource].result(10)


def test_a_compacted_topic_is_read_over_its_holes(stack: Stack, admin: AdminClient, namespace: Namespace) -> None:
    hurry_compaction(admin)
    topic = make(
        admin,
        f"{namespace.prefix}.compacted",
        cleanup_policy="compact",
        segment_ms="50",
        min_cleanable_dirty_ratio="0.01",
        max_compaction_lag_ms="50",
        min_compaction_lag_ms="0",
    )
    fill(stack, topic, 60)

    def compacted() -> list[int] | None:
        # Only a new record closes the segment, and only closed segments are compacted.
        fill(stack, topic, 1)
        found = read(stack, topic)
        return found if 30 not in found else None

    found = wait_until(compacted, "the broker has compacted it", pause=0.3)
    assert {58, 59} <= set(found)


def test_a_topic_that_does_not_exist_is_an_error_and_not_empty(stack: Stack, namespace: Namespace) -> None:
    with pytest.raises(KafkaException, match="UNKNOWN_TOPIC_OR_PART"):
        read_to_end(stack.bootstrap_servers, "tests", f"{namespace.prefix}.missing", timeout=5)
