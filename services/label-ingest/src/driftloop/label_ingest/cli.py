"""`label-ingest`: writes labelled rows to a file."""

import getpass
import os
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import msgspec
import psycopg
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import typer
from rich.console import Console

from driftloop.common.clock import utc_now
from driftloop.common.contract import Contract, ContractError, chosen, load_contracts
from driftloop.common.postgres.migrations import check_migrated
from driftloop.common.postgres.pool import connection_string, first_line
from driftloop.common.settings import Secret, SettingsError, read_settings
from driftloop.common.topics import Namespace
from driftloop.label_ingest import arrow, audit
from driftloop.label_ingest.reading import Labelled, Reader, RowQuery, RowVariant

SCHEMA = "label_ingest"
BATCH_ROWS = 5_000
PROGRESS_SECONDS = 5.0

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True)
FileFormat = Literal["parquet", "csv"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What an export is told from outside, as the service is."""

    database_url: Secret
    contracts: tuple[Path, ...]
    namespace: str = ""


@dataclass(frozen=True)
class _Export:
    """What is to be written where."""

    query: RowQuery
    contract: Contract
    output: Path
    format: FileFormat


def main() -> None:
    """Run the command."""
    app()


@app.callback()
def _commands() -> None:
    """Read what label-ingest holds. Settings come from the environment, as the service's do."""


def _instant(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no RFC 3339 time, such as 2026-03-01T12:00:00Z") from error
    if found.tzinfo is None:
        raise typer.BadParameter(f"{text!r}: say the offset from UTC, as in 2026-03-01T12:00:00Z")
    return found.astimezone(UTC)


Instant = datetime | None


@app.command("export")
def export_command(
    output: Annotated[Path, typer.Option(help="The file to write: *.parquet or *.csv.")],
    since: Annotated[
        Instant, typer.Option("--from", parser=_instant, metavar="TIME", help="Predicted at or after it (RFC 3339).")
    ] = None,
    until: Annotated[
        Instant, typer.Option("--to", parser=_instant, metavar="TIME", help="Predicted before it.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The model; needed where DRIFTLOOP_CONTRACTS names several.")
    ] = None,
    variant: Annotated[str, typer.Option(help="Whose answers: champion, canary or shadow.")] = "champion",
    labelled: Annotated[str, typer.Option(help="Rows with a label: true; without: false; or any.")] = "true",
) -> None:
    """Write a model's rows with their labels, the newest first, and note in the access log who did."""
    try:
        settings = read_settings(Settings)
        contract = _contract(load_contracts(settings.contracts), model)
        rows = RowQuery(
            contract.name, None, _one_of(Labelled, labelled, "--labelled"), _one_of(RowVariant, variant, "--variant"),
            since, until,
        )  # fmt: skip
        written = _export(settings, _Export(rows, contract, output, _format(output)))
    except (SettingsError, ContractError, _Unusable) as error:
        _fail(str(error))
    except psycopg.Error as error:
        _fail(f"the database refused: {first_line(error)}")
    except OSError as error:
        _fail(f"{output}: cannot be written ({error.strerror})")
    console.print(f"{written:,} rows in {output}", markup=False, highlight=False, soft_wrap=True)


class _Unusable(ValueError):
    """What was asked for cannot be done. Names it and the remedy."""


def _one_of(choices: Any, text: str, option: str) -> Any:
    known: tuple[str, ...] = choices.__args__
    if text not in known:
        raise _Unusable(f"{option} {text!r}: give one of {', '.join(known)}")
    return text


def _format(output: Path) -> FileFormat:
    if output.suffix == ".parquet":
        return "parquet"
    if output.suffix == ".csv":
        return "csv"
    raise _Unusable(f"--output {output}: its name must end with .parquet or .csv, which says what is written")


def _contract(contracts: dict[str, Contract], model: str | None) -> Contract:
    contract = chosen(contracts, model)
    if contract is None:
        raise _Unusable(f"--model {model}: name one of {', '.join(sorted(contracts))}")
    return contract


def _export(settings: Settings, export: _Export) -> int:
    """Write the file; it appears whole under its name, or not at all. Returns how many rows it has."""
    url = connection_string(
        settings.database_url.value, Namespace(settings.namespace).schema(SCHEMA), "label-ingest-export"
    )
    draft = export.output.with_name(f".{export.output.name}.{os.getpid()}")
    with psycopg.connect(url) as connection:
        problem = check_migrated(connection, SCHEMA)
        if problem is not None:
            raise _Unusable(problem)
        asked = {name: str(value) for name, value in vars(export.query).items() if value is not None}
        audit.record(connection, utc_now(), f"cli:{getpass.getuser()}", "export", asked | {"format": export.format})
        connection.commit()
        try:
            # What is exported is nobody's business but its owner's.
            os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            written = _write(Reader(connection), export, draft)
            draft.replace(export.output)
        finally:
            draft.unlink(missing_ok=True)
    return written


def _write(reader: Reader, export: _Export, path: Path) -> int:
    schema = arrow.schema_of(export.contract)
    written, due = 0, time.monotonic() + PROGRESS_SECONDS
    with (
        _writer(path, schema, export.format) as writer,
        closing(reader.rows(export.query, BATCH_ROWS)) as batches,
    ):
        for rows in batches:
            writer.write_batch(arrow.record_batch(export.contract, schema, rows))
            written += len(rows)
            if time.monotonic() >= due:
                due = time.monotonic() + PROGRESS_SECONDS
                console.print(f"{written:,} rows", highlight=False)
    return written


def _writer(path: Path, schema: pa.Schema, format: FileFormat) -> Any:
    return pq.ParquetWriter(path, schema) if format == "parquet" else pa_csv.CSVWriter(path, schema)


def _fail(message: str) -> NoReturn:
    console.print(f"error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    main()
