"""Publishes events directly, without an outbox: for a service whose only durable place is the log itself."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from driftloop.common.envelope import Outgoing, encode_event
from driftloop.common.kafka.producer import DeliveryProducer, OnDelivery
from driftloop.common.topics import TOPICS, Namespace, partition_for

# How long records that may go anywhere go to one partition: longer than a round trip, shorter than anybody's batch.
MOMENT_SECONDS = 0.02


class Stamped(NamedTuple):
    """A record as it goes into the log, its place in its source's sequence included: sent again, it is the same."""

    topic: str
    partition: int
    key: bytes
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


class Publisher:
    """Stamps `source` and a dense `sequence` on each event and sends it.

    `source` is this process's incarnation: a name that no other process, earlier or later, ever uses.
    """

    def __init__(self, producer: DeliveryProducer, namespace: Namespace, source: str) -> None:
        self._producer = producer
        self._source = source
        # By topic, the next number of each partition.
        self._next: dict[str, list[int]] = {}
        self._lock = threading.Lock()
        self._until, self._moment = 0.0, 0
        self._names = {topic.name: namespace.topic(topic) for topic in TOPICS}

    def publish(self, outgoing: Outgoing, on_delivery: OnDelivery) -> None:
        """Send one event. Raises what `send` and `learn` raise; then nothing was sent, and no number is used up."""
        # One lock over number and hand-over, so that a number is used up with the record that has it.
        with self._lock:
            stamped = self._stamp(outgoing)
            self.send(stamped, on_delivery)
            self._next[stamped.topic][stamped.partition] += 1

    def stamp(self, events: Sequence[Outgoing]) -> list[Stamped]:
        """The records of events, whose numbers are their own whatever becomes of them. Raises what `learn` raises."""
        records = []
        with self._lock:
            for one in events:
                record = self._stamp(one)
                self._next[record.topic][record.partition] += 1
                records.append(record)
        return records

    def _stamp(self, outgoing: Outgoing) -> Stamped:
        topic, key, event = outgoing.topic, outgoing.key, outgoing.event
        name = self._names[topic]
        numbers = self._next.get(name)
        if numbers is None:
            self.learn(topic)
            numbers = self._next[name]
        count = len(numbers)
        partition = self._moments(count) if outgoing.alone else partition_for(key, count)
        headers = tuple(outgoing.headers(self._source, numbers[partition]))
        return Stamped(name, partition, key.encode(), encode_event(event), headers)

    def _moments(self, count: int) -> int:
        """The partition of this moment: what goes to one goes out together, and costs the broker one request."""
        now = time.monotonic()
        if now >= self._until:
            self._until = now + MOMENT_SECONDS
            self._moment = random.getrandbits(32)
        return self._moment % count

    def send(self, stamped: Stamped, on_delivery: OnDelivery) -> None:
        """Hand a record over. Raises what `DeliveryProducer.produce` raises; then nothing was sent."""
        topic, partition, key, value, headers = stamped
        self._producer.produce(topic, partition, key, value, headers, on_delivery)

    def send_all(self, records: Sequence[Stamped], on_delivery: Callable[[int, object], None]) -> None:
        """Hand records over; each one's fate, told with its place among them, is also that it was not taken."""
        self._producer.produce_all(records, on_delivery)

    def learn(self, topic: str) -> None:
        """Look up a topic's partitions (blocking); called before the first event so that no request waits for it.

        Raises what `DeliveryProducer.partitions` raises.
        """
        name = self._names[topic]
        count = self._producer.partitions(name)
        known = self._next.setdefault(name, [])
        known += [0] * (count - len(known))


Publish = Callable[[Outgoing, OnDelivery], None]
