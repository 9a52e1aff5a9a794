"""Reads a topic from its beginning to its present end, for those who need all of it and belong to no group."""

import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from driftloop.common.kafka.config import reader_config
from driftloop.common.kafka.records import Record, record_of

BATCH = 500
RETRY_SECONDS = 0.1
# A topic was made, or a leader changed, a moment ago.
_LEADER_UNSETTLED = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
)


class ReadTimeout(TimeoutError):
    """The end of the topic was not reached in time."""


def read_to_end(bootstrap_servers: str, client_id: str, topic: str, timeout: float = 30.0) -> list[Record]:
    """Every record that `topic` holds now, by partition in order; of transactions, what was committed.

    Raises ReadTimeout, and KafkaException also when the topic does not exist.
    """
    deadline = time.monotonic() + timeout
    consumer = Consumer(reader_config(bootstrap_servers, client_id))
    try:
        bounds = _bounds(consumer, topic, deadline)
        consumer.assign([TopicPartition(topic, number, low) for number, (low, _high) in bounds.items()])
        return _read(consumer, topic, {number: high for number, (_low, high) in bounds.items()}, deadline)
    finally:
        consumer.close()


def _bounds(consumer: Consumer, topic: str, deadline: float) -> dict[int, tuple[int, int]]:
    """The first offset and the next one of every partition that is not empty."""
    while True:
        left = max(deadline - time.monotonic(), 0.1)
        try:
            metadata = consumer.list_topics(topic, timeout=left).topics[topic]
            if metadata.error is not None:
                raise KafkaException(metadata.error)
            bounds = {
                number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=left)
                for number in metadata.partitions
            }
            return {number: (low, high) for number, (low, high) in bounds.items() if high > low}
        except KafkaException as error:
            if error.args[0].code() not in _LEADER_UNSETTLED or time.monotonic() > deadline:
                raise
            time.sleep(RETRY_SECONDS)


def _read(consumer: Consumer, topic: str, ends: dict[int, int], deadline: float) -> list[Record]:
    records = []
    while ends:
        if time.monotonic() > deadline:
            raise ReadTimeout(f"topic {topic!r} was not read to its end in time: is a broker reachable?")
        first = consumer.poll(0.2)
        # What else has come is taken with it; a batch that waits to be full would make a short topic slow.
        for message in [] if first is None else [first, *consumer.consume(BATCH, 0)]:
            number = message.partition()
            assert number is not None
            if not _at_end(message):
                record = record_of(message)
                records.append(record)
                if record.offset + 1 < ends.get(number, 0):
                    continue
            ends.pop(number, None)
    return records


def _at_end(message: Message) -> bool:
    """Whether this says that the end was reached: the last offsets may be holes, of which no record tells."""
    error = message.error()
    if error is None:
        return False
    if error.code() != KafkaError._PARTITION_EOF:
        raise KafkaException(error)
    return True
