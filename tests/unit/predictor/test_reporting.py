"""A replica says what it serves: at each change, every so often, and until its producer fails."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import KafkaError

from driftloop.common.events import ModelStatus
from driftloop.common.kafka.producer import ProducerFailed
from driftloop.predictor import reporting
from driftloop.predictor.reporting import StatusReporter
from driftloop.predictor.serving import Replica
from tests.support.memory_log import MemoryLog
from tests.support.waiting import wait_until
from tests.unit.predictor.builders import DIABETES, NOW, serving


@contextmanager
def reporting_to(log: MemoryLog, every_seconds: float = 60.0) -> Iterator[StatusReporter]:
    replica = Replica("diabetes", "replica-1", NOW)
    replica.serving = serving(DIABETES, version=7, revision=9)
    reporter = StatusReporter(replica, log.publish, lambda: None, lambda: NOW, every_seconds)
    stop = threading.Event()
    thread = threading.Thread(target=reporter.run, args=[stop])
    thread.start()
    yield reporter
    stop.set()
    thread.join(60)
    assert not thread.is_alive()


def test_it_reports_once_woken_what_the_replica_serves() -> None:
    log = MemoryLog()
    with reporting_to(log) as reporter:
        reporter.wake()
        wait_until(lambda: log.taken, "a status")
    outgoing = log.taken[0]
    assert (outgoing.topic, outgoing.key) == ("model-status", "diabetes/replica-1")
    assert outgoing.event == ModelStatus(
        model_name="diabetes", replica="replica-1", revision=9, model_version=7, since=NOW, reported_at=NOW
    )


def test_it_reports_every_so_often() -> None:
    log = MemoryLog()
    with reporting_to(log, every_seconds=0.05) as reporter:
        reporter.wake()
        wait_until(lambda: len(log.taken) >= 3, "three statuses")


def test_before_it_is_woken_it_says_nothing() -> None:
    log = MemoryLog()
    with reporting_to(log, every_seconds=0.01):
        assert not threading.Event().wait(3 * reporting.TICK_SECONDS)
    assert log.taken == []


@pytest.mark.parametrize("log", [MemoryLog(full=True), MemoryLog(failure=KafkaError(KafkaError._MSG_TIMED_OUT))])
def test_a_status_that_was_not_sent_is_sent_again(log: MemoryLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "RETRY_SECONDS", 0.05)
    before = len(log.taken)
    with reporting_to(log) as reporter:
        reporter.wake()
        wait_until(lambda: log.full or len(log.taken) > before, "a first try")
        log.full, log.failure = False, None
        so_far = len(log.taken)
        wait_until(lambda: len(log.taken) > so_far, "a second try")


def test_it_ends_once_the_producer_has_failed_for_good() -> None:
    error = KafkaError(KafkaError._FATAL)
    reporter = StatusReporter(Replica("diabetes", "1", NOW), MemoryLog().publish, lambda: error, lambda: NOW, 60.0)
    with pytest.raises(ProducerFailed):
        reporter.run(threading.Event())
