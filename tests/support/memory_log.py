"""A log in memory, for tests of what comes before the log; tests/contract holds it to what the real one does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from confluent_kafka import KafkaError, KafkaException

from driftloop.common.envelope import Outgoing, encode_event
from driftloop.common.kafka.producer import OnDelivery, ProducerFailed, ProducerFull
from driftloop.common.kafka.publisher import Stamped


@dataclass
class MemoryLog:
    """Takes what is published, tells each sender of its fate, then calls `on_batch` as the producer's thread would.

    `full` refuses, `failure` fails what is taken, and a `silent` log says nothing until it is told to `speak`.
    """

    on_batch: Callable[[], None] = lambda: None
    taken: list[Outgoing] = field(default_factory=list)
    records: list[Stamped] = field(default_factory=list)
    full: bool = False
    silent: bool = False
    failure: KafkaError | None = None
    _stamped: dict[tuple[tuple[str, bytes], ...], Outgoing] = field(default_factory=dict)
    _waiting: list[OnDelivery] = field(default_factory=list)

    def publish(self, outgoing: Outgoing, on_delivery: OnDelivery) -> None:
        """Take one event. Raises ProducerFull."""
        self.send(self._stamp(outgoing), on_delivery)

    def stamp(self, events: Sequence[Outgoing]) -> list[Stamped]:
        """The records of events, with the next numbers."""
        return [self._stamp(one) for one in events]

    def _stamp(self, outgoing: Outgoing) -> Stamped:
        headers = tuple(outgoing.headers("memory/1", len(self._stamped)))
        self._stamped[headers] = outgoing
        return Stamped(outgoing.topic, 0, outgoing.key.encode(), encode_event(outgoing.event), headers)

    def send(self, stamped: Stamped, on_delivery: OnDelivery) -> None:
        """Take one record. Raises ProducerFull."""
        if self.full:
            raise ProducerFull("the log is full")
        self.records.append(stamped)
        # What another process stamped came out of a spool, and is no event of this one's.
        if stamped.headers in self._stamped:
            self.taken.append(self._stamped[stamped.headers])
        if self.silent:
            self._waiting.append(on_delivery)
        else:
            on_delivery(self.failure)
            self.on_batch()

    def send_all(self, records: Sequence[Stamped], on_delivery: Callable[[int, object], None]) -> None:
        """Take records, and tell at once which are not taken."""
        for place, record in enumerate(records):
            try:
                self.send(record, partial(on_delivery, place))
            except (ProducerFull, ProducerFailed, KafkaException) as error:
                on_delivery(place, error)

    def speak(self) -> None:
        """Tell the fates of what was taken in silence."""
        waiting, self._waiting = self._waiting, []
        for on_delivery in waiting:
            on_delivery(self.failure)
        self.on_batch()
