"""`driftloop-demo`: the loop closing before one's eyes, and an installation to play with."""

import secrets
import signal
import subprocess
from pathlib import Path
from typing import Annotated, NoReturn

import httpx
import psycopg
import typer
from confluent_kafka import KafkaException
from rich.console import Console

from driftloop.common.contract import ContractError
from driftloop.common.keys import KeyFileError
from driftloop.demo import upkeep
from driftloop.demo.installation import SetUpError
from driftloop.demo.observer import DemoFailed
from driftloop.demo.run import run as run_scenario
from driftloop.demo.scenarios import SCENARIOS, shipped_contract
from driftloop.devstack import StackUnavailable
from driftloop.devstack.processes import ProcessFailed

app = typer.Typer(
    help="Show the loop close on a real broker and a real database, or keep an installation running.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
errors = Console(stderr=True)
FAILURES = (
    DemoFailed, SetUpError, StackUnavailable, ProcessFailed, ContractError, KeyFileError,
    KafkaException, psycopg.Error, httpx.HTTPError, subprocess.SubprocessError, OSError,
)  # fmt: skip
Folder = Annotated[Path, typer.Option(help="Where data, keys, logs and the report are kept.")]


def _fail(error: BaseException) -> NoReturn:
    errors.print(str(error) or type(error).__name__, style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1) from None


def _stop_on_sigterm() -> None:
    """SIGTERM ends the command as Ctrl-C does: everything that it has started is stopped."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


@app.command()
def run(
    scenario: Annotated[str, typer.Argument(help=f"One of {', '.join(SCENARIOS)}.")] = "older-population",
    seed: Annotated[int | None, typer.Option(help="The same seed draws the same patients; none: a new one.")] = None,
    kill: Annotated[
        str | None, typer.Option(help="Kill this process with -9 in the middle: trainer, predictor-1, …")
    ] = None,
    folder: Folder = Path("build/demo"),
) -> None:
    """Play a scenario from nothing to its report; the exit status is 0 only if the loop closed and all counts agree."""
    if scenario not in SCENARIOS:
        _fail(ValueError(f"scenario {scenario!r} does not exist; there are {', '.join(SCENARIOS)}"))
    _stop_on_sigterm()
    try:
        run_scenario(scenario, folder, secrets.randbelow(2**31) if seed is None else seed, console, kill)
    except FAILURES as error:
        _fail(error)
    except KeyboardInterrupt:
        _fail(DemoFailed("interrupted: everything that was started has been stopped"))


@app.command()
def up(
    contract: Annotated[
        list[Path] | None, typer.Option(help="A model's contract; several are served side by side.")
    ] = None,
    predictors: Annotated[int, typer.Option(min=1, max=20, help="How many predictor processes each model gets.")] = 2,
    folder: Folder = Path("build/up"),
) -> None:
    """Start the stack and every service in the background, and print where they are."""
    try:
        with console.status("starting") as status:
            places, command = upkeep.up(folder, contract or [shipped_contract("diabetes")], predictors, status.update)
    except FAILURES as error:
        _fail(error)
    for name, place in places.items():
        typer.echo(f"{name:<40} {place}")
    typer.echo(f"\n{command}\n")
    typer.echo(f"logs are in {folder / 'installation' / 'logs'}; `make down` stops everything")


@app.command()
def down(folder: Folder = Path("build/up")) -> None:
    """Stop what `up` has started; its data stay."""
    try:
        with console.status("stopping"):
            stopped = upkeep.down(folder)
    except FAILURES as error:
        _fail(error)
    typer.echo(f"stopped {', '.join(stopped)}" if stopped else "nothing ran")


@app.command()
def status(folder: Folder = Path("build/up")) -> None:
    """Say what runs; the exit status is 1 unless everything is well."""
    found = upkeep.status(folder)
    for name, problem in found.items():
        typer.echo(f"{name}: {problem or 'well'}")
    if not found:
        typer.echo("nothing runs: `make up` starts it")
    if not found or any(found.values()):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
