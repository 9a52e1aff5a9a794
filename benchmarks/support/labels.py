"""A label-ingest as it is installed, with predictions and outcomes to feed it."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from benchmarks.support.service import CONTRACT, Service, installation, log_predictions
from driftloop.common.contract import baseline_path, load_contract
from driftloop.common.events import PredictionMade
from driftloop.common.kafka.config import producer_config
from driftloop.common.pseudonyms import order_pseudonym, pseudonym
from driftloop.common.rows import read_baseline
from driftloop.common.topics import OUTCOMES, PREDICTIONS, Topic
from driftloop.predictor.domain.identity import new_prediction_ids

SERVICE = "label-ingest"
KEY = b"a key of these benchmarks alone"
# What the join remembers, and what would make the same log a repetition.
REMEMBERED = "joins, predictions, keys, results, matches, labels, expired_results, outbox, seen"
PREDICTIONS_OF_A_PATIENT = 3
TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class LabelIngest(Service):
    """One label-ingest's installation; its process is started by whoever measures it."""

    def learn(self) -> None:
        """Run once, until both of its topics, which are empty, are held and the months around now are ready."""
        self.process.start()
        self.process.wait_ready()
        partitions = PREDICTIONS.partitions + OUTCOMES.partitions
        self.wait_until(lambda: self.number("SELECT count(*) FROM offsets") == partitions)
        months = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'predictions'::regclass"
        # The month before, this one, two that follow, and the table of all others.
        self.wait_until(lambda: self.number(months) == 5)
        self.process.terminate()

    def forget(self) -> None:
        """Have the next process read its topics from their beginning, as if it never had."""
        self.database.execute(f"TRUNCATE {REMEMBERED}".encode())
        self.database.execute("UPDATE offsets SET next = 0")
        self.database.execute("CHECKPOINT")

    def store(self, predictions: Sequence[PredictionMade]) -> None:
        """Log predictions, and wait until the process, which runs, has stored them."""
        before = self.committed()
        log_predictions(self, predictions)
        self.wait_until(lambda: self.committed() == before + len(predictions))

    def ends(self, topic: Topic) -> list[int]:
        """Where a topic's partitions end."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap_servers, "group.id": "ends"})
        try:
            places = [TopicPartition(self.topic_name(topic), number) for number in range(topic.partitions)]
            return [consumer.get_watermark_offsets(place, TIMEOUT_SECONDS)[1] for place in places]
        finally:
            consumer.close()

    def report(self, outcomes: Sequence[tuple[str, bytes]]) -> None:
        """Put outcomes on their topic as a laboratory does, as fast as it goes, and wait for all acks."""
        laboratory = Laboratory(self)
        for outcome in outcomes:
            laboratory.send(outcome)
        laboratory.finish()


@contextmanager
def installed() -> Iterator[LabelIngest]:
    """A label-ingest that has run once; broker, database and files go with the block."""
    with installation() as made:
        ingest = LabelIngest(made, made.process(SERVICE))
        ingest.learn()
        try:
            yield ingest
        finally:
            ingest.process.kill()


def predictions(count: int, *, named: bool = False) -> Iterator[PredictionMade]:
    """Baseline rows, one a millisecond until now; if `named`, each has an order of its own, and three a patient."""
    contract = load_contract(CONTRACT)
    rows, _labels = read_baseline(contract, baseline_path(CONTRACT, contract))
    chance, first = random.Random(0), datetime.now(UTC) - timedelta(milliseconds=count)
    for number in range(count):
        at, score = first + timedelta(milliseconds=number), round(chance.random(), 6)
        (id_,) = new_prediction_ids(at, 1)
        patient = f"MRN-{number // PREDICTIONS_OF_A_PATIENT}"
        yield PredictionMade(
            prediction_id=id_, model_name=contract.name, model_version=1, revision=1, predicted_at=at,
            features=dict(rows[number % len(rows)]), score=score, prediction=score >= contract.decision_threshold,
            subject=pseudonym(KEY, patient) if named else None,
            order=order_pseudonym(KEY, f"ORD-{number}") if named else None,
        )  # fmt: skip


def outcomes(ids: Sequence[str]) -> list[tuple[str, bytes]]:
    """A label for each prediction's id: key and value, which is plain JSON, as a laboratory's own program writes it."""
    now = datetime.now(UTC).isoformat()
    return [
        (id_, msgspec.json.encode({
            "prediction_id": id_, "label": int(id_[-1], 16) % 2, "result_id": f"R-{id_[-12:]}", "result_version": 1,
            "observed_at": now,
        }))
        for id_ in ids
    ]  # fmt: skip


class Laboratory:
    """A producer of outcomes that keeps count of what was not acknowledged."""

    def __init__(self, ingest: LabelIngest) -> None:
        config = producer_config(ingest.bootstrap_servers, "bench", 60_000) | {"delivery.report.only.error": True}
        self._topic = ingest.topic_name(OUTCOMES)
        self._producer = Producer(config)
        self._failures: list[KafkaError] = []

    def send(self, outcome: tuple[str, bytes]) -> None:
        """Hand over one outcome, a key and a value; wait where the queue is full."""
        while True:
            try:
                self._producer.produce(self._topic, outcome[1], outcome[0], on_delivery=self._failed)
                self._producer.poll(0)
                return
            except BufferError:
                self._producer.poll(0.05)

    def finish(self) -> None:
        """Wait for all acks. Raises RuntimeError if one does not come."""
        left = self._producer.flush(TIMEOUT_SECONDS)
        if left or self._failures:
            raise RuntimeError(f"{left + len(self._failures)} outcomes did not get into the log: {self._failures[:1]}")

    def _failed(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._failures.append(error)
