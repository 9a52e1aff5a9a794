"""The access log: who read or erased which rows, and when. It is only ever added to; the database sees to that."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb


def record(connection: Connection, now: datetime, caller: str, action: str, parameters: Mapping[str, Any]) -> None:
    """Add an entry, in this transaction. `parameters` holds pseudonyms at the most."""
    connection.execute(
        "INSERT INTO access_log (at, caller, action, parameters) VALUES (%s, %s, %s, %s)",
        [now, caller, action, Jsonb(dict(parameters))],
    )
