"""One producer, one poll thread: whoever sends gets a call back with the broker's word on it."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from driftloop.common import metrics

logger = logging.getLogger(__name__)

OnDelivery = Callable[[KafkaError | None], None]
POLL_SECONDS = 0.1


class ProducerFull(RuntimeError):
    """The queue is full: the broker has been away, or slow, for longer than the queue holds."""


class ProducerFailed(RuntimeError):
    """The producer met a fatal error and can never send again; the process must start anew."""


class DeliveryProducer:
    """Sends records and reports each one's fate from a single poll thread.

    `on_batch` is called in that thread after every round of polls, so that a caller can wake its loop once a batch and
    not once a record.
    """

    def __init__(self, config: Mapping[str, Any], on_batch: Callable[[], None] | None = None) -> None:
        self._producer = Producer(dict(config) | {"error_cb": self._on_error})
        self._on_batch = on_batch
        self._stop = threading.Event()
        self._fatal: KafkaError | None = None
        self._thread = threading.Thread(target=self._poll, name="kafka-producer-poll", daemon=True)
        self._thread.start()

    @property
    def fatal(self) -> KafkaError | None:
        """The error after which nothing can be sent, if there was one."""
        return self._fatal

    @property
    def queued(self) -> int:
        """How many records wait for their ack."""
        return len(self._producer)

    def produce(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
        on_delivery: OnDelivery,
    ) -> None:
        """Hand one record to the client. `on_delivery` gets None once it is durable, or the error.

        Raises ProducerFull when the queue has no room and ProducerFailed after a fatal error.
        """
        if self._fatal is not None:
            raise ProducerFailed(str(self._fatal))

        def report(error: KafkaError | None, _message: Message) -> None:
            (metrics.PRODUCE_FAILED if error else metrics.PRODUCED).labels(topic).inc()
            on_delivery(error)

        try:
            self._producer.produce(
                topic, value=value, key=key, partition=partition, headers=list(headers), on_delivery=report
            )
        except BufferError as error:
            raise ProducerFull(f"{len(self._producer)} records wait for the broker") from error

    def produce_and_wait(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
        timeout: float = 10.0,
    ) -> None:
        """Send one record and wait for its ack. Raises KafkaException if it does not come in `timeout` seconds."""
        done = threading.Event()
        failure: list[KafkaError] = []

        def finish(error: KafkaError | None) -> None:
            if error is not None:
                failure.append(error)
            done.set()

        self.produce(topic, partition, key, value, headers, finish)
        if not done.wait(timeout):
            raise KafkaException(KafkaError(KafkaError._MSG_TIMED_OUT))
        if failure:
            raise KafkaException(failure[0])

    def partitions(self, topic: str, timeout: float = 5.0) -> int:
        """How many partitions a topic has. Raises LookupError if it does not exist, KafkaException without a broker."""
        metadata = self._producer.list_topics(topic, timeout=timeout).topics[topic]
        if metadata.error is not None or not metadata.partitions:
            raise LookupError(f"topic {topic!r} does not exist: run `driftloop topics`")
        return len(metadata.partitions)

    def reachable(self, timeout: float = 2.0) -> bool:
        """Whether a broker answers."""
        try:
            self._producer.list_topics(timeout=timeout)
        except KafkaException:
            return False
        return True

    def close(self, timeout: float) -> int:
        """Wait up to `timeout` seconds for what is queued, then stop. Returns how many records had no ack."""
        left = self._producer.flush(timeout)
        self._stop.set()
        self._thread.join(timeout=2)
        if left:
            logger.warning("records without an ack at shutdown", extra={"records": left})
        return int(left)

    def _poll(self) -> None:
        while not self._stop.is_set():
            # `poll` returns as soon as it served something; drain what else is there before waking the caller.
            served = self._producer.poll(POLL_SECONDS)
            while served and (more := self._producer.poll(0)):
                served += more
            if served and self._on_batch is not None:
                self._on_batch()

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = error
            logger.critical("the producer failed for good", extra={"error": str(error)})
        else:
            logger.warning("the producer's broker connection", extra={"error": str(error)})
