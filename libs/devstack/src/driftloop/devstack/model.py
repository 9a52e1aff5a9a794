"""What the local stack is, and how it fails."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["external", "local", "docker"]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Stack:
    """Where to find a broker and a database.

    `database_url` is an administrator's: it may create roles and schemas. `kind` tells where the broker comes from,
    `database_kind` where the database does: from the environment, from this machine's programs, from containers.
    """

    bootstrap_servers: str
    database_url: str
    kind: Kind
    database_kind: Kind = "local"


class StackUnavailable(RuntimeError):
    """There is no broker or no database, and none can be started; the text names every remedy."""


def silent(_text: str) -> None:
    """Progress that nobody wants to see."""
