"""A reader of `labeled-predictions` in a process of its own, which says when each prediction's first record came."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from confluent_kafka import Consumer, TopicPartition

from driftloop.common.topics import LABELED_PREDICTIONS

IDLE_SECONDS = 60.0
# When each prediction's record was read, by id. The clock is `time.monotonic`, which all processes of a machine share.
Arrivals = dict[str, float]


@contextmanager
def reader(bootstrap_servers: str, topic: str, count: int) -> Iterator[Callable[[], Arrivals]]:
    """Read from now on; gives a function that waits until `count` predictions have come.

    It raises RuntimeError where fewer come, and no more within a minute.
    """
    command = [sys.executable, "-m", "benchmarks.support.labelled", bootstrap_servers, topic, str(count)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    source = process.stdout
    assert source is not None

    def arrivals() -> Arrivals:
        found: Arrivals = json.loads(source.readline() or "{}")
        if len(found) < count:
            raise RuntimeError(f"{len(found):,} of {count:,} labels came, and no more within {IDLE_SECONDS:g} s")
        return found

    try:
        source.readline()
        yield arrivals
    finally:
        process.kill()
        process.wait()
        source.close()


def rate(arrivals: Arrivals) -> float:
    """Records/s from the first to the last."""
    return (len(arrivals) - 1) / (max(arrivals.values()) - min(arrivals.values()))


def _read(bootstrap_servers: str, topic: str, count: int) -> Arrivals:
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": "labelled", "fetch.wait.max.ms": 50})
    places = [TopicPartition(topic, number) for number in range(LABELED_PREDICTIONS.partitions)]
    consumer.assign([TopicPartition(topic, one.partition, consumer.get_watermark_offsets(one)[1]) for one in places])
    # The first answers come once every partition is being fetched.
    while consumer.poll(0.5) is not None:
        pass
    print("ready", flush=True)
    found: Arrivals = {}
    while len(found) < count:
        message = consumer.poll(IDLE_SECONDS)
        if message is None:
            break
        if message.error() is None:
            found.setdefault((message.key() or b"").decode(), time.monotonic())
    return found


if __name__ == "__main__":
    print(json.dumps(_read(sys.argv[1], sys.argv[2], int(sys.argv[3]))), flush=True)
