"""A drainer of one outbox in a process that a test may kill."""

import os
import signal
import subprocess
import sys
import threading

from driftloop.common.kafka.config import producer_config
from driftloop.common.kafka.producer import DeliveryProducer
from driftloop.common.postgres import outbox
from driftloop.common.postgres.outbox import OutboxDrainer
from driftloop.common.postgres.pool import open_pool
from driftloop.common.topics import Namespace
from tests.support.house import House

SCHEMA = "trainer"
SERVICE = "draining"


def spawn_drainer(house: House) -> subprocess.Popen[bytes]:
    """Start a process that drains until killed; few rows at a time, so that a kill falls between them."""
    own = {
        "DRAINING_BOOTSTRAP": house.stack.bootstrap_servers,
        "DRAINING_NAMESPACE": house.namespace.prefix,
        "DRAINING_DATABASE": house.database_url(SCHEMA),
    }
    with (house.folder / "draining.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.support.draining"], env=os.environ | own, stdout=log, stderr=log
        )


def main() -> None:
    """Drain until killed or told to stop."""
    namespace = Namespace(os.environ["DRAINING_NAMESPACE"])
    pool = open_pool(os.environ["DRAINING_DATABASE"], namespace.schema(SCHEMA), "draining", 2)
    producer = DeliveryProducer(producer_config(os.environ["DRAINING_BOOTSTRAP"], "draining", 10_000))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    outbox.BATCH = 10
    OutboxDrainer(pool, producer, namespace, SERVICE, os.environ["DRAINING_BOOTSTRAP"]).run(stop)
    producer.close(2)
    pool.close()


if __name__ == "__main__":
    main()
