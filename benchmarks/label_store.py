"""Predictions into the database: how near does label-ingest come to COPY of the same rows from the same Python?

Ours is the installed service: it reads and decodes the inference log, drops what it had before, takes the locks at
which predictions and outcomes meet, and commits rows and offsets together. It is timed from its first stored offset to
its last, so that no start of a process counts. The peer has the rows that ours leaves behind in memory, as Python
values, and writes them with psycopg's `write_row` into empty copies of the same tables, with all indexes and checks.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from psycopg import Connection, sql

from benchmarks.harness import Figure, alternate, conditions, record, say, seconds
from benchmarks.support.labels import PREDICTIONS_OF_A_PATIENT, LabelIngest, installed, predictions
from benchmarks.support.service import log_predictions

EVENTS, ROUNDS, ROWS = 300_000, 3, 10_000
RATIO = 0.40
LINES = {"as /predict logs them": False, "with a patient and an order": True}

Row = tuple[Any, ...]

_COLUMNS = {
    "joins": ("prediction_id", "model_name", "model_version", "predicted_at", "subject", "order_key",
              "repeatable_until"),
    # As text, which is what a client writes into a column of JSON.
    "predictions": ("prediction_id", "model_name", "model_version", "predicted_at", "score", "prediction", "variant",
                    "subject", "features::text", "shadows::text"),
    "keys": ("key", "results"),
}  # fmt: skip


class Part(NamedTuple):
    """What one transaction of the peer writes, by table."""

    joins: list[Row]
    predictions: list[Row]
    keys: list[Row]


def main() -> None:
    """Predictions that name nobody, and predictions that name a patient and an order."""
    events = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    for words, named in LINES.items():
        with installed() as ingest:
            say(f"{events:,} predictions go into the log, {words}")
            log_predictions(ingest, predictions(events, named=named))
            _measure(ingest, words, events)


def _measure(ingest: LabelIngest, words: str, events: int) -> None:
    say(f"{ROUNDS} rounds of ours and the peer's")
    ours, theirs = alternate(ROUNDS, lambda: stored(ingest, events), lambda: copied(ingest, tuple(_COLUMNS)))
    alone = copied(ingest, ("predictions",))
    record(
        Figure(
            figure=f"predictions stored/s against COPY of the same rows, {words}",
            ours=ours,
            peer=theirs,
            ratio=ours / theirs,
            target=f">= {RATIO:g}",
            met=ours / theirs >= RATIO,
            conditions=conditions(
                "confluent-kafka", "msgspec", "psycopg",
                events=events, features=5, rounds=ROUNDS, rows_a_transaction=ROWS,
                predictions_of_a_patient=PREDICTIONS_OF_A_PATIENT, copy_into_predictions_alone=alone,
                peer="write_row of Python values into joins, predictions and keys",
                statistic="median of predictions/s; a checkpoint before each measurement; fsync on",
            ),
        )
    )  # fmt: skip


def stored(ingest: LabelIngest, events: int) -> float:
    """Predictions/s of label-ingest's process, from its first stored offset to its last."""
    ingest.forget()
    ingest.process.start()
    ingest.wait_until(lambda: ingest.committed() > 0)
    start, first = time.perf_counter(), ingest.committed()
    ingest.wait_until(lambda: ingest.committed() >= events)
    took = time.perf_counter() - start
    ingest.process.terminate()
    rows = ingest.number("SELECT count(*) FROM predictions")
    if rows != events:
        raise RuntimeError(f"{rows:,} of {events:,} predictions were stored: see {ingest.process.log_path}")
    return (events - first) / took


def copied(ingest: LabelIngest, tables: Sequence[str]) -> float:
    """Predictions/s of COPY into empty copies of tables, by the rows that are in these now."""
    connection = ingest.database
    parts = list(_parts(connection))
    _make_copies(connection)
    took = seconds(lambda: _write(connection, parts, tables))
    for table in tables:
        there, copy = (ingest.number(f"SELECT count(*) FROM {name}") for name in (table, f"copy_{table}"))  # noqa: S608
        if there != copy:
            raise RuntimeError(f"{copy:,} of {there:,} rows of {table} were copied")
    connection.execute("DROP TABLE copy_joins, copy_predictions, copy_keys")
    return sum(len(part.predictions) for part in parts) / took


def _write(connection: Connection, parts: Sequence[Part], tables: Sequence[str]) -> None:
    for part in parts:
        with connection.transaction():
            for table in tables:
                rows = getattr(part, table)
                if rows:
                    _copy(connection, table, rows)


def _copy(connection: Connection, table: str, rows: Sequence[Row]) -> None:
    names = [name.partition("::")[0] for name in _COLUMNS[table]]
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(f"copy_{table}"), sql.SQL(", ").join(map(sql.Identifier, names))
    )
    with connection.cursor().copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


def _parts(connection: Connection) -> Iterator[Part]:
    """The rows of the tables, in the order in which the predictions were made; a key comes with who names it first."""
    joins = _rows(connection, "joins", "ORDER BY predicted_at, prediction_id")
    stored = _rows(connection, "predictions", "ORDER BY predicted_at, prediction_id")
    keys = {row[0]: row for row in _rows(connection, "keys")}
    for start in range(0, len(joins), ROWS):
        some = joins[start : start + ROWS]
        named = sorted({f"{kind}{name}" for *_, subject, order, _until in some for kind, name in
                        (("s", subject), ("o", order)) if name is not None})  # fmt: skip
        yield Part(some, stored[start : start + ROWS], [keys.pop(key) for key in named if key in keys])


def _rows(connection: Connection, table: str, order: str = "") -> list[Row]:
    return connection.execute(f"SELECT {', '.join(_COLUMNS[table])} FROM {table} {order}".encode()).fetchall()  # noqa: S608


def _make_copies(connection: Connection) -> None:
    """Empty copies of the tables with their indexes and checks, that of predictions with the same partitions."""
    bounds = connection.execute(
        "SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits AS i JOIN pg_class AS c "
        "ON c.oid = i.inhrelid WHERE i.inhparent = 'predictions'::regclass"
    ).fetchall()
    for table in ("joins", "keys"):
        connection.execute(f"CREATE TABLE copy_{table} (LIKE {table} INCLUDING ALL)".encode())
    connection.execute(
        "CREATE TABLE copy_predictions (LIKE predictions INCLUDING ALL) PARTITION BY RANGE (predicted_at)"
    )
    for name, bound in bounds:
        connection.execute(f"CREATE TABLE copy_{name} PARTITION OF copy_predictions {bound}".encode())
    connection.execute("CHECKPOINT")


if __name__ == "__main__":
    main()
