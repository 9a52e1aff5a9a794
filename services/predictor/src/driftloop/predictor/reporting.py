"""Says on `model-status` what this replica serves: at each change, and every so often."""

import logging
import threading
import time
import uuid
from collections.abc import Callable

from confluent_kafka import KafkaError, KafkaException

from driftloop.common.clock import Clock
from driftloop.common.envelope import Outgoing
from driftloop.common.kafka.producer import ProducerFailed, ProducerFull
from driftloop.common.kafka.publisher import Publish
from driftloop.common.topics import MODEL_STATUS
from driftloop.predictor.serving import Replica

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.2
RETRY_SECONDS = 1.0

Fatal = Callable[[], KafkaError | None]


class StatusReporter:
    """A worker: publishes the replica's status, and ends the process once its producer can never send again.

    Nothing is published before the first `wake`: until then the topic is not known.
    """

    name = "model-status"

    def __init__(self, replica: Replica, publish: Publish, fatal: Fatal, clock: Clock, every_seconds: float) -> None:
        self._replica = replica
        self._publish = publish
        self._fatal = fatal
        self._clock = clock
        self._every_seconds = every_seconds
        self._woken = threading.Event()
        self._failed = threading.Event()

    def wake(self) -> None:
        """Something has changed: report it soon."""
        self._woken.set()

    def run(self, stop: threading.Event) -> None:
        """Report until told to stop. Raises ProducerFailed."""
        due: float | None = None
        while not stop.is_set():
            self._woken.wait(TICK_SECONDS)
            error = self._fatal()
            if error is not None:
                raise ProducerFailed(str(error))
            now = time.monotonic()
            if self._failed.is_set():
                self._failed.clear()
                due = now + RETRY_SECONDS
            if self._woken.is_set() or (due is not None and now >= due):
                self._woken.clear()
                due = now + self._every_seconds
                self._report()

    def _report(self) -> None:
        status = self._replica.status(self._clock)
        key = f"{status.model_name}/{status.replica}"
        outgoing = Outgoing(MODEL_STATUS.name, key, status, uuid.uuid4().hex, status.reported_at)
        try:
            self._publish(outgoing, self._delivered)
        except (ProducerFull, ProducerFailed, KafkaException) as error:
            logger.warning("the status was not sent", extra={"error": type(error).__name__})
            self._failed.set()

    def _delivered(self, error: KafkaError | None) -> None:
        if error is not None:
            logger.warning("the status was not sent", extra={"error": error.name()})
            self._failed.set()
