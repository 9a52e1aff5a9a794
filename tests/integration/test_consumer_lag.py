"""The lag that a consumer shows is what the log holds beyond its stored offsets, also while it reads nothing."""

import threading
from collections.abc import Sequence

import pytest
from prometheus_client import REGISTRY
from psycopg import Connection

from driftloop.common.kafka import consumer
from driftloop.common.kafka.admin import admin_client_of
from driftloop.common.kafka.consumer import Delivery, NotYet
from driftloop.common.kafka.lag import LagWatch
from driftloop.common.topics import OUTCOMES
from tests.support.counting import NAME, Counting, count
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The brokers are asked many times while a test runs."""
    monkeypatch.setattr(consumer, "WATCH_SECONDS", 0.1)


def lag(counting: Counting) -> float | None:
    topic = counting.house.namespace.topic(OUTCOMES)
    return REGISTRY.get_sample_value("driftloop_consumer_lag_records", {"group": NAME, "topic": topic})


def stopped() -> float | None:
    return REGISTRY.get_sample_value("driftloop_consumer_stopped", {"group": NAME})


def test_the_lag_grows_while_a_batch_cannot_be_handled_and_falls_to_none(counting: Counting) -> None:
    away = threading.Event()
    away.set()

    def handler(connection: Connection, batch: Sequence[Delivery]) -> None:
        if away.is_set():
            raise NotYet("a store is away")
        count(connection, batch)

    with counting.consuming(handler):
        counting.produce([f"p-{i}" for i in range(20)])
        wait_until(lambda: lag(counting) == 20, "20 records are behind")
        counting.produce([f"q-{i}" for i in range(10)])
        wait_until(lambda: lag(counting) == 30, "30 records are behind")
        away.clear()
        wait_until(lambda: lag(counting) == 0, "nothing is behind")
        assert stopped() == 0
    assert lag(counting) is None


def test_the_lags_of_two_members_add_up(counting: Counting) -> None:
    """Each shows its own partitions'; here both write one gauge, so that each is looked at alone."""
    counting.produce([f"p-{i}" for i in range(30)])
    topic = counting.house.namespace.topic(OUTCOMES)
    admin = admin_client_of({"bootstrap.servers": counting.house.stack.bootstrap_servers, "client.id": "tests"})
    shown = []
    for owned in ([0], [1, 2]):
        watch = LagWatch(admin, NAME, [topic], 0.0)

        def look(watch: LagWatch = watch, owned: list[int] = owned) -> bool:
            watch.look({(topic, number): 0 for number in owned})
            return lag(counting) is not None

        wait_until(look, "an answer")
        shown.append(lag(counting))
        watch.clear()
    assert None not in shown
    assert sum(one or 0 for one in shown) == 30


def test_a_consumer_that_stands_still_says_so_and_goes_on_telling_its_lag(counting: Counting) -> None:
    counting.house.produce_all(OUTCOMES, [(b"{", "bad", [], 0)] * 3)
    with counting.consuming() as running:
        counting.wait_until_read()
        with counting.house.database("trainer") as connection:
            connection.execute("UPDATE offsets SET next = 1000000 WHERE partition = 0")
        counting.produce(["a"], partition=0)
        wait_until(lambda: running.loop.state.halted, "the loop halts")
        assert stopped() == 1
        before = lag(counting) or 0
        counting.produce([f"p-{i}" for i in range(5)], partition=1)
        wait_until(lambda: (lag(counting) or 0) == before + 5, "what came later is behind, too")


def test_brokers_that_do_not_answer_leave_nothing_shown(counting: Counting) -> None:
    topic = counting.house.namespace.topic(OUTCOMES)
    watch = LagWatch(counting.house.admin, NAME, [topic], 0.0)
    watch.look({})
    assert lag(counting) == 0
    # A partition that does not exist is as good as one whose leader is away.
    watch.look({(topic, 99): 0})

    def gone() -> bool:
        watch.look({(topic, 99): 0})
        return lag(counting) is None

    wait_until(gone, "the lag is taken down")
