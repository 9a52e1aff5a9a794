"""What a producer was told to be in the log is in the log."""

from collections import defaultdict

import pytest
from confluent_kafka.admin import NewTopic

from driftloop.common.kafka.config import producer_config
from driftloop.common.kafka.producer import DeliveryProducer, Fates
from driftloop.common.kafka.reader import read_to_end
from tests.support.house import House

TOPICS, PARTITIONS, RECORDS = 25, 12, 60

# By partition, the numbers that the records carry.
Numbers = dict[int, list[int]]


def sent_to_fresh_topics(house: House, ordered: bool) -> list[tuple[Fates, Numbers]]:
    """For each of many topics, sent to while their partitions are still getting their leaders: what was told and held.

    Each record is a request of its own, so that the first may be put off and the second taken.
    """
    broker = house.stack.bootstrap_servers
    hasty = {"batch.num.messages": 1, "linger.ms": 0, "topic.metadata.refresh.fast.interval.ms": 10}
    names = [f"{house.namespace.prefix}.fresh-{number}" for number in range(TOPICS)]
    found = []
    for name in names:
        made = house.admin.create_topics([NewTopic(name, PARTITIONS, 1)])[name]
        producer = DeliveryProducer(producer_config(broker, "tests", 10_000, ordered=ordered) | hasty)
        made.result(10)
        fates = Fates()
        for number in range(RECORDS):
            producer.produce(name, number % PARTITIONS, None, str(number).encode(), [], fates.expect(number))
        assert fates.wait(60)
        producer.close(5)
        held: Numbers = defaultdict(list)
        for record in read_to_end(broker, "tests", name):
            held[record.partition].append(int(record.value or b""))
        found.append((fates, held))
    for future in house.admin.delete_topics(names).values():
        future.result(10)
    return found


@pytest.mark.parametrize("ordered", [True, False])
def test_what_was_acknowledged_of_a_topic_that_was_just_made_is_there(house: House, ordered: bool) -> None:
    """An idempotent client with several requests on their way is told of records that no log holds."""
    for fates, held in sent_to_fresh_topics(house, ordered):
        assert fates.delivered - {number for numbers in held.values() for number in numbers} == set()


def test_where_records_are_to_be_ordered_what_was_put_off_comes_before_what_followed_it_and_once(house: House) -> None:
    for _fates, held in sent_to_fresh_topics(house, ordered=True):
        assert held == {number: sorted(set(numbers)) for number, numbers in held.items()}
