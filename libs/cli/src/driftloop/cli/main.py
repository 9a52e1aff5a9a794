"""`driftloop`: the operator's command. Prepares what services need before their first start."""

import os
from pathlib import Path
from typing import Annotated

import psycopg
import typer
import yaml
from confluent_kafka import KafkaException

from driftloop.cli import api_keys, contracts
from driftloop.cli.output import fail
from driftloop.common import keys
from driftloop.common.asyncapi import document as asyncapi_document
from driftloop.common.kafka.admin import (
    TopicsError,
    Unreachable,
    admin_client,
    check_reachable,
    create_topics,
    verify_topics,
)
from driftloop.common.kafka.reader import ReadTimeout
from driftloop.common.kafka.settings import KafkaSettings, brokers_of
from driftloop.common.postgres import migrations
from driftloop.common.postgres.pool import first_line
from driftloop.common.postgres.restoring import StillRunning, retire_outboxes
from driftloop.common.settings import Secret, SettingsError, read_secret, read_settings
from driftloop.common.topics import Namespace, all_topics

app = typer.Typer(
    help="Prepare and look after an installation of Driftloop.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
keys_app = typer.Typer(help="Signing keys of model artifacts.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
app.add_typer(api_keys.app, name="api-keys")
app.add_typer(contracts.app, name="contract")

NamespaceOption = Annotated[
    str, typer.Option(envvar="DRIFTLOOP_NAMESPACE", help="Prefix of topics, groups, schemas and roles.")
]


DatabaseUrl = Annotated[
    str,
    typer.Option(
        envvar="DATABASE_URL",
        help="An administrator's URL: may create roles and schemas. Or name its file in DATABASE_URL_FILE.",
    ),
]


def _namespace(prefix: str) -> Namespace:
    try:
        return Namespace(prefix)
    except ValueError as error:
        fail(str(error))


@app.command()
def migrate(
    database_url: DatabaseUrl = "",
    namespace: NamespaceOption = "",
) -> None:
    """Create each service's schema and role and apply its migrations. Safe when several start it at once.

    Each role's password comes from DRIFTLOOP_<SERVICE>_DB_PASSWORD, or from the file that
    DRIFTLOOP_<SERVICE>_DB_PASSWORD_FILE names.
    """
    try:
        url = _administrator(database_url)
        passwords: dict[str, Secret] = {}
        for service in migrations.services():
            password = read_secret(f"DRIFTLOOP_{service.upper()}_DB_PASSWORD", os.environ)
            if password is not None:
                passwords[service] = password
        applied = migrations.migrate(url, _namespace(namespace), passwords)
    except (migrations.MigrationError, SettingsError) as error:
        fail(str(error))
    except psycopg.Error as error:
        fail(f"the database refused: {first_line(error)}")
    for service, names in applied.items():
        typer.echo(f"{service}: {', '.join(names) if names else 'up to date'}")


@app.command()
def restored(database_url: DatabaseUrl = "", namespace: NamespaceOption = "") -> None:
    """After the database was restored, and before any service but predictors starts: let the log's tail not count.

    What the services published since the backup they decide and publish anew. Safe to repeat. Brokers are named, and
    reached, by KAFKA_… as in the services.
    """
    try:
        brokers = brokers_of(read_settings(KafkaSettings))
        check_reachable(brokers)
        retired = retire_outboxes(_administrator(database_url), _namespace(namespace), brokers)
    except (migrations.MigrationError, StillRunning, SettingsError, Unreachable) as error:
        fail(str(error))
    except (KafkaException, ReadTimeout) as error:
        fail(f"the brokers at {brokers} did not answer: {error}")
    except psycopg.Error as error:
        fail(f"the database refused: {first_line(error)}")
    for source in retired:
        typer.echo(f"{source}: what it published since the backup does not count")
    if not retired:
        typer.echo("nothing has been published, or this was run already")


def _administrator(database_url: str) -> str:
    url = Secret(database_url) if database_url else read_secret("DATABASE_URL", os.environ)
    if url is None:
        fail("no database is named: set DATABASE_URL or DATABASE_URL_FILE, or give --database-url")
    return url.value


@app.command()
def topics(
    bootstrap_servers: Annotated[
        str, typer.Option(envvar="KAFKA_BOOTSTRAP_SERVERS", help="host:port of one or more brokers.")
    ],
    namespace: NamespaceOption = "",
    replication: Annotated[int, typer.Option(help="Copies of each partition; -1 is the broker's default.")] = -1,
    check: Annotated[
        bool, typer.Option("--check", help="Create nothing; fail if something is not as it must be.")
    ] = False,
) -> None:
    """Create the topics with their partitions and clean-up policies, then verify them. Several may do so at once.

    KAFKA_SECURITY_PROTOCOL, KAFKA_SASL_… and KAFKA_SSL_… say how the brokers are reached, as for the services.
    """
    try:
        brokers = brokers_of(read_settings(KafkaSettings, os.environ | {"KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers}))
        check_reachable(brokers)
        admin = admin_client(brokers)
        if check:
            verify_topics(admin, _namespace(namespace), all_topics())
            typer.echo(f"{len(all_topics())} topics are as they must be")
            return
        created, existing = create_topics(admin, _namespace(namespace), all_topics(), replication)
    except (TopicsError, SettingsError, Unreachable) as error:
        fail(str(error))
    except (KafkaException, TimeoutError) as error:
        fail(f"the brokers at {bootstrap_servers} did not do it: {error}")
    typer.echo(
        f"created {len(created)} topics, {len(existing)} existed" + (f": {', '.join(created)}" if created else "")
    )


@app.command()
def asyncapi() -> None:
    """Print the description of every topic and event: docs/asyncapi.yaml is made by this."""
    typer.echo(yaml.safe_dump(asyncapi_document(), sort_keys=False, allow_unicode=True, width=120), nl=False)


@keys_app.command("generate")
def generate_keys(
    private: Annotated[Path, typer.Option(help="Where the private key goes (mode 0600): the trainer's alone.")],
    public: Annotated[Path, typer.Option(help="Where the public key goes: every predictor's.")],
) -> None:
    """Make an Ed25519 key pair. An existing file is never overwritten."""
    try:
        keys.generate(private, public)
    except (keys.KeyFileError, OSError) as error:
        fail(str(error))
    typer.echo(f"private key: {private}\npublic key: {public}")


if __name__ == "__main__":
    app()
