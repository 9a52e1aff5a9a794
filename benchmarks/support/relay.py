"""The least that a process between two topics can do: read, `json.loads` each value, send it on, flush each batch."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from confluent_kafka import Consumer, Producer, TopicPartition

from driftloop.common.kafka.config import producer_config

BATCH = 500
WAIT_SECONDS = 0.02


@contextmanager
def relaying(bootstrap_servers: str, source: str, target: str, starts: Sequence[int]) -> Iterator[None]:
    """Relay from these offsets of the source's partitions on, in a new process, for the time of a block."""
    command = [sys.executable, "-m", "benchmarks.support.relay", bootstrap_servers, source, target, json.dumps(starts)]
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _relay(bootstrap_servers: str, source: str, target: str, starts: Sequence[int]) -> None:
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": "relay", "enable.auto.commit": False})
    consumer.assign([TopicPartition(source, number, start) for number, start in enumerate(starts)])
    # As durable as ours.
    producer = Producer(producer_config(bootstrap_servers, "relay", 60_000))
    while True:
        for message in consumer.consume(BATCH, WAIT_SECONDS):
            value = message.value()
            json.loads(value or b"null")
            producer.produce(target, value, message.key())
        producer.flush()


if __name__ == "__main__":
    _relay(sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4]))
