"""`trainer`: trains a model's first version from its baseline."""

import threading
from dataclasses import dataclass
from typing import NoReturn

import psycopg
import typer
from confluent_kafka import KafkaException
from rich.console import Console

from driftloop.common.clock import utc_now
from driftloop.common.contract import ContractError
from driftloop.common.kafka.admin import TopicsError
from driftloop.common.kafka.config import producer_config
from driftloop.common.kafka.producer import DeliveryProducer
from driftloop.common.kafka.reader import ReadTimeout
from driftloop.common.keys import KeyFileError
from driftloop.common.postgres.outbox import OutboxDrainer
from driftloop.common.postgres.pool import Pool, first_line, open_pool
from driftloop.common.registry import ArtifactError
from driftloop.common.settings import SettingsError, read_settings
from driftloop.common.topics import Namespace
from driftloop.trainer.build import load_models, open_artifacts
from driftloop.trainer.first import train_first
from driftloop.trainer.serving import highest_published
from driftloop.trainer.settings import Settings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True)
PUBLISH_SECONDS = 60.0


@app.callback()
def main() -> None:
    """Train models from their contracts. Settings come from the environment, as the service's do."""


@app.command()
def train() -> None:
    """Train version 1 of every model whose contract DRIFTLOOP_CONTRACTS names, and publish it.

    A model that already has a champion is left as it is.
    """
    try:
        settings = read_settings(Settings)
        _train(settings)
    except (SettingsError, ContractError, KeyFileError, ArtifactError, TopicsError, ValueError) as error:
        _fail(str(error))
    except (KafkaException, ReadTimeout) as error:
        _fail(f"the brokers at {settings.kafka_bootstrap_servers} did not answer: {error}")
    except psycopg.Error as error:
        _fail(f"the database refused: {first_line(error)}")


@dataclass(frozen=True)
class _Publishing:
    """Drains the outbox beside the training, so that the command ends only when its event is in the log."""

    pool: Pool

    def wait_until_empty(self, drainer: OutboxDrainer) -> None:
        stop = threading.Event()
        thread = threading.Thread(target=drainer.run, args=[stop], daemon=True)
        thread.start()
        waited = threading.Event()
        try:
            for _ in range(int(PUBLISH_SECONDS * 10)):
                with self.pool.connection() as connection:
                    row = connection.execute("SELECT count(*) FROM outbox").fetchone()
                if row is not None and row[0] == 0:
                    return
                waited.wait(0.1)
            _fail(f"the decision is kept, but was not published within {PUBLISH_SECONDS:g} s: is a broker reachable?")
        finally:
            stop.set()
            drainer.wake()
            thread.join(timeout=5)


def _train(settings: Settings) -> None:
    namespace = Namespace(settings.namespace)
    models = load_models(settings.contracts)
    artifacts = open_artifacts(settings)
    highest = highest_published(settings.kafka_bootstrap_servers, namespace, "driftloop-trainer-cli")
    producer = DeliveryProducer(producer_config(settings.kafka_bootstrap_servers, "driftloop-trainer-cli", 10_000))
    pool = open_pool(settings.database_url.value, namespace.schema("trainer"), "driftloop-trainer-cli", max_size=3)
    try:
        for model in models.values():
            made = train_first(pool, model.contract, model.baseline, artifacts, highest, utc_now, typer.echo)
            if made.card is None:
                typer.echo(f"{model.contract.name}: version {made.model.champion} serves already; nothing to do")
            else:
                held = made.card.metrics["baseline_holdout"]
                typer.echo(
                    f"{model.contract.name}: version {made.card.model_version}, accuracy {held.accuracy:.3f} on "
                    f"{held.rows} held-out baseline rows (always the commoner class: {held.majority:.3f})"
                )
        _Publishing(pool).wait_until_empty(OutboxDrainer(pool, producer, namespace, "trainer"))
    finally:
        pool.close()
        producer.close(5)


def _fail(message: str) -> NoReturn:
    console.print(f"error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    app()
