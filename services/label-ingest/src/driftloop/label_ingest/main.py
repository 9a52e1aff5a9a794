"""label-ingest's process: the only place where its objects are built."""

import sys
from collections.abc import Sequence

from psycopg import Connection

from driftloop.common.clock import Clock, utc_now
from driftloop.common.contract import ContractError, load_contracts
from driftloop.common.events import OutcomeReported, PredictionMade
from driftloop.common.kafka.admin import admin_client
from driftloop.common.kafka.config import consumer_config, producer_config
from driftloop.common.kafka.consumer import ConsumerLoop, Delivery, InvalidEvent, Subscription
from driftloop.common.kafka.producer import DeliveryProducer
from driftloop.common.logs import configure_logging
from driftloop.common.postgres.outbox import OutboxDrainer, emit
from driftloop.common.postgres.pool import open_pool
from driftloop.common.process import Service, run_service
from driftloop.common.settings import SettingsError, read_settings
from driftloop.common.startup import answer_help, consumer_checks, wait_for_schema, wait_for_topics
from driftloop.common.topics import OUTCOMES, PREDICTIONS, TOPICS, Namespace
from driftloop.common.tracing import start_tracing
from driftloop.label_ingest import handlers
from driftloop.label_ingest.api import create_app
from driftloop.label_ingest.domain.limits import outcome_problem, prediction_problem
from driftloop.label_ingest.settings import Settings
from driftloop.label_ingest.store import Store

NAME = "label-ingest"
SCHEMA = "label_ingest"
READERS = 4


def main() -> None:
    """Read the settings, build the service, run it."""
    answer_help("driftloop-label-ingest", "Joins outcomes to the predictions that they prove.", Settings)
    try:
        settings = read_settings(Settings)
        configure_logging(NAME, settings.log_level)
        start_tracing(NAME)
        service = build(settings)
    except (SettingsError, ContractError) as error:
        sys.exit(f"driftloop-label-ingest: {error}")
    run_service(service)


def build(settings: Settings) -> Service:
    """Put the service together. Raises SettingsError, ContractError; waits for broker and schema."""
    namespace, contracts = Namespace(settings.namespace), load_contracts(settings.contracts)
    url, schema = settings.database_url.value, namespace.schema(SCHEMA)
    pool = open_pool(url, schema, "driftloop-label-ingest")
    reading = open_pool(url, schema, "driftloop-label-ingest-reading", max_size=READERS)
    wait_for_schema(pool, SCHEMA)
    identities = wait_for_topics(admin_client(settings.kafka_bootstrap_servers), namespace, TOPICS)
    producer = DeliveryProducer(producer_config(settings.kafka_bootstrap_servers, "driftloop-label-ingest", 10_000))
    drainer = OutboxDrainer(pool, producer, namespace, NAME)
    intake = Intake(utc_now, drainer)
    consumer = ConsumerLoop(
        config=consumer_config(settings.kafka_bootstrap_servers, "driftloop-label-ingest", namespace.group(NAME)),
        name=NAME,
        subscriptions={
            namespace.topic(PREDICTIONS): Subscription(PREDICTIONS, intake.batch),
            namespace.topic(OUTCOMES): Subscription(OUTCOMES, intake.batch),
        },
        identities=identities,
        pool=pool,
        producer=producer,
        after_commit=intake.committed,
    )
    return Service(
        name=NAME,
        host=settings.host,
        port=settings.port,
        management_port=settings.management_port,
        api=create_app(
            pool=pool,
            reading=reading,
            contracts=contracts,
            clock=utc_now,
            published=drainer.wake,
            max_body_bytes=settings.max_body_bytes,
        ),
        workers=(consumer, drainer),
        ready=consumer_checks(pool, producer, consumer),
        closers=(lambda: producer.close(5), reading.close, pool.close),
    )


class Intake:
    """From deliveries to the handler, and from its transaction's commit to metrics and the outbox."""

    def __init__(self, clock: Clock, drainer: OutboxDrainer) -> None:
        self._clock = clock
        self._drainer = drainer
        self._uncommitted: handlers.Joined | None = None

    def batch(self, connection: Connection, batch: Sequence[Delivery]) -> None:
        """Join what both topics brought. Raises InvalidEvent for what cannot be kept."""
        self._uncommitted = None
        predictions: list[PredictionMade] = []
        outcomes: list[OutcomeReported] = []
        traces: dict[str, str | None] = {}
        for one in batch:
            event = one.event
            if isinstance(event, PredictionMade):
                _refuse(prediction_problem(event))
                predictions.append(event)
                traces[event.prediction_id] = one.envelope.traceparent
            elif isinstance(event, OutcomeReported):
                _refuse(outcome_problem(event))
                outcomes.append(event)
                traces[event.prediction_id] = one.envelope.traceparent
        self._uncommitted = handlers.join(
            Store(connection), lambda events: emit(connection, events), self._clock, predictions, outcomes, traces
        )

    def committed(self) -> None:
        """What the last batch did is durable."""
        if self._uncommitted is not None:
            handlers.observe(self._uncommitted)
            self._uncommitted = None
        self._drainer.wake()


def _refuse(problem: str | None) -> None:
    if problem is not None:
        raise InvalidEvent(problem)


if __name__ == "__main__":
    main()
