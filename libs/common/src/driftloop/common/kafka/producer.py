"""One producer, one poll thread: whoever sends gets a call back with the broker's word on it."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from driftloop.common import metrics
from driftloop.common.logs import Sparing

logger = logging.getLogger(__name__)
logger.addFilter(Sparing(10))

OnDelivery = Callable[[KafkaError | None], None]
# A record's topic, partition, key, value and headers.
Sendable = tuple[str, int, bytes | None, bytes | None, Sequence[tuple[str, bytes | None]]]
POLL_SECONDS = 0.1
PURGE_SECONDS = 1.0


class ProducerFull(RuntimeError):
    """The queue is full: the broker has been away, or slow, for longer than the queue holds."""


class ProducerFailed(RuntimeError):
    """The producer met a fatal error or was closed, and can never send again; the process must start anew."""


class Fates:
    """What became of the records of one batch, each known by a number of its sender's."""

    def __init__(self) -> None:
        self.delivered: set[int] = set()
        self.failed: dict[int, KafkaError] = {}
        self._expected = 0
        self._condition = threading.Condition()

    def expect(self, number: int) -> OnDelivery:
        """The call-back for one more record; take it back with `forget` if the record was not handed over."""

        def report(error: KafkaError | None) -> None:
            with self._condition:
                if error is None:
                    self.delivered.add(number)
                else:
                    self.failed[number] = error
                self._condition.notify_all()

        with self._condition:
            self._expected += 1
        return report

    def forget(self) -> None:
        """One record that was expected was not handed over."""
        with self._condition:
            self._expected -= 1

    def wait(self, timeout: float, stop: threading.Event | None = None) -> bool:
        """Wait until all have their fate, for `timeout` s or until `stop` is set. Returns whether all have it."""
        deadline = time.monotonic() + timeout
        with self._condition:
            while len(self.delivered) + len(self.failed) < self._expected:
                left = deadline - time.monotonic()
                if left <= 0 or (stop is not None and stop.is_set()):
                    return False
                self._condition.wait(left if stop is None else min(left, POLL_SECONDS))
            return True


class DeliveryProducer:
    """Sends records and reports each one's fate from a single poll thread.

    `on_batch` is called in that thread after every round of polls, so that a caller can wake its loop once a batch and
    not once a record.
    """

    def __init__(self, config: Mapping[str, Any], on_batch: Callable[[], None] | None = None) -> None:
        self._producer = Producer(dict(config) | {"error_cb": self._on_error})
        self._on_batch = on_batch
        self._closed = False
        self._fatal: KafkaError | None = None
        # Counted here: the client's own length holds its error events, too.
        self._handed = 0
        self._lock = threading.Lock()
        # Only for the thread that tells fates, which is one at a time.
        self._told = 0
        self._fates: Counter[tuple[str, bool]] = Counter()
        self._thread = threading.Thread(target=self._poll, name="kafka-producer-poll", daemon=True)
        self._thread.start()

    @property
    def fatal(self) -> KafkaError | None:
        """The error after which nothing can be sent, if there was one."""
        return self._fatal

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

        Raises ProducerFull when the queue has no room, ProducerFailed after a fatal error or after `close`, and
        KafkaException where the client refuses the record itself, which is too large for it; then it is not called.
        """
        self._hand_over((topic, partition, key, value, headers), on_delivery)
        with self._lock:
            self._handed += 1

    def produce_all(
        self,
        records: Iterable[Sendable],
        on_delivery: Callable[[int, object], None],
    ) -> None:
        """Hand records over.

        `on_delivery` gets each one's place among them, and None once it is durable, or the error; at once where
        `produce` would raise it.
        """
        taken = 0
        for place, record in enumerate(records):
            try:
                self._hand_over(record, partial(on_delivery, place))
            except (ProducerFull, ProducerFailed, KafkaException) as error:
                on_delivery(place, error)
            else:
                taken += 1
        with self._lock:
            self._handed += taken

    def _hand_over(self, record: Sendable, on_delivery: OnDelivery) -> None:
        if self._fatal is not None:
            raise ProducerFailed(str(self._fatal))
        if self._closed:
            raise ProducerFailed("the producer is closed")
        topic, partition, key, value, headers = record
        report = partial(self._report, topic, on_delivery)
        try:
            self._producer.produce(topic, value, key, partition, report, headers=list(headers))
        except BufferError as error:
            raise ProducerFull(f"{self._handed - self._told} records wait for the broker") from error
        except KafkaException as error:
            if error.args[0].code() == KafkaError._FATAL:
                self._fatal = error.args[0]
                raise ProducerFailed(str(error.args[0])) from error
            raise

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
        fates = Fates()
        self.produce(topic, partition, key, value, headers, fates.expect(0))
        if not fates.wait(timeout):
            raise KafkaException(KafkaError(KafkaError._MSG_TIMED_OUT))
        for error in fates.failed.values():
            raise KafkaException(error)

    def partitions(self, topic: str, timeout: float = 5.0) -> int:
        """How many partitions a topic has. Raises LookupError if it does not exist, KafkaException without a broker."""
        metadata = self._producer.list_topics(topic, timeout=timeout).topics[topic]
        if metadata.error is not None and metadata.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise KafkaException(metadata.error)
        if not metadata.partitions:
            raise LookupError(f"topic {topic!r} does not exist: run `driftloop topics`")
        return len(metadata.partitions)

    def close(self, timeout: float) -> int:
        """Wait up to `timeout` seconds for what is queued, then stop. Returns how many records had no ack.

        Their senders are told so: each call-back comes before this returns.
        """
        self._closed = True
        self._thread.join(timeout=2)
        self._producer.flush(timeout)
        left = self._handed - self._told
        if left:
            self._producer.purge()
            self._producer.flush(PURGE_SECONDS)
            logger.warning("records without an ack at shutdown", extra={"records": left})
        self._tell()
        return left

    def _poll(self) -> None:
        while not self._closed:
            # `poll` returns as soon as it served something; drain what else is there before waking the caller.
            served = self._producer.poll(POLL_SECONDS)
            while served and (more := self._producer.poll(0)):
                served += more
            if served:
                self._tell()

    def _report(self, topic: str, on_delivery: OnDelivery, error: KafkaError | None, _message: Message) -> None:
        self._fates[topic, error is None] += 1
        self._told += 1
        try:
            on_delivery(error)
        except Exception as failure:
            # It would end the poll thread, and with it every other sender's word from the broker.
            logger.critical("a call-back of the producer failed", exc_info=failure)

    def _tell(self) -> None:
        """Count what fates were told, and wake the caller."""
        for (topic, well), count in self._fates.items():
            metrics.begin(metrics.PRODUCE_FAILED, [topic])
            (metrics.PRODUCED if well else metrics.PRODUCE_FAILED).labels(topic).inc(count)
        self._fates.clear()
        if self._on_batch is not None:
            try:
                self._on_batch()
            except Exception as failure:
                logger.critical("a call-back of the producer failed", exc_info=failure)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = error
            logger.critical("the producer failed for good", extra={"error": str(error)})
        else:
            logger.warning("the producer's broker connection", extra={"error": str(error)})
