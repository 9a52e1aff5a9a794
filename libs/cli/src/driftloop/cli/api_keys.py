"""`driftloop api-keys`: who may call."""

import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from driftloop.cli.output import fail, note
from driftloop.common.access import IMPLIED, Scope
from driftloop.common.access.issuing import Issued, create_key, revoke_key, rotate_key
from driftloop.common.access.keyfile import ApiKeyFileError, read_keys
from driftloop.common.clock import utc_now

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
NEVER = "never"
SCOPES: dict[str, Scope] = {scope: scope for scope in IMPLIED}
SCOPE_HELP = (
    "What it may do, given once for each: predict; label, to report outcomes; rows, to read what was predicted; "
    "admin, which includes them all."
)
MAX_DAYS = 36_500

_DURATION = re.compile(r"([0-9]{1,9})([smhdw])")

app = typer.Typer(help="API keys of those who call the services.", no_args_is_help=True)

FileOption = Annotated[
    Path, typer.Option("--file", envvar="DRIFTLOOP_API_KEYS", help="The file of API keys, which holds no secret.")
]
KeyId = Annotated[str, typer.Argument(metavar="ID", help="The twelve characters after `dl_`.")]


@app.command("create")
def create(
    file: FileOption,
    name: Annotated[str, typer.Option(help="Who calls with it: letters, digits and any of . _ -")],
    scope: Annotated[list[str], typer.Option(help=SCOPE_HELP)],
    expires: Annotated[str, typer.Option(help="How long it is good, for instance 90d, or never.")] = NEVER,
) -> None:
    """Make a key and print it: this once, for it is kept nowhere. The file is made where there is none."""
    now = utc_now()
    not_after = _end(expires, "--expires", now)
    try:
        issued = create_key(file, name, _scopes(scope), now, not_after)
    except ApiKeyFileError as error:
        fail(str(error))
    _print(issued, file)


@app.command("list")
def list_keys(file: FileOption) -> None:
    """Print what is known of each key, which is never its secret."""
    try:
        keys, _ = read_keys(file)
    except ApiKeyFileError as error:
        fail(str(error))
    now = utc_now()
    rows = [("ID", "NAME", "SCOPES", "CREATED", "NOT AFTER", "STATE")]
    for key in keys:
        state = "expired" if key.expired(now) else "good"
        rows.append((key.id, key.name, ",".join(key.scopes), _said(key.created), _said(key.not_after), state))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


@app.command("revoke")
def revoke(file: FileOption, key_id: KeyId) -> None:
    """Take a key out of the file: services refuse it within seconds."""
    try:
        key = revoke_key(file, key_id)
    except ApiKeyFileError as error:
        fail(str(error))
    note(f"revoked key {key.id} of {key.name}")


@app.command("rotate")
def rotate(
    file: FileOption,
    key_id: KeyId,
    overlap: Annotated[str, typer.Option(help="How long the old key stays good, for instance 7d, or 0s.")] = "7d",
    expires: Annotated[
        str | None, typer.Option(help="How long the new key is good; must be said where the old one expires.")
    ] = None,
) -> None:
    """Make a key of the same name and scopes, print it, and let the old one end after the overlap."""
    now = utc_now()
    try:
        if expires is None and any(key.id == key_id and key.not_after is not None for key in read_keys(file)[0]):
            fail(f"key {key_id} is not good for ever: say with --expires how long the new one is, or --expires never")
        not_after = _end(expires or NEVER, "--expires", now)
        issued, old = rotate_key(file, key_id, now, _duration(overlap, "--overlap"), not_after)
    except ApiKeyFileError as error:
        fail(str(error))
    note(f"key {old.id} is good until {_said(old.not_after)}")
    _print(issued, file)


def _print(issued: Issued, file: Path) -> None:
    key = issued.key
    note(
        f"key {key.id} of {key.name}, scopes {', '.join(key.scopes)}, not after: {_said(key.not_after)}; in {file}.\n"
        "It is shown this once:"
    )
    typer.echo(issued.text)


def _scopes(texts: list[str]) -> list[Scope]:
    for text in texts:
        if text not in SCOPES:
            fail(f"--scope {text!r} is not known: use one of {', '.join(SCOPES)}")
    return [SCOPES[text] for text in texts]


def _end(text: str, option: str, now: datetime) -> datetime | None:
    return None if text == NEVER else now + _duration(text, option)


def _duration(text: str, option: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if match:
        number, unit = match.groups()
        duration = timedelta(**{UNITS[unit]: int(number)})
        if duration <= timedelta(days=MAX_DAYS):
            return duration
    fail(f"{option} {text!r} is not a duration: use a number and one of s, m, h, d, w, such as 90d")


def _said(instant: datetime | None) -> str:
    return NEVER if instant is None else instant.isoformat(timespec="seconds")
