"""Who may call: API keys, and tokens of an issuer where one is configured. This module has the words for it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

Scope = Literal["predict", "label", "rows", "admin"]
Kind = Literal["api-key", "jwt", "anonymous"]
Header = tuple[bytes, bytes]

IMPLIED: dict[Scope, frozenset[Scope]] = {
    # Ask for predictions.
    "predict": frozenset({"predict"}),
    # Report outcomes.
    "label": frozenset({"label"}),
    # Read what was predicted and what became of it, row by row.
    "rows": frozenset({"rows"}),
    # Whatever else there is, and all of these.
    "admin": frozenset({"admin", "predict", "label", "rows"}),
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. `name` is the same for each credential of one caller; `scopes` has what they imply, too."""

    name: str
    scopes: frozenset[Scope]
    kind: Kind


class Refused(NamedTuple):
    """Why a request is refused. `reason` is a code for metrics, `detail` names the remedy and never a credential."""

    status: int
    reason: str
    detail: str
    headers: tuple[Header, ...] = ()


def all_scopes(scopes: Iterable[Scope]) -> frozenset[Scope]:
    """The scopes with those that they imply."""
    return frozenset().union(*(IMPLIED[scope] for scope in scopes))
