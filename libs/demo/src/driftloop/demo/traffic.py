"""Sends patients and outcomes the way that clients and laboratories do, and keeps count."""

import itertools
import json
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Self

import httpx
from confluent_kafka import Producer

from driftloop.common.topics import OUTCOMES
from driftloop.demo.doors import Doors
from driftloop.demo.populations import Case

CLIENTS = 8
OUTCOMES_A_REQUEST = 100
RETRIES = 60
RETRY_SECONDS = 0.5


@dataclass(frozen=True)
class Answer:
    """What a predictor said of one patient, beside the truth that it does not know."""

    prediction_id: str
    model_version: int
    prediction: bool
    label: int

    @property
    def right(self) -> bool:
        """Whether the prediction came true."""
        return self.prediction == bool(self.label)


@dataclass
class Counts:
    """Requests and outcomes as the clients saw them. A request that was tried again counts once, by its last answer."""

    sent: int = 0
    answered: int = 0
    failed: int = 0
    retried: int = 0
    outcomes: int = 0
    by_http: int = 0
    by_kafka: int = 0
    answers: list[Answer] = field(default_factory=list)


class Traffic:
    """Patients go round-robin to the predictors; every other batch of outcomes goes through Kafka.

    `key` is an API key of the scopes `predict` and `label`.
    """

    def __init__(
        self, predictors: Sequence[str], key: str, label_ingest: str, bootstrap_servers: str, outcomes_topic: str
    ) -> None:
        self.counts = Counts()
        self._targets = itertools.cycle(predictors)
        self._headers = {"x-api-key": key}
        self._label_ingest = label_ingest
        self._topic = outcomes_topic
        self._client = httpx.Client(timeout=15, limits=httpx.Limits(max_connections=CLIENTS * 2))
        self._pool = ThreadPoolExecutor(CLIENTS, thread_name_prefix="client")
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 5,
                # A broker that ends before the client is no news to whoever watches the demo.
                "log_level": 0,
            }
        )
        self._batch = 0

    @classmethod
    def to(cls, doors: Doors) -> Self:
        """Traffic to every predictor of an installation."""
        outcomes = doors.namespace.topic(OUTCOMES)
        predictors = list(doors.predictors.values())
        return cls(predictors, doors.client_key.value, doors.label_ingest, doors.bootstrap_servers, outcomes)

    def close(self) -> None:
        """Send what is queued and end."""
        self._pool.shutdown()
        self._producer.flush(10)
        self._client.close()

    def predict(self, cases: Iterable[Case]) -> list[Answer]:
        """Send each case once, several at a time; a refused connection or a 503 is tried again, as a client would."""
        targets = [(next(self._targets), case) for case in cases]
        results = list(self._pool.map(lambda pair: self._one(*pair), targets))
        answers = [answer for answer, _retries in results if answer is not None]
        self.counts.sent += len(results)
        self.counts.answered += len(answers)
        self.counts.failed += len(results) - len(answers)
        self.counts.retried += sum(retries for _answer, retries in results)
        self.counts.answers += answers
        return answers

    def report_outcomes(self, answers: Sequence[Answer]) -> None:
        """Report the truth about each answer: by HTTP and by Kafka in turn."""
        for start in range(0, len(answers), OUTCOMES_A_REQUEST):
            part = answers[start : start + OUTCOMES_A_REQUEST]
            if self._batch % 2:
                self._by_kafka(part)
            else:
                self._by_http(part)
            self._batch += 1
        self._producer.flush(30)
        self.counts.outcomes += len(answers)

    def _one(self, target: str, case: Case) -> tuple[Answer | None, int]:
        for attempt in range(RETRIES):
            try:
                response = self._client.post(f"{target}/v1/predict", json=case.features, headers=self._headers)
            except (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError):
                _wait(RETRY_SECONDS)
                continue
            if response.status_code == 503:
                _wait(RETRY_SECONDS)
                continue
            if response.status_code != 200:
                return None, attempt
            body = response.json()
            return Answer(body["prediction_id"], body["model_version"], bool(body["prediction"]), case.label), attempt
        return None, RETRIES

    def _by_http(self, part: Sequence[Answer]) -> None:
        body = [{"prediction_id": one.prediction_id, "label": one.label} for one in part]
        for _attempt in range(RETRIES):
            try:
                response = self._client.post(f"{self._label_ingest}/v1/outcomes", json=body, headers=self._headers)
            except httpx.TransportError:
                _wait(RETRY_SECONDS)
                continue
            if response.status_code == 503:
                _wait(RETRY_SECONDS)
                continue
            response.raise_for_status()
            rejected = [one for one in response.json()["results"] if one["status"] == "rejected"]
            if rejected:
                raise RuntimeError(f"label-ingest rejected {len(rejected)} outcomes, the first: {rejected[0]}")
            self.counts.by_http += len(part)
            return
        raise RuntimeError(f"label-ingest at {self._label_ingest} did not take outcomes in {RETRIES} tries")

    def _by_kafka(self, part: Sequence[Answer]) -> None:
        for one in part:
            # As a laboratory would: plain JSON, no headers, a key of its own.
            value = json.dumps({"prediction_id": one.prediction_id, "label": one.label}).encode()
            self._producer.produce(self._topic, key=one.prediction_id.encode(), value=value)
            self._producer.poll(0)
        self.counts.by_kafka += len(part)


def _wait(seconds: float) -> None:
    # A client backs off by the clock: there is nothing of the server's that it could wait for.
    time.sleep(seconds)
