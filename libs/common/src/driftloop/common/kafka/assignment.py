"""Which partitions a consumer holds, where each stands, and what happens when the group shares them out anew."""

import logging
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import psycopg
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from driftloop.common.kafka.admin import TopicIdentity, TopicsError, identities
from driftloop.common.kafka.records import Record, record_of
from driftloop.common.postgres import offsets
from driftloop.common.postgres.pool import Pool, is_transient

logger = logging.getLogger(__name__)

# With what each try may itself wait for, far below `max.poll.interval.ms`: the group waits for us meanwhile.
BACKOFF_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
WATERMARK_SECONDS = 5.0

Names = Iterable[offsets.TopicPartition]
Owned = Mapping[offsets.TopicPartition, "Held"]


class Halted(RuntimeError):
    """Going on would lose or ruin something; a person must decide."""


@dataclass(eq=False)
class Held:
    """A partition in our hands: `position` is what is committed as next, `read` what the client hands out next.

    Whoever gets a partition back after losing it gets another one of these.
    """

    position: int
    read: int


class Assignment:
    """The partitions of one consumer. All is called from its thread, the call-backs out of `poll` and `close`."""

    def __init__(
        self, consumer: str, pool: Pool, known: Mapping[str, TopicIdentity], admin: AdminClient, stop: threading.Event
    ) -> None:
        self.held: dict[offsets.TopicPartition, Held] = {}
        self.joined = False
        self.closing = False
        self.failure: Exception | None = None
        self._consumer = consumer
        self._pool = pool
        self._known = known
        self._admin = admin
        self._stop = stop

    def on_assign(self, client: Consumer, partitions: list[TopicPartition]) -> None:
        """Begin at the stored offsets. What goes wrong is kept in `failure`: the client would lose an exception."""
        try:
            starts = self._starts_in_the_end(client, partitions) if partitions else {}
            for partition in partitions:
                partition.offset = starts[partition.topic, partition.partition]
            client.incremental_assign(partitions)
            self.held.update((partition, Held(start, start)) for partition, start in starts.items())
            self.joined = True
        except Exception as error:  # noqa: BLE001 - kept for the loop, which raises it
            self.failure = error

    def on_revoke(self, client: Consumer, partitions: list[TopicPartition]) -> None:
        """Let go. The list may name partitions that were never ours, for which the client would refuse all."""
        # A client that closes may know of no assignment any more, and says so by an exception that none can catch; it
        # lets go by itself.
        if not self.closing:
            ours = {(one.topic, one.partition) for one in client.assignment()}
            leaving = [one for one in partitions if (one.topic, one.partition) in ours]
            client.incremental_unassign(leaving)
        for one in partitions:
            self.held.pop((one.topic, one.partition), None)

    def on_lost(self, client: Consumer, partitions: list[TopicPartition]) -> None:
        """The group has given up on us; others may own these already."""
        self.joined = False
        self.on_revoke(client, partitions)

    def take(self, messages: list[Message], most: int) -> dict[offsets.TopicPartition, list[Record]]:
        """Of the last messages in the list, so many at most, the last one first: the records that are ours and new.

        They are gone from the list. What the client read before a partition was taken away may come after it was given
        back; then it is not new.
        """
        taken: defaultdict[offsets.TopicPartition, list[Record]] = defaultdict(list)
        for _ in range(min(most, len(messages))):
            # Let go at once, so that the next one is taken apart in the same memory.
            record = record_of(messages.pop())
            place = record.topic, record.partition
            held = self.held.get(place)
            if held is not None and record.offset >= held.read:
                held.read = record.offset + 1
                taken[place].append(record)
        return taken

    def owned(self, names: Names) -> Owned:
        """What we hold of these partitions."""
        return {name: self.held[name] for name in names if name in self.held}

    def still(self, owned: Owned, names: Names) -> bool:
        """Whether none of these partitions was lost since, not even if it was given back."""
        return all(self.held.get(name) is owned[name] for name in names)

    def reposition(self, client: Consumer) -> None:
        """Read all partitions again from where the database says.

        Raises psycopg.Error, and Halted if it says nothing of one.
        """
        with self._pool.connection() as connection:
            stored = offsets.read_offsets(connection, self._consumer, self.held)
        for (topic, number), held in self.held.items():
            if (topic, number) not in stored:
                raise Halted(
                    f"the stored offset of {topic}/{number} was deleted while consumer {self._consumer!r} ran: "
                    "restart it to read that partition from its beginning"
                )
            held.position = held.read = stored[topic, number].next
        self.seek(client)

    def seek(self, client: Consumer) -> None:
        """Have the client hand out next what we have not taken yet."""
        for (topic, number), held in self.held.items():
            client.seek(TopicPartition(topic, number, held.read))

    def _starts_in_the_end(
        self, client: Consumer, partitions: Sequence[TopicPartition]
    ) -> dict[offsets.TopicPartition, int]:
        for delay in (*BACKOFF_SECONDS, None):
            try:
                return self._starts(client, partitions)
            except (psycopg.Error, KafkaException, TopicsError) as error:
                if isinstance(error, psycopg.Error) and not is_transient(error):
                    raise
                # Inside a rebalance there is nothing to poll for; heartbeats go on.
                if delay is None or self._stop.wait(delay):
                    raise
                logger.warning("the stored offsets are asked for again", extra={"error": type(error).__name__})
        raise AssertionError("unreachable")

    def _starts(self, client: Consumer, partitions: Sequence[TopicPartition]) -> dict[offsets.TopicPartition, int]:
        names = [(one.topic, one.partition) for one in partitions]
        self._check_known({topic for topic, _ in names})
        with self._pool.connection() as connection:
            stored = offsets.read_offsets(connection, self._consumer, names)
        lows = {}
        for topic, number in names:
            if (topic, number) not in stored:
                lows[topic, number], _high = client.get_watermark_offsets(
                    TopicPartition(topic, number), timeout=WATERMARK_SECONDS
                )
        if lows:
            with self._pool.connection() as connection:
                for (topic, number), low in lows.items():
                    known = self._known[topic]
                    first = offsets.StoredOffset(low, known.cluster_id, known.topic_id)
                    offsets.insert_offset(connection, self._consumer, (topic, number), first)
                stored = offsets.read_offsets(connection, self._consumer, names)
        for (topic, number), offset in stored.items():
            known = self._known[topic]
            if (offset.cluster_id, offset.topic_id) != (known.cluster_id, known.topic_id):
                raise Halted(
                    f"the stored offset of {topic}/{number} counts in another log: {remade(topic, self._consumer)}"
                )
        return {name: stored[name].next for name in names}

    def _check_known(self, topics: set[str]) -> None:
        for topic, found in identities(self._admin, topics).items():
            known = self._known[topic]
            if (found.cluster_id, found.topic_id) != (known.cluster_id, known.topic_id):
                raise Halted(f"this is another log than when this process started: {remade(topic, self._consumer)}")


def remade(topic: str, consumer: str) -> str:
    """What to do about a topic or a cluster that was made anew."""
    return (
        f"topic {topic!r} (or its cluster) was deleted and made anew, so that records may be lost. Decide, then delete "
        f"the rows of consumer {consumer!r} and this topic from table offsets to read it from its beginning (keep "
        "those of table seen: they recognise what was counted), and restart"
    )
