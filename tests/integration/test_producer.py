"""What a producer was told to be in the log is in the log."""

from confluent_kafka.admin import NewTopic

from driftloop.common.kafka.config import producer_config
from driftloop.common.kafka.producer import DeliveryProducer, Fates
from driftloop.common.kafka.reader import bounds
from tests.support.house import House

TOPICS, PARTITIONS, RECORDS = 25, 12, 60


def test_what_was_acknowledged_of_a_topic_that_was_just_made_is_there(house: House) -> None:
    """Its partitions are still getting their leaders. With several requests on their way some topics lost records."""
    names = [f"{house.namespace.prefix}.fresh-{number}" for number in range(TOPICS)]
    # Each record is a request of its own, so that the first may be put off and the second taken.
    config = {"batch.num.messages": 1, "linger.ms": 0, "topic.metadata.refresh.fast.interval.ms": 10}
    told, held = [], []
    for name in names:
        made = house.admin.create_topics([NewTopic(name, PARTITIONS, 1)])[name]
        producer = DeliveryProducer(producer_config(house.stack.bootstrap_servers, "tests", 10_000) | config)
        made.result(10)
        fates = Fates()
        for number in range(RECORDS):
            producer.produce(name, number % PARTITIONS, None, b"x", [], fates.expect(number))
        assert fates.wait(20)
        producer.close(5)
        told.append(len(fates.delivered))
        held.append(sum(end - start for start, end in bounds(house.stack.bootstrap_servers, "tests", name).values()))
    for future in house.admin.delete_topics(names).values():
        future.result(10)
    assert held == told
