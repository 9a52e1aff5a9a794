"""`driftloop contract`: what a model contract says, in the words of other tools."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from driftloop.cli.expectations import expectation_suite
from driftloop.cli.output import fail
from driftloop.common.contract import ContractError, baseline_path, load_contract
from driftloop.common.rows import read_baseline

app = typer.Typer(help="Model contracts in the words of other tools.", no_args_is_help=True)


@app.callback()
def contract() -> None:
    """Keep `export` a command of its own, though it is the only one."""


@app.command()
def export(
    file: Annotated[Path, typer.Argument(metavar="CONTRACT", help="The contract.yaml; its baseline is read, too.")],
    format_: Annotated[
        Literal["great-expectations"], typer.Option("--format", help="great-expectations: an ExpectationSuite as JSON.")
    ],
) -> None:
    """Print what the contract asks of data, for other tools to check."""
    try:
        found = load_contract(file)
        rows, _labels = read_baseline(found, baseline_path(file, found))
    except ContractError as error:
        fail(str(error))
    typer.echo(json.dumps(expectation_suite(found, rows), indent=2, ensure_ascii=False))
