"""A consumer that counts outcomes into a table: in a thread of the test, or in a process that the test may kill."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from psycopg import Connection

from driftloop.common.envelope import Envelope, encode_event
from driftloop.common.events import OutcomeReported, type_name
from driftloop.common.kafka.admin import TopicIdentity, admin_client, identities
from driftloop.common.kafka.config import consumer_config, producer_config
from driftloop.common.kafka.consumer import ConsumerLoop, Delivery, Handler, Subscription
from driftloop.common.kafka.producer import DeliveryProducer
from driftloop.common.postgres.pool import Pool, open_pool
from driftloop.common.topics import OUTCOMES, Namespace, Topic, partition_for
from tests.support.house import House
from tests.support.predictions import START
from tests.support.waiting import TIMEOUT_SECONDS, wait_until

SCHEMA = "trainer"
NAME = "counter"
# Value, key, headers, partition: a record as `House.produce_all` takes it.
Raw = tuple[bytes | None, str | None, Sequence[tuple[str, bytes]], int | None]
# A member hears soon that others came or went. A pause of a busy machine does not cost it its place.
STEADY = {"session.timeout.ms": 30_000, "heartbeat.interval.ms": 250}
# A dead member is missed soon, so that its partitions are handed over within a test.
QUICK = STEADY | {"session.timeout.ms": 1_000}


def count(connection: Connection, batch: Sequence[Delivery]) -> None:
    """A handler: adds one for each event of each id."""
    ids = [one.event.prediction_id for one in batch if isinstance(one.event, OutcomeReported)]
    connection.execute(
        "INSERT INTO counted SELECT id, count(*) FROM unnest(%s::text[]) AS id GROUP BY id ORDER BY id "
        "ON CONFLICT (id) DO UPDATE SET n = counted.n + excluded.n",
        [ids],
    )


def counting_loop(
    bootstrap_servers: str,
    namespace: Namespace,
    known: Mapping[str, TopicIdentity],
    pool: Pool,
    producer: DeliveryProducer,
    handler: Handler = count,
    topic: Topic = OUTCOMES,
    batch_size: int = 500,
    config: Mapping[str, Any] = STEADY,
) -> ConsumerLoop:
    """The loop of one topic with one handler, built as a service's `main` builds it.

    Every other call of the handler works ahead: what tests say of the loop holds with and without that.
    """
    name = namespace.topic(topic)
    works_ahead = itertools.cycle([True, False])

    def handle(connection: Connection, batch: Sequence[Delivery]) -> None:
        if next(works_ahead):
            loop.work_ahead()
        handler(connection, batch)

    loop = ConsumerLoop(
        config=consumer_config(bootstrap_servers, "tests", namespace.group(NAME)) | dict(config),
        name=NAME,
        subscriptions={name: Subscription(topic, handle)},
        identities=known,
        pool=pool,
        producer=producer,
        batch_size=batch_size,
    )
    return loop


@dataclass
class Running:
    """A loop in a thread; `error` is what it raised."""

    loop: ConsumerLoop
    stop: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None

    def __post_init__(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.loop.run(self.stop)
        except BaseException as error:  # noqa: BLE001 - kept for the test, which looks at it
            self.error = error

    def end(self) -> None:
        """Stop it, and wait until it has stopped."""
        self.stop.set()
        self.join()

    def join(self, timeout: float = TIMEOUT_SECONDS) -> None:
        """Wait until it has ended by itself."""
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "the consumer loop did not end"

    def ended(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()


class Counting:
    """What the tests of the consumer loop share: a table of counts, loops that fill it, and numbered events."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.pool = house.pool(SCHEMA, max_size=8)
        self.producer = DeliveryProducer(producer_config(house.stack.bootstrap_servers, "tests", 10_000))
        self._running: list[Running] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._numbers: defaultdict[tuple[str, int], Iterator[int]] = defaultdict(itertools.count)
        with house.database(SCHEMA) as connection:
            connection.execute("CREATE TABLE counted (id text PRIMARY KEY, n bigint NOT NULL)")

    def close(self) -> None:
        """End what is still running."""
        for process in self._processes:
            process.kill()
            process.wait()
        for running in self._running:
            running.stop.set()
        for running in self._running:
            running.join()
        self.producer.close(1)

    # --- consumers

    def loop(self, handler: Handler = count, topic: Topic = OUTCOMES, **rest: Any) -> ConsumerLoop:
        """A loop in this process, not yet run."""
        bootstrap, namespace = self.house.stack.bootstrap_servers, self.house.namespace
        own: dict[str, Any] = {"pool": self.pool, "known": self.house.identities, "producer": self.producer}
        return counting_loop(bootstrap, namespace, handler=handler, topic=topic, **(own | rest))

    def start(self, handler: Handler = count, topic: Topic = OUTCOMES, **rest: Any) -> Running:
        """A loop in a thread of this process."""
        running = Running(self.loop(handler, topic, **rest))
        self._running.append(running)
        return running

    def join_group(self, handler: Handler = count, topic: Topic = OUTCOMES, **rest: Any) -> Running:
        """A loop in a thread, once it is a member of its group."""
        running = self.start(handler, topic, **rest)
        wait_until(lambda: running.loop.state.joined or running.ended(), "the loop joins its group")
        return running

    @contextmanager
    def consuming(self, handler: Handler = count, topic: Topic = OUTCOMES, **rest: Any) -> Iterator[Running]:
        """A loop in a thread for the time of a block."""
        running = self.start(handler, topic, **rest)
        try:
            yield running
        finally:
            running.end()

    def spawn(self) -> subprocess.Popen[bytes]:
        """A loop in a process of its own, which handles a few records at a time."""
        own = {
            "COUNTING_BOOTSTRAP": self.house.stack.bootstrap_servers,
            "COUNTING_NAMESPACE": self.house.namespace.prefix,
            "COUNTING_DATABASE": self.house.database_url(SCHEMA),
        }
        log = (self.house.folder / f"counting-{len(self._processes)}.log").open("wb")
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.counting"], env=os.environ | own, stdout=log, stderr=log
            )
        self._processes.append(process)
        return process

    # --- what is counted

    def counts(self) -> dict[str, int]:
        """How often each id was counted."""
        with self.house.database(SCHEMA) as connection:
            rows = connection.execute("SELECT id, n FROM counted").fetchall()
        return dict(rows)

    def total(self) -> int:
        """How many events were counted."""
        return sum(self.counts().values())

    def wait_for(self, total: int) -> dict[str, int]:
        """The counts, as soon as there are so many."""
        wait_until(lambda: self.total() >= total, f"{total} events are counted")
        return self.counts()

    def next_offsets(self, topic: Topic = OUTCOMES) -> dict[int, int]:
        """The stored offsets by partition."""
        with self.house.database(SCHEMA) as connection:
            rows = connection.execute(
                "SELECT partition, next FROM offsets WHERE consumer = %s AND topic = %s",
                [NAME, self.house.namespace.topic(topic)],
            ).fetchall()
        return dict(rows)

    def wait_until_read(self, topic: Topic = OUTCOMES) -> None:
        """Wait until the stored offsets are at the topic's end."""
        ends: dict[int, int] = {}
        for record in self.house.records(topic):
            ends[record.partition] = max(ends.get(record.partition, 0), record.offset + 1)

        def all_read() -> bool:
            stored = self.next_offsets(topic)
            return all(stored.get(partition, 0) >= end for partition, end in ends.items())

        wait_until(all_read, f"{topic.name} is read to {ends}")

    def members(self) -> int:
        """How many members the group has now."""
        group = self.house.namespace.group(NAME)
        return len(self.house.admin.describe_consumer_groups([group])[group].result(10).members)

    # --- what is produced

    def produce(self, ids: Sequence[str], source: str | None = "lab/1", partition: int | None = None) -> list[Raw]:
        """Outcomes with these ids; with a source they are numbered, densely for each partition. Returns the records."""
        records: list[Raw] = []
        for id_ in ids:
            where = partition if partition is not None else partition_for(id_, OUTCOMES.partitions)
            sequence = next(self._numbers[source, where]) if source else None
            envelope = Envelope(f"outcome:{id_}", source or "", type_name(OutcomeReported), START, sequence)
            value = encode_event(OutcomeReported(prediction_id=id_, label=1))
            records.append((value, id_, envelope.headers(), where))
        self.produce_again(records)
        return records

    def produce_again(self, records: Sequence[Raw]) -> None:
        """Put the same records into the log once more."""
        self.house.produce_all(OUTCOMES, records)


def main() -> None:
    """Count until killed or told to stop."""
    namespace = Namespace(os.environ["COUNTING_NAMESPACE"])
    bootstrap = os.environ["COUNTING_BOOTSTRAP"]
    pool = open_pool(os.environ["COUNTING_DATABASE"], namespace.schema(SCHEMA), "counting", 2)
    producer = DeliveryProducer(producer_config(bootstrap, "counting", 10_000))
    known = identities(admin_client(bootstrap), [namespace.topic(OUTCOMES)])
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())

    def slowly(connection: Connection, batch: Sequence[Delivery]) -> None:
        count(connection, batch)
        # So that a signal at any time has a good chance to fall into a transaction.
        time.sleep(0.01)

    counting_loop(bootstrap, namespace, known, pool, producer, slowly, batch_size=40, config=QUICK).run(stop)
    producer.close(2)
    pool.close()


if __name__ == "__main__":
    main()
