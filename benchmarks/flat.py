"""Ten million events through one drift monitor: do its memory and its cost for each event stay as they were?

A million at a time is put into the log while the monitor is held, then read at its full speed, and deleted from the log
once it is counted. Event time goes on, so that panes and windows come and go as they do in use. Each million is read by
a bare loop, too: how much faster or slower the machine itself has become in these minutes is no cost of an event.
"""

import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count

import psutil
from confluent_kafka import KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from benchmarks.harness import Figure, conditions, record, say
from benchmarks.support.bare import bare
from benchmarks.support.monitor import Monitor, installed
from benchmarks.support.service import CONTRACT
from driftloop.common.contract import baseline_path, load_contract
from driftloop.common.envelope import Envelope, encode_event
from driftloop.common.events import PredictionMade, type_name
from driftloop.common.kafka.admin import admin_client
from driftloop.common.kafka.config import producer_config
from driftloop.common.rows import Row, read_baseline
from driftloop.common.topics import PREDICTIONS

BLOCK, BLOCKS = 1_000_000, 10
# Ten million are five hours and a half of event time.
EVERY = timedelta(milliseconds=2)
# The first and the last so many blocks are compared: one alone says as much about the machine's other work.
ENDS = 3
GROWTH, RATIO = 5.0, 1.1
SMALL_SEGMENTS = {"segment.bytes": str(32 * 2**20), "file.delete.delay.ms": "1000"}
TIMEOUT_SECONDS = 30.0


@dataclass
class Source:
    """A predictor as the log sees it, made to be quick: one source, dense numbers, baseline rows, time that goes on."""

    topic: str
    producer: Producer
    model: str
    rows: list[Row]
    first: datetime
    failures: list[KafkaError] = field(default_factory=list)
    _made: Iterator[int] = field(default_factory=count)
    _sent: Counter[int] = field(default_factory=Counter)

    def put(self, events: int) -> None:
        """Put so many events into the log, and wait for all acks. Raises RuntimeError if one does not come."""
        for number in (next(self._made) for _ in range(events)):
            while True:
                try:
                    self._produce(number)
                    break
                except BufferError:
                    self.producer.poll(0.05)
        left = self.producer.flush(TIMEOUT_SECONDS)
        if left or self.failures:
            raise RuntimeError(f"{left + len(self.failures)} events did not get into the log: {self.failures[:1]}")

    def _produce(self, number: int) -> None:
        id_, time, partition = f"{number:032x}", self.first + number * EVERY, number % PREDICTIONS.partitions
        score = number % 997 / 997
        event = PredictionMade(
            prediction_id=id_, model_name=self.model, model_version=1, revision=1, predicted_at=time,
            features=dict(self.rows[number % len(self.rows)]), score=score, prediction=score >= 0.5,
        )  # fmt: skip
        envelope = Envelope(id_, "predictor/bench/flat", type_name(PredictionMade), time, self._sent[partition])
        headers: list[tuple[str, str | bytes | None]] = [*envelope.headers()]
        self.producer.produce(
            self.topic, encode_event(event), id_, partition=partition, headers=headers, on_delivery=self._failed
        )
        self._sent[partition] += 1

    def _failed(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self.failures.append(error)


def main() -> None:
    """Ten blocks; memory and processor time after each."""
    blocks = int(sys.argv[1]) if len(sys.argv) > 1 else BLOCKS
    with installed() as monitor:
        _keep_the_log_small(monitor)
        source = _source(monitor, blocks * BLOCK)
        monitor.process.start()
        monitor.process.wait_ready()
        megabytes, ours, theirs = zip(*(_block(monitor, source, number) for number in range(blocks)), strict=True)
        if monitor.counted() != blocks * BLOCK:
            raise RuntimeError(f"{monitor.counted():,} of {blocks * BLOCK:,} events were counted")
    growth = 100 * (megabytes[-1] / megabytes[0] - 1)
    cost, machine = _rise(ours), _rise(theirs)
    ratio = _rise([mine / other for mine, other in zip(ours, theirs, strict=True)])
    sizes = conditions("confluent-kafka", "msgspec", "psycopg", events=blocks * BLOCK, event_time_ms=2)
    record(
        Figure(
            figure=f"drift monitor's RSS growth from 1 M to {blocks} M events, %",
            ours=growth,
            target=f"<= {GROWTH:g}",
            met=growth <= GROWTH,
            conditions=sizes | {"first_mb": megabytes[0], "last_mb": megabytes[-1]},
        )
    )
    record(
        Figure(
            figure=f"processor time for each event, last {ENDS} M against first {ENDS} M of {blocks} M",
            ours=cost,
            peer=machine,
            ratio=ratio,
            target=f"<= {RATIO:g} x the same of a bare loop that reads the same millions",
            met=ratio <= RATIO,
            conditions=sizes | {"first_us": ours[0], "last_us": ours[-1], "ratio": "median of ours over the peer's"},
        )
    )


def _rise(costs: Sequence[float]) -> float:
    """The last blocks' cost over the first ones'."""
    return statistics.median(costs[-ENDS:]) / statistics.median(costs[:ENDS])


def _block(monitor: Monitor, source: Source, number: int) -> tuple[float, float, float]:
    """One block: the monitor's resident megabytes after it, its processor's µs for each event, and the bare loop's."""
    process = psutil.Process(monitor.process.pid)
    with monitor.held():
        source.put(BLOCK)
    before = process.cpu_times()
    monitor.wait_until(lambda: monitor.committed() >= (number + 1) * BLOCK)
    after = process.cpu_times()
    microseconds = 1e6 * (after.user + after.system - before.user - before.system) / BLOCK
    megabytes = process.memory_info().rss / 2**20
    yardstick = bare(monitor.bootstrap_servers, monitor.topic, BLOCK).microseconds
    say(f"{number + 1} M: {megabytes:.0f} MB, {microseconds:.2f} µs an event, {yardstick:.2f} in a bare loop")
    _forget_the_log(monitor)
    return megabytes, microseconds, yardstick


def _source(monitor: Monitor, events: int) -> Source:
    contract = load_contract(CONTRACT)
    rows, _labels = read_baseline(contract, baseline_path(CONTRACT, contract))
    config = producer_config(monitor.bootstrap_servers, "bench", 60_000) | {"delivery.report.only.error": True}
    return Source(monitor.topic, Producer(config), contract.name, rows, datetime.now(UTC) - events * EVERY)


def _keep_the_log_small(monitor: Monitor) -> None:
    entries = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in SMALL_SEGMENTS.items()
    ]
    resource = ConfigResource(ResourceType.TOPIC, monitor.topic, incremental_configs=entries)
    admin = admin_client(monitor.bootstrap_servers)
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(TIMEOUT_SECONDS)


def _forget_the_log(monitor: Monitor) -> None:
    """Delete what is read."""
    admin = admin_client(monitor.bootstrap_servers)
    ends = [TopicPartition(monitor.topic, number, -1) for number in range(PREDICTIONS.partitions)]
    for future in admin.delete_records(ends).values():
        future.result(TIMEOUT_SECONDS)


if __name__ == "__main__":
    main()
