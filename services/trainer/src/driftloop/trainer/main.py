"""The trainer's process: the only place where its objects are built."""

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import httpx
from psycopg import Connection

from driftloop.common.access.guard import admit
from driftloop.common.access.settings import build_access, build_rate_limit
from driftloop.common.clock import utc_now
from driftloop.common.contract import Contract, ContractError
from driftloop.common.events import DriftDetected, ModelStatus
from driftloop.common.kafka.admin import TopicIdentity
from driftloop.common.kafka.config import Brokers, consumer_config, producer_config
from driftloop.common.kafka.consumer import ConsumerLoop, Delivery, Subscription
from driftloop.common.kafka.producer import DeliveryProducer
from driftloop.common.kafka.settings import brokers_of
from driftloop.common.keys import KeyFileError
from driftloop.common.logs import configure_logging
from driftloop.common.postgres.outbox import OutboxDrainer
from driftloop.common.postgres.pool import Pool, open_pool
from driftloop.common.process import Service, Worker, run_service
from driftloop.common.registry import delete_version, version_uri
from driftloop.common.sentry import start_sentry
from driftloop.common.settings import SettingsError, read_settings
from driftloop.common.startup import answer_help, consumer_checks, wait_for_schema, wait_for_topics
from driftloop.common.topics import DRIFT_EVENTS, LABELED_PREDICTIONS, MODEL_STATUS, TOPICS, Namespace
from driftloop.common.tracing import start_tracing
from driftloop.trainer import handlers
from driftloop.trainer.admission import needed
from driftloop.trainer.api import create_app
from driftloop.trainer.build import backend, load_models, open_artifacts, set_files
from driftloop.trainer.exporting import ExportWorker
from driftloop.trainer.label_rows import open_client
from driftloop.trainer.leftovers import LeftoverWorker
from driftloop.trainer.model_locks import ModelLocks
from driftloop.trainer.operations import Operations
from driftloop.trainer.pruning import PruneWorker
from driftloop.trainer.purging import PurgeWorker
from driftloop.trainer.resources import Artifacts, Resources
from driftloop.trainer.retraining import RetrainingWorker
from driftloop.trainer.rolling_out import RolloutWorker
from driftloop.trainer.serving import HighestRevision, highest_published
from driftloop.trainer.settings import Settings
from driftloop.trainer.store import Store
from driftloop.trainer.trackers import open_trackers
from driftloop.trainer.tracking import tracking_workers
from driftloop.trainer.training_runs import Standby, TrainingLimits, run_training, sweep
from driftloop.trainer.training_sets import SetFiles

NAME = "trainer"


def main() -> None:
    """Read the settings, build the service, run it."""
    answer_help("driftloop-trainer", "Retrains on CRITICAL drift and promotes only what is proven better.", Settings)
    try:
        settings = read_settings(Settings)
        configure_logging(NAME, settings)
        start_sentry(NAME)
        start_tracing(NAME)
        service = build(settings)
    except (SettingsError, ContractError, KeyFileError) as error:
        sys.exit(f"driftloop-trainer: {error}")
    run_service(service)


def build(settings: Settings) -> Service:
    """Put the service together. Raises SettingsError, ContractError, KeyFileError; waits for broker and schema."""
    namespace = Namespace(settings.namespace)
    access, brokers = build_access(settings), brokers_of(settings.kafka)
    models = load_models(settings.contracts)
    contracts = {name: model.contract for name, model in models.items()}
    artifacts, sets = open_artifacts(settings), set_files(settings)
    client = open_client(settings.label_ingest_url, settings.label_ingest_key)
    pool = open_pool(settings.database_url.value, namespace.schema(NAME), "driftloop-trainer")
    wait_for_schema(pool, NAME)
    identities = wait_for_topics(brokers, namespace, TOPICS)
    producer = DeliveryProducer(producer_config(brokers, "driftloop-trainer", 10_000))
    drainer = OutboxDrainer(pool, producer, namespace, NAME, brokers)
    highest = highest_published(brokers, namespace, "driftloop-trainer")
    standby = Standby()
    resources = _resources(settings, pool, client, artifacts, sets, highest, drainer.wake, standby)
    locks = ModelLocks(pool)
    retraining = [RetrainingWorker(resources, model, locks) for model in models.values()]
    # Before one of them begins a training.
    sweep()

    def committed() -> None:
        drainer.wake()
        for worker in retraining:
            worker.wake()

    consumer = _consumer(brokers, namespace, identities, pool, producer, committed)
    api = create_app(pool, contracts, Operations(pool, highest, utc_now, committed))
    return Service(
        name=NAME,
        host=settings.host,
        port=settings.port,
        management_port=settings.management_port,
        api=admit(api, access, needed, build_rate_limit(settings)),
        workers=(
            consumer,
            drainer,
            *retraining,
            _rollouts(settings, resources, contracts),
            ExportWorker(pool, tuple(contracts), utc_now, settings.check_seconds),
            *_keeping(settings, resources, contracts),
            *access.workers,
            *tracking_workers(pool, open_trackers(), artifacts, utc_now),
        ),
        notes={"access": access.note},
        ready=consumer_checks(pool, producer, consumer, drainer),
        closers=(standby.close, lambda: producer.close(5), client.close, locks.close, pool.close),
    )


def _resources(
    settings: Settings, pool: Pool, client: httpx.Client, artifacts: Artifacts, sets: SetFiles,
    highest: HighestRevision, published: Callable[[], None], standby: Standby,
) -> Resources:  # fmt: skip
    memory = settings.training_memory_mb
    limits = TrainingLimits(settings.training_seconds, None if memory is None else memory * 2**20)
    return Resources(
        pool=pool,
        client=client,
        artifacts=artifacts,
        sets=sets,
        highest_revision=highest,
        clock=utc_now,
        published=published,
        run=partial(run_training, limits, take=standby.take),
        prepare=standby.prepare,
        max_rows=settings.max_rows,
        check_seconds=settings.check_seconds,
        backend=backend(settings),
        turns=threading.BoundedSemaphore(settings.trainings_at_once),
    )


def _consumer(
    brokers: Brokers, namespace: Namespace, identities: Mapping[str, TopicIdentity], pool: Pool,
    producer: DeliveryProducer, committed: Callable[[], None],
) -> ConsumerLoop:  # fmt: skip
    return ConsumerLoop(
        config=consumer_config(brokers, "driftloop-trainer", namespace.group(NAME)),
        name=NAME,
        subscriptions={
            namespace.topic(DRIFT_EVENTS): Subscription(DRIFT_EVENTS, _on_drift),
            namespace.topic(LABELED_PREDICTIONS): Subscription(LABELED_PREDICTIONS, _on_labels),
            namespace.topic(MODEL_STATUS): Subscription(MODEL_STATUS, _on_status),
        },
        identities=identities,
        pool=pool,
        producer=producer,
        after_commit=committed,
    )


def _rollouts(settings: Settings, resources: Resources, contracts: Mapping[str, Contract]) -> RolloutWorker:
    return RolloutWorker(
        pool=resources.pool,
        contracts=contracts,
        highest_revision=resources.highest_revision,
        clock=utc_now,
        published=resources.published,
        check_seconds=settings.check_seconds,
    )


def _keeping(settings: Settings, resources: Resources, contracts: Mapping[str, Contract]) -> tuple[Worker, ...]:
    """What deletes training sets and versions that may not, or need not, be kept."""
    pool, sets, models = resources.pool, resources.sets, tuple(contracts)

    def delete(model: str, version: int) -> None:
        delete_version(version_uri(settings.artifacts, model, version), model, version)

    return (
        PurgeWorker(pool=pool, files=sets, models=models, clock=utc_now),
        PruneWorker(pool, delete_version, models, settings.keep_versions, utc_now),
        LeftoverWorker(pool, delete, sets, models, utc_now),
    )


def _on_drift(connection: Connection, batch: Sequence[Delivery]) -> None:
    for one in batch:
        assert isinstance(one.event, DriftDetected)
        handlers.on_drift(connection, utc_now, one.envelope.id, one.event, one.envelope.traceparent)


def _on_labels(connection: Connection, batch: Sequence[Delivery]) -> None:
    handlers.on_labels(connection, utc_now, [one.event for one in batch])


def _on_status(connection: Connection, batch: Sequence[Delivery]) -> None:
    handlers.on_status(Store(connection), [one.event for one in batch if isinstance(one.event, ModelStatus)])


if __name__ == "__main__":
    main()
