"""Reads a topic, or ranges of it, for those who need all of it and belong to no group."""

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from driftloop.common.kafka.config import Brokers, reader_config
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


# What was there is not: retention, or someone, has deleted it.
_GONE = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)

_HOPELESS = (
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
)


class ReadTimeout(TimeoutError):
    """The end of the topic was not reached in time."""


def read_to_end(brokers: Brokers | str, client_id: str, topic: str, timeout: float = 30.0) -> list[Record]:
    """Every record that `topic` holds now, by partition in order; of transactions, what was committed.

    Raises ReadTimeout, and KafkaException also when the topic does not exist.
    """
    deadline = time.monotonic() + timeout
    consumer = Consumer(reader_config(brokers, client_id))
    try:
        bounds = _bounds(consumer, topic, deadline)
        consumer.assign([TopicPartition(topic, number, low) for number, (low, _high) in bounds.items()])
        return _read(consumer, topic, {number: high for number, (_low, high) in bounds.items()}, deadline)
    finally:
        consumer.close()


def bounds(brokers: Brokers | str, client_id: str, topic: str, timeout: float = 30.0) -> dict[int, tuple[int, int]]:
    """Of each partition that is not empty the first offset that the log still holds, and the one after the last.

    Raises KafkaException, also when the topic does not exist.
    """
    consumer = Consumer(reader_config(brokers, client_id))
    try:
        return _bounds(consumer, topic, time.monotonic() + timeout)
    finally:
        consumer.close()


def last_records(brokers: Brokers | str, client_id: str, topic: str, timeout: float = 30.0) -> dict[int, Record]:
    """The last record of each partition of `topic` that is not empty.

    Raises ReadTimeout, and KafkaException also when the topic does not exist.
    """
    ends = bounds(brokers, client_id, topic, timeout)
    ranges = {number: (high - 1, high) for number, (_low, high) in ends.items()}
    return {
        record.partition: record
        for records in read_ranges(brokers, client_id, topic, ranges, timeout)
        for record in records
    }


def offsets_since(
    brokers: Brokers | str,
    client_id: str,
    topic: str,
    partitions: Iterable[int],
    instant: datetime,
    timeout: float = 30.0,
) -> dict[int, int]:
    """The first offset of each partition whose record was produced at `instant` or later; without one, none is given.

    Raises KafkaException, also when the topic does not exist.
    """
    milliseconds = round(instant.timestamp() * 1000)
    consumer = Consumer(reader_config(brokers, client_id))
    try:
        asked = [TopicPartition(topic, number, milliseconds) for number in partitions]
        found = consumer.offsets_for_times(asked, timeout)
    finally:
        consumer.close()
    for one in found:
        if one.error is not None:
            raise KafkaException(one.error)
    return {one.partition: one.offset for one in found if one.offset >= 0}


def read_ranges(
    brokers: Brokers | str,
    client_id: str,
    topic: str,
    ranges: Mapping[int, tuple[int, int]],
    patience: float = 30.0,
) -> Iterator[list[Record]]:
    """The records of each partition's offsets [first, end), some at a time as they come, a partition's in order.

    What the log does not hold, or no more, is left out: ask for `bounds` before and after. Brokers that are away are
    waited for, `patience` seconds at a time. Raises ReadTimeout, and KafkaException where waiting does not help.
    """
    left = {number: end for number, (first, end) in ranges.items() if end > first}
    consumer = Consumer(reader_config(brokers, client_id) | {"auto.offset.reset": "error"})
    try:
        consumer.assign([TopicPartition(topic, number, ranges[number][0]) for number in left])
        deadline = time.monotonic() + patience
        while left:
            if time.monotonic() > deadline:
                raise ReadTimeout(f"topic {topic!r}: nothing came for {patience:g} s: is a broker reachable?")
            waiting = len(left)
            records = _some(consumer, topic, left)
            if records:
                yield records
            if records or len(left) < waiting:
                deadline = time.monotonic() + patience
    finally:
        consumer.close()


def _some(consumer: Consumer, topic: str, left: dict[int, int]) -> list[Record]:
    """What has come of the partitions whose end is not reached; takes those out of `left` whose end is."""
    records = []
    first = consumer.poll(0.2)
    messages = [] if first is None else [first, *consumer.consume(BATCH, 0)]
    messages.reverse()
    while messages:
        # Let go of at once: what the client makes of many messages' headers keeps the collector busy.
        message = messages.pop()
        number = message.partition()
        if number not in left:
            _raise_if_fatal(message)
            continue
        if message.error() is None:
            record = record_of(message)
            if record.offset < left[number]:
                records.append(record)
            ended = record.offset + 1 >= left[number]
        else:
            ended = _ended(message)
        if ended:
            del left[number]
            # Else the client would go on fetching what nobody takes.
            consumer.pause([TopicPartition(topic, number)])
    return records


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


def _ended(message: Message) -> bool:
    """Whether an error says that nothing more of a partition can come; brokers that are away come back."""
    error = message.error()
    if error is None or error.code() in (KafkaError._PARTITION_EOF, *_GONE):
        return error is not None
    _raise_if_fatal(message)
    return False


def _raise_if_fatal(message: Message) -> None:
    error = message.error()
    if error is not None and (error.fatal() or error.code() in _HOPELESS):
        raise KafkaException(error)
