"""What was read on its way to the handlers: decoded, by partition, and halved where one record spoils the rest."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import msgspec

from driftloop.common.envelope import Envelope, UndecodableMessage, decode_all, decode_envelope, decode_event
from driftloop.common.events import Event
from driftloop.common.kafka.deadletter import DeadLetter
from driftloop.common.kafka.records import Record
from driftloop.common.postgres.offsets import Source, TopicPartition
from driftloop.common.topics import Topic


# No cycle can lead through these, so that the collector need not look.
class Delivery(msgspec.Struct, frozen=True, gc=False):
    """An event as a handler gets it: with its envelope and its place in the log."""

    event: Event
    envelope: Envelope
    record: Record


class Tombstone(msgspec.Struct, frozen=True, gc=False):
    """The end of a key on a compacted topic, which tells a consumer nothing."""

    record: Record


Item = Delivery | DeadLetter | Tombstone
# In a partition the order is the log's, and no partition is empty.
Batch = Mapping[TopicPartition, Sequence[Item]]
Deliveries = Mapping[TopicPartition, Sequence[Delivery]]


def decode(records: Sequence[Record], topic: Topic) -> list[Item]:
    """The events of records, or why there is none to be had of one. One that is unusual slows all of them down."""
    rows = [one.raw_headers for one in records]
    if all(isinstance(row, tuple) for row in rows):
        found = decode_all(cast(list[tuple[bytes, ...]], rows), [one.value for one in records], topic.events)
        if found is not None:
            envelopes, events = found
            return list(map(Delivery, events, envelopes, records))
    return [_decode(one, topic) for one in records]


def _decode(record: Record, topic: Topic) -> Item:
    if record.value is None and topic.config["cleanup.policy"] == "compact":
        return Tombstone(record)
    try:
        if record.unreadable_headers:
            raise UndecodableMessage("headers", "the name of a header is not UTF-8 text")
        envelope = decode_envelope(record.headers, topic.events)
        return Delivery(decode_event(envelope.type, record.value), envelope, record)
    except UndecodableMessage as error:
        return DeadLetter(record, error.stage, type(error).__name__, error.reason)


def size(batch: Batch) -> int:
    """How many records a batch holds."""
    return sum(map(len, batch.values()))


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """Two parts of about the same size; what comes earlier in a partition is not in the later part."""
    left = size(batch) // 2
    first, second = {}, {}
    for place, items in batch.items():
        if items[:left]:
            first[place] = items[:left]
        if items[left:]:
            second[place] = items[left:]
        left = max(0, left - len(items))
    return first, second


def deliveries(batch: Batch) -> dict[TopicPartition, list[Delivery]]:
    """The events of a batch."""
    return {place: [one for one in items if isinstance(one, Delivery)] for place, items in batch.items()}


def traceparents(batch: Batch) -> Iterator[str | None]:
    """The trace contexts of a batch's events."""
    return (one.envelope.traceparent for items in batch.values() for one in items if isinstance(one, Delivery))


def dead_letters(batch: Batch) -> list[DeadLetter]:
    """What of a batch can never be handled."""
    return [one for items in batch.values() for one in items if isinstance(one, DeadLetter)]


def sequences(batch: Deliveries) -> dict[Source, list[int]]:
    """The numbers that each source gave its events of a partition; events without one are left out."""
    found: dict[Source, list[int]] = {}
    for place, events in batch.items():
        by_source: defaultdict[str, list[int]] = defaultdict(list)
        for one in events:
            envelope = one.envelope
            if envelope.sequence is not None:
                by_source[envelope.source].append(envelope.sequence)
        found.update(((place, source), numbers) for source, numbers in by_source.items())
    return found


def without_duplicates(batch: Deliveries, fresh: Mapping[Source, set[int]]) -> Deliveries:
    """Each event once: of the sources in `fresh` those with these numbers, of all others every event."""
    if not fresh:
        return batch
    left = {source: set(numbers) for source, numbers in fresh.items()}
    kept: dict[TopicPartition, list[Delivery]] = {}
    for place, events in batch.items():
        kept[place] = []
        for one in events:
            new = left.get((place, one.envelope.source))
            number = one.envelope.sequence
            if new is None or number is None:
                kept[place].append(one)
            elif number in new:
                new.discard(number)
                kept[place].append(one)
    return kept
