"""Publishes events directly, without an outbox: for a service whose only durable place is the log itself."""

import threading
from collections import defaultdict
from collections.abc import Callable

from driftloop.common.envelope import Outgoing, encode_event
from driftloop.common.kafka.producer import DeliveryProducer, OnDelivery
from driftloop.common.topics import TOPICS, Namespace, partition_for

_BY_NAME = {topic.name: topic for topic in TOPICS}


class Publisher:
    """Stamps `source` and a dense `sequence` on each event and sends it.

    `source` is this process's incarnation: a name that no other process, earlier or later, ever uses.
    """

    def __init__(self, producer: DeliveryProducer, namespace: Namespace, source: str) -> None:
        self._producer = producer
        self._namespace = namespace
        self._source = source
        self._next: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._lock = threading.Lock()
        self._partitions: dict[str, int] = {}

    def publish(self, outgoing: Outgoing, on_delivery: OnDelivery) -> None:
        """Send one event. Raises what `DeliveryProducer.produce` and `partitions` raise; then nothing was sent."""
        topic = self._namespace.topic(_BY_NAME[outgoing.topic])
        count = self._partitions.get(topic) or self.learn(outgoing.topic)
        partition = partition_for(outgoing.key, count)
        value = encode_event(outgoing.event)
        with self._lock:
            # One lock over number and hand-over, so that a partition's sequence is in the order of the log.
            sequence = self._next[topic, partition]
            headers = outgoing.envelope(self._source, sequence).headers()
            self._producer.produce(topic, partition, outgoing.key.encode(), value, headers, on_delivery)
            self._next[topic, partition] = sequence + 1

    def learn(self, topic: str) -> int:
        """Look up a topic's partitions (blocking); called before the first event so that no request waits for it."""
        name = self._namespace.topic(_BY_NAME[topic])
        self._partitions[name] = self._producer.partitions(name)
        return self._partitions[name]


Publish = Callable[[Outgoing, OnDelivery], None]
