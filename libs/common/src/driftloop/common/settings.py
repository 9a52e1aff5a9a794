"""Environment → frozen settings. Read once, in `main`; never at import time."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import msgspec

PREFIX = "DRIFTLOOP_"
# Names that are in use for the same thing already keep their name.
UNPREFIXED = {
    "database_url": "DATABASE_URL",
    "compat_anonymous": "COMPAT_ANONYMOUS",
}

T = TypeVar("T", bound=msgspec.Struct)


class SettingsError(ValueError):
    """A setting is missing or wrong; the text names the variable and the remedy, and holds no secret."""


class Secret(msgspec.Struct, frozen=True):
    """A text that never shows itself: not in a repr, not in a log."""

    value: str

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__


def variable(field: str) -> str:
    """The environment variable of a field."""
    if field.startswith("kafka_"):
        return field.upper()
    return UNPREFIXED.get(field, PREFIX + field.upper())


def read_settings(cls: type[T], environ: Mapping[str, str] | None = None) -> T:
    """Build frozen settings of type `cls` from the environment.

    Each field `some_name` comes from `DRIFTLOOP_SOME_NAME`, or from the file that `DRIFTLOOP_SOME_NAME_FILE` names (for
    mounted secrets). An empty variable is one that is not set. Tuples are separated by commas. A field whose type is a
    struct of settings stands for all of these. Raises SettingsError.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, object] = {}
    for field in msgspec.structs.fields(cls):
        if is_group(field.type):
            values[field.name] = read_settings(field.type, environ)
            continue
        text = _text(variable(field.name), environ)
        if text is None:
            if field.required:
                raise SettingsError(f"{variable(field.name)} is not set: set it, or {variable(field.name)}_FILE")
            continue
        values[field.name] = _parse(variable(field.name), text, field.type)
    return cls(**values)


def is_group(kind: Any) -> bool:
    """Whether a field stands for settings that several services have in common."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind is not Secret


def single_settings(cls: type[msgspec.Struct]) -> Iterator[msgspec.structs.FieldInfo]:
    """Every setting that has a variable of its own, those of groups among them."""
    for field in msgspec.structs.fields(cls):
        if is_group(field.type):
            yield from single_settings(field.type)
        else:
            yield field


def read_secret(name: str, environ: Mapping[str, str]) -> Secret | None:
    """The secret in variable `name`, or in the file that `name`_FILE names; None if neither is set."""
    text = _text(name, environ)
    return None if text is None else Secret(text)


def _text(name: str, environ: Mapping[str, str]) -> str | None:
    if environ.get(name):
        return environ[name]
    path = environ.get(name + "_FILE")
    if not path:
        return None
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise SettingsError(f"{name}_FILE={path}: cannot be read ({type(error).__name__})") from error
    if not text:
        raise SettingsError(f"{name}_FILE={path}: the file is empty: write the value into it")
    return text


def _parse(name: str, text: str, kind: object) -> object:
    if Secret in (kind, *get_args(kind)):
        return Secret(text)
    value: object = text
    if tuple in (get_origin(kind), *map(get_origin, get_args(kind))):
        value = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return msgspec.convert(value, kind, strict=False, dec_hook=_decode)
    except (msgspec.ValidationError, ValueError) as error:
        raise SettingsError(f"{name}={text!r}: {error}") from error


def _decode(kind: type, value: object) -> object:
    if kind is Path:
        return Path(str(value)).expanduser()
    raise NotImplementedError(f"settings of type {kind}")
