"""The outbox: what is committed is published, in order, and recognisably the same if it is sent twice."""

import base64
import random
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from prometheus_client import REGISTRY
from psycopg.errors import UndefinedTable

from driftloop.common.clock import utc_now
from driftloop.common.envelope import Outgoing, decode_envelope
from driftloop.common.events import ModelStatus
from driftloop.common.kafka.config import producer_config
from driftloop.common.kafka.producer import DeliveryProducer
from driftloop.common.kafka.records import Record
from driftloop.common.postgres import outbox
from driftloop.common.postgres.outbox import OutboxDrainer, emit
from driftloop.common.postgres.pool import Pool
from driftloop.common.topics import MODEL_STATUS, PREDICTIONS, Topic, partition_for
from tests.support.draining import SCHEMA, SERVICE, spawn_drainer
from tests.support.house import House
from tests.support.predictions import START, prediction_of_nothing
from tests.support.waiting import TIMEOUT_SECONDS, wait_until

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Drainers:
    """Drainers of one house's outbox, each with a producer of its own."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.pool = house.pool(SCHEMA, max_size=6)
        self._running: list[tuple[threading.Thread, threading.Event, DeliveryProducer]] = []

    def start(self) -> OutboxDrainer:
        """Drain in a thread."""
        producer = DeliveryProducer(producer_config(self.house.stack.bootstrap_servers, "tests", 120_000))
        drainer = OutboxDrainer(self.pool, producer, self.house.namespace, SERVICE, self.house.stack.bootstrap_servers)
        stop = threading.Event()
        thread = threading.Thread(target=drainer.run, args=[stop], daemon=True)
        thread.start()
        self._running.append((thread, stop, producer))
        return drainer

    def stop_all(self) -> None:
        """Stop every drainer, and wait for it."""
        for _thread, stop, _producer in self._running:
            stop.set()
        for thread, _stop, producer in self._running:
            thread.join(TIMEOUT_SECONDS)
            assert not thread.is_alive(), "a drainer did not stop"
            producer.close(1)
        self._running.clear()

    @contextmanager
    def draining(self) -> Iterator[OutboxDrainer]:
        """A drainer for the time of a block."""
        yield self.start()
        self.stop_all()


@pytest.fixture
def drainers(house: House) -> Iterator[Drainers]:
    """Drainers of the house's outbox, none of which is running yet."""
    drainers = Drainers(house)
    yield drainers
    drainers.stop_all()


def outgoing(id_: str, topic: Topic = PREDICTIONS) -> Outgoing:
    """An event whose key is the part of its id before the colon."""
    return Outgoing(topic.name, id_.partition(":")[0], prediction_of_nothing(), id_, START, TRACE)


def emit_all(pool: Pool, ids: Sequence[str]) -> None:
    with pool.connection() as connection:
        emit(connection, (outgoing(id_) for id_ in ids))


def waiting(house: House) -> int:
    """How many rows are still in the outbox."""
    with house.database(SCHEMA) as connection:
        row = connection.execute("SELECT count(*) FROM outbox").fetchone()
    assert row is not None
    return int(row[0])


def fewer_wait(house: House, before: int) -> bool:
    return waiting(house) < before


def wait_until_drained(house: House) -> None:
    wait_until(lambda: waiting(house) == 0, "the outbox is empty")


def sequence_of(record: Record) -> int:
    sequence = decode_envelope(record.headers, PREDICTIONS.events).sequence
    assert sequence is not None
    return sequence


def published_ids(house: House) -> list[str]:
    """The ids of what was published, by partition in order."""
    return [record.headers["ce_id"].decode() for record in house.records(PREDICTIONS) if "ce_id" in record.headers]


def first_by_key(ids: Sequence[str]) -> dict[str, list[str]]:
    """Ids by key, each as often as it differs from what came before it: in the order of their first arrival."""
    found: dict[str, list[str]] = {}
    for id_ in dict.fromkeys(ids):
        found.setdefault(id_.partition(":")[0], []).append(id_)
    return found


def shown(name: str) -> float | None:
    return REGISTRY.get_sample_value(f"driftloop_outbox_{name}", {"shard": "0"})


def test_only_who_drains_shows_what_waits_and_for_how_long(house: House, drainers: Drainers) -> None:
    """The broker refuses the row, so that it stays."""
    set_most_bytes(house, PREDICTIONS, 1)
    with drainers.pool.connection() as connection:
        emit(connection, [outgoing("key:1")._replace(time=utc_now() - timedelta(hours=1))])
    with drainers.draining():
        wait_until(lambda: shown("rows") == 1, "a row waits")
        assert 3600 <= (shown("oldest_seconds") or 0) < 3700
        with house.database(SCHEMA) as connection:
            connection.execute("DELETE FROM outbox")
        wait_until(lambda: (shown("rows"), shown("oldest_seconds")) == (0, 0), "nothing waits")
    assert (shown("rows"), shown("oldest_seconds")) == (None, None)


def test_what_is_committed_is_published_with_its_envelope(house: House, drainers: Drainers) -> None:
    with drainers.draining() as drainer:
        emit_all(drainers.pool, ["key:1"])
        drainer.wake()
        wait_until_drained(house)
    (record,) = house.records(PREDICTIONS)
    envelope = decode_envelope(record.headers, PREDICTIONS.events)
    assert (envelope.id, envelope.time, envelope.sequence) == ("key:1", START, 0)
    # A span of its own in the same trace.
    assert envelope.traceparent is not None
    assert (envelope.traceparent[:36], envelope.traceparent[-3:]) == (TRACE[:36], TRACE[-3:])
    assert envelope.traceparent != TRACE
    assert envelope.source.startswith(f"{SERVICE}/outbox-0/")
    assert record.key == b"key"
    assert record.partition == partition_for("key", PREDICTIONS.partitions)


def test_what_is_rolled_back_is_never_published(house: House, drainers: Drainers) -> None:
    with drainers.draining():
        with drainers.pool.connection() as connection:
            emit(connection, [outgoing("key:never")])
            connection.rollback()
        emit_all(drainers.pool, ["key:1"])
        wait_until_drained(house)
    assert published_ids(house) == ["key:1"]


def test_a_tombstone_is_a_record_without_a_value(house: House, drainers: Drainers) -> None:
    with drainers.pool.connection() as connection:
        emit(connection, [Outgoing(MODEL_STATUS.name, "gone", None, "tombstone:gone", START)])
    with drainers.draining():
        wait_until_drained(house)
    (record,) = house.records(MODEL_STATUS)
    assert (record.key, record.value) == (b"gone", None)


def test_events_of_a_key_are_published_in_their_order(house: House, drainers: Drainers) -> None:
    ids = [f"k{n % 7}:{n:04}" for n in range(1_400)]
    with drainers.draining():
        for start in range(0, len(ids), 100):
            emit_all(drainers.pool, ids[start : start + 100])
        wait_until_drained(house)
    published = published_ids(house)
    assert len(published) == len(ids)
    assert first_by_key(published) == first_by_key(ids)


def test_numbers_are_dense_for_each_partition_and_go_on_after_a_restart(house: House, drainers: Drainers) -> None:
    for part in range(3):
        emit_all(drainers.pool, [f"k{n}:{part}" for n in range(40)])
        with drainers.draining():
            wait_until_drained(house)
    numbers: dict[int, list[int]] = {}
    for record in house.records(PREDICTIONS):
        numbers.setdefault(record.partition, []).append(sequence_of(record))
    assert numbers == {partition: list(range(len(found))) for partition, found in numbers.items()}
    assert len({record.headers["ce_source"] for record in house.records(PREDICTIONS)}) == 1


def test_killed_at_random_times_it_publishes_everything_in_order(house: House, drainers: Drainers) -> None:
    # So many that none of the three comes to their end, however late the kill is.
    ids = [f"k{n % 7}:{n:04}" for n in range(8_000)]
    emit_all(drainers.pool, ids)
    chance = random.Random(3)
    for _ in range(3):
        process = spawn_drainer(house)
        before = waiting(house)
        wait_until(partial(fewer_wait, house, before), "it drains")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0, 0.1))
        process.kill()
        process.wait()
    assert waiting(house) > 0, "it was never killed in the middle"
    with drainers.draining():
        wait_until_drained(house)
    records = house.records(PREDICTIONS)
    assert first_by_key([record.headers["ce_id"].decode() for record in records]) == first_by_key(ids)
    # What was sent twice is recognised: one id is one (partition, source, sequence).
    names = {(r.partition, r.headers["ce_source"], r.headers["ce_sequence"]): r.headers["ce_id"] for r in records}
    assert len(names) == len(set(names.values())) == len(ids)


def test_of_two_drainers_one_works_and_the_other_takes_over_when_its_session_ends(
    house: House, drainers: Drainers
) -> None:
    first, second = spawn_drainer(house), spawn_drainer(house)
    try:
        for part in range(3):
            emit_all(drainers.pool, [f"k{n % 7}:{part}{n:03}" for n in range(200)])
            wait_until_drained(house)
            owner = wait_until(lambda: lock_owner(house), "one holds the lock")
            with house.database(SCHEMA) as connection:
                connection.execute("SELECT pg_terminate_backend(%s)", [owner])
        # No record twice: only one of them had drained at a time.
        assert len(published_ids(house)) == 600
        first.kill()
        emit_all(drainers.pool, ["k1:last"])
        wait_until_drained(house)
    finally:
        for process in (first, second):
            process.kill()
            process.wait()
    assert set(published_ids(house)) == {f"k{n % 7}:{part}{n:03}" for part in range(3) for n in range(200)} | {
        "k1:last"
    }


def lock_owner(house: House) -> int | None:
    """The server process of the session that holds this house's shard."""
    with house.database(SCHEMA) as connection:
        row = connection.execute(
            "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid) "
            "WHERE locktype = 'advisory' AND granted AND usename = %s",
            [house.namespace.role(SCHEMA)],
        ).fetchone()
    return int(row[0]) if row else None


def test_a_drainer_that_stops_leaves_no_lock_behind(house: House, drainers: Drainers) -> None:
    with drainers.draining():
        wait_until(lambda: lock_owner(house), "it holds the lock")
    assert lock_owner(house) is None


def test_an_error_between_lock_and_draining_leaves_no_lock_behind(house: House, drainers: Drainers) -> None:
    with house.database(SCHEMA) as connection:
        connection.execute("ALTER TABLE outbox_shards RENAME TO elsewhere")
    producer = DeliveryProducer(producer_config(house.stack.bootstrap_servers, "tests"))
    drainer = OutboxDrainer(drainers.pool, producer, house.namespace, SERVICE, house.stack.bootstrap_servers)
    with pytest.raises(UndefinedTable, match="outbox_shards"):
        drainer.run(threading.Event())
    assert lock_owner(house) is None
    producer.close(1)


@contextmanager
def refusing_records(house: House, topic: Topic) -> Iterator[None]:
    """A topic whose broker takes nothing for the time of a block: every record is too large for it."""
    set_most_bytes(house, topic, 1)
    wait_until(lambda: refuses(house, topic), "the broker does what it was told")
    yield
    set_most_bytes(house, topic, 1_048_588)


def refuses(house: House, topic: Topic) -> bool:
    """Whether the broker takes no record; one that it does take bears no id, and is not counted as published."""
    try:
        house.produce(topic, b"a probe")
    except AssertionError as error:
        # Under load it may fail for another reason, which says nothing of the limit.
        return "MSG_SIZE_TOO_LARGE" in str(error)
    return False


def set_most_bytes(house: House, topic: Topic, size: int) -> None:
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, house.namespace.topic(topic), incremental_configs=[entry])
    for future in house.admin.incremental_alter_configs([resource]).values():
        future.result(10)


def test_rows_stay_until_the_broker_has_acknowledged_them(house: House, drainers: Drainers) -> None:
    ids = [f"k{n % 3}:{n:02}" for n in range(30)]
    with drainers.draining(), refusing_records(house, PREDICTIONS):
        emit_all(drainers.pool, ids)
        wait_until(lambda: refused(house) >= 60, "it has tried twice")
        assert waiting(house) == 30
    with drainers.draining():
        wait_until_drained(house)
    assert first_by_key(published_ids(house)) == first_by_key(ids)


def refused(house: House) -> float:
    """How often the broker has refused a record of this house's predictions."""
    name = {"topic": house.namespace.topic(PREDICTIONS)}
    return REGISTRY.get_sample_value("driftloop_produce_failed_total", name) or 0


def numbered(house: House) -> int:
    with house.database(SCHEMA) as connection:
        row = connection.execute("SELECT count(*) FROM outbox WHERE sequence IS NOT NULL").fetchone()
    assert row is not None
    return int(row[0])


def test_a_topic_that_takes_nothing_holds_up_no_other(house: House, drainers: Drainers) -> None:
    status = ModelStatus(
        model_name="m", replica="r", revision=1, model_version=1, since=START, reported_at=START
    )  # fmt: skip
    with drainers.draining(), refusing_records(house, MODEL_STATUS):
        with drainers.pool.connection() as connection:
            emit(connection, [Outgoing(MODEL_STATUS.name, "r", status, "status:1", START), outgoing("key:1")])
        wait_until(lambda: published_ids(house), "the other topic's event is published")
        wait_until(lambda: waiting(house) == 1, "only that topic's row waits")


def test_after_a_row_that_was_not_acknowledged_its_key_is_sent_again_in_order(house: House, drainers: Drainers) -> None:
    big = Outgoing(PREDICTIONS.name, "key", huge(1_200_000), "key:2-too-big-for-the-broker", START)
    with drainers.pool.connection() as connection:
        emit(connection, [outgoing("key:1"), big, outgoing("key:3"), outgoing("other:1")])
    with drainers.draining():
        wait_until(lambda: waiting(house) == 2, "what comes before it and other keys are done")
        with house.database(SCHEMA) as connection:
            connection.execute("DELETE FROM outbox WHERE event_id = %s", [big.id])
        wait_until_drained(house)
    of_key = [id_ for id_ in published_ids(house) if id_.startswith("key")]
    assert list(dict.fromkeys(of_key)) == ["key:1", "key:3"]
    assert of_key[-1] == "key:3"


def test_nothing_is_sent_past_a_row_that_the_client_refuses(house: House, drainers: Drainers) -> None:
    big = Outgoing(PREDICTIONS.name, "key", huge(3_000_000), "key:2-too-big-for-the-client", START)
    with drainers.pool.connection() as connection:
        emit(connection, [outgoing("key:1"), big, outgoing("key:3")])
    with drainers.draining():
        wait_until(lambda: waiting(house) == 2, "what comes before it is done")
        assert published_ids(house) == ["key:1"]


def huge(size: int) -> ModelStatus:
    """An event that no compression makes small."""
    noise = base64.b64encode(random.Random(1).randbytes(size)).decode()
    return ModelStatus(
        model_name="m", replica="r", revision=1, model_version=1, since=START, reported_at=START, error=noise
    )  # fmt: skip


def test_it_stops_at_once_while_it_waits_for_acknowledgements(
    house: House, drainers: Drainers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "ACK_SECONDS", 2 * TIMEOUT_SECONDS)
    name = house.namespace.topic(PREDICTIONS)
    drainers.start()
    emit_all(drainers.pool, ["key:1"])
    wait_until_drained(house)
    house.admin.delete_topics([name])[name].result(10)
    # The controller has deleted it; the broker may take records for it a moment longer.
    wait_until(lambda: name not in house.admin.list_topics(timeout=10).topics, "the topic is gone")
    emit_all(drainers.pool, ["key:2"])
    wait_until(lambda: numbered(house) == 1, "it has been handed to the client")
    # It is not waited for so long as an acknowledgement would be.
    drainers.stop_all()


def test_events_of_transactions_at_once_are_all_published(house: House, drainers: Drainers) -> None:
    def writer(name: str) -> None:
        for n in range(30):
            emit_all(drainers.pool, [f"{name}:{n:02}"])

    threads = [threading.Thread(target=writer, args=[f"w{n}"]) for n in range(4)]
    with drainers.draining():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until_drained(house)
    expected = {f"w{w}": [f"w{w}:{n:02}" for n in range(30)] for w in range(4)}
    assert first_by_key(published_ids(house)) == expected


def test_a_full_client_holds_rows_back_and_keeps_their_order(
    house: House, drainers: Drainers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "RETRY_SECONDS", 0.05)
    config = producer_config(house.stack.bootstrap_servers, "tests", 10_000) | {"queue.buffering.max.messages": 7}
    ids = [f"key:{n:02}" for n in range(60)]
    emit_all(drainers.pool, ids)
    producer, stop = DeliveryProducer(config), threading.Event()
    drainer = OutboxDrainer(drainers.pool, producer, house.namespace, SERVICE, house.stack.bootstrap_servers)
    thread = threading.Thread(target=drainer.run, args=[stop])
    thread.start()
    wait_until_drained(house)
    stop.set()
    thread.join()
    producer.close(1)
    assert published_ids(house) == ids
