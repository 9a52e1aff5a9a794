"""Brings what is in the spool into the broker's log, in order, once the broker answers again."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from confluent_kafka import KafkaException

from driftloop.common import metrics
from driftloop.common.kafka.producer import Fates, ProducerFailed, ProducerFull
from driftloop.common.kafka.publisher import Stamped
from driftloop.common.logs import Sparing
from driftloop.predictor.inference_log import Log, Uncertain
from driftloop.predictor.spool import Position, Spool, SpooledRecord, SpoolFailed

logger = logging.getLogger(__name__)
logger.addFilter(Sparing(10))

BATCH = 500
TICK_SECONDS = 0.1
RETRY_SECONDS = 0.5
TELL_SECONDS = 2.0
# Longer than the producer keeps a record: each has its fate by then.
FATE_SECONDS = 10.0


class Replayer:
    """A worker: replays one spool. `confirmed` is called whenever the broker has taken something.

    A record whose fate nobody knows yet waits for it, and one that got into the log after all is not sent again. What a
    killed process may have sent is sent again, with the number it had: consumers know it.
    """

    def __init__(self, name: str, spool: Spool, log: Log, uncertain: Uncertain, confirmed: Callable[[], None]) -> None:
        self.name = name
        self._spool = spool
        self._log = log
        self._uncertain = uncertain
        self._confirmed = confirmed
        # Behind a record that was not taken there may be some that were.
        self._taken: set[Position] = set()

    def run(self, stop: threading.Event) -> None:
        """Replay until told to stop."""
        while not stop.is_set():
            self._show()
            batch = self._next()
            if not batch:
                stop.wait(TICK_SECONDS)
            elif not self._replay(batch, stop):
                self._spool.rewind()
                stop.wait(RETRY_SECONDS)

    def drain(self, patience: float, tell: Callable[[int], None]) -> bool:
        """Replay until nothing is left; False where `patience` seconds pass in which nothing gets into the log.

        `tell` hears now and then how many records are left.
        """
        stop = threading.Event()
        moved = told = time.monotonic()
        while (left := self._spool.records) > 0:
            batch = self._next()
            if not batch or not self._replay(batch, stop):
                self._spool.rewind()
                stop.wait(RETRY_SECONDS)
            now = time.monotonic()
            if self._spool.records < left:
                moved = now
            elif now - moved > patience:
                return False
            if now - told > TELL_SECONDS:
                told = now
                tell(self._spool.records)
        return True

    def _next(self) -> list[tuple[Position, SpooledRecord]]:
        try:
            return self._spool.read(BATCH)
        except SpoolFailed as error:
            # Nothing counts as read: it is tried again at the next tick.
            logger.error("the spool cannot be read", extra={"because": str(error)})
            return []

    def _replay(self, batch: Sequence[tuple[Position, SpooledRecord]], stop: threading.Event) -> bool:
        """Send a batch; returns whether all of it is in the log."""
        fates, there = Fates(), set()
        for index, (position, record) in enumerate(batch):
            fate = position in self._taken or self._uncertain.fate(record)
            if fate:
                there.add(index)
            elif fate is None or not self._send(record, fates, index):
                break
        fates.wait(FATE_SECONDS, stop)
        if fates.delivered:
            self._confirmed()
        for error in {error.name() for error in fates.failed.values()}:
            logger.warning("the broker did not take what the spool holds", extra={"error": error})
        metrics.INFERENCES_REPLAYED.inc(len(fates.delivered))
        return self._mark(batch, there | fates.delivered)

    def _send(self, record: SpooledRecord, fates: Fates, index: int) -> bool:
        stamped = Stamped(record.topic, record.partition, record.key, record.value, record.headers)
        try:
            self._log.send(stamped, fates.expect(index))
        except (ProducerFull, ProducerFailed, KafkaException) as error:
            fates.forget()
            logger.warning("the producer does not take what the spool holds", extra={"error": type(error).__name__})
            return False
        return True

    def _mark(self, batch: Sequence[tuple[Position, SpooledRecord]], there: set[int]) -> bool:
        prefix = next((index for index in range(len(batch)) if index not in there), len(batch))
        if prefix:
            self._spool.done(batch[prefix - 1][0])
        for index in there:
            position, record = batch[index]
            if index < prefix:
                self._uncertain.forget(record)
                self._taken.discard(position)
            else:
                self._taken.add(position)
        return prefix == len(batch)

    def _show(self) -> None:
        oldest = self._spool.oldest
        labels = self.name
        metrics.SPOOL_BYTES.labels(labels).set(self._spool.size)
        metrics.SPOOL_CAPACITY.labels(labels).set(self._spool.capacity)
        metrics.SPOOL_RECORDS.labels(labels).set(self._spool.records)
        metrics.SPOOL_OLDEST.labels(labels).set(0 if oldest is None else max(0.0, time.time() - oldest))
        metrics.SPOOL_DAMAGED.labels(labels).set(self._spool.damaged)
