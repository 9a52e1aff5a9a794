"""label-ingest's process: the only place where its objects are built."""

import sys
from datetime import timedelta

from driftloop.common.access.guard import admit
from driftloop.common.access.settings import build_access, build_rate_limit
from driftloop.common.clock import utc_now
from driftloop.common.contract import ContractError, load_contracts
from driftloop.common.kafka.config import consumer_config, producer_config
from driftloop.common.kafka.consumer import ConsumerLoop, Subscription
from driftloop.common.kafka.producer import DeliveryProducer
from driftloop.common.kafka.settings import brokers_of
from driftloop.common.logs import configure_logging
from driftloop.common.postgres.outbox import OutboxDrainer
from driftloop.common.postgres.pool import open_pool
from driftloop.common.process import Service, run_service
from driftloop.common.pseudonyms import key_bytes
from driftloop.common.sentry import start_sentry
from driftloop.common.settings import SettingsError, read_settings
from driftloop.common.startup import answer_help, consumer_checks, wait_for_schema, wait_for_topics
from driftloop.common.topics import OUTCOMES, PREDICTIONS, TOPICS, Namespace
from driftloop.common.tracing import start_tracing
from driftloop.label_ingest.admission import needed
from driftloop.label_ingest.api import create_app
from driftloop.label_ingest.domain.outcomes import Terms
from driftloop.label_ingest.handlers import begin_counts
from driftloop.label_ingest.hl7.settings import build_mllp
from driftloop.label_ingest.intake import Intake
from driftloop.label_ingest.settings import Settings
from driftloop.label_ingest.upkeep import Upkeep

NAME = "label-ingest"
SCHEMA = "label_ingest"
READERS = 4


def main() -> None:
    """Read the settings, build the service, run it."""
    answer_help("driftloop-label-ingest", "Joins outcomes to the predictions that they prove.", Settings)
    try:
        settings = read_settings(Settings)
        configure_logging(NAME, settings)
        start_sentry(NAME)
        start_tracing(NAME)
        service = build(settings)
    except (SettingsError, ContractError) as error:
        sys.exit(f"driftloop-label-ingest: {error}")
    run_service(service)


def build(settings: Settings) -> Service:
    """Put the service together. Raises SettingsError, ContractError; waits for broker and schema."""
    namespace, contracts = Namespace(settings.namespace), load_contracts(settings.contracts)
    access, brokers = build_access(settings), brokers_of(settings.kafka)
    url, schema = settings.database_url.value, namespace.schema(SCHEMA)
    pool = open_pool(url, schema, "driftloop-label-ingest")
    reading = open_pool(url, schema, "driftloop-label-ingest-reading", max_size=READERS)
    wait_for_schema(pool, SCHEMA)
    identities = wait_for_topics(brokers, namespace, TOPICS)
    producer = DeliveryProducer(producer_config(brokers, "driftloop-label-ingest", 10_000))
    drainer = OutboxDrainer(pool, producer, namespace, NAME, brokers)
    key = None if settings.pseudonym_key is None else key_bytes(settings.pseudonym_key)
    terms = Terms({name: one.labels for name, one in contracts.items()}, key)
    begin_counts(contracts)
    intake = Intake(pool, terms, utc_now, drainer.wake)
    upkeep = Upkeep(
        pool=pool,
        retention=timedelta(days=settings.retention_days),
        parked=timedelta(days=settings.parked_days),
        clock=utc_now,
    )
    consumer = ConsumerLoop(
        config=consumer_config(brokers, "driftloop-label-ingest", namespace.group(NAME)),
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
    intake.meanwhile = consumer.work_ahead
    # The last, for it listens at once.
    mllp = build_mllp(settings, intake, terms.analytes)
    ready = dict(consumer_checks(pool, producer, consumer, drainer))
    return Service(
        name=NAME,
        host=settings.host,
        port=settings.port,
        management_port=settings.management_port,
        api=admit(
            create_app(
                intake=intake,
                reading=reading,
                contracts=contracts,
                pseudonym_key=key,
                clock=utc_now,
                max_body_bytes=settings.max_body_bytes,
                max_upload_bytes=settings.max_upload_bytes,
                max_upload_lines=settings.max_upload_lines,
            ),
            access,
            needed,
            build_rate_limit(settings),
        ),
        workers=(consumer, drainer, upkeep, *access.workers, *([] if mllp is None else [mllp])),
        notes={"access": access.note} | ({} if mllp is None else {"mllp": mllp.note}),
        ready=ready if mllp is None else ready | {"mllp": mllp.problem},
        closers=(lambda: producer.close(5), reading.close, pool.close),
        drain_seconds=settings.drain_seconds,
    )


if __name__ == "__main__":
    main()
