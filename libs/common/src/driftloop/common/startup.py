"""What every service does before it can work: wait for its database and its topics, and say what it waits for."""

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psycopg
from confluent_kafka import KafkaException

from driftloop.common.http import Checks
from driftloop.common.kafka.admin import (
    TopicIdentity,
    TopicsError,
    admin_client,
    check_reachable,
    identities,
    verify_topics,
)
from driftloop.common.kafka.config import Brokers
from driftloop.common.kafka.consumer import ConsumerLoop
from driftloop.common.kafka.producer import DeliveryProducer
from driftloop.common.postgres.migrations import check_migrated
from driftloop.common.postgres.outbox import OutboxDrainer
from driftloop.common.postgres.pool import Pool, reachable
from driftloop.common.settings import SettingsError
from driftloop.common.topics import Namespace, Topic, dead_letter_topic
from driftloop.common.usage import answer_help

__all__ = ["NotThere", "answer_help", "consumer_checks", "wait_for_schema", "wait_for_topics"]

logger = logging.getLogger(__name__)

WAIT_SECONDS = 60.0
RETRY_SECONDS = 1.0

T = TypeVar("T")


class NotThere(SettingsError):
    """Something that the service needs did not come in time."""


def wait_for_schema(pool: Pool, service: str, seconds: float = WAIT_SECONDS) -> None:
    """Wait until the database answers and the service's migrations are applied. Raises NotThere."""

    def look() -> None:
        # The pool would say no more than that it took too long.
        with psycopg.connect(str(pool.conninfo)) as connection:
            problem = check_migrated(connection, service)
        if problem is not None:
            raise NotThere(problem)

    _wait("the database", look, (psycopg.OperationalError, NotThere), seconds)


def wait_for_topics(
    brokers: Brokers | str, namespace: Namespace, topics: Iterable[Topic], seconds: float = WAIT_SECONDS
) -> dict[str, TopicIdentity]:
    """Wait until the topics and their dead-letter topics exist as they must be. Raises NotThere.

    Returns the topics' identities by name.
    """
    topics = tuple(topics)
    admin = admin_client(brokers)
    letters = tuple(dead_letter_topic(topic) for topic in topics if topic.dead_letters)

    def look() -> dict[str, TopicIdentity]:
        check_reachable(brokers)
        verify_topics(admin, namespace, topics + letters)
        return identities(admin, [namespace.topic(topic) for topic in topics])

    return _wait("the broker", look, (KafkaException, TopicsError, TimeoutError), seconds)


def consumer_checks(pool: Pool, producer: DeliveryProducer, consumer: ConsumerLoop, drainer: OutboxDrainer) -> Checks:
    """The readiness of a service that consumes, keeps and publishes."""
    return {
        "database": lambda: None if reachable(pool) else "the database does not answer",
        "consumer": consumer.state.problem,
        "outbox": drainer.problem,
        "producer": lambda: None if producer.fatal is None else f"the producer failed: {producer.fatal}",
    }


def _wait(what: str, look: Callable[[], T], away: tuple[type[Exception], ...], seconds: float) -> T:
    deadline = time.monotonic() + seconds
    with _ended_by_sigterm():
        while True:
            try:
                return look()
            except away as error:
                if time.monotonic() > deadline:
                    raise NotThere(f"{what} is not ready after {seconds:g} s: {error}") from error
                logger.warning("waiting", extra={"for": what, "because": str(error)})
                time.sleep(RETRY_SECONDS)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the process, also where it is a container's first one, to which the kernel applies no default."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
