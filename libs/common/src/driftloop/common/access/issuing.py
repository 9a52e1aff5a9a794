"""API keys are made, replaced and revoked here. What is made is shown once, and cannot be shown again."""

import secrets
import string
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec

from driftloop.common.access import Scope
from driftloop.common.access.keyfile import ID_CHARACTERS, MODE, PREFIX, ApiKey, ApiKeyFileError, changing, digest_of
from driftloop.common.folders import replace_file

_ALPHABET = string.ascii_lowercase + string.digits


class Issued(NamedTuple):
    """A new key: its text, which goes to the caller and nowhere else, and what the file has of it."""

    text: str
    key: ApiKey


def create_key(
    path: Path, name: str, scopes: Sequence[Scope], now: datetime, not_after: datetime | None = None
) -> Issued:
    """Add a key of a new name; makes the file where there is none. Raises ApiKeyFileError."""
    with changing(path) as keys:
        good = [key.id for key in keys if key.name == name and not key.expired(now)]
        if good:
            raise ApiKeyFileError(
                path, f"name {name!r} has key {good[0]} already: rotate that one, or choose another name"
            )
        issued = _issue(path, keys, name, scopes, now, not_after)
    return issued


def keep_key(path: Path, name: str, scopes: Sequence[Scope], text_path: Path, now: datetime) -> bool:
    """Make a key once, and keep its text in a file of its own, for a caller on this machine; returns whether made.

    Where the text is lost, or its key was revoked, the name gets a new key, and the old one ends.
    Raises ApiKeyFileError, OSError.
    """
    with changing(path) as keys:
        text = text_path.read_text() if text_path.exists() else ""
        if any(key.name == name and text.startswith(f"{PREFIX}{key.id}_") and not key.expired(now) for key in keys):
            return False
        keys[:] = [key for key in keys if key.name != name]
        issued = _issue(path, keys, name, scopes, now, None)
        text_path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(text_path, issued.text.encode(), MODE)
    return True


def rotate_key(
    path: Path, key_id: str, now: datetime, overlap: timedelta, not_after: datetime | None = None
) -> tuple[Issued, ApiKey]:
    """Add a key of the same name and scopes, and let the old one end after `overlap`, or when it would anyway.

    Returns the new key, and the old one as it is now. Raises ApiKeyFileError.
    """
    with changing(path) as keys:
        place = _place(path, keys, key_id)
        old = keys[place]
        if old.expired(now):
            raise ApiKeyFileError(path, f"key {key_id} has expired: create a new one of name {old.name!r}")
        end = now + overlap
        if old.not_after is not None:
            end = min(end, old.not_after)
        keys[place] = msgspec.structs.replace(old, not_after=end)
        issued = _issue(path, keys, old.name, old.scopes, now, not_after)
        old = keys[place]
    return issued, old


def revoke_key(path: Path, key_id: str) -> ApiKey:
    """Take a key out of the file; returns it. Raises ApiKeyFileError."""
    with changing(path) as keys:
        return keys.pop(_place(path, keys, key_id))


def _issue(
    path: Path, keys: list[ApiKey], name: str, scopes: Sequence[Scope], now: datetime, not_after: datetime | None
) -> Issued:
    taken = {key.id for key in keys}
    while (key_id := "".join(secrets.choice(_ALPHABET) for _ in range(ID_CHARACTERS))) in taken:
        pass
    secret = secrets.token_urlsafe(32)
    key = ApiKey(
        id=key_id,
        name=name,
        scopes=tuple(dict.fromkeys(scopes)),
        sha256=digest_of(secret.encode()).hex(),
        created=now,
        not_after=not_after,
    )
    try:
        # A struct is not checked when it is built: nothing is written that could not be read again.
        msgspec.convert(msgspec.to_builtins(key), ApiKey)
    except msgspec.ValidationError as error:
        raise ApiKeyFileError(
            path,
            f"name {name!r} with scopes {list(scopes)} is not taken: a name has 1 to 64 letters, digits and any of"
            " . _ - in it, and a key has at least one scope",
        ) from error
    keys.append(key)
    return Issued(f"{PREFIX}{key_id}_{secret}", key)


def _place(path: Path, keys: Sequence[ApiKey], key_id: str) -> int:
    for place, key in enumerate(keys):
        if key.id == key_id:
            return place
    # What was given may be a whole key: only an id is shown.
    shown = repr(key_id) if len(key_id) <= ID_CHARACTERS else "what was given, which is longer than an id,"
    raise ApiKeyFileError(path, f"{shown} is not a key's id: see `driftloop api-keys list`")
