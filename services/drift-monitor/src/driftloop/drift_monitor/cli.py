"""`drift-monitor`: proves past windows from the topic, and compares two files as the monitor would."""

import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import psycopg
import typer
from confluent_kafka import KafkaException
from rich.console import Console

from driftloop.common.contract import Contract, ContractError, chosen, load_contract, load_contracts
from driftloop.common.kafka.admin import TopicsError, Unreachable, check_reachable
from driftloop.common.kafka.settings import KafkaSettings, brokers_of
from driftloop.common.postgres.migrations import check_migrated
from driftloop.common.postgres.pool import connection_string, first_line
from driftloop.common.settings import Secret, SettingsError, read_settings
from driftloop.common.topics import PREDICTIONS, Namespace
from driftloop.drift_monitor.domain.evaluation import FeatureResult, Watch
from driftloop.drift_monitor.domain.severity import Severity
from driftloop.drift_monitor.handlers import cached_watches
from driftloop.drift_monitor.offline import File, Report, Unusable, compare_files
from driftloop.drift_monitor.pane_store import Version
from driftloop.drift_monitor.replaying import Log, Replayed, replay
from driftloop.drift_monitor.store import Store, StoredWindow

SCHEMA = "drift_monitor"
DIFFERENT, CANNOT, NOT_REPRODUCIBLE, INTERRUPTED = 1, 2, 3, 130
PROGRESS_SECONDS = 5.0

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay is told from outside, as the service is."""

    kafka: KafkaSettings
    database_url: Secret
    contracts: tuple[Path, ...]
    namespace: str = ""


class CannotReplay(ValueError):
    """What was asked for is not there. Names it and the remedy."""


@dataclass(frozen=True)
class _Stored:
    """What the database knows of the windows to replay."""

    watch: Watch
    version: Version
    windows: list[StoredWindow]
    erased: set[tuple[int, int]]


@dataclass
class _Progress:
    """Says now and then how far reading has come."""

    due: float = field(default_factory=lambda: time.monotonic() + PROGRESS_SECONDS)
    read: int = 0

    def __call__(self, read: int, total: int) -> None:
        self.read = read
        if time.monotonic() >= self.due:
            self.due = time.monotonic() + PROGRESS_SECONDS
            console.print(f"read {read:,} records of at most {total:,}", highlight=False)


def _instant(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no RFC 3339 time, such as 2026-03-01T12:00:00Z") from error
    if found.tzinfo is None:
        raise typer.BadParameter(f"{text!r}: say the offset from UTC, as in 2026-03-01T12:00:00Z")
    return found


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Instant = datetime | None


def main() -> None:
    """Run the command."""
    app()


@app.callback()
def _commands() -> None:
    """Check the drift monitor's figures by hand."""


@app.command("replay")
def replay_command(
    since: Annotated[
        Instant, typer.Option("--from", parser=_instant, metavar="TIME", help="Windows that end after it (RFC 3339).")
    ] = None,
    until: Annotated[
        Instant, typer.Option("--to", parser=_instant, metavar="TIME", help="Windows that start before it.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The model; needed where DRIFTLOOP_CONTRACTS names several.")
    ] = None,
    version: Annotated[int | None, typer.Option(min=1, help="Its version; without it the champion.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compute closed windows anew from the topic, up to exactly the offsets that they were closed at, and compare.

    Counts must be equal bit for bit, and every figure that follows from them. Settings come from the environment, as
    the service's do: KAFKA_BOOTSTRAP_SERVERS, DATABASE_URL, DRIFTLOOP_CONTRACTS, DRIFTLOOP_NAMESPACE.

    Exit status: 0 all windows are equal; 1 one differs; 2 it could not be done; 3 some are not reproducible any more.
    """
    try:
        settings = read_settings(Settings)
        stored = _stored(settings, model, version, since, until)
        progress = _Progress()
        brokers = brokers_of(settings.kafka)
        check_reachable(brokers)
        log = Log(brokers, Namespace(settings.namespace).topic(PREDICTIONS))
        found = replay(log, stored.watch, stored.version, stored.windows, progress, stored.erased)
    except (SettingsError, ContractError, TopicsError, CannotReplay, Unreachable) as error:
        _fail(str(error))
    except (KafkaException, TimeoutError) as error:
        _fail(f"the brokers at {settings.kafka.kafka_bootstrap_servers} did not answer: {error}")
    except psycopg.Error as error:
        _fail(f"the database refused: {first_line(error)}")
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    outcomes = Counter[str](one.outcome for one in found)
    if as_json:
        _print_json({"model_name": stored.version[0], "model_version": stored.version[1], "records_read": progress.read,
                     "outcomes": outcomes, "windows": found})  # fmt: skip
    else:
        _print_replayed(found, outcomes, progress.read)
    if outcomes["different"]:
        raise typer.Exit(DIFFERENT)
    if outcomes["not reproducible"]:
        raise typer.Exit(NOT_REPRODUCIBLE)


@app.command()
def compare(
    reference: Annotated[Path, typer.Argument(help="The rows to compare with: a CSV file with a header.")],
    window: Annotated[Path, typer.Argument(help="The rows to judge: a CSV file with a header.")],
    contract: Annotated[
        Path | None, typer.Option(help="The model's contract: types, missing codes, resolution, limits.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two files as the monitor compares a window with its reference: the same figures, offline.

    Without a contract a column whose values are all numbers is numeric, every other one categorical.

    Exit status: 0 they were compared, whatever was found; 2 they could not be.
    """
    try:
        report = compare_files(reference, window, None if contract is None else load_contract(contract))
    except (Unusable, ContractError) as error:
        _fail(str(error))
    for one in (report.reference, report.window):
        _warn_of_refused(one)
    for name, reason in report.incomparable.items():
        _warn(f"column {name!r} was not compared: {reason}")
    if as_json:
        document = msgspec.to_builtins(report)
        for feature in document["features"]:
            # An alarm's severity: there is none without windows before.
            del feature["severity"]
        _print_json(document)
    else:
        _print_report(report)


# --- what is stored


def _stored(
    settings: Settings, model: str | None, version: int | None, since: datetime | None, until: datetime | None
) -> _Stored:
    contracts = load_contracts(settings.contracts)
    name = _model(model, contracts)
    database = connection_string(settings.database_url.value, Namespace(settings.namespace).schema(SCHEMA), "replay")
    with psycopg.connect(database) as connection:
        problem = check_migrated(connection, SCHEMA)
        if problem is not None:
            raise CannotReplay(problem)
    with psycopg.connect(database) as connection:
        store = Store(connection)
        store.repeatable_read()
        wanted = version or store.champion(name)[0]
        if wanted is None:
            raise CannotReplay(f"no version of model {name!r} serves yet: name one with --version")
        watch = cached_watches(contracts)(store, (name, wanted))
        if watch is None:
            raise CannotReplay(f"nothing is known of version {wanted} of model {name!r}: name another with --version")
        windows = store.windows_between((name, wanted), since, until)
        erased = store.panes.erased_records(Namespace(settings.namespace).topic(PREDICTIONS))
    if not windows:
        raise CannotReplay(f"no window of version {wanted} of model {name!r} was closed in that time: widen it")
    return _Stored(watch, (name, wanted), windows, erased)


def _model(model: str | None, contracts: dict[str, Contract]) -> str:
    contract = chosen(contracts, model)
    if contract is None:
        named = "several models have a contract" if model is None else f"model {model!r} has no contract"
        raise CannotReplay(f"{named}: name one of {sorted(contracts)} with --model")
    return contract.name


# --- what is printed


def _print_replayed(found: list[Replayed], outcomes: Counter[str], read: int) -> None:
    for one in found:
        said: str = one.outcome
        if one.difference is not None:
            what = one.difference.what + ("" if one.difference.cell is None else f", cell {one.difference.cell}")
            said = f"DIFFERENT: {what}: stored {one.difference.stored!r}, replayed {one.difference.replayed!r}"
        elif one.reason:
            said = f"not reproducible: {one.reason}"
        typer.echo(f"window {one.number}  {_time(one.starts)} to {_time(one.ends)}  {one.n} rows  {said}")
    typer.echo(", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()) + f"; {read} records were read")


def _print_report(report: Report) -> None:
    rows: list[tuple[str, ...]] = [
        ("feature", "kind", "D or TV", "p", "PSI", "PSI 95 %", "n", "m", "missing", "severity")
    ]
    rows += [_figures(one) for one in report.features]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        first, second, *numbers, last = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        right = [number.strip().rjust(len(number)) for number in numbers]
        typer.echo("  ".join([first, second, *right, last]).rstrip())
    for fault in report.faults:
        among = f", in the reference in {fault.reference_count} of {fault.m}" if fault.m else ""
        typer.echo(f"{fault.feature}: {fault.fault} in {fault.count} of {fault.n} rows{among}: {fault.severity}")
    if report.guessed:
        typer.echo("types were told from the values; --contract says what they are")
    if report.window.rows < report.min_samples:
        typer.echo(f"{report.window.rows} rows are fewer than {report.min_samples}: too few to be judged")
    else:
        bad = [Severity[fault.severity] for fault in report.faults]
        quality = max(bad, default=Severity.GOOD).name
        typer.echo(f"the window by itself: drift {report.raw_severity}, data quality {quality}")


def _figures(one: FeatureResult) -> tuple[str, ...]:
    critical = "-" if one.psi_critical is None else f"{one.psi_critical:.4f}"
    return (
        one.name, one.kind, f"{one.statistic:.6g}", f"{one.p:.4g}", f"{one.psi:.4f}", critical,
        str(one.n), str(one.m), str(one.missing), one.raw_severity,
    )  # fmt: skip


def _warn_of_refused(file: File) -> None:
    if file.refused:
        _warn(f"{file.path}: {file.refused} rows were refused and left out, {file.rows} count")
        for refusal in file.refusals:
            _warn(f"{file.path}: {refusal}")


def _print_json(document: object) -> None:
    typer.echo(msgspec.json.encode(document))


def _time(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


def _warn(message: str) -> None:
    console.print(message, style="yellow", markup=False, highlight=False, soft_wrap=True)


def _fail(message: str, status: int = CANNOT) -> NoReturn:
    console.print(f"error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(status)


if __name__ == "__main__":
    main()
