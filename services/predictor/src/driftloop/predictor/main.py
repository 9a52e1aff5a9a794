"""The predictor's process: the only place where its objects are built."""

import logging
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

from driftloop.common import keys
from driftloop.common.access.settings import build_access, build_rate_limit
from driftloop.common.clock import utc_now
from driftloop.common.contract import Contract, ContractError, load_contract
from driftloop.common.events import ServedVersion
from driftloop.common.kafka.admin import admin_client, check_reachable, verify_topics
from driftloop.common.kafka.config import Brokers, producer_config, reader_config
from driftloop.common.kafka.producer import DeliveryProducer
from driftloop.common.kafka.publisher import Publisher
from driftloop.common.kafka.settings import brokers_of
from driftloop.common.logs import configure_logging
from driftloop.common.process import Inherited, Service, incarnation, run_service
from driftloop.common.pseudonyms import derived_key, key_bytes
from driftloop.common.registry import fetch_bundle
from driftloop.common.registry.timed import Fetch, TimedFetch
from driftloop.common.rows import RowValidator
from driftloop.common.sentry import start_sentry
from driftloop.common.settings import SettingsError, read_settings
from driftloop.common.supervisor import Workers, run_workers
from driftloop.common.topics import MODEL_STATUS, MODEL_UPDATES, PREDICTIONS, Namespace
from driftloop.common.tracing import start_tracing
from driftloop.common.usage import answer_help
from driftloop.predictor.api import Admission, Limits, create_app
from driftloop.predictor.body import IDENTIFIERS
from driftloop.predictor.domain.model import LoadedModel, load_model
from driftloop.predictor.doors import Identities
from driftloop.predictor.following import METADATA_SECONDS, ModelFollower
from driftloop.predictor.handlers import Predictor
from driftloop.predictor.inference_log import InferenceLog
from driftloop.predictor.replaying import Replayer
from driftloop.predictor.reporting import StatusReporter
from driftloop.predictor.serving import Replica
from driftloop.predictor.settings import Settings
from driftloop.predictor.spool import Spool, SpoolFailed, SpoolInUse, leftovers

NAME = "predictor"
CLIENT = "driftloop-predictor"
# What runs at a SIGTERM is answered by then: an answer waits no longer than its acknowledgement may take.
SHUTDOWN_SECONDS = 6
FLUSH_SECONDS = 2.0
# What a worker needs at most: its requests, its threads, the spool and the flush.
WORKERS_SECONDS = 20.0
# An answer waits for it: what comes together is handed over together already.
LINGER_MS = 0.3
# How long a thread that loads a model holds Python's lock when a request waits for it. Python's own 5 ms are all of a
# request's time, and at all other times cost less.
LOADING_SWITCH_SECONDS = 0.0005
logger = logging.getLogger(__name__)
_REPLICA = re.compile(r"[A-Za-z0-9._:/-]{1,190}")


def main() -> None:
    """Read the settings, build the service, run it."""
    answer_help("driftloop-predictor", "Serves a model over HTTP and logs every inference durably.", Settings)
    with _explained(CLIENT):
        settings = _settings()
        if settings.workers > 1:
            supervise(settings)
        start_tracing(NAME)
        service = build(settings)
    run_service(service)


def supervise(settings: Settings) -> NoReturn:
    """Run several workers behind one port."""
    workers = Workers(
        name=NAME,
        count=settings.workers,
        run=run_worker,
        host=settings.host,
        port=settings.port,
        management_port=settings.management_port,
        stop_seconds=WORKERS_SECONDS + settings.drain_seconds,
    )
    try:
        run_workers(workers)
    except OSError as error:
        sys.exit(f"{CLIENT}: {error}")


def run_worker(number: int, inherited: Inherited) -> None:
    """What each of several workers does, in a process of its own."""
    with _explained(f"{CLIENT}: worker {number}"):
        settings = _settings()
        start_tracing(NAME)
        service = build(settings, number)
    run_service(service, inherited)


def _settings() -> Settings:
    settings = read_settings(Settings)
    configure_logging(NAME, settings)
    start_sentry(NAME)
    return settings


@contextmanager
def _explained(who: str) -> Iterator[None]:
    """End the process with a sentence where it cannot be put together."""
    try:
        yield
    except (SettingsError, ContractError, keys.KeyFileError) as error:
        sys.exit(f"{who}: {error}")


def build(settings: Settings, number: int = 0) -> Service:
    """Put worker `number` together. Raises SettingsError, ContractError, KeyFileError. Does not wait for the broker."""
    namespace, contract = Namespace(settings.namespace), load_servable(settings.contract)
    trusted = keys.load_public_keys(settings.trusted_keys)
    key, brokers = key_bytes(settings.pseudonym_key), brokers_of(settings.kafka)
    admission = admit(settings)
    spool = open_spool(settings.spool / f"worker-{number}", settings.spool_max_bytes)
    left = open_leftovers(settings) if number == 0 else []
    # An answer would wait for the acknowledgement of what went before it; each record has its number anyway.
    config = producer_config(brokers, CLIENT, linger_ms=LINGER_MS, ordered=False)
    producer = DeliveryProducer(config, lambda: log.wake())
    publisher = Publisher(producer, namespace, incarnation(NAME))
    log = InferenceLog(publisher, spool, settings.max_in_flight)
    replica = Replica(contract.name, replica_name(settings, number), utc_now())
    reporter = StatusReporter(replica, publisher.publish, lambda: producer.fatal, utc_now, settings.status_seconds)
    follower = ModelFollower(
        config=reader_config(brokers, CLIENT),
        topic=namespace.topic(MODEL_UPDATES),
        replica=replica,
        load=partial(_load, contract, TimedFetch(partial(fetch_bundle, public_keys=trusted))),
        clock=utc_now,
        prepare=partial(_prepare, brokers, namespace, publisher),
        changed=reporter.wake,
    )
    predictor = Predictor(contract, RowValidator(contract), replica, log, utc_now, derived_key(key, "assignment"))
    return Service(
        name=NAME,
        host=settings.host,
        port=settings.port,
        management_port=settings.management_port,
        api=create_app(
            predictor,
            Identities(key, derived_key(key, f"idempotency {contract.name}")),
            Limits(settings.max_body_bytes, settings.max_batch_bytes, settings.max_batch_rows),
            admission,
        ),
        workers=(
            follower,
            reporter,
            *(Replayer(one.name, one, publisher, log.uncertain, log.confirm) for one in (spool, *left)),
            *admission.access.workers,
        ),
        ready={
            "model": replica.problem,
            "producer": lambda: None if producer.fatal is None else f"the producer failed: {producer.fatal}",
            "spool": log.problem,
        },
        notes={"model": replica.note, "spool": log.note, "access": admission.access.note},
        closers=(lambda: producer.close(FLUSH_SECONDS), spool.close, *(one.close for one in left)),
        drain_seconds=settings.drain_seconds,
        shutdown_seconds=SHUTDOWN_SECONDS,
    )


def admit(settings: Settings) -> Admission:
    """Who may come in, by the settings. Raises SettingsError."""
    if settings.compat_anonymous:
        logger.warning("COMPAT_ANONYMOUS is on: whoever reaches this port may call GET / and POST /predict")
    return Admission(build_access(settings), build_rate_limit(settings), settings.compat_anonymous)


def open_spool(folder: Path, max_bytes: int) -> Spool:
    """A worker's spool. Raises SettingsError."""
    try:
        return Spool.open(folder, max_bytes)
    except (SpoolInUse, SpoolFailed) as error:
        raise SettingsError(f"DRIFTLOOP_SPOOL={folder.parent}: {error}") from error


def open_leftovers(settings: Settings) -> list[Spool]:
    """What workers have left that there are no more of: somebody must bring it into the log. Raises SettingsError."""
    try:
        folders = leftovers(settings.spool, settings.workers)
    except OSError as error:
        raise SettingsError(f"DRIFTLOOP_SPOOL={settings.spool}: cannot be read: {error.strerror}") from error
    return [open_spool(folder, settings.spool_max_bytes) for folder in folders]


def load_servable(path: Path) -> Contract:
    """The contract, if a request can carry its features. Raises ContractError."""
    contract = load_contract(path)
    for place, name in enumerate(contract.feature_names):
        if name in IDENTIFIERS:
            raise ContractError(
                path,
                f"$.features[{place}].name",
                name,
                f"is how a request names the {IDENTIFIERS[name]}, which is no input: give the feature another name",
            )
    return contract


def replica_name(settings: Settings, number: int = 0) -> str:
    """What this replica, or one of its workers, is called, the same after a restart. Raises SettingsError."""
    if settings.replica and not _REPLICA.fullmatch(settings.replica):
        raise SettingsError(
            f"DRIFTLOOP_REPLICA={settings.replica!r}: use 1 to 190 letters, digits and any of . _ : / - in it"
        )
    name = settings.replica or re.sub(r"[^A-Za-z0-9.-]", "-", f"{socket.gethostname()}-{settings.port}")[-190:]
    return f"{name}/{number}" if settings.workers > 1 else name


def _load(contract: Contract, fetch: Fetch, served: ServedVersion) -> LoadedModel:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(LOADING_SWITCH_SECONDS)
    try:
        return load_model(fetch(served.artifact, contract.name, served.version), contract)
    finally:
        sys.setswitchinterval(usual)


def _prepare(brokers: Brokers, namespace: Namespace, publisher: Publisher) -> None:
    """Check the topics that a predictor needs, and learn their partitions before the first request comes."""
    check_reachable(brokers, METADATA_SECONDS)
    verify_topics(admin_client(brokers, CLIENT), namespace, (PREDICTIONS, MODEL_UPDATES, MODEL_STATUS))
    publisher.learn(PREDICTIONS.name)
    publisher.learn(MODEL_STATUS.name)


if __name__ == "__main__":
    main()
