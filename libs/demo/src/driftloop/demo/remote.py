"""`driftloop-demo-traffic`: an older population comes to an installation that runs already, wherever that is."""

import secrets
import time
from pathlib import Path
from typing import Annotated, NoReturn

import httpx
import numpy as np
import typer
from confluent_kafka import KafkaException
from rich.console import Console

from driftloop.common.contract import ContractError, load_contract
from driftloop.common.settings import Secret
from driftloop.common.topics import Namespace
from driftloop.demo.doors import Doors
from driftloop.demo.loop import Loop
from driftloop.demo.observer import DemoFailed, Observer
from driftloop.demo.phases import (
    FRESH,
    OUTCOMES_ARE_LATE_BY,
    accuracy,
    meet_older_patients_until_critical,
    meet_older_patients_until_promoted,
    meet_the_baseline,
    wait_for_swap,
)
from driftloop.demo.populations import OLDER_FEATURES, older
from driftloop.demo.traffic import Traffic

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(width=120)


@app.command()
def traffic(
    predictor: Annotated[list[str], typer.Option(help="NAME=URL: a replica and where it answers; each one of them.")],
    label_ingest: Annotated[str, typer.Option(help="URL.")],
    drift_monitor: Annotated[str, typer.Option(help="URL.")],
    trainer: Annotated[str, typer.Option(help="URL.")],
    bootstrap_servers: Annotated[str, typer.Option(help="Kafka's, for a laboratory that produces to `outcomes`.")],
    contract: Annotated[Path, typer.Option(help="The contract that the installation has: of the diabetes model.")],
    client_key_file: Annotated[Path, typer.Option(help="An API key of the scopes predict and label.")],
    operator_key_file: Annotated[Path, typer.Option(help="An API key that reads trainer and drift-monitor.")],
    namespace: Annotated[str, typer.Option(help="DRIFTLOOP_NAMESPACE of the installation.")] = "",
    seed: Annotated[int | None, typer.Option(help="The same seed draws the same patients; none: a new one.")] = None,
) -> None:
    """Send patients and their outcomes until a new version serves in every predictor; the exit status is then 0."""
    try:
        doors = Doors(
            predictors=_named(predictor),
            label_ingest=label_ingest,
            drift_monitor=drift_monitor,
            trainer=trainer,
            bootstrap_servers=bootstrap_servers,
            namespace=Namespace(namespace),
            client_key=Secret(client_key_file.read_text().strip()),
            operator_key=Secret(operator_key_file.read_text().strip()),
        )
        _run(doors, contract, np.random.default_rng(secrets.randbelow(2**31) if seed is None else seed))
    except (RuntimeError, ContractError, KafkaException, httpx.HTTPError, OSError, ValueError) as error:
        _fail(error)


def _fail(error: Exception) -> NoReturn:
    typer.echo(f"driftloop-demo-traffic: {error or type(error).__name__}", err=True)
    raise typer.Exit(1) from None


def _named(predictors: list[str]) -> dict[str, str]:
    """Raises ValueError."""
    named = {}
    for text in predictors:
        name, equals, url = text.partition("=")
        if not (name and equals and url.startswith(("http://", "https://"))):
            raise ValueError(f"--predictor {text!r} is not NAME=URL, such as predictor-1=http://predictor-1:8000")
        named[name] = url.rstrip("/")
    return named


def _run(doors: Doors, contract_file: Path, rng: np.random.Generator) -> None:
    contract = load_contract(contract_file)
    if lacking := OLDER_FEATURES - set(contract.feature_names):
        raise ValueError(f"{contract.name} of {contract_file} has no {', '.join(sorted(lacking))}: no patients for it")
    # Two windows' worth of patients a pane: more would only wait for the pane's end.
    rate = min(Loop.rate, 2 * contract.drift.min_samples / contract.drift.pane_seconds)
    observer, traffic = Observer(doors, contract.name), Traffic.to(doors)
    loop = Loop(doors, contract_file, contract, traffic, observer, console, rate=rate, lab_delay=OUTCOMES_ARE_LATE_BY)
    try:
        _play(loop, rng)
    finally:
        traffic.close()
        observer.close()


def _play(loop: Loop, rng: np.random.Generator) -> None:
    """Raises DemoFailed."""
    champion = loop.observer.training()["champion"]
    if champion != 1:
        loop.say(
            f"version {champion} serves, and version 1 has been replaced: an installation without data shows it anew"
        )
        return
    loop.say(
        f"{loop.rate:.0f} patients a second, as the monitor's panes of {loop.contract.drift.pane_seconds:g} s like it"
    )
    if loop.observer.report()["verdict"] != "CRITICAL":
        meet_the_baseline(loop, rng)
    first = meet_older_patients_until_critical(loop, rng)
    critical = time.monotonic()
    new = meet_older_patients_until_promoted(loop, rng)
    wait_for_swap(loop, rng, new)
    took = time.monotonic() - critical
    loop.rate = Loop.rate
    fresh = loop.send(older(loop.contract, rng, FRESH))
    loop.flush_lab()
    if first:
        loop.say(f"version 1 was right about {accuracy(first):.1%} of the {len(first)} older patients until the alarm")
    loop.say(f"version {new} is right about {accuracy(fresh):.1%} of {len(fresh)} whom it has not met")
    counts = loop.traffic.counts
    loop.say(f"requests sent / answered / failed: {counts.sent} / {counts.answered} / {counts.failed}")
    loop.say(f"from CRITICAL to the last predictor's swap: {took:.0f} s")
    if counts.failed:
        raise DemoFailed(f"{counts.failed} of {counts.sent} requests failed")


if __name__ == "__main__":
    app()
