"""A log in memory, for tests of what comes before the log; tests/contract holds it to what the real one does."""

from collections.abc import Callable
from dataclasses import dataclass, field

from confluent_kafka import KafkaError

from driftloop.common.envelope import Outgoing
from driftloop.common.kafka.producer import OnDelivery, ProducerFull


@dataclass
class MemoryLog:
    """Takes what is published, tells each sender of its fate, then calls `on_batch` as the producer's thread would.

    `full` refuses, `failure` fails what is taken, and a `silent` log never says anything.
    """

    on_batch: Callable[[], None] = lambda: None
    taken: list[Outgoing] = field(default_factory=list)
    full: bool = False
    silent: bool = False
    failure: KafkaError | None = None

    def publish(self, outgoing: Outgoing, on_delivery: OnDelivery) -> None:
        """Take one event. Raises ProducerFull."""
        if self.full:
            raise ProducerFull("the log is full")
        self.taken.append(outgoing)
        if not self.silent:
            on_delivery(self.failure)
            self.on_batch()
