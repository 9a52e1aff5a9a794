"""Reads a topic from its beginning to its present end, for those who need all of it and belong to no group."""

import time

from confluent_kafka import Consumer, KafkaException, TopicPartition

from driftloop.common.kafka.config import reader_config
from driftloop.common.kafka.records import Record, record_of


class ReadTimeout(TimeoutError):
    """The end of the topic was not reached in time."""


def read_to_end(bootstrap_servers: str, client_id: str, topic: str, timeout: float = 30.0) -> list[Record]:
    """Every record that `topic` holds now, by partition in order. Raises ReadTimeout, KafkaException."""
    consumer = Consumer(reader_config(bootstrap_servers, client_id) | {"enable.partition.eof": False})
    try:
        partitions = consumer.list_topics(topic, timeout=timeout).topics[topic].partitions
        ends = {}
        for number in partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=timeout)
            if high > low:
                ends[number] = (low, high)
        consumer.assign([TopicPartition(topic, number, low) for number, (low, _high) in ends.items()])
        return _read(consumer, topic, {number: high for number, (_low, high) in ends.items()}, timeout)
    finally:
        consumer.close()


def _read(consumer: Consumer, topic: str, ends: dict[int, int], timeout: float) -> list[Record]:
    records = []
    deadline = time.monotonic() + timeout
    while any(_position(consumer, topic, number) < end for number, end in ends.items()):
        if time.monotonic() > deadline:
            raise ReadTimeout(f"topic {topic!r} was not read to its end in {timeout:g} s: is a broker reachable?")
        for message in consumer.consume(500, 0.2):
            if message.error() is not None:
                raise KafkaException(message.error())
            records.append(record_of(message))
    return records


def _position(consumer: Consumer, topic: str, number: int) -> int:
    """The next offset to be handed out; compaction and aborted transactions leave holes that only it knows."""
    position = consumer.position([TopicPartition(topic, number)])[0].offset
    return max(position, 0)
