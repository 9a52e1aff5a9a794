"""The least that a consumer of the inference log can do, in a process of its own: read, and `json.loads` each value."""

import json
import subprocess
import sys
import time
from typing import NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from driftloop.common.topics import PREDICTIONS

TIMEOUT_SECONDS = 30.0


class Bare(NamedTuple):
    """Events/s from the first batch to the last, and the processor's µs for each event in between."""

    rate: float
    microseconds: float


def bare(bootstrap_servers: str, topic: str, count: int) -> Bare:
    """Read and parse the first `count` records that the log still has, in a new process.

    Raises CalledProcessError where the log has fewer.
    """
    command = [sys.executable, "-m", "benchmarks.support.bare", bootstrap_servers, topic, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Bare(*json.loads(done.stdout))


def _read(bootstrap_servers: str, topic: str, count: int) -> Bare:
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": "bare", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(PREDICTIONS.partitions)])
    begun = read = len(consumer.consume(5_000, TIMEOUT_SECONDS))
    start = last = time.perf_counter()
    busy = time.process_time()
    while read < count:
        messages = consumer.consume(5_000, 1.0)
        last = time.perf_counter() if messages else last
        if time.perf_counter() - last > TIMEOUT_SECONDS:
            sys.exit(f"{read:,} of {count:,} records came, and no more within {TIMEOUT_SECONDS:g} s")
        for message in messages:
            json.loads(message.value() or b"")
        read += len(messages)
    took, busy = time.perf_counter() - start, time.process_time() - busy
    consumer.close()
    return Bare((read - begun) / took, 1e6 * busy / (read - begun))


if __name__ == "__main__":
    print(json.dumps(_read(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
