"""COPY's text format, written by hand: the client's own writer takes four times as long.

Ids and names of models are plain words, which need no escape.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import LiteralString

import msgspec
from psycopg import Connection

from driftloop.common.events import PredictionMade

LINES_AT_ONCE = 200
_NULL = r"\N"
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"})
# The other columns of a join row whose prediction has not come.
_NO_PREDICTION = f"\t{_NULL}" * 6 + "\n"


@contextmanager
def copied(connection: Connection, table: LiteralString, lines: Iterable[str]) -> Iterator[None]:
    """Send lines into a table; the server may still be taking them in until the end of the block."""
    left = iter(lines)
    some = list(islice(left, LINES_AT_ONCE))
    if not some:
        yield
        return
    with connection.cursor().copy("COPY " + table + " FROM STDIN") as copy:
        while some:
            copy.write("".join(some))
            some = list(islice(left, LINES_AT_ONCE))
        yield


def join_line(id_: str, one: PredictionMade | None, at: str) -> str:
    """Id, time, until when it may be repeated, version, model, subject, order; the time as text is `at`."""
    if one is None:
        return id_ + _NO_PREDICTION
    repeatable = _NULL if one.repeatable_until is None else one.repeatable_until
    return (
        f"{id_}\t{at}\t{repeatable}\t{one.model_version}\t{one.model_name}\t{_text(one.subject)}\t{_text(one.order)}\n"
    )


def prediction_line(one: PredictionMade, at: str) -> str:
    """Id, time, version, model, score, prediction, variant, subject, features, shadows; the time as text is `at`."""
    shadows = escaped(json_text(one.shadows)) if one.shadows else _NULL
    return (
        f"{one.prediction_id}\t{at}\t{one.model_version}\t{one.model_name}\t{one.score!r}\t{one.prediction}\t"
        f"{one.variant}\t{_text(one.subject)}\t{escaped(json_text(one.features))}\t{shadows}\n"
    )


def escaped(text: str) -> str:
    """A text as a line may hold it."""
    if "\\" in text or not text.isprintable():
        return text.translate(_ESCAPES)
    return text


def json_text(value: object) -> str:
    """A value as the text of its JSON."""
    return msgspec.json.encode(value).decode()


def _text(text: str | None) -> str:
    return _NULL if text is None else escaped(text)
