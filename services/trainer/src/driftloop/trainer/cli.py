"""`trainer`: trains first versions, tells what there is, and takes the orders that the API takes."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import psycopg
import typer
from confluent_kafka import KafkaException
from rich.console import Console

from driftloop.common.clock import utc_now
from driftloop.common.contract import Contract, ContractError, chosen, load_contracts
from driftloop.common.kafka.admin import TopicsError, Unreachable, check_reachable
from driftloop.common.kafka.config import producer_config
from driftloop.common.kafka.producer import DeliveryProducer
from driftloop.common.kafka.reader import ReadTimeout
from driftloop.common.kafka.settings import brokers_of
from driftloop.common.keys import KeyFileError
from driftloop.common.postgres.outbox import OutboxDrainer
from driftloop.common.postgres.pool import Pool, first_line, open_pool
from driftloop.common.registry import ArtifactError
from driftloop.common.settings import SettingsError, read_settings
from driftloop.common.topics import Namespace
from driftloop.trainer.backends import parallel
from driftloop.trainer.build import backend, load_models, open_artifacts, set_files
from driftloop.trainer.domain.card import ModelCard
from driftloop.trainer.domain.card_text import render
from driftloop.trainer.domain.challenger import HOLDOUT
from driftloop.trainer.evidence_store import recomputed
from driftloop.trainer.first import FirstVersion, import_first, train_first
from driftloop.trainer.importing import import_source
from driftloop.trainer.operations import Operations, Refused, Unknown
from driftloop.trainer.progress import progress
from driftloop.trainer.request_store import RequestStore
from driftloop.trainer.serving import HighestRevision, highest_published
from driftloop.trainer.settings import Settings
from driftloop.trainer.store import Store
from driftloop.trainer.training_sets import verify

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True)
PUBLISH_SECONDS = 60.0
# Who gives an order here: whoever has the service's own settings.
BY = "the command line"

ModelOption = Annotated[str | None, typer.Option(help="Which model; the only one there is may be left out.")]
VersionArgument = Annotated[int, typer.Argument(min=1)]
ReasonOption = Annotated[str, typer.Option(help="Why, for whoever reads it later.")]


@app.callback()
def main() -> None:
    """Train models, see what became of them, decide by hand. Settings come from the environment, as for the service."""


@app.command()
def train() -> None:
    """Train version 1 of every model whose contract DRIFTLOOP_CONTRACTS names, and publish it.

    A model that already has a champion is left as it is.
    """
    with _trainer() as trainer, parallel(backend(trainer.settings)), progress(typer.echo) as say:
        artifacts = open_artifacts(trainer.settings)
        for model in load_models(trainer.settings.contracts).values():
            _tell(train_first(trainer.pool, model.contract, model.baseline, artifacts, trainer.highest, utc_now, say))
        trainer.publish()


@app.command(name="import")
def import_model(
    file: Annotated[Path, typer.Argument(help="A model: `.onnx` is ONNX, all else a pickle or joblib file.")],
    trained_on: Annotated[
        str,
        typer.Option(
            help="Which rows it was trained on, so that they are never its test: a CSV file with the contract's "
            "columns, `baseline-train` (the baseline but its held-out rows), or `none` of the baseline's rows."
        ),
    ],
    model: ModelOption = None,
) -> None:
    """Make a model from elsewhere, ONNX or a fitted scikit-learn estimator, version 1 of a model that has none.

    Opening an estimator runs code of its maker: a pickle is a program. It is opened in a process with limits, none of
    the trainer's environment, and, on Linux from 6.12 on, no way to other files, programs or machines. On an older
    kernel less of that holds: open only what you would run yourself.
    """
    with _trainer() as trainer:
        contract = trainer.contract(model)
        data = load_models(trainer.settings.contracts)[contract.name]
        source = import_source(file, trained_on)
        artifacts = open_artifacts(trainer.settings)
        _tell(
            import_first(trainer.pool, contract, data.baseline, source, artifacts, trainer.highest, utc_now, typer.echo)
        )
        trainer.publish()


def _tell(made: FirstVersion) -> None:
    name = made.model.name
    if made.card is None:
        typer.echo(f"{name}: version {made.model.champion} serves already; nothing to do")
        return
    held = made.card.metrics[HOLDOUT]
    typer.echo(
        f"{name}: version {made.card.model_version}, accuracy {held.accuracy:.3f} on {held.rows} held-out baseline "
        f"rows (always the commoner class: {held.majority:.3f})"
    )


@app.command()
def models() -> None:
    """Say which version of each model serves, and what became of the others. JSON."""
    with _trainer() as trainer, trainer.pool.connection() as connection:
        store = Store(connection)
        told = ("version", "status", "created_at", "files_deleted_at")
        _print(
            {
                name: [{field: one[field] for field in told} for one in store.overview(name)["versions"]]
                for name in trainer.contracts
            }
        )


@app.command()
def requests(model: ModelOption = None, limit: Annotated[int, typer.Option(min=1, max=1000)] = 20) -> None:
    """Show retraining requests, newest first, each with its history. JSON."""
    with _trainer() as trainer, trainer.pool.connection() as connection:
        _print(RequestStore(connection).shown(None if model is None else trainer.contract(model).name, limit))


@app.command()
def card(
    version: VersionArgument,
    model: ModelOption = None,
    json: Annotated[bool, typer.Option("--json", help="The card itself, and not a page about it.")] = False,
) -> None:
    """Show a version's model card."""
    with _trainer() as trainer, trainer.pool.connection() as connection:
        found = Store(connection).card(trainer.contract(model).name, version)
        if found is None:
            raise Unknown(f"model {trainer.contract(model).name!r} has no version {version}")
        if json:
            _print(found)
        else:
            typer.echo(render(msgspec.convert(found, ModelCard)))


@app.command(name="verify-set")
def verify_set(version: VersionArgument, model: ModelOption = None) -> None:
    """Read the file of a version's training set, and say whether it is what the version learnt from."""
    with _trainer() as trainer, trainer.pool.connection() as connection:
        name = trainer.contract(model).name
        found = Store(connection).card(name, version)
        if found is None:
            raise Unknown(f"model {name!r} has no version {version}")
        digest = found["training"]["digest"]
        if found["training"]["labeled_rows"]:
            verify(set_files(trainer.settings), name, digest)
            typer.echo(f"{digest}.arrow: OK")
        else:
            typer.echo(f"{digest}: the baseline's rows alone, which come with the contract")


@app.command()
def decision(version: VersionArgument, model: ModelOption = None) -> None:
    """Make the gate's decision on a version again from what is stored. Ends with 1 where it is another one. JSON."""
    with _trainer() as trainer, trainer.pool.connection() as connection:
        found = recomputed(connection, trainer.contract(model).name, version)
        _print(found)
        if False in (found["same"], found.get("relabelled", {}).get("same")):
            raise typer.Exit(1)


@app.command()
def retrain(
    model: ModelOption = None,
    reason: ReasonOption = "",
    since: Annotated[
        datetime | None, typer.Option(help="Only rows predicted from then on (UTC) count as the new population.")
    ] = None,
) -> None:
    """Ask for a retraining; a trainer that runs takes it up."""
    with _trainer() as trainer:
        instant = None if since is None else since.replace(tzinfo=UTC)
        found, opened = trainer.operations.retrain(trainer.contract(model), BY, reason, instant)
        typer.echo(f"request {found} " + ("is open" if opened else "was open already"))


@app.command()
def promote(version: VersionArgument, model: ModelOption = None, reason: ReasonOption = "") -> None:
    """Let a version serve, whatever its gate said."""
    with _trainer() as trainer:
        served = trainer.operations.promote(trainer.contract(model), version, BY, reason)
        trainer.publish()
        typer.echo(f"{served.model_name}: version {served.champion} serves from revision {served.revision} on")


@app.command()
def rollback(
    model: ModelOption = None,
    reason: ReasonOption = "",
    to: Annotated[
        int | None, typer.Option(min=1, help="The version that shall serve, by default the one before.")
    ] = None,
) -> None:
    """End a roll-out; where there is none, let an earlier version serve again."""
    with _trainer() as trainer:
        served = trainer.operations.roll_back(trainer.contract(model), BY, reason, to)
        trainer.publish()
        typer.echo(f"{served.model_name}: version {served.champion} serves from revision {served.revision} on")


@app.command()
def republish(model: ModelOption = None, reason: ReasonOption = "") -> None:
    """After the database was restored: have the predictors serve what it says shall serve."""
    with _trainer() as trainer:
        served = trainer.operations.republish(trainer.contract(model), BY, reason)
        trainer.publish()
        typer.echo(f"{served.model_name}: version {served.champion} serves from revision {served.revision} on")


@dataclass(frozen=True)
class _Trainer:
    """What the commands work with."""

    settings: Settings
    contracts: Mapping[str, Contract]
    pool: Pool
    highest: HighestRevision
    drainer: OutboxDrainer

    @property
    def operations(self) -> Operations:
        return Operations(self.pool, self.highest, utc_now, lambda: None)

    def contract(self, model: str | None) -> Contract:
        """The contract that is meant. Raises Unknown."""
        found = chosen(self.contracts, model)
        if found is None:
            raise Unknown(f"model {model!r} is not known here: name one of {list(self.contracts)} with --model")
        return found

    def publish(self) -> None:
        """Drain the outbox, so that the command ends only when its event is in the log."""
        stop, waited = threading.Event(), threading.Event()
        thread = threading.Thread(target=self.drainer.run, args=[stop], daemon=True)
        thread.start()
        try:
            for _ in range(int(PUBLISH_SECONDS * 10)):
                with self.pool.connection() as connection:
                    row = connection.execute("SELECT count(*) FROM outbox").fetchone()
                if row is not None and row[0] == 0:
                    return
                waited.wait(0.1)
            why = self.drainer.problem() or "is a broker reachable?"
            _fail(f"the decision is kept, but was not published within {PUBLISH_SECONDS:g} s: {why}")
        finally:
            stop.set()
            self.drainer.wake()
            thread.join(timeout=5)


@contextmanager
def _trainer() -> Iterator[_Trainer]:
    """Everything a command needs, for the time of a block; what can go wrong is said in a line."""
    try:
        settings = read_settings(Settings)
        with _opened(settings) as trainer:
            yield trainer
    except (
        SettingsError, ContractError, KeyFileError, ArtifactError, TopicsError, Unreachable, Refused, LookupError,
        ValueError,
    ) as error:  # fmt: skip
        _fail(str(error))
    except (KafkaException, ReadTimeout) as error:
        _fail(f"the brokers at {settings.kafka.kafka_bootstrap_servers} did not answer: {error}")
    except psycopg.Error as error:
        _fail(f"the database refused: {first_line(error)}")


@contextmanager
def _opened(settings: Settings) -> Iterator[_Trainer]:
    namespace = Namespace(settings.namespace)
    contracts = load_contracts(settings.contracts)
    brokers = brokers_of(settings.kafka)
    check_reachable(brokers)
    highest = highest_published(brokers, namespace, "driftloop-trainer-cli")
    producer = DeliveryProducer(producer_config(brokers, "driftloop-trainer-cli", 10_000))
    pool = open_pool(settings.database_url.value, namespace.schema("trainer"), "driftloop-trainer-cli", max_size=3)
    drainer = OutboxDrainer(pool, producer, namespace, "trainer", brokers)
    try:
        yield _Trainer(settings, contracts, pool, highest, drainer)
    finally:
        pool.close()
        producer.close(5)


def _print(value: object) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(value)).decode())


def _fail(message: str) -> NoReturn:
    console.print(f"error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    app()
