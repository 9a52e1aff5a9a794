"""The drift monitor's process: the only place where its objects are built."""

import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from psycopg import Connection

from driftloop.common import keys, metrics
from driftloop.common.clock import utc_now
from driftloop.common.contract import Contract, ContractError, load_contracts
from driftloop.common.events import ModelUpdated, ServedVersion
from driftloop.common.kafka.admin import admin_client
from driftloop.common.kafka.config import consumer_config, producer_config
from driftloop.common.kafka.consumer import ConsumerLoop, Delivery, InvalidEvent, NotYet, Subscription
from driftloop.common.kafka.deadletter import send_dead_letters
from driftloop.common.kafka.producer import DeliveryProducer
from driftloop.common.kafka.settings import brokers_of
from driftloop.common.logs import configure_logging
from driftloop.common.postgres.outbox import OutboxDrainer
from driftloop.common.postgres.pool import open_pool
from driftloop.common.process import Service, run_service
from driftloop.common.profile import ReferenceProfile
from driftloop.common.registry import ArtifactError, ArtifactMissing, StoreUnavailable, fetch_bundle
from driftloop.common.registry.timed import TimedFetch
from driftloop.common.sentry import start_sentry
from driftloop.common.settings import SettingsError, read_settings
from driftloop.common.startup import answer_help, consumer_checks, wait_for_schema, wait_for_topics
from driftloop.common.topics import LABELED_PREDICTIONS, MODEL_UPDATES, PREDICTIONS, TOPICS, Namespace
from driftloop.common.tracing import start_tracing
from driftloop.drift_monitor import handlers
from driftloop.drift_monitor.api import create_app
from driftloop.drift_monitor.evaluating import Evaluator, Pace, Topics, broker_end_offsets
from driftloop.drift_monitor.exporting import Exporter
from driftloop.drift_monitor.judging import supersede
from driftloop.drift_monitor.settings import Settings
from driftloop.drift_monitor.store import Store
from driftloop.drift_monitor.upkeep import Ages, Upkeep

NAME = "drift-monitor"
SCHEMA = "drift_monitor"


def main() -> None:
    """Read the settings, build the service, run it."""
    answer_help("driftloop-drift-monitor", "Keeps drift statistics over the inference log.", Settings)
    try:
        settings = read_settings(Settings)
        configure_logging(NAME, settings)
        start_sentry(NAME)
        start_tracing(NAME)
        service = build(settings)
    except (SettingsError, ContractError, keys.KeyFileError) as error:
        sys.exit(f"driftloop-drift-monitor: {error}")
    run_service(service)


def build(settings: Settings) -> Service:
    """Put the service together. Raises SettingsError, ContractError, KeyFileError; waits for broker and schema."""
    namespace, contracts = Namespace(settings.namespace), load_contracts(settings.contracts)
    trusted, brokers = keys.load_public_keys(settings.trusted_keys), brokers_of(settings.kafka)
    pool = open_pool(settings.database_url.value, namespace.schema(SCHEMA), "driftloop-drift-monitor")
    wait_for_schema(pool, SCHEMA)
    identities = wait_for_topics(brokers, namespace, TOPICS)
    producer = DeliveryProducer(producer_config(brokers, "driftloop-drift-monitor", 10_000))
    drainer = OutboxDrainer(pool, producer, namespace, NAME, brokers)
    watches = handlers.cached_watches(contracts)
    metrics.begin(metrics.BEYOND_RETENTION, list(contracts), list(handlers.KINDS.values()))
    predictions = namespace.topic(PREDICTIONS)

    fetch = TimedFetch(partial(fetch_bundle, public_keys=trusted))

    def fetch_profile(model: str, served: ServedVersion) -> ReferenceProfile:
        return fetch(served.artifact, model, served.version).profile

    routes = _Routes(contracts, watches, fetch_profile, _limits(settings), predictions, drainer)
    consumer = ConsumerLoop(
        config=consumer_config(brokers, "driftloop-drift-monitor", namespace.group(NAME)),
        name=NAME,
        subscriptions={
            predictions: Subscription(PREDICTIONS, routes.predictions),
            namespace.topic(LABELED_PREDICTIONS): Subscription(LABELED_PREDICTIONS, routes.labels),
            namespace.topic(MODEL_UPDATES): Subscription(MODEL_UPDATES, routes.model_updates),
        },
        identities=identities,
        pool=pool,
        producer=producer,
        after_commit=routes.committed,
    )
    evaluator = Evaluator(
        pool=pool,
        contracts=contracts,
        watches=watches,
        topics=Topics(
            NAME,
            predictions,
            namespace.topic(LABELED_PREDICTIONS),
            broker_end_offsets(admin_client(brokers), predictions, identities[predictions].partitions),
        ),
        pace=_pace(settings),
        replica=f"{socket.gethostname()}/{os.getpid()}",
        clock=utc_now,
        published=drainer.wake,
        exporter=Exporter(),
    )
    upkeep = Upkeep(
        pool=pool, ages=_ages(settings), clock=utc_now, send=lambda letters: send_dead_letters(producer, letters)
    )
    return Service(
        name=NAME,
        host=settings.host,
        port=settings.port,
        management_port=settings.management_port,
        api=create_app(pool, contracts, watches),
        workers=(consumer, drainer, evaluator, upkeep),
        ready=consumer_checks(pool, producer, consumer, drainer),
        closers=(lambda: producer.close(5), pool.close),
    )


def _limits(settings: Settings) -> handlers.Limits:
    return handlers.Limits(
        settings.max_parked, timedelta(seconds=settings.allowed_ahead_seconds), timedelta(days=settings.keep_days)
    )


def _pace(settings: Settings) -> Pace:
    return Pace(
        settings.evaluate_seconds,
        timedelta(seconds=settings.allowed_lateness_seconds),
        timedelta(days=settings.keep_days),
        timedelta(days=settings.label_wait_days),
    )


def _ages(settings: Settings) -> Ages:
    return Ages(
        timedelta(hours=settings.hour_panes_after_hours),
        timedelta(days=settings.day_panes_after_days),
        timedelta(days=settings.keep_days),
        timedelta(days=settings.parked_days),
    )


@dataclass
class _Routes:
    """From deliveries to handlers: each gets the store of its transaction; `committed` tells what came of it."""

    contracts: dict[str, Contract]
    watches: handlers.Watches
    fetch: handlers.FetchProfile
    limits: handlers.Limits
    topic: str
    drainer: OutboxDrainer
    retries: int = 0

    def predictions(self, connection: Connection, batch: Sequence[Delivery]) -> None:
        try:
            self.retries = handlers.on_predictions(
                Store(connection), self.contracts, self.watches, self.limits, utc_now(), batch
            )
        except handlers.ParkingFull as error:
            raise NotYet(str(error)) from error
        except handlers.FromTheFuture as error:
            raise InvalidEvent(str(error)) from error

    def labels(self, connection: Connection, batch: Sequence[Delivery]) -> None:
        try:
            handlers.on_labels(Store(connection), self.contracts, self.watches, self.limits, utc_now(), batch)
        except handlers.ParkingFull as error:
            raise NotYet(str(error)) from error

    def model_updates(self, connection: Connection, batch: Sequence[Delivery]) -> None:
        for one in batch:
            event = one.event
            if not isinstance(event, ModelUpdated) or event.model_name not in self.contracts:
                continue
            try:
                superseded = handlers.on_model_updated(Store(connection), self.fetch, utc_now, event)
            except (ArtifactMissing, StoreUnavailable) as error:
                raise NotYet(f"the artifact of revision {event.revision}: {type(error).__name__}") from error
            except ArtifactError as error:
                raise InvalidEvent(f"revision {event.revision}: its artifact is refused ({error.reason})") from error
            for version in superseded:
                supersede(connection, version, event.champion, utc_now())

    def committed(self) -> None:
        metrics.DUPLICATES.labels(self.topic).inc(self.retries)
        self.retries = 0
        self.drainer.wake()


if __name__ == "__main__":
    main()
