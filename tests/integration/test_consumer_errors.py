"""The three fates of an error: invalid → dead letter, transient → retry, bug → the loop ends."""

import select
import threading
import time
from collections.abc import Callable, Sequence

import pytest
from confluent_kafka import KafkaException
from psycopg import Connection

from driftloop.common.envelope import encode_event
from driftloop.common.events import OutcomeReported
from driftloop.common.kafka import consumer
from driftloop.common.kafka.admin import create_topics
from driftloop.common.kafka.config import producer_config
from driftloop.common.kafka.consumer import BAD_RUN, LETTERS_AT_ONCE, Delivery, InvalidEvent, NotYet
from driftloop.common.kafka.deadletter import HEADER_PREFIX
from driftloop.common.kafka.producer import DeliveryProducer
from driftloop.common.kafka.records import Record
from driftloop.common.topics import OUTCOMES, PREDICTIONS, dead_letter_topic
from tests.support.counting import QUICK, Counting, count
from tests.support.predictions import prediction_of_nothing
from tests.support.rawheaders import produce_with_header_name
from tests.support.waiting import TIMEOUT_SECONDS, wait_until

SECRET = "Mrs Example, born 1948-02-03"
GOOD = encode_event(OutcomeReported(prediction_id="good", label=1))
TYPE = ("ce_type", b"driftloop.OutcomeReported")


def letters(counting: Counting, number: int) -> list[Record]:
    """The dead letters of `outcomes`, once all has been read; there must be so many."""
    counting.wait_until_read()
    found = counting.house.dead_letters(OUTCOMES)
    assert len(found) == number
    return found


def why(letter: Record) -> dict[str, str]:
    """What a dead letter's headers say, without their prefix."""
    return {
        name.removeprefix(HEADER_PREFIX): value.decode()
        for name, value in letter.headers.items()
        if name.startswith(HEADER_PREFIX)
    }


# Value, headers, and the stage at which a consumer finds that it cannot read them.
UNREADABLE: list[tuple[bytes | None, list[tuple[str, bytes]], str]] = [
    (f"{SECRET} is no JSON".encode(), [], "value"),
    (b"\xff\xfe\x00", [], "value"),
    (b"", [], "value"),
    (None, [], "value"),
    (b'{"unknown": ' + b"[" * 100_000, [], "value"),
    (f'{{"prediction_id": "{SECRET}", "label": 1}}'.encode(), [], "schema"),
    (f'{{"prediction_id": "a", "label": "{SECRET}"}}'.encode(), [], "schema"),
    (f'{{"prediction_id": "a", "label": 1, "result_id": {{"{SECRET}": 1}}}}'.encode(), [], "schema"),
    (b'{"prediction_id": "a", "label": 1, "observed_at": "0001-01-01T00:00:00+14:00"}', [], "schema"),
    (GOOD, [("ce_type", SECRET.encode())], "headers"),
    (GOOD, [("ce_type", b"driftloop.PredictionMade")], "headers"),
    (GOOD, [("ce_type", b"\xff")], "headers"),
    (GOOD, [TYPE, ("ce_time", SECRET.encode())], "headers"),
    (GOOD, [TYPE, ("ce_source", b"s"), ("ce_sequence", SECRET.encode())], "headers"),
    (GOOD, [TYPE, ("ce_source", SECRET.encode() * 1_000)], "headers"),
    (GOOD, [TYPE, ("ce_source", f"{SECRET}\0".encode()), ("ce_sequence", b"1")], "headers"),
]


def test_what_cannot_be_read_becomes_one_dead_letter_that_tells_no_value(counting: Counting) -> None:
    name = counting.house.namespace.topic(OUTCOMES)
    counting.house.produce_all(
        OUTCOMES, [(value, "its key", [("own", b"header"), *headers], 1) for value, headers, _ in UNREADABLE]
    )
    with counting.consuming():
        found = letters(counting, len(UNREADABLE))
    for offset, ((value, headers, stage), letter) in enumerate(zip(UNREADABLE, found, strict=True)):
        assert (letter.key, letter.value) == (b"its key", value)
        assert letter.headers.items() >= {("own", b"header"), *headers}
        reasons = why(letter)
        assert (reasons["topic"], reasons["partition"], reasons["offset"]) == (name, "1", str(offset))
        assert (reasons["stage"], reasons["exception.class.name"]) == (stage, "UndecodableMessage")
        assert reasons["exception.message"]
        assert "Example" not in reasons["exception.message"]


def test_a_header_whose_name_is_not_text_becomes_a_dead_letter(counting: Counting) -> None:
    name = counting.house.namespace.topic(OUTCOMES)
    produce_with_header_name(counting.house.stack.bootstrap_servers, name, GOOD or b"", b"\xff\xfe")
    counting.produce(["after"], partition=0)
    with counting.consuming() as running:
        (letter,) = letters(counting, 1)
        assert running.error is None
    assert (letter.value, why(letter)["stage"]) == (GOOD, "headers")
    assert counting.counts() == {"after": 1}


@pytest.mark.parametrize(
    ("refuse", "stage", "reason"),
    [
        (lambda _: InvalidEvent("its version is not known"), "handler", "its version is not known"),
        (lambda c: c.execute("SELECT %s::int", [SECRET]), "database", "SQLSTATE 22P02"),
        (lambda c: c.execute("INSERT INTO counted VALUES (%s, NULL)", [SECRET]), "database", "SQLSTATE 23502"),
        (lambda c: c.execute("SELECT %s::text", [f"{SECRET}\0"]), "database", "the database's client cannot write it"),
        (lambda c: c.execute("SELECT (%s::jsonb)->>'a'", ['{"a": "\\u0000"}']), "database", "SQLSTATE 22P05"),
        (
            lambda c: c.execute(
                "INSERT INTO counted SELECT string_agg(md5(i::text), '') , 1 FROM generate_series(1, 999) i"
            ),
            "database",
            "SQLSTATE 54000",
        ),
    ],
)
def test_what_the_handler_or_the_database_refuses_is_found_and_the_rest_is_counted(
    counting: Counting, refuse: Callable[[Connection], object], stage: str, reason: str
) -> None:
    calls: list[int] = []

    def refusing(connection: Connection, batch: Sequence[Delivery]) -> None:
        calls.append(len(batch))
        count(connection, batch)
        if any(one.envelope.id in ("outcome:bad-1", "outcome:bad-2") for one in batch):
            found = refuse(connection)
            raise found if isinstance(found, Exception) else AssertionError("it was not refused")

    names = [f"p-{i}" for i in range(100)]
    counting.produce([*names[:37], "bad-1", *names[37:62], "bad-2", *names[62:]], partition=0)
    counting.house.produce(OUTCOMES, b"neither JSON", partition=0)
    with counting.consuming(refusing) as running:
        found = letters(counting, 3)
        assert running.error is None
    assert counting.counts() == dict.fromkeys(names, 1)
    assert [letter.key for letter in found] == [b"bad-1", b"bad-2", None]
    assert [(why(letter)["stage"], why(letter)["exception.message"]) for letter in found[:2]] == [(stage, reason)] * 2
    # Halving, not one by one.
    assert len(calls) < 40


TRANSIENT: list[Callable[[Connection], object]] = [
    lambda _: NotYet("the artifact is away"),
    lambda c: c.execute("SELECT pg_terminate_backend(pg_backend_pid())"),
    lambda c: c.execute("DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$"),
    lambda c: c.execute("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$"),
    lambda c: c.execute("DO $$ BEGIN RAISE SQLSTATE '25006'; END $$"),
    lambda c: c.execute("DO $$ BEGIN RAISE SQLSTATE '53300'; END $$"),
    lambda c: wait_until_the_server_has_had_enough(c),
    lambda _: KafkaException("the broker is away"),
]


def wait_until_the_server_has_had_enough(connection: Connection) -> None:
    """Do nothing in the transaction until the server ends the session."""
    connection.execute("SET LOCAL idle_in_transaction_session_timeout = 10")
    select.select([connection.fileno()], [], [], 10)
    connection.execute("SELECT 1")


def test_what_may_pass_is_tried_again_and_nothing_is_lost_or_doubled(counting: Counting) -> None:
    names = [f"p-{i}" for i in range(5 * len(TRANSIENT))]
    counting.produce(names, source=None, partition=0)
    failures = dict(enumerate(TRANSIENT))

    def failing_once_a_batch(connection: Connection, batch: Sequence[Delivery]) -> None:
        count(connection, batch)
        fail = failures.pop(batch[0].record.offset // 5, None)
        if fail is not None:
            found = fail(connection)
            raise found if isinstance(found, Exception) else AssertionError("it did not fail")

    with counting.consuming(failing_once_a_batch, batch_size=5) as running:
        counting.wait_until_read()
        # What was committed is seen a moment before the consumer says that it goes on.
        wait_until(lambda: running.loop.state.problem() is None, "it is ready again")
        assert running.error is None
    assert failures == {}
    assert counting.counts() == dict.fromkeys(names, 1)
    assert counting.house.dead_letters(OUTCOMES) == []


def test_while_it_retries_it_stays_a_member_and_is_not_ready(
    counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "BACKOFF_SECONDS", (0.3,))
    counting.produce(["p"])
    away = threading.Event()
    away.set()
    tries: list[float] = []

    def waiting(connection: Connection, batch: Sequence[Delivery]) -> None:
        tries.append(time.monotonic())
        if away.is_set():
            raise NotYet("the artifact is away")
        count(connection, batch)

    # A member that does not poll for so long is put out of its group.
    config = QUICK | {"max.poll.interval.ms": 3_000, "session.timeout.ms": 3_000}
    with counting.consuming(waiting, config=config) as running:
        wait_until(lambda: len(tries) > 1 and tries[-1] - tries[0] > 6, "it retries for twice as long")
        assert running.loop.state.problem() == "retrying after NotYet"
        assert len(running.loop.state.assigned) == OUTCOMES.partitions
        away.clear()
        assert counting.wait_for(1) == {"p": 1}
        wait_until(lambda: running.loop.state.problem() is None, "it is ready again")


def test_it_stops_at_once_in_the_middle_of_retrying(counting: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "BACKOFF_SECONDS", (2 * TIMEOUT_SECONDS,))
    counting.produce(["p"])

    def never(_connection: Connection, _batch: Sequence[Delivery]) -> None:
        raise NotYet("for ever")

    running = counting.start(never)
    wait_until(lambda: running.loop.state.retrying, "it retries")
    # It is not waited for so long as it would go on waiting by itself.
    running.end()
    assert running.error is None


def test_a_retry_sends_no_dead_letter_again(counting: Counting) -> None:
    counting.house.produce(OUTCOMES, b"neither JSON", partition=0)
    counting.produce(["p"], partition=0)
    tries: list[int] = []

    def failing(connection: Connection, batch: Sequence[Delivery]) -> None:
        tries.append(len(batch))
        if len(tries) < 4:
            raise NotYet("the artifact is away")
        # The whole transaction fails after its letter was sent: at the commit.
        connection.execute("CREATE TEMP TABLE late (n int UNIQUE DEFERRABLE INITIALLY DEFERRED) ON COMMIT DROP")
        connection.execute("INSERT INTO late VALUES (1), (1)" if len(tries) == 4 else "INSERT INTO late VALUES (1)")
        count(connection, batch)

    with counting.consuming(failing):
        letters(counting, 1)
    assert len(tries) == 5
    assert counting.counts() == {"p": 1}


def test_an_offset_moves_only_once_its_dead_letter_is_durable(counting: Counting) -> None:
    name = counting.house.namespace.topic(dead_letter_topic(OUTCOMES))
    counting.house.admin.delete_topics([name])[name].result(10)
    # The controller has deleted it; the broker may take records for it a moment longer.
    wait_until(lambda: name not in counting.house.admin.list_topics(timeout=10).topics, "the topic is gone")
    producer = DeliveryProducer(producer_config(counting.house.stack.bootstrap_servers, "tests", 500))
    counting.house.produce(OUTCOMES, b"neither JSON", partition=0)
    with counting.consuming(producer=producer) as running:
        wait_until(lambda: running.loop.state.retrying, "it cannot send its letter")
        assert counting.next_offsets()[0] == 0
        create_topics(counting.house.admin, counting.house.namespace, [dead_letter_topic(OUTCOMES)], replication=1)
        letters(counting, 1)
        assert running.error is None
    producer.close(1)


def test_more_dead_letters_than_the_producer_can_hold_at_once_are_each_sent_once(counting: Counting) -> None:
    number, large = 2 * LETTERS_AT_ONCE, 15_000
    config = producer_config(counting.house.stack.bootstrap_servers, "tests", 10_000)
    producer = DeliveryProducer(config | {"queue.buffering.max.kbytes": 1_024})
    assert LETTERS_AT_ONCE * large < 1_024 * 1_024 < number * large
    counting.house.produce_all(OUTCOMES, [(b"x" * large, None, [], 0)] * number)
    with counting.consuming(producer=producer) as running:
        found = letters(counting, number)
        assert running.loop.state.problem() is None
    producer.close(1)
    assert [why(letter)["offset"] for letter in found] == [str(offset) for offset in range(number)]


def bad_predictions(counting: Counting, number: int) -> None:
    counting.house.produce_all(PREDICTIONS, [(b"neither JSON", None, [], 0)] * number)


def refuse_all(_connection: Connection, _batch: Sequence[Delivery]) -> None:
    raise InvalidEvent("it is of no use")


def test_a_run_of_bad_records_on_a_topic_of_our_own_halts_the_consumer(counting: Counting) -> None:
    bad_predictions(counting, BAD_RUN)
    with counting.consuming(topic=PREDICTIONS, batch_size=30) as running:
        wait_until(lambda: running.loop.state.halted, "it halts")
        problem = running.loop.state.problem()
        assert problem is not None
        assert "100 records in a row" in problem
        assert counting.house.namespace.topic(PREDICTIONS) in problem
        assert "restart" in problem
    assert running.error is None
    assert len(counting.house.dead_letters(PREDICTIONS)) == BAD_RUN


def test_a_run_of_records_that_the_handler_refuses_halts_it_too(counting: Counting) -> None:
    event = prediction_of_nothing()
    counting.house.publish(PREDICTIONS, [("one key", event)] * BAD_RUN)
    with counting.consuming(refuse_all, topic=PREDICTIONS, batch_size=30) as running:
        wait_until(lambda: running.loop.state.halted, "it halts")
    assert len(counting.house.dead_letters(PREDICTIONS)) == BAD_RUN


def test_a_good_record_ends_a_run_of_bad_ones(counting: Counting) -> None:
    for _ in range(3):
        bad_predictions(counting, BAD_RUN - 1)
        counting.house.produce(PREDICTIONS, encode_event(prediction_of_nothing()), partition=0)
    with counting.consuming(topic=PREDICTIONS, batch_size=30) as running:
        counting.wait_until_read(PREDICTIONS)
        assert running.loop.state.problem() is None


def test_bad_records_of_others_never_halt_the_consumer(counting: Counting) -> None:
    counting.house.produce_all(OUTCOMES, [(b"neither JSON", None, [], 0)] * (2 * BAD_RUN))
    counting.produce(["p"], partition=0)
    with counting.consuming() as running:
        letters(counting, 2 * BAD_RUN)
        assert running.loop.state.problem() is None
    assert counting.counts() == {"p": 1}


def test_a_halted_consumer_goes_on_after_a_restart(counting: Counting) -> None:
    bad_predictions(counting, BAD_RUN)
    with counting.consuming(topic=PREDICTIONS) as running:
        wait_until(lambda: running.loop.state.halted, "it halts")
        counting.house.produce(PREDICTIONS, encode_event(prediction_of_nothing()), partition=0)
    with counting.consuming(topic=PREDICTIONS) as running:
        counting.wait_until_read(PREDICTIONS)
        assert running.loop.state.problem() is None
