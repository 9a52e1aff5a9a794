"""What the operator's command says: results on standard output, everything else on standard error."""

from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

console = Console(stderr=True)


def note(message: str) -> None:
    """Say something beside the result."""
    console.print(escape(message), highlight=False, soft_wrap=True)


def fail(message: str) -> NoReturn:
    """Say what went wrong, and end with status 1."""
    console.print(f"[red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(1)
