"""Consume, decode, fold and store: how near does the whole drift monitor come to a loop that only reads and parses?

Both read the same records from the same broker, in turns, each in a process of its own. The peer is what a consumer can
do at the least: `consume(5000)` of confluent-kafka and `json.loads` of every value. Ours is the installed service:
headers, typed events, duplicates, panes and offsets in one durable transaction, and evaluation beside. Each is timed
from the first records that it had to the last, so that no start of a process counts.
"""

import time
from datetime import UTC, datetime, timedelta

from benchmarks.harness import Figure, alternate, conditions, record, say
from benchmarks.support.bare import bare
from benchmarks.support.monitor import Monitor, installed, publish
from driftloop.common.topics import PREDICTIONS

EVENTS, ROUNDS = 300_000, 5
# A busy predictor's event time, read after an outage.
EVERY = timedelta(milliseconds=1)
RATIO = 0.5


def main() -> None:
    """Produce once; then read it again and again."""
    with installed() as monitor:
        say(f"{EVENTS:,} predictions go into the log")
        publish(monitor, EVENTS, datetime.now(UTC) - EVENTS * EVERY, EVERY)
        say(f"{ROUNDS} rounds of ours and the peer's")
        ours, theirs = alternate(
            ROUNDS, lambda: monitored(monitor), lambda: bare(monitor.bootstrap_servers, monitor.topic, EVENTS).rate
        )
    record(
        Figure(
            figure="end to end events/s against bare consume + JSON decode",
            ours=ours,
            peer=theirs,
            ratio=ours / theirs,
            target=f">= {RATIO:g}",
            met=ours / theirs >= RATIO,
            conditions=conditions(
                "confluent-kafka", "msgspec", "psycopg",
                events=EVENTS, partitions=PREDICTIONS.partitions, features=5, rounds=ROUNDS, event_time_ms=1,
                statistic="median of events/s, first records to last; fsync on",
            ),
        )
    )  # fmt: skip


def monitored(monitor: Monitor) -> float:
    """Events/s of the drift monitor's process, from its first stored offset to its last."""
    monitor.forget()
    monitor.process.start()
    monitor.wait_until(lambda: monitor.committed() > 0)
    start, first = time.perf_counter(), monitor.committed()
    monitor.wait_until(lambda: monitor.committed() >= EVENTS)
    took = time.perf_counter() - start
    if monitor.counted() != EVENTS:
        raise RuntimeError(
            f"{monitor.counted():,} of {EVENTS:,} predictions were counted: see {monitor.process.log_path}"
        )
    monitor.process.terminate()
    return (EVENTS - first) / took


if __name__ == "__main__":
    main()
