"""A broker that crashes and comes back loses nothing and doubles nothing of what runs through outbox and consumer."""

import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from driftloop import devstack
from driftloop.common.envelope import Outgoing
from driftloop.common.events import OutcomeReported
from driftloop.common.postgres.outbox import OutboxDrainer, emit
from driftloop.common.topics import OUTCOMES, Namespace
from tests.support.counting import Counting
from tests.support.house import House
from tests.support.predictions import START
from tests.support.waiting import wait_until


@pytest.fixture
def own_house(stack: devstack.Stack, tmp_path: Path) -> Iterator[House]:
    """A house on the run's database and on a broker of its own, which may crash without troubling other tests."""
    environ = {name: value for name, value in os.environ.items() if name != "KAFKA_BOOTSTRAP_SERVERS"}
    folder = tmp_path / "broker"
    own = devstack.start(folder, fsync=False, environ=environ | {"DATABASE_URL": stack.database_url})
    house = House(own, Namespace(f"t{uuid.uuid4().hex[:12]}"), tmp_path)
    house.prepare()
    yield house
    house.remove()
    devstack.stop(folder, purge=True)


def test_a_broker_that_crashes_in_the_middle_changes_no_count(own_house: House) -> None:
    counting = Counting(own_house)
    folder, stop = own_house.folder / "broker", threading.Event()
    drainer = OutboxDrainer(
        counting.pool, counting.producer, own_house.namespace, "draining", own_house.stack.bootstrap_servers
    )
    draining = threading.Thread(target=drainer.run, args=[stop], daemon=True)
    draining.start()
    running = counting.start(batch_size=20)
    names = [f"p-{n}" for n in range(2_000)]

    def outcome(name: str) -> Outgoing:
        return Outgoing(OUTCOMES.name, name, OutcomeReported(prediction_id=name, label=1), f"outcome:{name}", START)

    for part in range(4):
        with counting.pool.connection() as connection:
            emit(connection, map(outcome, names[part * 500 : (part + 1) * 500]))
        if part == 1:
            wait_until(lambda: counting.total() > 100, "it counts")
            devstack.kill_kafka(folder)
    devstack.restart_kafka(folder)
    counting.wait_for(len(names))
    counting.wait_until_read()
    assert counting.counts() == dict.fromkeys(names, 1)
    assert running.error is None
    stop.set()
    draining.join(10)
    counting.close()
